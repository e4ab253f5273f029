"""How sure a number is: 95 % intervals over draws, letters for methods that are not told apart, a normalised score.

The draws are the sample: examples of one forget set share their models and are no independent repetitions, so draws are
resampled and examples never are. The ordinary bootstrap is of no use here: it repeats draws, and ε, a maximum over
attacks, feeds on ties. Instead the delete-d jackknife (Shao & Wu 1989): of the N draws on either side keep m without
repetition, compute the number again, and scale up the spread that this makes,

    variance of the number at N ≈ m / (N − m) · variance over subsets of size m,

which is exact for means over draws (they vary by σ²/m · (1 − m/N) over subsets, by σ²/N over pools). A quarter is
deleted: few draws, and the ragged ε and KS shares shift as a whole with N (a test on N/2 draws has less power, and a flatter
response to the same difference, so half-samples make F too sure by a quarter); fewer deleted, and what is not smooth is
overstated. Only the spread is taken from the subsets, their mean is biased (F and KL depend on N): the interval is
centred at the value of all N draws, so it is about the expected value *at this N*. benchmarks/coverage.py shows how often
these intervals hold.

Distances cannot be negative: near 0 they hardly change with a shift, further up they do. So pools that lie low by chance
show too little spread, and their intervals would end below the truth too often. The upper end of a distance is therefore taken
on the logarithmic scale of what exceeds half of it (half, since two finite samples of one distribution differ too).

Shares of examples that pass a bar (rejected by KS, certified) jump: models move on all examples together, and where none
passes on all draws none passes on a subset either, which would make no interval at all. The statistics themselves
move smoothly. So they are moved by as much as pools move them together, and the share is taken again (:func:`_share_ends`).

Under ``reuse_n_1`` everything, the intervals included, is conditional on the one original.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from harness.metrics.base import Column, Examples, FunctionMetric, Metric, Outputs
from harness.streams import seed_for

__all__ = [
    "Resampled",
    "combined",
    "ends",
    "half_width",
    "intervals",
    "normalised",
    "resampled",
    "subset_size",
    "tie_letters",
]

Floats = NDArray[np.float64]

KEPT = 0.75
SUBSETS = 100
LEVEL = 0.95
_NORMAL = ndtri((np.arange(31) + 0.5) / 31)  # a standard normal variable in 31 values


def intervals(
    metrics: Sequence[Metric], *, unlearned: Outputs, retrained: Outputs, seed: int, subsets: int = SUBSETS
) -> dict[str, tuple[float, float]]:
    """95 % intervals over draws for every column of every metric, at this N.

    Returns:
        (low, high) by column, within the column's range; (NaN, NaN) where the number, or the number from three quarters
        of the draws, does not exist (forgetting quality below N = 10), or where the column says that it has none.
    """
    return ends(metrics, resampled(metrics, unlearned=unlearned, retrained=retrained, seed=seed, subsets=subsets))


@dataclass(frozen=True)
class Resampled:
    """What all the draws say, and what subsets of them say.

    Attributes:
        n: number of draws, of the smaller side.
        values: every column on all draws.
        columns: every column on every subset, [subsets].
        examples: of each metric with shares, what it says of every example: on all draws [S], and on the subsets [subsets, S].
    """

    n: int
    values: dict[str, float]
    columns: dict[str, Floats]
    examples: dict[str, tuple[Examples, Examples]]


def ends(metrics: Sequence[Metric], resampled: Resampled) -> dict[str, tuple[float, float]]:
    """:func:`intervals` from what :func:`resampled` found."""
    intervals_by_column = {}
    for metric in metrics:
        shares = _share_ends(metric, resampled) if isinstance(metric, FunctionMetric) else {}
        for column in metric.columns:
            value, half = resampled.values[column.name], half_width(resampled.columns[column.name], n=resampled.n)
            low, high = column.range
            up = half * _stretch(half, value) if _is_distance(column) else half
            below, above = shares.get(column.name, (value, value))
            within = max(low, min(value - half, below)), min(high, max(value + up, above))
            missing = not column.interval or math.isnan(half) or math.isnan(value)
            intervals_by_column[column.name] = (math.nan, math.nan) if missing else within
    return intervals_by_column


def resampled(
    metrics: Sequence[Metric], *, unlearned: Outputs, retrained: Outputs, seed: int, subsets: int = SUBSETS
) -> Resampled:
    """Every column from all draws and from ``subsets`` subsets of them.

    Which draws are kept depends on the seed and the numbers of draws alone: the same retrained draws, and the same
    places among the unlearned, for every method. So differences between methods can be taken subset by subset.
    """
    n = min(unlearned.n, retrained.n)
    whole = {metric.name: _evaluated(metric, unlearned, retrained) for metric in metrics}
    values_of_all = {name: value for _, values in whole.values() for name, value in values.items()}
    if n < 3:
        return Resampled(n, values_of_all, {name: np.full(subsets, np.nan) for name in values_of_all}, {})
    chosen = [
        _subsets(size, np.random.default_rng(seed_for("subsets", seed, side, size)), subsets)
        for side, size in (("unlearned", unlearned.n), ("retrained", retrained.n))
    ]
    columns: dict[str, list[float]] = {name: [] for name in values_of_all}
    examples: dict[str, list[Examples]] = {m.name: [] for m in metrics if any(c.share for c in m.columns)}
    for keep_u, keep_r in zip(*chosen, strict=True):
        u, r = unlearned.take(keep_u), retrained.take(keep_r)
        for metric in metrics:
            statistics, values = _evaluated(metric, u, r)
            if metric.name in examples:
                examples[metric.name].append(statistics)
            for name, value in values.items():
                columns[name].append(value)
    return Resampled(
        n,
        values_of_all,
        {name: np.array(values) for name, values in columns.items()},
        {name: (whole[name][0], _stacked(values)) for name, values in examples.items()},
    )


def subset_size(n: int) -> int:
    """How many of n draws a subset keeps."""
    return min(n - 1, max(2, round(KEPT * n)))


def half_width(values: Floats, *, n: int) -> float:
    """Half the length of the 95 % interval of a number at N = n, from its values on subsets [subsets]; NaN if any is."""
    if np.isnan(values).any():
        return math.nan
    return _t_quantile(n) * _inflation(n) * float(values.std(ddof=1))


def combined(half_widths: Sequence[float]) -> float:
    """Half the interval of the mean of independent numbers (seeds, experiments) with these half-widths."""
    return math.hypot(*half_widths) / len(half_widths)


def tie_letters(values: Mapping[str, float], on_subsets: Mapping[str, Floats], *, n: int) -> dict[str, str]:
    """A compact letter display: two methods share a letter exactly if they are not separated at 95 %.

    Separated: 0 lies outside the interval of the *paired* difference, taken subset by subset, so that what the methods
    have in common (the retrained draws, the originals) cancels. Each pair is tested on its own, at 95 %. Letters by
    insertion and absorption (Piepho 2004), ``a`` for the group of the highest value. A method with a NaN has no letter.

    Args:
        values: the number of each method on all draws; higher is listed first.
        on_subsets: the same on the common subsets, [subsets] each (see :func:`resampled`).
        n: number of draws.
    """
    usable = [name for name in values if not (math.isnan(values[name]) or np.isnan(on_subsets[name]).any())]
    names = sorted(usable, key=lambda name: -values[name])
    groups: list[set[str]] = [set(names)] if names else []
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if abs(values[one] - values[other]) > half_width(on_subsets[one] - on_subsets[other], n=n):
                groups = _split(groups, one, other)
    groups.sort(key=lambda group: sorted(names.index(name) for name in group))
    return {name: "".join(_letter(i) for i, group in enumerate(groups) if name in group) for name in values}


def normalised(score: float, *, floor: float, ceiling: float) -> float:
    """The score on a scale where ``floor`` (doing nothing) is 0 and ``ceiling`` (independent retraining) is 1.

    Neither end is a limit: worse than nothing is negative. NaN where the ceiling is not above the floor.
    """
    return (score - floor) / (ceiling - floor) if ceiling > floor else math.nan


def _evaluated(metric: Metric, unlearned: Outputs, retrained: Outputs) -> tuple[Examples, dict[str, float]]:
    if isinstance(metric, FunctionMetric):
        return metric.detailed(unlearned=unlearned, retrained=retrained)
    return {}, metric.compute(unlearned=unlearned, retrained=retrained)


def _stacked(parts: Sequence[Examples]) -> Examples:
    return {name: np.stack([examples[name] for examples in parts]) for name in parts[0]}


def _share_ends(metric: FunctionMetric, resampled: Resampled) -> dict[str, tuple[float, float]]:
    """How low and how high the shares come if the statistics of the examples lie at either end of their interval.

    One common factor: where pools differ in the mean of a statistic, the statistic of every example moves along, by its own slope
    (the regression on the mean, over subsets). If the statistics of a population lie z standard errors from those found, its
    expected share is the mean of the share over that factor, once more; z = ±t(N − 1), upwards stretched as for distances. For a
    number that is itself a mean this is the ordinary interval. Half an example is added at either end: shares are counted in
    whole examples.
    """
    if metric.summary is None or metric.name not in resampled.examples:
        return {}
    whole, subsets = resampled.examples[metric.name]
    t = _t_quantile(resampled.n)
    moved = {}
    for name, statistic in whole.items():
        change = subsets[name] - subsets[name][0]  # exactly 0 for what no subset changes
        deviation = _inflation(resampled.n) * (change - change.mean(axis=0))  # [subsets, S]
        common = deviation.mean(axis=1)
        spread = common.std(ddof=1)
        slope = common @ deviation / ((len(common) - 1) * spread) if spread > 0 else np.zeros_like(statistic)
        up = t * _stretch(t * spread, statistic.mean()) if statistic.min() >= 0 else t
        factor = np.array([[-t], [up]]) + _NORMAL  # [2, Q]
        moved[name] = statistic + factor[:, :, None] * slope  # [2, Q, S]
    shares = {name: np.mean(values, axis=1) for name, values in metric.summary(moved).items()}
    step = 0.5 / len(statistic)
    return {
        c.name: (float(shares[c.name].min()) - step, float(shares[c.name].max()) + step)
        for c in metric.columns
        if c.share
    }


def _is_distance(column: Column) -> bool:
    return column.direction == "lower" and column.ideal == column.range[0] == 0 and not column.share


def _stretch(half: float, value: float) -> float:
    """By how much the upper half-width of a distance exceeds the lower: (eˣ − 1)/x, x the half-width over half the distance,
    at most 1 (nearer to 0 the logarithm says too much)."""
    if half <= 0:
        return 1.0
    x = min(2 * half / value, 1.0) if value > 0 else 1.0
    return math.expm1(x) / x


def _t_quantile(n: int) -> float:
    return float(stdtrit(n - 1, 0.5 + LEVEL / 2))


def _inflation(n: int) -> float:
    """From the spread over subsets of n draws to the spread over pools of n draws."""
    kept = subset_size(n)
    return math.sqrt(kept / (n - kept))


def _subsets(n: int, rng: np.random.Generator, subsets: int) -> NDArray[np.intp]:
    """[subsets, m] sorted indices; sorted so that a half taken by position stays a mixture."""
    return np.stack([rng.permutation(n)[: subset_size(n)] for _ in range(subsets)])


def _split(groups: list[set[str]], one: str, other: str) -> list[set[str]]:
    """No group holds both any more; groups within another are dropped."""
    parts: list[set[str]] = []
    for group in groups:
        parts += [group - {one}, group - {other}] if {one, other} <= group else [group]
    parts = [part for i, part in enumerate(parts) if part not in parts[:i]]
    return [part for part in parts if not any(part < larger for larger in parts)]


def _letter(index: int) -> str:
    """a … z, then A … Z, then bracketed numbers."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return letters[index] if index < len(letters) else f"({index + 1})"
