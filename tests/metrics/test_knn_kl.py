"""The nearest-neighbour estimate of KL against its literal definition and against closed forms."""

import math

import numpy as np
import pytest

from harness.metrics import Outputs, get_metrics
from harness.metrics.knn_kl import RESOLUTION, knn_divergence


def literal(a, b, k):
    total = 0.0
    for i, x in enumerate(a):
        own = np.sort(np.abs(np.delete(a, i) - x))[k - 1]
        other = np.sort(np.abs(b - x))[k - 1]
        total += math.log(max(other, RESOLUTION) / max(own, RESOLUTION))
    return total / len(a) + math.log(len(b) / (len(a) - 1))


@pytest.mark.parametrize("k", [1, 2, 5, 7])
@pytest.mark.parametrize(("n_u", "n_r"), [(8, 8), (20, 9), (9, 33)])
def test_is_its_definition(k, n_u, n_r):
    rng = np.random.default_rng(k)
    u, r = rng.normal(size=(n_u, 5)), rng.normal(1, 2, (n_r, 5))
    u[:, 4], r[:, 4] = np.rint(u[:, 4]), np.rint(r[:, 4])  # ties
    forward, reverse = knn_divergence(unlearned=u, retrained=r, k=k)
    np.testing.assert_allclose(forward, [literal(u[:, s], r[:, s], k) for s in range(5)], rtol=0, atol=1e-10)
    np.testing.assert_allclose(reverse, [literal(r[:, s], u[:, s], k) for s in range(5)], rtol=0, atol=1e-10)


# Mean over 500 examples of N = 512 draws, against the closed form for Gaussians.
@pytest.mark.parametrize(("mean", "std", "error"), [(0, 1, 0.015), (1, 1, 0.02), (0.5, 1.5, 0.08), (0, 0.5, 0.02)])
def test_closed_form_for_gaussians(mean, std, error):
    rng = np.random.default_rng(0)
    forward, _ = knn_divergence(unlearned=rng.normal(mean, std, (512, 500)), retrained=rng.normal(size=(512, 500)))
    truth = -math.log(std) + (std**2 + mean**2 - 1) / 2
    assert forward.mean() == pytest.approx(truth, abs=error)


def test_closed_form_for_exponentials():
    rng = np.random.default_rng(1)
    forward, reverse = knn_divergence(
        unlearned=rng.exponential(1, (512, 400)), retrained=rng.exponential(2, (512, 400))
    )
    assert forward.mean() == pytest.approx(math.log(2) + 0.5 - 1, abs=0.02)
    assert reverse.mean() == pytest.approx(-math.log(2) + 2 - 1, abs=0.08)


@pytest.mark.parametrize("n", [16, 32, 128])
def test_null(n):
    rng = np.random.default_rng(2)
    forward, _ = knn_divergence(unlearned=rng.normal(size=(n, 3000)), retrained=rng.normal(size=(n, 3000)))
    assert abs(forward.mean()) < {16: 0.1, 32: 0.06, 128: 0.03}[n]


def test_ties_stay_finite():
    constant, spread = np.ones(32), np.linspace(0, 2, 32)
    assert abs(knn_divergence(unlearned=constant, retrained=constant)[0][0]) < 0.05
    forward, reverse = knn_divergence(unlearned=constant, retrained=spread)
    assert 8 < forward[0] < 16
    assert np.isfinite(reverse).all()


def test_metric_and_errors():
    (metric,) = get_metrics(["knn_kl"])
    rng = np.random.default_rng(3)
    u, r = (Outputs(confidences=rng.normal(m, 1, (40, 9)), logits=None, accuracy={}) for m in (0, 2))
    forward, reverse = knn_divergence(unlearned=u.confidences, retrained=r.confidences)
    assert metric.compute(unlearned=u, retrained=r) == {"knn_kl": forward.mean(), "knn_kl_reverse": reverse.mean()}
    with pytest.raises(ValueError, match=r"k must lie in 1..3"):
        knn_divergence(unlearned=np.zeros(4), retrained=np.zeros(9), k=4)
