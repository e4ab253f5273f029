"""Wasserstein-1 and Jensen–Shannon of the confidences."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, wasserstein_distance

from harness.metrics import Outputs, get_metrics
from harness.metrics.jensen_shannon import js_divergences, n_bins
from harness.metrics.wasserstein import wasserstein_distances


@pytest.mark.parametrize(("n_u", "n_r"), [(1, 1), (10, 10), (7, 12), (30, 4)])
def test_wasserstein_is_scipys(n_u, n_r):
    rng = np.random.default_rng(n_u)
    u, r = rng.normal(size=(n_u, 6)), rng.normal(1, 2, (n_r, 6))
    u[:, 5], r[:, 5] = np.rint(u[:, 5]), np.rint(r[:, 5])
    expected = [wasserstein_distance(u[:, s], r[:, s]) for s in range(6)]
    np.testing.assert_allclose(wasserstein_distances(unlearned=u, retrained=r), expected, atol=1e-12)
    np.testing.assert_allclose(wasserstein_distances(unlearned=r, retrained=u), expected, atol=1e-12)


def test_wasserstein_null():
    rng = np.random.default_rng(0)
    distances = wasserstein_distances(unlearned=rng.normal(size=(64, 2000)), retrained=rng.normal(size=(64, 2000)))
    assert distances.mean() == pytest.approx(1.23 * math.sqrt(2 / 64), rel=0.03)


def true_js(mean, std):
    p, q = norm(mean, std), norm(0, 1)

    def integrand(x):
        a, b = p.pdf(x), q.pdf(x)
        m = 0.5 * (a + b)
        return 0.5 * (a * math.log(a / m) if a > 0 else 0) + 0.5 * (b * math.log(b / m) if b > 0 else 0)

    return quad(integrand, -30, 30, limit=500, points=[0, mean])[0]


@pytest.mark.parametrize(("mean", "std"), [(0.5, 1), (1, 1), (2, 1), (0, 2), (1, 0.5)])
def test_js_near_the_true_value(mean, std):
    rng = np.random.default_rng(1)
    found = js_divergences(unlearned=rng.normal(mean, std, (512, 300)), retrained=rng.normal(size=(512, 300)))
    truth = true_js(mean, std)
    assert found.mean() == pytest.approx(truth, abs=0.05 * truth + 0.01)


@pytest.mark.parametrize("n", [16, 32, 128])
def test_js_null(n):
    rng = np.random.default_rng(2)
    found = js_divergences(unlearned=rng.normal(size=(n, 3000)), retrained=rng.normal(size=(n, 3000)))
    assert found.mean() == pytest.approx((n_bins(n) - 1) / (4 * n), rel=0.25)


def test_js_symmetry_scale_and_extremes():
    rng = np.random.default_rng(3)
    u, r = rng.normal(size=(40, 10)), rng.normal(1, 2, (30, 10))
    found = js_divergences(unlearned=u, retrained=r)
    np.testing.assert_allclose(found, js_divergences(unlearned=r, retrained=u), atol=1e-12)
    np.testing.assert_allclose(found, js_divergences(unlearned=np.exp(u), retrained=np.exp(r)), atol=1e-12)
    ramp = np.arange(20.0)
    assert js_divergences(unlearned=ramp, retrained=ramp + 99)[0] == pytest.approx(math.log(2))
    assert js_divergences(unlearned=np.ones(9), retrained=np.ones(9))[0] == 0.0
    assert js_divergences(unlearned=ramp, retrained=ramp)[0] == 0.0


@pytest.mark.parametrize("name", ["wasserstein", "jensen_shannon"])
def test_metric_is_the_mean(name):
    (metric,) = get_metrics([name])
    function = {"wasserstein": wasserstein_distances, "jensen_shannon": js_divergences}[name]
    rng = np.random.default_rng(4)
    u, r = (Outputs(confidences=rng.normal(m, 1, (16, 9)), logits=None, accuracy={}) for m in (0, 1))
    expected = function(unlearned=u.confidences, retrained=r.confidences).mean()
    assert metric.compute(unlearned=u, retrained=r) == {name: pytest.approx(expected)}
