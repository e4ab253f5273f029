"""The KL divergence of Gaussian fits against the closed form and against numerical integration."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from harness.metrics import Outputs, gaussian_kl, get_metrics
from harness.metrics.kl import VARIANCE_FLOOR


def standardised(n, mean, std):
    """A sample whose mean and standard deviation are exactly these."""
    x = norm.ppf((np.arange(n) + 0.5) / n)
    return mean + std * (x - x.mean()) / x.std()


def divergence(mean_a, std_a, mean_b, std_b):
    """KL(a‖b) by integrating its definition."""
    a, b = norm(mean_a, std_a), norm(mean_b, std_b)
    value, _ = quad(lambda x: a.pdf(x) * (a.logpdf(x) - b.logpdf(x)), mean_a - 12 * std_a, mean_a + 12 * std_a)
    return value


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1, 1), (-2, 1), (0, 2), (0, 0.5), (1.5, 0.7)])
def test_closed_form(mean, std):
    forward, reverse = gaussian_kl(unlearned=standardised(50, mean, std), retrained=standardised(80, 0, 1))
    assert forward[0] == pytest.approx(divergence(mean, std, 0, 1), abs=1e-7)
    assert reverse[0] == pytest.approx(divergence(0, 1, mean, std), abs=1e-7)


def test_large_samples_reach_the_true_value():
    rng = np.random.default_rng(0)
    forward, reverse = gaussian_kl(unlearned=rng.normal(1, 2, (200_000, 2)), retrained=rng.normal(0, 1, (200_000, 2)))
    np.testing.assert_allclose(forward, math.log(1 / 2) + (4 + 1) / 2 - 0.5, rtol=0.02)
    np.testing.assert_allclose(reverse, math.log(2) + (1 + 1) / 8 - 0.5, rtol=0.02)


def test_null_is_about_two_over_n():
    rng = np.random.default_rng(1)
    forward, reverse = gaussian_kl(unlearned=rng.normal(size=(64, 4000)), retrained=rng.normal(size=(64, 4000)))
    assert forward.mean() == pytest.approx(2 / 64, rel=0.1)
    assert reverse.mean() == pytest.approx(2 / 64, rel=0.1)


def test_exchanging_the_samples_exchanges_the_directions():
    rng = np.random.default_rng(2)
    u, r = rng.normal(size=(9, 3)), rng.normal(1, 3, (12, 3))
    forward, reverse = gaussian_kl(unlearned=u, retrained=r)
    swapped_forward, swapped_reverse = gaussian_kl(unlearned=r, retrained=u)
    np.testing.assert_allclose(forward, swapped_reverse)
    np.testing.assert_allclose(reverse, swapped_forward)
    assert not np.allclose(forward, reverse)


def test_no_spread_is_large_but_finite():
    spread, constant = standardised(32, 0, 1), np.zeros(32)
    forward, reverse = gaussian_kl(unlearned=constant, retrained=spread)
    assert forward[0] == pytest.approx(0.5 * (math.log(1 / VARIANCE_FLOOR) + VARIANCE_FLOOR - 1))
    assert reverse[0] == pytest.approx(0.5 / VARIANCE_FLOOR, rel=1e-4)
    assert [x[0] for x in gaussian_kl(unlearned=constant, retrained=constant)] == [0.0, 0.0]
    forward, reverse = gaussian_kl(unlearned=constant, retrained=constant + 1)
    assert forward[0] == reverse[0] == pytest.approx(0.5 / VARIANCE_FLOOR)


@pytest.mark.parametrize(
    ("unlearned", "retrained", "message"),
    [
        (np.zeros((4, 2)), np.zeros((4, 3)), "same examples, got S = 2 and 3"),
        (np.zeros((1, 2)), np.zeros((4, 2)), "unlearned must hold at least 2 draws, got 1"),
        (np.zeros((4, 2)), np.full((4, 2), np.inf), "retrained holds values that are not finite"),
        (np.zeros((4, 2, 2)), np.zeros((4, 2)), r"unlearned must have shape \[N, S\]"),
    ],
)
def test_errors(unlearned, retrained, message):
    with pytest.raises(ValueError, match=message):
        gaussian_kl(unlearned=unlearned, retrained=retrained)


def test_metric_is_the_mean_over_examples():
    (metric,) = get_metrics(["kl"])
    u = np.stack([standardised(16, 0, 1), standardised(16, 2, 1)], axis=1)
    r = np.stack([standardised(16, 0, 1), standardised(16, 0, 2)], axis=1)
    got = metric.compute(
        unlearned=Outputs(confidences=u, logits=None, accuracy={}),
        retrained=Outputs(confidences=r, logits=None, accuracy={}),
    )
    assert got["kl"] == pytest.approx(divergence(2, 1, 0, 2) / 2, abs=1e-7)
    assert got["kl_reverse"] == pytest.approx(divergence(0, 2, 2, 1) / 2, abs=1e-7)
