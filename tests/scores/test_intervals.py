"""Intervals over draws hold the truth as often as they say; letters and the normalised score do what they claim."""

import math

import numpy as np
import pytest

from benchmarks.coverage import World, coverage
from harness.metrics import Outputs, get_metrics
from harness.metrics.base import Column, metric
from harness.scores.intervals import (
    combined,
    ends,
    half_width,
    intervals,
    normalised,
    resampled,
    subset_size,
    tie_letters,
)


def column(name, **changes):
    return Column(**{"name": name, "direction": "lower", "ideal": 0.0, "range": (-9.0, 9.0), "meaning": "m"} | changes)


def of_means(one):
    """The difference of the means as the value of a column."""

    @metric(name=one.name, needs={"confidences"}, columns=(one,))
    def made(*, unlearned, retrained):
        return {one.name: float(unlearned.confidences.mean() - retrained.confidences.mean())}

    return made


difference = of_means(column("difference"))


def plain(values):
    values = np.asarray(values, dtype=float)
    return Outputs(confidences=values.reshape(len(values), -1), logits=None, accuracy={})


# --- the scheme -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(16, 16), (33, 33), (100, 100), (40, 80)])
def test_of_a_difference_of_means_is_the_textbook_interval(n, m):
    """The scaling is exact for means: with enough subsets the spread is the standard error."""
    rng = np.random.default_rng(n)
    u, r = rng.normal(size=n), rng.normal(1, 3, m)
    found = intervals([difference], unlearned=plain(u), retrained=plain(r), seed=0, subsets=1500)["difference"]
    error = math.sqrt(u.var(ddof=1) / n + r.var(ddof=1) / m)
    from scipy.stats import t

    expected = t.ppf(0.975, min(n, m) - 1) * error
    assert (found[1] - found[0]) / 2 == pytest.approx(expected, rel=0.07)
    assert sum(found) / 2 == pytest.approx(u.mean() - r.mean())


# Forty pairs of pools: enough to see an interval that is a factor 1.4 off. The full table: docs/intervals.md.
def test_coverage_on_simulated_pools():
    table = coverage(["official", "ks", "kl", "accuracy"], "shift", 32, pools=40, truths=100, subsets=25, examples=8)
    for name in ("forgetting_quality", "ks_statistic", "kl", "forget_accuracy", "test_accuracy"):
        assert table[name].share >= 0.8, (name, table[name])
        assert 0.75 < table[name].width < 1.6, (name, table[name])
    for name in (
        "ks_rejected",
        "ks_rejected_bh",
    ):  # whose distribution is far from normal: narrower than 1.96 deviations
        assert table[name].share >= 0.8, (name, table[name])
        assert 0.6 < table[name].width < 1.6, (name, table[name])


def test_subsets_are_common_to_methods_and_never_repeat_a_draw():
    seen = []

    @metric(name="spy", needs={"confidences"}, columns=(column("spy"),))
    def spy(*, unlearned, retrained):
        if unlearned.n < 20:  # not the call on all draws
            seen.append((unlearned.confidences[:, 0], retrained.confidences[:, 0]))
        return {"spy": 0.0}

    for offset in (0, 100):
        resampled([spy], unlearned=plain(np.arange(20) + offset), retrained=plain(np.arange(12)), seed=3, subsets=8)
    first, second = seen[:8], seen[8:]
    for (u, r), (other_u, other_r) in zip(first, second, strict=True):
        np.testing.assert_array_equal(u + 100, other_u)
        np.testing.assert_array_equal(r, other_r)
        assert (len(np.unique(u)), len(np.unique(r))) == (15, 9)
    assert len({tuple(u) for u, _ in first}) > 1
    resampled([spy], unlearned=plain(np.arange(20)), retrained=plain(np.arange(12)), seed=4, subsets=8)
    assert any((a[0] != b[0]).any() for a, b in zip(first, seen[16:], strict=True))


def test_ends_stay_within_the_range():
    @metric(name="share", needs={"confidences"}, columns=(column("share", range=(0.0, 1.0)),))
    def share(*, unlearned, retrained):
        return {"share": float((unlearned.confidences > 0).mean())}

    values = np.array([1.0] * 15 + [-1.0])
    low, high = intervals([share], unlearned=plain(values), retrained=plain(values), seed=0)["share"]
    assert 0.7 < low < 15 / 16 < high == 1.0


def of_examples(name, share_of, **changes):
    """A share of the examples whose difference of means satisfies ``share_of``."""

    @metric(
        name=name,
        needs={"confidences"},
        columns=(column(name, range=(-99.0, 99.0), share=True, **changes),),
        summary=lambda examples: {name: share_of(examples["difference"]).mean(axis=-1)},
    )
    def made(*, unlearned, retrained):
        return {"difference": unlearned.confidences.mean(axis=0) - retrained.confidences.mean(axis=0)}

    return made


def test_a_share_of_one_shared_statistic_has_the_interval_of_its_probability():
    """All examples alike: rejected all or none, with probability Φ((θ − bar)/error); θ ends where its interval ends."""
    from scipy.stats import norm, t

    rng = np.random.default_rng(0)
    n, examples = 64, 20
    u, r = (np.tile(rng.normal(mean, 1, size=(n, 1)), examples) for mean in (90, 0))  # far from 0: no folding
    theta = u.mean() - r.mean()
    error = math.sqrt(u[:, 0].var(ddof=1) / n + r[:, 0].var(ddof=1) / n)
    bar = theta + 2.2 * error  # far enough that none passes on any subset, so that the spread over subsets is 0
    metrics = [of_examples("passed", lambda x: x > bar)]
    found = intervals(metrics, unlearned=plain(u), retrained=plain(r), seed=0, subsets=1500)["passed"]
    expected = norm.cdf((theta + t.ppf([0.025, 0.975], n - 1) * error - bar) / error)
    assert found[0] == pytest.approx(-0.5 / examples, abs=0.03)
    assert found[1] == pytest.approx(expected[1] + 0.5 / examples, abs=0.05)  # in steps of 1/31
    assert expected[1] > 0.4


def test_of_a_mean_over_examples_the_two_intervals_are_one():
    rng = np.random.default_rng(1)
    u, r = (rng.normal(size=(40, 1)) + rng.normal(size=(40, 12)) for _ in range(2))
    moved = of_examples("moved", lambda x: x)
    options = {"unlearned": plain(u), "retrained": plain(r), "seed": 0}
    (low, high), (mean_low, mean_high) = (
        intervals([moved], **options)["moved"],
        intervals([difference], **options)["difference"],
    )
    assert mean_low - low == pytest.approx(0.5 / 12, rel=0.02)
    assert high - mean_high == pytest.approx(0.5 / 12, rel=0.02)


def test_the_interval_of_a_share_holds_that_of_the_jackknife():
    """Examples without anything in common: there is no common movement, all the spread is that of the share itself."""
    rng = np.random.default_rng(4)
    u, r = (plain(rng.normal(size=(24, 60))) for _ in range(2))
    metrics = [of_examples("passed", lambda x: x > 0.3)]
    again = resampled(metrics, unlearned=u, retrained=r, seed=0)
    value = metrics[0].compute(unlearned=u, retrained=r)
    half = half_width(again.columns["passed"], n=24)
    low, high = ends(metrics, again)["passed"]
    assert half > 0.05
    assert low <= value["passed"] - half < value["passed"] + half <= high


def test_the_upper_end_of_a_distance_is_logarithmic_above_its_half():
    """Twice as far from half the distance, not as far again: the ratio is kept."""
    distance = of_means(column("d", range=(0.0, 99.0)))
    other = of_means(column("d", range=(-99.0, 99.0)))
    rng = np.random.default_rng(3)
    u, r = rng.normal(2, 1, 30), rng.normal(0, 1, 30)
    options = {"retrained": plain(r), "seed": 0}
    for offset in (0.0, 5.0, 0.6 - u.mean() + r.mean()):
        value = u.mean() + offset - r.mean()
        low, high = intervals([distance], unlearned=plain(u + offset), **options)["d"]
        other_low, other_high = intervals([other], unlearned=plain(u + offset), **options)["d"]
        half = other_high - value
        assert low == pytest.approx(other_low)
        if 2 * half < value:
            assert (high - value / 2) / (value / 2) == pytest.approx(math.exp(half / (value / 2)))
        else:
            assert high - value == pytest.approx(half * (math.e - 1))
    assert 2 * half > value


def test_too_few_draws_have_no_interval():
    world = World()
    rng = np.random.default_rng(0)
    metrics = get_metrics(["official", "ks"])
    for n, exists in ((2, set()), (8, {"epsilon_median", "ks_statistic"})):
        u, r = world.pool("shift", n, rng), world.pool("null", n, rng)
        found = intervals(metrics, unlearned=u, retrained=r, seed=0, subsets=10)
        assert set(found) == {c.name for m in metrics for c in m.columns}
        assert math.isnan(found["forgetting_quality"][0])
        assert all(not math.isnan(found[name][0]) for name in exists)
        assert n > 2 or all(math.isnan(low) and math.isnan(high) for low, high in found.values())


def test_subset_size():
    assert [subset_size(n) for n in (3, 4, 8, 32, 512)] == [2, 3, 6, 24, 384]


def test_combined():
    assert combined([0.3]) == 0.3
    assert combined([0.3, 0.4]) == pytest.approx(0.25)
    assert combined([0.2] * 4) == pytest.approx(0.1)


# --- letters ----------------------------------------------------------------------------------------------------------


def noise(rng, scale, subsets=400):
    return rng.normal(0, scale, subsets)


def separated(letters, a, b):
    return not set(letters[a]) & set(letters[b])


def test_letters_mark_what_is_separated():
    rng = np.random.default_rng(0)
    values = {"best": 1.0, "near": 0.99, "far": 0.5, "none": math.nan}
    again = {name: value + noise(rng, 0.01) for name, value in values.items()}
    letters = tie_letters(values, again, n=32)
    assert letters == {"best": "a", "near": "a", "far": "b", "none": ""}


def test_a_chain_needs_overlapping_letters():
    rng = np.random.default_rng(1)
    step = 3 * half_width(noise(rng, 0.01) - noise(rng, 0.01), n=32) / 4  # neighbours tied, next but one not
    values = {"a": 3 * step, "b": 2 * step, "c": step, "d": 0.0}
    again = {name: value + noise(rng, 0.01) for name, value in values.items()}
    assert tie_letters(values, again, n=32) == {"a": "a", "b": "ab", "c": "bc", "d": "c"}


def test_paired_differences_see_through_common_noise():
    rng = np.random.default_rng(2)
    common = noise(rng, 0.1)
    values = {"one": 0.5, "other": 0.4}
    paired = {name: value + common + noise(rng, 0.001) for name, value in values.items()}
    alone = {name: value + noise(rng, 0.1) for name, value in values.items()}
    assert tie_letters(values, paired, n=32) == {"one": "a", "other": "b"}
    assert tie_letters(values, alone, n=32) == {"one": "a", "other": "a"}


@pytest.mark.parametrize("seed", range(12))
def test_a_letter_is_shared_exactly_by_methods_not_separated(seed):
    rng = np.random.default_rng(seed)
    values = {f"m{i}": float(v) for i, v in enumerate(rng.uniform(0, 1, 12))}
    again = {name: value + noise(rng, rng.uniform(0.001, 0.1), 50) for name, value in values.items()}
    letters = tie_letters(values, again, n=20)
    for a in values:
        for b in values:
            apart = abs(values[a] - values[b]) > half_width(again[a] - again[b], n=20)
            assert a == b or separated(letters, a, b) == apart
    assert "a" in letters[max(values, key=values.__getitem__)]


def test_no_methods():
    assert tie_letters({}, {}, n=10) == {}


def test_normalised():
    assert normalised(0.2, floor=0.05, ceiling=0.2) == 1.0
    assert normalised(0.05, floor=0.05, ceiling=0.2) == 0.0
    assert normalised(0.0, floor=0.05, ceiling=0.2) == pytest.approx(-1 / 3)
    assert math.isnan(normalised(0.1, floor=0.2, ceiling=0.2))
