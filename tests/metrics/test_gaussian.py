"""ε between Gaussian fits against known values and against integrating the definition of δ(ε)."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from harness.metrics import Outputs, gaussian_epsilons, get_metrics
from tests.metrics.test_kl import standardised


def delta_of(epsilon, mean, std):
    """max over both orders of ∫ max(0, p − e^ε q), by quadrature over the regions where it is positive."""
    p, q = norm(mean, std), norm(0, 1)
    found = []
    for a, b in ((p, q), (q, p)):
        x = np.linspace(min(-40, mean - 40 * std), max(40, mean + 40 * std), 400_001)
        positive = a.logpdf(x) > epsilon + b.logpdf(x)
        edges = np.flatnonzero(np.diff(positive.astype(int))) + 1
        total = 0.0
        for begin, end in zip([0, *edges], [*edges, len(x) - 1], strict=True):
            if positive[begin]:
                total += quad(lambda t, a=a, b=b: a.pdf(t) - np.exp(epsilon) * b.pdf(t), x[begin], x[end], limit=400)[0]
        found.append(total)
    return max(found)


def epsilon_of(mean, std, n=64, **options):
    return gaussian_epsilons(unlearned=standardised(n, mean, std), retrained=standardised(n, 0, 1), **options)[0]


@pytest.mark.parametrize(("shift", "expected"), [(0.5, 1.99), (1.0, 4.38)])
def test_known_shifts(shift, expected):
    assert epsilon_of(shift, 1.0) == pytest.approx(expected, abs=0.005)
    assert epsilon_of(-shift, 1.0) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("mean", "std"), [(0.3, 1.0), (0, 1.1), (0, 0.8), (0.5, 1.2), (-0.7, 0.9), (1.0, 1.0001)])
def test_is_where_delta_falls_to_its_value(mean, std):
    epsilon = epsilon_of(mean, std, delta=1e-3)
    assert 0 < epsilon < 50
    assert delta_of(epsilon, mean, std) == pytest.approx(1e-3, rel=2e-3)


def test_continuous_where_spreads_become_equal():
    near = [epsilon_of(1.0, 1.0 + step) for step in (-1e-5, -1e-9, -1e-13, 0, 1e-13, 1e-9, 1e-5)]
    np.testing.assert_allclose(near, 4.3772, atol=2e-3)


def test_symmetric():
    rng = np.random.default_rng(0)
    u, r = rng.normal(size=(20, 30)), rng.normal(0.5, 2, (15, 30))
    np.testing.assert_allclose(
        gaussian_epsilons(unlearned=u, retrained=r), gaussian_epsilons(unlearned=r, retrained=u), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("n", [32, 64])
def test_null_follows_from_the_distribution_of_means_and_spreads(n):
    """Fits to two samples of one Gaussian: a t-like shift and an F-like ratio of variances, drawn here directly."""
    rng = np.random.default_rng(n)
    pairs = 2000
    spread_u, spread_r = np.sqrt(rng.chisquare(n - 1, (2, pairs)) / (n - 1))
    mean, std = rng.normal(0, np.sqrt(2 / n), pairs) / spread_r, spread_u / spread_r
    x = np.linspace(-14, 14, 1401)[:, None]  # δ(ε) by summing over a grid, ε by halving
    p, q = norm.pdf(x, mean, std), norm.pdf(x)
    low, high = np.zeros(pairs), np.full(pairs, 50.0)
    for _ in range(20):
        epsilon = (low + high) / 2
        delta = np.maximum(*(np.maximum(a - np.exp(epsilon) * b, 0).sum(0) * 0.02 for a, b in ((p, q), (q, p))))
        low, high = np.where(delta > 1e-5, epsilon, low), np.where(delta > 1e-5, high, epsilon)
    found = gaussian_epsilons(unlearned=rng.normal(size=(n, 4000)), retrained=rng.normal(size=(n, 4000)))
    for share in (0.25, 0.5, 0.75):
        assert np.quantile(found, share) == pytest.approx(np.quantile(low, share), rel=0.12)
    assert np.median(found) == pytest.approx({32: 3.1, 64: 2.0}[n], abs=0.15)


def test_extremes():
    ramp = np.arange(9.0)
    assert gaussian_epsilons(unlearned=ramp, retrained=ramp)[0] == 0.0
    assert gaussian_epsilons(unlearned=ramp, retrained=ramp + 1000)[0] == 50.0
    assert gaussian_epsilons(unlearned=np.ones(9), retrained=ramp)[0] == 50.0
    assert gaussian_epsilons(unlearned=ramp, retrained=ramp, delta=0.5)[0] == 0.0
    with pytest.raises(ValueError, match="delta must lie in"):
        gaussian_epsilons(unlearned=ramp, retrained=ramp, delta=0.0)


def test_metric():
    (metric,) = get_metrics(["gaussian"])
    u = Outputs(confidences=np.stack([standardised(16, 0, 1), standardised(16, 1, 1)], 1), logits=None, accuracy={})
    r = Outputs(confidences=np.stack([standardised(16, 0, 1)] * 2, 1), logits=None, accuracy={})
    got = metric.compute(unlearned=u, retrained=r)
    assert got["gaussian_forgetting_quality"] == 0.5  # ε = 0: 1 point; 4.38: beyond the bins of N = 16
    assert got["gaussian_epsilon_median"] == pytest.approx(4.3772 / 2, abs=1e-3)
