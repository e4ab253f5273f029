"""The loss attack: the regression is scikit-learn's, and it finds members only where there are any."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from harness.metrics import Outputs, get_metrics
from harness.metrics.loss_attack import _logistic, attack_accuracies


def pool(forget, test):
    return Outputs(confidences=forget, logits=None, accuracy={}, test_confidences=test)


def test_regression_is_scikit_learns():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.exponential(1, 40), rng.exponential(2, 40)])
    member = np.arange(80) < 40
    used = np.ones((2, 80), bool)
    used[1, ::7] = False
    weight, bias = _logistic(x, member, used)
    for fold in range(2):
        model = LogisticRegression(tol=1e-10).fit(x[used[fold], None], member[used[fold]])
        assert weight[fold] == pytest.approx(model.coef_[0, 0], abs=1e-5)
        assert bias[fold] == pytest.approx(model.intercept_[0], abs=1e-5)


def test_every_example_is_held_out_once():
    rng = np.random.default_rng(1)
    forget, test = rng.normal(2, 2, 30), rng.normal(0, 2, 30)
    loss, member = np.logaddexp(0, -np.concatenate([forget, test])), np.arange(60) < 30
    right = 0
    for fold in range(10):
        held_out = np.arange(60) % 30 % 10 == fold
        model = LogisticRegression(tol=1e-10).fit(loss[~held_out, None], member[~held_out])
        right += (model.predict(loss[held_out, None]) == member[held_out]).sum()
    assert attack_accuracies(pool(forget[None], test[None]))[0] == pytest.approx(right / 60)


def test_finds_members_and_only_members():
    rng = np.random.default_rng(2)
    forgotten = pool(rng.normal(size=(20, 200)), rng.normal(size=(20, 150)))
    remembered = pool(rng.normal(4, 1, (20, 200)), rng.normal(size=(20, 150)))
    assert attack_accuracies(forgotten).mean() == pytest.approx(0.5, abs=0.02)
    assert attack_accuracies(remembered).mean() > 0.93
    (metric,) = get_metrics(["loss_attack"])
    got = metric.compute(unlearned=remembered, retrained=forgotten)
    reached = [attack_accuracies(draws).mean() for draws in (remembered, forgotten)]
    assert got == pytest.approx({"loss_attack": reached[0], "loss_attack_gap": reached[0] - reached[1]})


def test_separable_losses_and_saturated_ones():
    assert attack_accuracies(pool(np.full((2, 20), 100.0), np.full((2, 20), -100.0))).tolist() == [1.0, 1.0]
    assert attack_accuracies(pool(np.full((1, 20), 100.0), np.full((1, 20), 100.0)))[0] == pytest.approx(0.5)


def test_needs_test_confidences():
    with pytest.raises(ValueError, match="not kept"):
        attack_accuracies(Outputs(confidences=np.zeros((2, 3)), logits=None, accuracy={}))
