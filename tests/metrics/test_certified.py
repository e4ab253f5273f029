"""The certified ε: its bounds, its ceiling, and that it stays below the true ε as often as it says."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from harness.metrics import Outputs, certified_epsilons, get_metrics
from harness.metrics.certified import _table, certified_ceiling


def test_table_is_clopper_pearson():
    table = _table(20, 12, 1e-5)
    for tp, fp in ((20, 0), (15, 2), (3, 1), (0, 12), (20, 11)):
        upper = [
            binomtest(k, n).proportion_ci(0.95, "exact").high  # two-sided 95 %: each side 97.5 %
            for k, n in ((20 - tp, 20), (fp, 12))
        ]
        fnr, fpr = upper
        candidates = [0.0]
        for one, other in ((fpr, fnr), (fnr, fpr)):
            if 1 - 1e-5 - one > 0:
                candidates.append(math.log((1 - 1e-5 - one) / other))
        assert table[tp, fp] == pytest.approx(max(candidates), abs=1e-9)


@pytest.mark.parametrize(("n", "ceiling"), [(32, 1.35), (512, 4.23)])
def test_ceiling(n, ceiling):
    assert certified_ceiling(n) == pytest.approx(ceiling, abs=0.005)
    ramp = np.random.default_rng(0).permutation(n).astype(float)
    assert certified_epsilons(unlearned=ramp, retrained=ramp + 10 * n)[0] == pytest.approx(certified_ceiling(n))


# A shift of μ standard deviations: ε at δ = 1e-5 is 1.99 for 0.5, 4.38 for 1 and 0 for 0.
@pytest.mark.parametrize(("shift", "scale", "true"), [(0.0, 1.0, 0.0), (0.5, 1.0, 1.99), (0.25, 1.0, 0.903)])
@pytest.mark.parametrize("n", [32, 100])
def test_below_the_true_epsilon(shift, scale, true, n):
    rng = np.random.default_rng(n)
    pairs = 2000
    epsilons = certified_epsilons(unlearned=rng.normal(shift, scale, (n, pairs)), retrained=rng.normal(size=(n, pairs)))
    assert (epsilons <= true).mean() >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / pairs)


def test_choosing_and_bounding_on_the_same_draws_would_not_hold():
    """The split is what makes the bound honest: the same attack bounded on the draws that chose it claims too much."""
    from harness.metrics.certified import _attack
    from harness.metrics.samples import two_samples

    rng = np.random.default_rng(1)
    u, r = rng.normal(size=(50, 500)), rng.normal(size=(50, 500))
    same = _attack(*two_samples(unlearned=u, retrained=r), 1e-5)[0]
    assert (same > 0).mean() > 0.15
    assert (certified_epsilons(unlearned=u, retrained=r) > 0).mean() < 0.05


def test_approaches_what_thresholds_can_show():
    """For a shift of 2 σ the best interval is a half-line; its bound is of the order of log((1 − FPR)/FNR)."""
    rng = np.random.default_rng(2)
    epsilon = certified_epsilons(unlearned=rng.normal(2, 1, 2000), retrained=rng.normal(size=2000))[0]
    assert 2.5 < epsilon < 9.7


def test_exchange_of_the_samples_changes_nothing():
    """Also where attacks of both orders look equally strong on the half that chooses."""
    rng = np.random.default_rng(4)
    for n in (8, 32):
        u, r = rng.normal(0.3, 1.2, (n, 3000)), rng.normal(size=(n, 3000))
        forward, reverse = certified_epsilons(unlearned=u, retrained=r), certified_epsilons(unlearned=r, retrained=u)
        np.testing.assert_array_equal(forward, reverse)


def test_intervals_are_used():
    rng = np.random.default_rng(3)
    u, r = rng.normal(0, 0.1, (128, 20)), rng.normal(0, 3, (128, 20))
    assert (certified_epsilons(unlearned=u, retrained=r) > 1.0).all()
    assert (certified_epsilons(unlearned=r, retrained=u) > 1.0).all()


def test_the_second_half_does_not_choose():
    rng = np.random.default_rng(4)
    u, r = rng.normal(size=(40, 1)), rng.normal(1, 1, (40, 1))
    base = certified_epsilons(unlearned=u, retrained=r)
    other = u.copy()
    other[20:] = other[20:][::-1]  # order within a half plays no part
    assert certified_epsilons(unlearned=other, retrained=r) == base


def test_constant_samples_claim_nothing():
    assert certified_epsilons(unlearned=np.ones(16), retrained=np.ones(16))[0] == 0.0


def test_metric():
    (metric,) = get_metrics(["certified"])
    rng = np.random.default_rng(5)
    r = rng.normal(size=(32, 4))
    u = r[::-1] + np.array([0, 0, 0, 100.0])
    draws = [Outputs(confidences=c, logits=None, accuracy={}) for c in (u, r)]
    got = metric.compute(unlearned=draws[0], retrained=draws[1])
    assert got["certified_share"] == 0.25
    assert got["certified_epsilon_median"] == 0.0
    assert got["certified_ceiling"] == certified_ceiling(32)


def test_errors():
    with pytest.raises(ValueError, match="at least 4 draws"):
        certified_epsilons(unlearned=np.zeros((3, 1)), retrained=np.zeros((8, 1)))
