"""The official ε, F and score: against the evaluator's own output, and against a slow literal evaluation."""

import json
import math
import re
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from harness.metrics import Outputs, confidences, forgetting_quality, get_metrics, official_epsilons
from harness.metrics.attacks import _first_index
from harness.metrics.official import competition_score, points

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "epsilon.json").read_text())
SAMPLES = [name for name in VECTORS if name != "confidence"]


# --- the evaluator's definition, attack by attack ---------------------------------------------------------------------


def attack_epsilon(fpr, fnr, delta):
    """ε that one attack certifies, None if it is discarded."""
    if fpr == 0 and fnr == 0:
        return math.inf
    if fpr == 0 or fnr == 0:
        return None
    bounds = [0.0]
    for one, other in ((fpr, fnr), (fnr, fpr)):
        if 1 - delta - one > 0:
            bounds.append(math.log((1 - delta - one) / other))
    return max(bounds)


def slow_epsilon(u, r, delta=1e-5, widths=None):
    """ε of one example, every attack of the grids tried by comparing it with every sample."""
    positive, negative = (r, u) if np.median(r) > np.median(u) else (u, r)
    ranges = sorted([positive.max() - positive.min(), negative.max() - negative.min()])
    if ranges[1] > 0 and ranges[0] / ranges[1] < 0.01:
        return 50.0
    rates = set()

    low, high = min(u.min(), r.min()), max(u.max(), r.max())
    for t in np.linspace(low, high, math.ceil((high - low) * 100)).astype(np.float32):
        t = float(t)
        rates.add((float((negative >= t).mean()), int((positive < t).sum()) / len(positive)))

    narrow, wide = positive, negative
    if positive.max() - positive.min() >= negative.max() - negative.min():
        narrow, wide = negative, positive
    w = narrow.max() - narrow.min()
    start, stop = narrow.min() + w - 2, narrow.max() + 2
    count = math.ceil((stop - start) * 100)
    if widths is not None:
        widths.append(count)
    for right in np.linspace(start, stop, count):
        left = np.linspace(right - w - 2, right - w + 2, 400)[:, None]
        fpr = ((wide >= left) & (wide <= right)).sum(axis=1) / len(wide)
        fnr = (~((narrow >= left) & (narrow <= right))).sum(axis=1) / len(narrow)
        rates.update(zip(fpr.tolist(), fnr.tolist(), strict=True))

    found = [e for e in (attack_epsilon(fpr, fnr, delta) for fpr, fnr in rates) if e is not None]
    return min(max(found, default=0.0), 50.0)


def assert_equals_slow(u, r, delta=1e-5, widths=None):
    expected = [slow_epsilon(u[:, s], r[:, s], delta, widths) for s in range(u.shape[1])]
    for few in (256, 0):  # both ways through the grids that are not aligned
        with patch("harness.metrics.attacks._FEW_SAMPLES", few):
            got = official_epsilons(unlearned=u, retrained=r, delta=delta)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


# --- reference vectors ------------------------------------------------------------------------------------------------


def samples_of(name):
    """The samples that a vector describes in words."""
    n, text = VECTORS[name]["N"], VECTORS[name]["desc"]

    def q(size, mean, std):
        return mean + std * norm.ppf((np.arange(size) + 0.5) / size)

    if name.startswith("rng"):
        names: dict = {"np": np}
        exec(text.replace("; ", "\n"), names)
        return names["u"], names["r"]
    if name == "const_equal":
        return np.full(n, 2.0), np.full(n, 2.0)
    if name == "const_diff":
        return np.full(n, 2.0), np.full(n, 3.0)
    if name == "bimodal":
        return q(64, 0, 1), np.concatenate([q(32, -2, 0.3), q(32, 2, 0.3)])
    numbers = re.findall(r"q\(\w+,([-.\d]+),([-.\d]+)\)", text)
    (u_mean, u_std), (r_mean, r_std) = [(float(mean), float(std)) for mean, std in numbers]
    return q(n, u_mean, u_std), q(n, r_mean, r_std)


@pytest.mark.parametrize("name", SAMPLES)
def test_reference_vectors(name):
    u, r = samples_of(name)
    epsilons = official_epsilons(unlearned=u, retrained=r)
    np.testing.assert_allclose(epsilons, np.atleast_1d(VECTORS[name]["eps"]), rtol=0, atol=1e-5)
    assert forgetting_quality(epsilons, n=VECTORS[name]["N"]) == VECTORS[name]["F"]


@pytest.mark.parametrize("name", ["shift0.5", "scale0.5", "wide", "bimodal", "const_equal", "const_diff"])
def test_slow_evaluation_reproduces_the_reference(name):
    u, r = samples_of(name)
    assert slow_epsilon(u, r) == pytest.approx(VECTORS[name]["eps"], abs=1e-5)


def test_all_vectors_are_read():
    assert len(SAMPLES) == 26


# --- against the slow evaluation --------------------------------------------------------------------------------------


def gaussians(seed, n_u, n_r, n_examples, shift=0.4, scale=1.2, at=0.0, spread=1.0):
    rng = np.random.default_rng(seed)
    u = at + spread * rng.normal(size=(n_u, n_examples))
    r = at + spread * (shift + scale * rng.normal(size=(n_r, n_examples)))
    return u, r


@pytest.mark.parametrize(
    ("seed", "n_u", "n_r", "at", "spread"),
    [
        (0, 8, 8, 0, 1),
        (1, 16, 16, 4, 2),
        (2, 33, 33, -5, 3),
        (3, 64, 64, 2, 0.3),
        (4, 16, 16, 0, 0.02),
        (5, 2, 2, 0, 1),
    ],
)
def test_random(seed, n_u, n_r, at, spread):
    assert_equals_slow(*gaussians(seed, n_u, n_r, 6, at=at, spread=spread))


@pytest.mark.parametrize(("n_u", "n_r"), [(12, 30), (30, 12), (2, 17), (40, 9)])
def test_unequal_n(n_u, n_r):
    assert_equals_slow(*gaussians(6, n_u, n_r, 6, shift=0.8))


def test_other_delta():
    assert_equals_slow(*gaussians(7, 20, 20, 4, shift=1.0), delta=0.02)


@pytest.mark.parametrize(("at", "spread"), [(13.0, 1.0), (6.0, 1.0), (-16.0, 1.0)])
def test_unlucky_grids_of_401(at, spread):
    widths: list[int] = []
    u, r = gaussians(8, 16, 16, 16, at=at, spread=spread)
    assert_equals_slow(u, r, widths=widths)
    assert {400, 401} <= set(widths)


@pytest.mark.parametrize("step", [0.25, 0.1, 0.01, 4 / 399, 1 / 3])
def test_ties_and_samples_on_the_grid(step):
    u, r = gaussians(9, 24, 24, 4)
    assert_equals_slow(np.rint(u / step) * step, np.rint(r / step) * step)


def test_saturated():
    rng = np.random.default_rng(10)
    top = 103.61632918473205
    u = np.where(rng.random((20, 6)) < [0, 0.2, 0.5, 0.8, 0.95, 1], top, rng.normal(20, 8, (20, 6)))
    r = np.where(rng.random((20, 6)) < [0.1, 0.2, 0.9, 0.2, 0.05, 1], top, rng.normal(25, 8, (20, 6)))
    assert_equals_slow(u, r)
    assert_equals_slow(-u, -r)
    assert_equals_slow(np.where(rng.random((20, 6)) < 0.5, top, -top), np.where(rng.random((20, 6)) < 0.3, top, -top))


def test_bimodal():
    rng = np.random.default_rng(11)
    u = rng.normal(size=(32, 4))
    r = rng.choice([-2.0, 2.0], (32, 4)) + 0.3 * rng.normal(size=(32, 4))
    assert_equals_slow(u, r)


def test_thresholds_are_float32():
    # Neighbours on the float64 grid: a rounded threshold may fall between two of them, or fail to. The samples spread
    # further than intervals reach, so thresholds decide alone.
    rng = np.random.default_rng(12)
    low, high = 0.3, 100.7
    grid = np.linspace(low, high, math.ceil((high - low) * 100))
    at = rng.integers(0, len(grid) - 1, (12, 12))
    u, r = grid[at + 1], grid[at]
    u[0], r[0] = high, low
    assert_equals_slow(u, r)


@pytest.mark.parametrize("low", [-1.0, 12.7])  # grids of 400 and of 401
@pytest.mark.parametrize("seed", [20, 21])
def test_samples_exactly_on_the_interval_grid(low, seed):
    # Narrow samples on ends of intervals, a wide sample just beyond each: only an interval that includes its ends
    # parts them.
    rng = np.random.default_rng(seed)
    high = low + 2.5
    w = high - low
    start, stop = low + w - 2, high + 2
    right = np.linspace(start, stop, math.ceil((stop - start) * 100))
    left = np.linspace(right - w - 2, right - w + 2, 400, axis=1)
    rights = rng.choice(right[(right > low) & (right < high)], (8, 8))
    lefts = rng.choice(left[(left > low) & (left < high)], (8, 8))
    ends = np.full((1, 8), low), np.full((1, 8), high)
    narrow = np.concatenate([rights, lefts, *ends])
    wide = np.concatenate([rights + 0.004, lefts - 0.004, ends[0] - 3, ends[1] + 3])
    assert_equals_slow(narrow, wide)
    assert_equals_slow(wide, narrow)


def test_rounding_at_the_lower_end_of_the_narrow_sample():
    # Wide samples just below it: whether an interval can begin between the two is decided by rounding, row by row. The
    # samples lie so densely that hardly two rows accept the same ones.
    rng = np.random.default_rng(52)
    narrow = rng.uniform(0.1, 1.1, (100, 10))
    wide = np.concatenate([rng.uniform(0.1, 1.3, (90, 10)), narrow.min(axis=0) - rng.uniform(0, 0.009, (10, 10))])
    assert_equals_slow(narrow, wide)


def test_intervals_that_only_the_first_of_equal_right_ends_reaches():
    # Accepting three of u and the wide sample at -2.6 is the best attack; it needs a right end between 0.2 and 0.4, while
    # right ends up to 0.8 accept the same samples.
    u = np.array([0.0, 0.1, 0.2, 1.0])
    r = np.array([0.8, 0.8, -2.6, 6.0, -6.0, 7.0])
    assert_equals_slow(u[:, None], r[:, None])
    assert official_epsilons(unlearned=u, retrained=r)[0] == pytest.approx(math.log((0.75 - 1e-5) * 6))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("start", "stop", "count"), [(0.3, 7.7, 740), (-3.1, 0.9, 400), (-61.7, 99.1, 9), (1.5, 1.5, 1)]
)
def test_first_index_is_a_search_in_the_grid(start, stop, count, dtype):
    grid = np.linspace(start, stop, count)
    exact = np.concatenate([grid, grid.astype(np.float32).astype(float), [start - 1, stop + 1]])
    values = np.concatenate([exact, np.nextafter(exact, np.inf), np.nextafter(exact, -np.inf), exact + 0.003])
    for strict, side in ((True, "right"), (False, "left")):
        got = _first_index(values, start=start, stop=stop, count=count, strict=strict, dtype=dtype)
        np.testing.assert_array_equal(got, np.searchsorted(grid.astype(dtype).astype(float), values, side=side))


def test_the_first_right_end_is_rounded_as_the_evaluator_does():
    # low + (high - low) - 2 may differ from high - 2 in the last digit, and then the number of points may.
    u, r = gaussians(56, 100, 100, 300, shift=0.0, spread=3.0)
    u_is_narrow = np.ptp(u, axis=0) < np.ptp(r, axis=0)
    low = np.where(u_is_narrow, u.min(axis=0), r.min(axis=0))
    high = np.where(u_is_narrow, u.max(axis=0), r.max(axis=0))
    literal = np.ceil((high + 2 - (low + (high - low) - 2)) * 100)
    rows = np.flatnonzero(literal != np.ceil((high + 2 - (high - 2)) * 100))[:8]
    assert len(rows) == 8
    assert_equals_slow(u[:, rows], r[:, rows])


@pytest.mark.parametrize(("ratio", "guarded"), [(0.0099, True), (0.0101, False)])
def test_peaky(ratio, guarded):
    r = np.linspace(0.0, 1.0, 16)
    u = 0.53 + np.linspace(0.0, ratio, 16)  # one of r among them, so no attack is without error
    epsilon = official_epsilons(unlearned=u, retrained=r)[0]
    assert (epsilon == 50.0) == guarded
    assert_equals_slow(u[:, None], r[:, None])


def test_constant_samples():
    spread = np.arange(9.0)
    constant = np.full(9, 4.0)
    assert official_epsilons(unlearned=constant, retrained=spread)[0] == 50.0
    assert official_epsilons(unlearned=spread, retrained=constant)[0] == 50.0
    assert official_epsilons(unlearned=constant, retrained=constant)[0] == 0.0
    # Closer than the grid: every attack is discarded.
    assert official_epsilons(unlearned=constant, retrained=constant + 1e-3)[0] == 0.0


VALUES = st.one_of(st.integers(-12, 12).map(lambda k: k * 4 / 399), st.floats(-6, 6).map(lambda x: round(x, 2)))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(VALUES, min_size=2, max_size=9), st.lists(VALUES, min_size=2, max_size=9))
def test_any_sample(u, r):
    assert_equals_slow(np.array(u)[:, None], np.array(r)[:, None])


# Measured with the organisers' evaluator at N = 512: F of two samples, by the shift of one in standard deviations.
@pytest.mark.parametrize(
    ("shift", "expected"), [(0.0, 0.188), (0.1, 0.174), (0.25, 0.141), (0.5, 0.081), (1.0, 0.016), (2.0, 0.0017)]
)
def test_forgetting_quality_falls_with_the_shift_as_measured(shift, expected):
    rng = np.random.default_rng(0)
    n, examples = 512, 400
    epsilons = official_epsilons(
        unlearned=rng.normal(shift, 1, (n, examples)), retrained=rng.normal(0, 1, (n, examples))
    )
    assert forgetting_quality(epsilons, n=n) == pytest.approx(expected, rel=0.12, abs=0.002)


@pytest.mark.parametrize(
    ("spread", "n", "expected"), [(0.05, 64, 0.15), (0.3, 64, 0.10), (5.0, 64, 0.20), (0.3, 512, 0.08)]
)
def test_the_null_moves_with_the_scale_of_the_confidences(spread, n, expected):
    rng = np.random.default_rng(1)
    u, r = rng.normal(0, spread, (2, n, 600))
    assert forgetting_quality(official_epsilons(unlearned=u, retrained=r), n=n) == pytest.approx(expected, abs=0.025)


def test_one_call_equals_many(monkeypatch):
    u, r = gaussians(13, 16, 16, 23, at=6)
    one_by_one = [official_epsilons(unlearned=u[:, s], retrained=r[:, s])[0] for s in range(23)]
    assert official_epsilons(unlearned=u, retrained=r).tolist() == one_by_one
    monkeypatch.setattr("harness.metrics.attacks._CHUNK_SAMPLES", 100)
    monkeypatch.setattr("harness.metrics.attacks._BLOCK_ELEMENTS", 1000)
    assert official_epsilons(unlearned=u, retrained=r).tolist() == one_by_one


# --- properties -------------------------------------------------------------------------------------------------------


def test_symmetric_when_medians_differ():
    u, r = gaussians(14, 32, 32, 20)
    forward = official_epsilons(unlearned=u, retrained=r)
    np.testing.assert_allclose(forward, official_epsilons(unlearned=r, retrained=u), rtol=0, atol=1e-12)


def test_order_of_draws_does_not_matter():
    u, r = gaussians(15, 32, 32, 8)
    rng = np.random.default_rng(0)
    shuffled = official_epsilons(unlearned=rng.permutation(u), retrained=rng.permutation(r))
    assert shuffled.tolist() == official_epsilons(unlearned=u, retrained=r).tolist()


def test_inputs_are_left_alone():
    u, r = gaussians(16, 10, 10, 3)
    before = u.copy(), r.copy()
    official_epsilons(unlearned=u, retrained=r)
    np.testing.assert_array_equal(u, before[0])
    np.testing.assert_array_equal(r, before[1])


def test_common_shift_changes_nothing():
    u, r = gaussians(17, 48, 48, 10)
    u, r = np.rint(u * 2**20) / 2**20, np.rint(r * 2**20) / 2**20  # so that shifting by 1 rounds nothing
    shifted = official_epsilons(unlearned=u + 1.0, retrained=r + 1.0)
    # The diagonal through the lower end is decided by rounding, so single examples may move; most must not.
    assert np.mean(np.abs(shifted - official_epsilons(unlearned=u, retrained=r)) < 1e-9) >= 0.5


def test_grows_with_distance():
    base = norm.ppf((np.arange(128) + 0.5) / 128)
    epsilons = [official_epsilons(unlearned=base, retrained=base + shift)[0] for shift in (0, 0.5, 1, 2, 3, 10)]
    assert epsilons == sorted(epsilons)
    assert epsilons[0] == 0.0
    assert epsilons[-1] == 50.0


@pytest.mark.parametrize(
    ("unlearned", "retrained", "message"),
    [
        (np.zeros((4, 2)), np.zeros((4, 3)), "same examples, got S = 2 and 3"),
        (np.zeros((1, 2)), np.zeros((4, 2)), "unlearned must hold at least 2 draws, got 1"),
        (np.zeros((4, 2)), np.zeros((0, 2)), "retrained must hold at least 2 draws, got 0"),
        (np.zeros((4, 2)), np.array([[0, 1], [2, np.nan]]), r"retrained holds NaN: 1 of 2 draws"),
        (np.zeros((4, 2, 1)), np.zeros((4, 2)), r"unlearned must have shape \[N, S\]"),
        (np.full((4, 2), np.inf), np.zeros((4, 2)), r"unlearned must lie within ±10000"),
    ],
)
def test_epsilon_errors(unlearned, retrained, message):
    with pytest.raises(ValueError, match=message):
        official_epsilons(unlearned=unlearned, retrained=retrained)


def test_samples_must_be_named():
    with pytest.raises(TypeError):
        official_epsilons(np.zeros(4), np.zeros(4))


def test_delta_must_be_a_probability():
    with pytest.raises(ValueError, match="delta"):
        official_epsilons(unlearned=np.arange(4.0), retrained=np.arange(4.0), delta=1.5)


# --- confidence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_confidence_vectors(kind):
    logits = np.array(VECTORS["confidence"]["logits"], dtype=np.float32)
    labels = np.array(VECTORS["confidence"]["targets"])
    if kind == "torch":
        logits, labels = torch.from_numpy(logits), torch.from_numpy(labels)
    got = confidences(logits, labels)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, VECTORS["confidence"]["conf"], rtol=0, atol=1e-9)


def test_confidence_is_logit_minus_logsumexp_of_the_others():
    rng = np.random.default_rng(0)
    z, y = rng.normal(0, 5, (3, 7, 4)), rng.integers(0, 4, 7)
    got = confidences(z, y)
    for n in range(3):
        for s in range(7):
            others = np.delete(z[n, s], y[s])
            assert got[n, s] == pytest.approx(z[n, s, y[s]] - np.log(np.exp(others).sum()), abs=1e-9)


def test_confidence_uses_the_precision_of_the_logits():
    z = np.array([[0.1, 0.7, -0.3]])
    assert confidences(z, [0])[0] != confidences(z.astype(np.float32), [0])[0]
    np.testing.assert_allclose(confidences(torch.tensor(z).bfloat16(), [0]), confidences(z, [0]), atol=0.02)
    assert confidences(np.array([[3, 0]]), [0])[0] == pytest.approx(3.0)


def test_confidence_of_broken_logits_is_nan():
    got = confidences(np.array([[np.nan, 0.0], [1.0, 0.0]]), [0, 0])
    assert np.isnan(got).tolist() == [True, False]


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((5,), [0], r"logits must have shape \[N, S, C\] or \[S, C\], got \[5\]"),
        ((2, 3, 4), [0, 1], r"labels must have shape \[3\]"),
        ((3, 4), [0, 4, 9], r"labels must lie in 0..3; labels\[1\] = 4 \(and 1 more\)"),
        ((3, 4), [0, -1, 1], r"labels\[1\] = -1"),
        ((3, 4), [0.0, 1.0, 1.0], "labels must be integers"),
        ((3, 1), [0, 0, 0], "at least 2 classes"),
    ],
)
def test_confidence_errors(shape, labels, message):
    with pytest.raises(ValueError, match=message):
        confidences(np.zeros(shape), np.array(labels))


# --- points, F, score -------------------------------------------------------------------------------------------------


def test_points():
    epsilons = [0, 0.49, 0.5, 0.99, 1.0, 6.49, 6.5, 6.99, 7.0, 50]
    expected = [1, 1, 1 / 2, 1 / 2, 1 / 4, 2**-12, 2**-13, 2**-13, 0, 0]
    assert points(epsilons, n=512).tolist() == expected
    assert points([3.99, 4.0], n=32).tolist() == [2**-7, 0]  # ln 31 = 3.4
    assert forgetting_quality(epsilons, n=512) == np.mean(expected)


def test_points_below_eight_draws():
    with pytest.raises(ValueError, match="no usable bins"):
        forgetting_quality([0.1], n=7)
    assert forgetting_quality([0.1], n=8) == 1.0


@pytest.mark.parametrize("bad", [[0.1, np.nan], [-0.1]])
def test_points_of_what_is_no_epsilon(bad):
    with pytest.raises(ValueError, match="non-negative"):
        points(bad, n=16)


def test_quality_of_nothing():
    with pytest.raises(ValueError, match="at least one example"):
        forgetting_quality([], n=16)


def test_score_is_a_ratio_of_means_and_not_capped():
    u = {"retain": np.array([0.9, 0.5]), "test": np.array([0.8, 0.8])}
    r = {"retain": np.array([0.5, 0.3]), "test": np.array([0.6, 1.0])}
    assert competition_score(0.5, unlearned=u, retrained=r) == pytest.approx(0.5 * (0.7 / 0.4) * (0.8 / 0.8))
    assert competition_score(1.0, unlearned=u, retrained=r) > 1
    assert math.isnan(competition_score(1.0, unlearned=u, retrained={**r, "test": np.zeros(2)}))


def draws(seed, n, shift=0.0):
    rng = np.random.default_rng(seed)
    accuracy = {part: np.full(n, 0.9 - shift / 10) for part in ("retain", "forget", "test", "valid")}
    return Outputs(confidences=rng.normal(shift, 1, (n, 12)), logits=None, accuracy=accuracy)


def test_metric():
    (metric,) = get_metrics(["official"])
    u, r = draws(0, 32, shift=0.5), draws(1, 32)
    got = metric.compute(unlearned=u, retrained=r)
    epsilons = official_epsilons(unlearned=u.confidences, retrained=r.confidences)
    assert got["epsilon_median"] == np.median(epsilons)
    assert got["forgetting_quality"] == forgetting_quality(epsilons, n=32)
    assert got["score"] == pytest.approx(got["forgetting_quality"] * (0.85 / 0.9) ** 2)


def test_metric_below_eight_draws():
    (metric,) = get_metrics(["official"])
    got = metric.compute(unlearned=draws(0, 4), retrained=draws(1, 4))
    assert math.isnan(got["forgetting_quality"])
    assert math.isnan(got["score"])
    assert got["epsilon_median"] >= 0


def test_fast_enough():
    """512 draws take about a millisecond per example; the bound only catches a return to trying every attack."""
    u, r = gaussians(18, 512, 512, 10)
    official_epsilons(unlearned=u, retrained=r)
    begin = time.process_time()
    official_epsilons(unlearned=u, retrained=r)
    assert (time.process_time() - begin) / 10 < 0.05
