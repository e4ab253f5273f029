"""The vectorised two-sample KS test against scipy's."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ks_2samp

from harness.metrics import Outputs, get_metrics, ks_test
from harness.metrics.ks import _exact_pvalues, benjamini_hochberg
from harness.scores.intervals import intervals


def assert_equals_scipy(u, r):
    statistic, pvalue = ks_test(unlearned=u, retrained=r)
    for s in range(u.shape[1]):
        expected = ks_2samp(u[:, s], r[:, s])
        assert statistic[s] == pytest.approx(expected.statistic, abs=1e-12)
        by_scipy = 1.0 if len(u) == len(r) == 7 and expected.statistic < 1.5 / 7 else expected.pvalue  # see ks_test
        assert pvalue[s] == pytest.approx(by_scipy, abs=1e-9)


@pytest.mark.filterwarnings("ignore:ks_2samp. Exact calculation unsuccessful")
@pytest.mark.parametrize(
    ("n_u", "n_r"), [(1, 1), (2, 2), (7, 7), (16, 16), (64, 64), (512, 512), (5, 9), (12, 30), (64, 48), (3, 1)]
)
@pytest.mark.parametrize("shift", [0.0, 0.7, 5.0])
def test_equals_scipy(n_u, n_r, shift):
    rng = np.random.default_rng(n_u * 1000 + n_r)
    assert_equals_scipy(rng.normal(size=(n_u, 8)), rng.normal(shift, 1.3, (n_r, 8)))


@pytest.mark.parametrize(("n_u", "n_r"), [(20, 20), (14, 21)])
@pytest.mark.parametrize("step", [0.5, 2.0, 100.0])
def test_ties(n_u, n_r, step):
    rng = np.random.default_rng(0)
    assert_equals_scipy(np.rint(rng.normal(size=(n_u, 10)) / step) * step, np.rint(rng.normal(size=(n_r, 10)) / step))


@pytest.mark.parametrize("n", [1, 2, 3, 8, 31, 128])
def test_every_attainable_pvalue(n):
    # Shifting one ramp by h ranks makes the statistic h/n exactly.
    ramp = np.arange(n, dtype=float)
    for h in range(n + 1):
        expected = ks_2samp(ramp, ramp + h).pvalue
        assert _exact_pvalues(n)[h] == pytest.approx(expected, abs=1e-9)


def test_small_pvalues_are_accurate():
    ramp = np.arange(200.0)
    _, pvalue = ks_test(unlearned=ramp, retrained=ramp + 150)
    assert pvalue[0] == pytest.approx(ks_2samp(ramp, ramp + 150).pvalue, rel=1e-9)
    assert 0 < pvalue[0] < 1e-40


def test_identical_and_separate():
    sample = np.arange(10.0)
    assert [x[0] for x in ks_test(unlearned=sample, retrained=sample)] == [0.0, 1.0]
    statistic, pvalue = ks_test(unlearned=sample, retrained=sample + 100)
    assert statistic[0] == 1.0
    assert pvalue[0] < 1.1e-5


def test_symmetric():
    rng = np.random.default_rng(1)
    u, r = rng.normal(size=(10, 5)), rng.normal(size=(25, 5))
    for one, other in zip(ks_test(unlearned=u, retrained=r), ks_test(unlearned=r, retrained=u), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("unlearned", "retrained", "message"),
    [
        (np.zeros((4, 2)), np.zeros((4, 3)), "same examples, got S = 2 and 3"),
        (np.zeros((0, 2)), np.zeros((4, 2)), "unlearned must hold at least 1 draw"),
        (np.zeros((4, 2)), np.full((4, 2), np.nan), "retrained holds NaN"),
        (np.zeros((4, 2, 2)), np.zeros((4, 2)), r"unlearned must have shape \[N, S\]"),
    ],
)
def test_errors(unlearned, retrained, message):
    with pytest.raises(ValueError, match=message):
        ks_test(unlearned=unlearned, retrained=retrained)


def test_metric():
    (metric,) = get_metrics(["ks"])
    rng = np.random.default_rng(2)
    confidences = rng.normal(size=(32, 40))
    shifted = confidences[::-1] + np.where(np.arange(40) < 10, 5.0, 0.0)
    u, r = (Outputs(confidences=c, logits=None, accuracy={}) for c in (shifted, confidences))
    got = metric.compute(unlearned=u, retrained=r)
    assert got["ks_rejected"] == 0.25
    assert 0.25 * 0.9 < got["ks_statistic"] <= 0.25


def test_shares_are_those_of_the_p_values():
    (metric,) = get_metrics(["ks"])
    rng = np.random.default_rng(5)
    for n, m in ((16, 16), (24, 17)):
        u, r = rng.normal(np.linspace(0, 2, 50), size=(n, 50)), rng.normal(size=(m, 50))
        statistic, p = ks_test(unlearned=u, retrained=r)
        got = metric.compute(unlearned=plain(u), retrained=plain(r))
        shares = {"ks_rejected": (p < 0.05).mean(), "ks_rejected_bh": (false_discovery_control(p) <= 0.05).mean()}
        assert got == pytest.approx({"ks_statistic": statistic.mean(), **shares}, abs=1e-15)
        assert 0.2 < got["ks_rejected_bh"] < got["ks_rejected"] < 0.9


def test_three_draws_can_reject_nothing_and_their_interval_says_so():
    """The smallest p-value of three against three is 0.1, however far apart they are."""
    metrics = get_metrics(["ks"])
    u, r = (np.random.default_rng(seed).normal(9 * seed, size=(3, 40)) for seed in (0, 1))
    assert metrics[0].compute(unlearned=plain(u), retrained=plain(r))["ks_rejected"] == 0
    found = intervals(metrics, unlearned=plain(u), retrained=plain(r), seed=0, subsets=10)
    assert found["ks_rejected"] == found["ks_rejected_bh"] == (0.0, 0.5 / 40)


def plain(confidences):
    return Outputs(confidences=confidences, logits=None, accuracy={})


def test_benjamini_hochberg_is_scipys():
    rng = np.random.default_rng(3)
    for effect in (1.0, 0.1, 0.01, 1e-4):
        p = np.where(rng.uniform(size=60) < 0.4, effect, 1.0) * rng.uniform(size=60)
        np.testing.assert_array_equal(benjamini_hochberg(p), false_discovery_control(p) <= 0.05)
    assert benjamini_hochberg([0.04, 0.01, 0.9]).tolist() == [False, True, False]
    assert benjamini_hochberg([0.05, 0.03, 0.04]).tolist() == [True, True, True]  # stepped up from the last
    assert not benjamini_hochberg(np.ones(4)).any()
    many = rng.uniform(size=(3, 2, 8)) ** 4
    each = [[benjamini_hochberg(p).tolist() for p in row] for row in many]
    assert benjamini_hochberg(many).tolist() == each


@pytest.mark.parametrize("n", [16, 64])
def test_false_rejections_at_the_attainable_size(n):
    rng = np.random.default_rng(n)
    examples = 2000
    _, pvalue = ks_test(unlearned=rng.normal(size=(n, examples)), retrained=rng.normal(size=(n, examples)))
    attainable = max(p for p in _exact_pvalues(n) if p < 0.05)
    assert attainable == pytest.approx({16: 0.0348, 64: 0.0363}[n], abs=0.0005)
    assert abs((pvalue < 0.05).mean() - attainable) < 3 * np.sqrt(attainable * (1 - attainable) / examples)
    assert benjamini_hochberg(pvalue).mean() < 0.002
