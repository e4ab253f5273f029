"""Divergences between mean predictions over classes."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from harness.metrics import Outputs, get_metrics
from harness.metrics.class_kl import class_divergences


def test_of_known_predictions():
    # Two draws whose predictions average to (0.5, 0.5), against one that always says (0.8, 0.2).
    u = np.log(np.array([[[0.9, 0.1]], [[0.1, 0.9]]]))
    r = np.log(np.array([[[0.8, 0.2]]])) + 7.0  # a constant on all logits plays no part
    forward, reverse, js = class_divergences(unlearned=u, retrained=r)
    assert forward[0] == pytest.approx(0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2))
    assert reverse[0] == pytest.approx(0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5))
    assert js[0] == pytest.approx(jensenshannon([0.5, 0.5], [0.8, 0.2]) ** 2)


def test_symmetry_and_null():
    rng = np.random.default_rng(0)
    u, r = rng.normal(size=(30, 8, 4)), rng.normal(size=(20, 8, 4)) + np.arange(4)
    forward, reverse, js = class_divergences(unlearned=u, retrained=r)
    swapped = class_divergences(unlearned=r, retrained=u)
    np.testing.assert_allclose(forward, swapped[1])
    np.testing.assert_allclose(reverse, swapped[0])
    np.testing.assert_allclose(js, swapped[2])
    assert (js > 0.01).all()
    assert max(np.abs(x).max() for x in class_divergences(unlearned=u, retrained=u)) == 0.0
    again = class_divergences(unlearned=rng.normal(size=(200, 8, 4)), retrained=rng.normal(size=(200, 8, 4)))
    assert max(x.mean() for x in again) < 0.01


def test_certain_and_contrary_predictions_are_finite():
    u, r = np.array([[[900.0, -900.0]]]), np.array([[[-900.0, 900.0]]])
    forward, _, js = class_divergences(unlearned=u, retrained=r)
    assert 60 < forward[0] < 80
    assert js[0] == pytest.approx(math.log(2))


def test_metric_and_errors():
    (metric,) = get_metrics(["class_kl"])
    rng = np.random.default_rng(1)
    u, r = (Outputs(np.zeros((5, 3)), rng.normal(size=(5, 3, 4)).astype(np.float32), {}) for _ in range(2))
    forward, reverse, js = class_divergences(unlearned=u.logits, retrained=r.logits)
    expected = {"class_kl": forward.mean(), "class_kl_reverse": reverse.mean(), "class_js": js.mean()}
    assert metric.compute(unlearned=u, retrained=r) == pytest.approx(expected)
    with pytest.raises(ValueError, match="same examples and classes"):
        class_divergences(unlearned=np.zeros((2, 3, 4)), retrained=np.zeros((2, 3, 5)))
    with pytest.raises(ValueError, match="not finite"):
        class_divergences(unlearned=np.full((2, 3, 4), np.nan), retrained=np.zeros((2, 3, 4)))
