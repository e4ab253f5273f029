"""Disagreement of predictions against counting pairs."""

from itertools import combinations, product

import numpy as np
import pytest

from harness.metrics import Outputs, get_metrics
from harness.metrics.disagreement import disagreement_rates


def test_counts_pairs():
    rng = np.random.default_rng(0)
    u, r = rng.normal(size=(5, 7, 3)), rng.normal(size=(6, 7, 3)) + np.array([1, 0, 0])
    said_u, said_r = u.argmax(-1), r.argmax(-1)
    between, within = disagreement_rates(unlearned=u, retrained=r)
    np.testing.assert_allclose(between, np.mean([a != b for a, b in product(said_u, said_r)], axis=0))
    np.testing.assert_allclose(within, np.mean([a != b for a, b in combinations(said_r, 2)], axis=0))


def draws(logits):
    return Outputs(np.zeros(logits.shape[:2]), logits, {})


def test_null_is_zero_on_average_and_sharper_models_are_negative():
    rng = np.random.default_rng(1)
    (metric,) = get_metrics(["disagreement"])
    lean = np.array([1.0, 0, 0])
    r = draws(rng.normal(size=(40, 500, 3)) + lean)
    same = metric.compute(unlearned=draws(rng.normal(size=(40, 500, 3)) + lean), retrained=r)
    assert same["disagreement_excess"] == pytest.approx(0, abs=0.01)
    assert same["disagreement"] > 0.3
    unanimous = metric.compute(unlearned=draws(np.zeros((40, 500, 3)) + lean), retrained=r)
    assert unanimous["disagreement_excess"] < -0.05
    contrary = metric.compute(unlearned=draws(np.zeros((40, 500, 3)) + lean[::-1]), retrained=r)
    assert contrary["disagreement_excess"] > 0.1


def test_errors():
    with pytest.raises(ValueError, match="at least 2 draws"):
        disagreement_rates(unlearned=np.zeros((2, 3, 4)), retrained=np.zeros((1, 3, 4)))
    with pytest.raises(ValueError, match="same examples and classes"):
        disagreement_rates(unlearned=np.zeros((2, 3, 4)), retrained=np.zeros((2, 2, 4)))
