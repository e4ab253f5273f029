"""U-LiRA against a slow literal attack, and at its known null."""

import numpy as np
import pytest
from scipy.stats import norm

from harness.metrics import Outputs, get_metrics
from harness.metrics.u_lira import lira_scores


def literal(u, r):
    """Every draw of every example attacked by Gaussians fitted to all the other draws; then the three numbers by counting."""
    scores_u, scores_r = np.empty_like(u), np.empty_like(r)
    for s in range(u.shape[1]):
        for i in range(len(u)):
            rest = np.delete(u[:, s], i)
            scores_u[i, s] = norm.logpdf(u[i, s], rest.mean(), rest.std()) - norm.logpdf(
                u[i, s], r[:, s].mean(), r[:, s].std()
            )
        for j in range(len(r)):
            rest = np.delete(r[:, s], j)
            scores_r[j, s] = norm.logpdf(r[j, s], u[:, s].mean(), u[:, s].std()) - norm.logpdf(
                r[j, s], rest.mean(), rest.std()
            )
    auc = np.mean([np.mean(scores_u[:, s, None] > scores_r[None, :, s]) for s in range(u.shape[1])])
    accuracy = ((scores_u > 0).mean() + (scores_r <= 0).mean()) / 2
    best = max((scores_u > t).mean() for t in scores_r.ravel() if (scores_r > t).mean() <= 0.01)
    return scores_u, scores_r, {"u_lira_auc": auc, "u_lira_accuracy": accuracy, "u_lira_tpr": best}


@pytest.mark.parametrize(("n_u", "n_r", "at"), [(12, 12, 0.0), (9, 20, 0.0), (15, 10, 1000.0)])
def test_literal(n_u, n_r, at):
    rng = np.random.default_rng(n_u)
    u, r = at + rng.normal(0.7, 1.5, (n_u, 12)), at + rng.normal(size=(n_r, 12))
    scores_u, scores_r, expected = literal(u, r)
    got_u, got_r = lira_scores(unlearned=u, retrained=r)
    np.testing.assert_allclose(got_u, scores_u, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(got_r, scores_r, rtol=1e-7, atol=1e-9)
    (metric,) = get_metrics(["u_lira"])
    draws = [Outputs(confidences=c, logits=None, accuracy={}) for c in (u, r)]
    assert metric.compute(unlearned=draws[0], retrained=draws[1]) == pytest.approx(expected)


def metric_of(u, r):
    (metric,) = get_metrics(["u_lira"])
    return metric.compute(
        unlearned=Outputs(confidences=u, logits=None, accuracy={}),
        retrained=Outputs(confidences=r, logits=None, accuracy={}),
    )


@pytest.mark.parametrize(("n", "auc"), [(32, 0.43), (128, 0.46)])
def test_null(n, auc):
    rng = np.random.default_rng(0)
    got = metric_of(rng.normal(size=(n, 1500)), rng.normal(size=(n, 1500)))
    assert got["u_lira_auc"] == pytest.approx(auc, abs=0.01)
    assert got["u_lira_accuracy"] == pytest.approx(0.5, abs=0.01)
    assert got["u_lira_tpr"] == pytest.approx(0.01, abs=0.005)


def test_reaches_the_optimum_for_gaussians():
    rng = np.random.default_rng(1)
    got = metric_of(rng.normal(2, 1, (256, 200)), rng.normal(size=(256, 200)))
    assert got["u_lira_auc"] == pytest.approx(norm.cdf(2 / np.sqrt(2)), abs=0.01)
    assert got["u_lira_accuracy"] == pytest.approx(norm.cdf(1), abs=0.01)
    assert got["u_lira_tpr"] == pytest.approx(norm.sf(norm.isf(0.01) - 2), abs=0.03)


def test_separate_samples_are_always_recognised():
    rng = np.random.default_rng(2)
    got = metric_of(rng.normal(50, 1, (16, 5)), rng.normal(size=(16, 5)))
    assert got == {"u_lira_auc": 1.0, "u_lira_accuracy": 1.0, "u_lira_tpr": 1.0}


def test_errors():
    with pytest.raises(ValueError, match="left out of 3 or more, got 2"):
        lira_scores(unlearned=np.zeros((2, 1)), retrained=np.zeros((5, 1)))
    with pytest.raises(ValueError, match="same examples"):
        lira_scores(unlearned=np.zeros((5, 1)), retrained=np.zeros((5, 2)))
