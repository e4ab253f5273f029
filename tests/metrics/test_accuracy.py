"""Accuracies of the unlearned models, and their distance to those of the retrained models."""

import numpy as np
import pytest

from harness.metrics import Outputs, get_metrics


def draws(**accuracy):
    n = len(next(iter(accuracy.values())))
    arrays = {part: np.array(fractions, dtype=float) for part, fractions in accuracy.items()}
    return Outputs(confidences=np.zeros((n, 1)), logits=None, accuracy=arrays)


def test_means_and_gap():
    (metric,) = get_metrics(["accuracy"])
    u = draws(retain=[0.9, 1.0], forget=[0.2, 0.4], test=[0.5, 0.7], valid=[0, 0])
    r = draws(retain=[1, 1, 1], forget=[0.5, 0.6, 0.4], test=[0.9, 0.9, 0.9], valid=[0, 0, 0])
    means = {"retain_accuracy": 0.95, "forget_accuracy": 0.3, "test_accuracy": 0.6}
    gaps = {"retain_accuracy_gap": 0.05, "forget_accuracy_gap": 0.2, "test_accuracy_gap": 0.3}
    assert metric.compute(unlearned=u, retrained=r) == pytest.approx(means | gaps)
    assert metric.compute(unlearned=r, retrained=u)["forget_accuracy_gap"] == pytest.approx(0.2)


def test_missing_part():
    (metric,) = get_metrics(["accuracy"])
    with pytest.raises(KeyError, match="test"):
        metric.compute(unlearned=draws(retain=[1.0], forget=[1.0]), retrained=draws(forget=[1.0]))


def test_closer_to_retrained_is_better():
    (metric,) = get_metrics(["accuracy"])
    columns = {column.name: column for column in metric.columns}
    for part in ("retain", "forget", "test"):
        column = columns[f"{part}_accuracy"]
        assert (column.direction, column.ideal) == ("closer", None)
        assert "retrained" in column.meaning
    assert (columns["forget_accuracy_gap"].direction, columns["forget_accuracy_gap"].ideal) == ("lower", 0.0)
