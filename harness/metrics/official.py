"""The competition's own numbers: logit-scaled confidence, hypothesis-test ε, forgetting quality F, score.

Source: the organisers' evaluator (google-deepmind/unlearning_evaluation, commit ffae0ff) and their note
"Evaluation for the NeurIPS Machine Unlearning Competition" (2023). For every example of the forget set an attacker
tries about 160,000 intervals and some thousand thresholds on the confidences of N unlearned and N retrained
models; the best error rates it reaches bound ε from below.

The evaluator tries the attacks one by one (seconds per example). The numbers here are the same, because an attack's
ε depends on two integers only: how many samples of either kind it accepts. So

* ε of every possible pair of counts is tabulated once (:func:`attack_table`), and a pair is one integer, its place
  in that table. The place of an interval [l, r] is (place of "everything up to r") − (place of "everything below l");
* the pair changes only where a grid point passes a sample, and on an even grid that point is found by a
  division and one literal comparison (:func:`_first_index`), without a search;
* the left ends l of the intervals form an even grid whose step is usually that of the right ends r, so the 160,000
  of them collapse onto 799 diagonals i + j (:func:`_interval_diagonal`); where the grids are not aligned, every left
  end is evaluated (:func:`_interval_literal`). Where rounding decides on which side of a sample a grid point lies, it
  is done literally, in the evaluator's own order of operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.base import Column, Outputs, metric

__all__ = [
    "competition_score",
    "confidences",
    "forgetting_quality",
    "official",
    "official_epsilons",
    "points",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

DELTA = 1e-5
EPSILON_CAP = 50.0
BIN_WIDTH = 0.5
SMALLEST_N = 8  # below this the bins say nothing

PER_UNIT = 100  # thresholds per unit of confidence
BUFFER = 2.0  # how far beyond the narrow sample an interval may reach
LEFT_ENDS = 400  # left ends tried for every right end: 2 · BUFFER · PER_UNIT
PEAKY = 0.01  # ratio of ranges below which the distributions are told apart without an attack

TINY = 1e-45  # added to both probabilities before the logarithm; saturates at ±103.616
LARGEST = 1e4  # confidences beyond this would lie coarser in float32 than the thresholds

# Examples handled at once, and grid elements at once: large enough to hide Python, small enough for the cache.
_CHUNK_SAMPLES = 1 << 16
_BLOCK_ELEMENTS = 1 << 17
_FEW_SAMPLES = 256  # pooled; up to here going through the samples is faster than through the 160,000 left ends


def confidences(logits: Any, labels: Any) -> Floats:
    """Logit-scaled confidence of the true class, log(p + 1e-45) − log(q + 1e-45).

    p is the softmax probability of the true class and q the sum of the *other* probabilities, summed directly:
    1 − p would lose all precision near p = 1. Dimensionless (natural logarithm), saturates at ±103.616.

    Args:
        logits: [N, S, C] or [S, C], NumPy array or torch tensor. Exponentials are taken in its own precision, as the
            evaluator does (16-bit logits are widened to float32 first), everything after that in float64.
        labels: [S] integers in 0..C−1.

    Returns:
        [N, S] or [S], float64. NaN where a row of logits is not finite.

    Raises:
        ValueError: a shape does not fit, or a label is out of range.

    Source: the organisers' evaluator (google-deepmind/unlearning_evaluation, commit ffae0ff).
    """
    z = _as_numpy(logits)
    y = _as_numpy(labels)
    if z.ndim not in (2, 3):
        raise ValueError(f"logits must have shape [N, S, C] or [S, C], got {list(z.shape)}")
    n_examples, n_classes = z.shape[-2:]
    if n_classes < 2:
        raise ValueError(f"logits must have at least 2 classes in the last axis, got shape {list(z.shape)}")
    if y.shape != (n_examples,):
        raise ValueError(f"labels must have shape [{n_examples}] to fit logits {list(z.shape)}, got {list(y.shape)}")
    if y.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, got dtype {y.dtype}")
    wrong = np.flatnonzero((y < 0) | (y >= n_classes))
    if wrong.size:
        raise ValueError(
            f"labels must lie in 0..{n_classes - 1}; labels[{wrong[0]}] = {y[wrong[0]]} (and {wrong.size - 1} more)"
        )
    if z.dtype not in (np.float32, np.float64):
        z = z.astype(np.float32 if z.dtype.kind == "f" else np.float64)

    with np.errstate(invalid="ignore"):  # inf − inf: the row becomes NaN, as documented
        probabilities = np.exp(z - z.max(axis=-1, keepdims=True)).astype(np.float64)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    examples = np.arange(n_examples)
    true = probabilities[..., examples, y]
    probabilities[..., examples, y] = 0.0
    others = probabilities.sum(axis=-1)
    return np.asarray(np.log(true + TINY) - np.log(others + TINY))


def official_epsilons(*, unlearned: Any, retrained: Any, delta: float = DELTA) -> Floats:
    """The official ε of every example of the forget set: the best of all attacks, clipped to [0, 50].

    Args:
        unlearned: confidences of the unlearned draws, [N, S] (or [N] for one example).
        retrained: confidences of the retrained draws, [M, S]; M may differ from N, every error rate is then a
            fraction of its own sample.
        delta: δ of (ε, δ)-unlearning.

    Returns:
        [S], float64. 0 = no attack tells them apart, 50 = an attack without error (or ranges that differ
        more than a hundredfold). Where every attack is discarded, as for two constant and equal samples, the evaluator
        raises; here that is 0. So are samples that differ by less than the grid resolves, about 0.01.

    Raises:
        ValueError: shapes that do not fit, fewer than 2 draws, NaN, or values beyond ±10,000.

    Source: the organisers' evaluator (commit ffae0ff), reproduced to 1e-5.
    """
    u = _samples(unlearned, "unlearned")
    r = _samples(retrained, "retrained")
    if u.shape[0] != r.shape[0]:
        raise ValueError(f"unlearned and retrained must cover the same examples, got S = {u.shape[0]} and {r.shape[0]}")
    if not 0.0 <= delta < 1.0:
        raise ValueError(f"delta must lie in [0, 1), got {delta}")
    epsilons = np.empty(u.shape[0])
    chunk = max(1, _CHUNK_SAMPLES // (u.shape[1] + r.shape[1]))
    for begin in range(0, len(epsilons), chunk):
        part = slice(begin, begin + chunk)
        epsilons[part] = _epsilons(u[part], r[part], delta)
    return epsilons


def points(epsilons: Any, *, n: int) -> Floats:
    """Points of each ε: 1, 1/2, 1/4, … for the bins [0, 0.5), [0.5, 1), …; 0 beyond the last bin.

    The bins end at ceil(ln(n − 1)): a larger ε cannot be told from n draws. 14 bins at n = 512.

    Args:
        epsilons: any shape.
        n: number of draws.

    Raises:
        ValueError: n < 8, or an ε that is NaN or negative.
    """
    if n < SMALLEST_N:
        raise ValueError(
            f"forgetting quality needs at least {SMALLEST_N} draws: with n = {n} there are no usable bins, "
            "hardly any ε can be told from another"
        )
    eps = np.asarray(epsilons, dtype=np.float64)
    if not np.all(eps >= 0):
        raise ValueError("epsilons must be non-negative numbers")
    n_bins = int(math.ceil(math.log(n - 1)) / BIN_WIDTH)
    bins = np.floor(eps / BIN_WIDTH)
    return np.asarray(np.where(bins < n_bins, np.exp2(-np.minimum(bins, n_bins)), 0.0))


def forgetting_quality(epsilons: Any, *, n: int) -> float:
    """Forgetting quality F: mean points over the forget set, in [0, 1].

    A perfect method does not reach 1: ε is a maximum over very many attacks, so independent samples of one distribution
    differ too. The reachable best depends on the task and on n and has to be measured on retrained models.

    Args:
        epsilons: [S], from :func:`official_epsilons`.
        n: number of draws of each kind.

    Raises:
        ValueError: n < 8, no examples, or an ε that is NaN or negative.
    """
    scored = points(epsilons, n=n)
    if scored.size == 0:
        raise ValueError("epsilons must hold at least one example")
    return float(scored.mean())


def competition_score(quality: float, *, unlearned: Mapping[str, Floats], retrained: Mapping[str, Floats]) -> float:
    """The competition's score F × (RA_U / RA_R) × (TA_U / TA_R), not capped at 1.

    Ratios of means over draws, not means of ratios: the draws are not paired.

    Args:
        quality: forgetting quality F.
        unlearned, retrained: accuracies per draw, fractions, with keys ``retain`` and ``test``, each [N].

    Returns:
        The score, or NaN where the retrained models have no accuracy to compare with.
    """
    score = quality
    for part in ("retain", "test"):
        reference = float(np.mean(retrained[part]))
        score *= float(np.mean(unlearned[part])) / reference if reference > 0 else math.nan
    return score


@metric(
    name="official",
    needs={"confidences", "accuracy"},
    columns=(
        Column(
            name="forgetting_quality",
            direction="higher",
            ideal=None,
            range=(0.0, 1.0),
            meaning="mean points of ε over the forget set; the reachable best is the value of the retrain row",
        ),
        Column(
            name="epsilon_median",
            direction="lower",
            ideal=0.0,
            range=(0.0, EPSILON_CAP),
            meaning="median over the forget set of the official ε",
        ),
        Column(
            name="score",
            direction="higher",
            ideal=None,
            range=(0.0, math.inf),
            meaning="forgetting quality × retain accuracy ratio × test accuracy ratio, to the retrained models",
        ),
    ),
)
def official(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """Forgetting quality, median ε and score; the first and last are NaN below 8 draws (smoke runs)."""
    return scored(official_epsilons, unlearned=unlearned, retrained=retrained)


def scored(epsilons_of: Callable[..., Floats], *, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """The columns of ``official``, from the ε of any estimator."""
    epsilons = epsilons_of(unlearned=unlearned.confidences, retrained=retrained.confidences)
    n = min(unlearned.n, retrained.n)
    quality = forgetting_quality(epsilons, n=n) if n >= SMALLEST_N else math.nan
    return {
        "forgetting_quality": quality,
        "epsilon_median": float(np.median(epsilons)),
        "score": competition_score(quality, unlearned=unlearned.accuracy, retrained=retrained.accuracy),
    }


# --- input ------------------------------------------------------------------------------------------------------------


def _as_numpy(array: Any) -> NDArray[Any]:
    """A NumPy view of an array or a torch tensor (without importing torch)."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if array.is_floating_point() and array.element_size() < 4:  # bfloat16 does not exist in NumPy
            array = array.float()
        array = array.numpy()
    return np.asarray(array)


def _samples(values: Any, what: str) -> Floats:
    """Confidences [N, S] or [N], checked, as [S, N] with every example's sample in ascending order."""
    sample = np.asarray(_as_numpy(values), dtype=np.float64)
    if sample.ndim == 1:
        sample = sample[:, None]
    if sample.ndim != 2:
        raise ValueError(f"{what} must have shape [N, S] (draws, examples), got {list(sample.shape)}")
    if sample.shape[0] < 2:
        raise ValueError(f"{what} must hold at least 2 draws, got {sample.shape[0]}")
    if np.isnan(sample).any():
        raise ValueError(f"{what} holds NaN: {int(np.isnan(sample).any(axis=1).sum())} of {len(sample)} draws")
    if (np.abs(sample) > LARGEST).any():
        raise ValueError(f"{what} must lie within ±{LARGEST:g} (a logit-scaled confidence is within ±103.7)")
    return np.sort(np.ascontiguousarray(sample.T), axis=1)


# --- attacks ----------------------------------------------------------------------------------------------------------
# B examples, P positive and Q negative samples of each, M = P + Q. A *place* is a pair of counts (positives, negatives)
# as one integer, positives · (Q + 1) + negatives: an index into the table of ε, and additive.


def _epsilons(u: Floats, r: Floats, delta: float) -> Floats:
    """ε [B] of unlearned [B, N] and retrained [B, M] samples, both ascending."""
    u_range, r_range = u[:, -1] - u[:, 0], r[:, -1] - r[:, 0]
    with np.errstate(invalid="ignore"):  # 0/0, both constant: not peaky, the attacks decide
        peaky = np.minimum(u_range, r_range) / np.maximum(u_range, r_range) < PEAKY

    retrained_positive = np.median(r, axis=1) > np.median(u, axis=1)  # a tie makes the unlearned ones positive
    positive_range = np.where(retrained_positive, r_range, u_range)
    negative_range = np.where(retrained_positive, u_range, r_range)
    retrained_narrow = retrained_positive ^ (positive_range >= negative_range)  # for intervals: narrow is positive

    pooled = np.concatenate([u, r], axis=1)
    order = np.argsort(pooled, axis=1, kind="stable")
    values = np.take_along_axis(pooled, order, axis=1)
    u_counts = np.cumsum(order < u.shape[1], axis=1)
    r_counts = np.arange(1, values.shape[1] + 1) - u_counts

    epsilons = np.where(peaky, EPSILON_CAP, 0.0)
    sides = ((u, u_counts, r_counts, False), (r, r_counts, u_counts, True))
    for sample, counts, other_counts, is_retrained in sides:
        n_other = values.shape[1] - sample.shape[1]
        table = attack_table(sample.shape[1], n_other, delta)
        places = counts * (n_other + 1) + other_counts
        rows = np.flatnonzero(~peaky & (retrained_positive == is_retrained))
        if rows.size:
            found = _threshold(values[rows], places[rows], table)
            epsilons[rows] = np.maximum(epsilons[rows], found)
        rows = np.flatnonzero(~peaky & (retrained_narrow == is_retrained))
        if rows.size:
            found = _interval(values[rows], places[rows], sample[rows, 0], sample[rows, -1], table)
            epsilons[rows] = np.maximum(epsilons[rows], found)
    return epsilons


@lru_cache(maxsize=16)
def attack_table(n_positive: int, n_negative: int, delta: float) -> Floats:
    """ε of an attack that accepts tp positives and fp negatives, at [tp · (n_negative + 1) + fp]; flat, read-only.

    An attack with exactly one error rate 0 is discarded as an artefact of finite samples. Discarded is 0 here, which
    never wins: so (0, 0), the empty interval, may stand for "no attack", and all attacks discarded is ε = 0.
    """
    fnr = np.arange(n_positive, -1, -1)[:, None] / n_positive
    fpr = np.arange(n_negative + 1)[None, :] / n_negative
    with np.errstate(invalid="ignore", divide="ignore"):  # log of a negative number: that side certifies nothing
        epsilon = np.fmax(np.log((1 - delta - fpr) / fnr), np.log((1 - delta - fnr) / fpr))
    epsilon = np.clip(np.fmax(epsilon, 0.0), 0.0, EPSILON_CAP)  # no error at all: from ∞ to the cap
    epsilon[(fnr == 0) ^ (fpr == 0)] = 0.0
    flat = epsilon.ravel()
    flat.setflags(write=False)  # it is shared by all callers
    return flat


def _first_index(values: Any, *, start: Any, stop: Any, count: Any, strict: bool, dtype: Any = np.float64) -> Ints:
    """Index of the first point of ``linspace(start, stop, count)`` that is ≥ the value (> if strict); count if none.

    Exact: the nearest point is found by division, and whether it is past the value is decided by comparing the point
    itself, rounded as np.linspace (and a cast to dtype) rounds it. Rounding never moves a point by half a step,
    so no other point is in doubt. All arguments broadcast.
    """
    step = (stop - start) / np.maximum(count - 1, 1)
    nearest = np.rint((values - start) / np.where(step > 0, step, 1.0))
    nearest = np.clip(nearest, 0, np.maximum(count - 1, 0))
    point = nearest * step
    point += start
    point = np.where((nearest == count - 1) & (count > 1), stop, point)  # linspace ends exactly at stop
    point = point.astype(dtype, copy=False)
    nearest += (point <= values) if strict else (point < values)
    return nearest.astype(np.intp)


def _threshold(values: Floats, places: Ints, table: Floats) -> Floats:
    """Best ε [B] of "positive if c ≥ t", t an even float32 grid over the pooled sample.

    values: [B, M] pooled samples, ascending; places: [B, M], the place of "everything up to here".
    """
    low, high = values[:, :1], values[:, -1:]
    count = np.ceil((high - low) * PER_UNIT)
    first = _first_index(values, start=low, stop=high, count=count, strict=True, dtype=np.float32)
    # A threshold rejects the samples before it; it can stand after sample m if the next sample needs a later one.
    tried = first < count
    tried[:, :-1] &= first[:, 1:] > first[:, :-1]
    accepted = places[:, -1:] - places
    return np.asarray(np.max(table[accepted], axis=1, where=tried, initial=0.0))


def _interval(values: Floats, places: Ints, low: Floats, high: Floats, table: Floats) -> Floats:
    """Best ε [B] of "positive if l ≤ c ≤ r"; low, high: [B], ends of the positive (narrow) sample."""
    width = high - low
    start, stop = low + width - BUFFER, high + BUFFER
    counts = np.ceil((stop - start) * PER_UNIT).astype(np.intp)  # 400, or 401 on unlucky rounding
    epsilons = np.empty(len(values))
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        x, p, lo = values[rows], places[rows], low[rows]
        right = np.linspace(start[rows], stop[rows], count, axis=1)
        middle = right - width[rows, None]
        left_start, left_stop = middle - BUFFER, middle + BUFFER
        first = _first_index(
            x, start=start[rows, None], stop=stop[rows, None], count=count, strict=False
        )  # first right end that takes the sample in
        upto = _places_on_grid(first, p, count)

        if count == LEFT_ENDS:
            diagonal, ambiguous = _diagonals(x, lo, left_start[:, :1])
            plain = ~ambiguous
        else:
            diagonal, plain = first, np.zeros(len(rows), dtype=bool)
        if plain.any():
            epsilons[rows[plain]] = _interval_diagonal(
                x[plain], p[plain], lo[plain], upto[plain], diagonal[plain],
                left_start[plain], left_stop[plain], table,
            )  # fmt: skip
        if not plain.all():
            rest = ~plain
            epsilons[rows[rest]] = _interval_literal(
                x[rest], p[rest], upto[rest], left_start[rest], left_stop[rest], table
            )
    return epsilons


def _places_on_grid(first: Ints, places: Ints, count: int) -> Ints:
    """Place [B, count] of the samples that grid point g has passed: those with first ≤ g."""
    n_examples = len(first)
    offset = np.arange(n_examples)[:, None] * (count + 1)
    passed = np.bincount((first + offset).ravel(), minlength=n_examples * (count + 1))
    passed = passed.reshape(n_examples, count + 1)[:, :count].cumsum(axis=1)
    padded = np.concatenate([np.zeros((n_examples, 1), dtype=np.intp), places], axis=1)
    return np.take_along_axis(padded, passed, axis=1)


def _diagonals(values: Floats, low: Floats, left_start: Floats) -> tuple[Ints, NDArray[np.bool_]]:
    """First diagonal k = i + j whose left end exceeds each sample [B, M], and whether rounding decides that [B].

    With 400 right ends both grids have step 4/399, and l_ij is left_start + k · step up to rounding. The lower end of
    the narrow sample lies on k = 399 whatever the data; that diagonal is left to the caller (it gets 400).
    """
    position = (values - left_start) * ((LEFT_ENDS - 1) / (2 * BUFFER))
    is_low = values == low[:, None]
    ambiguous = (np.abs(position - np.rint(position)) < 1e-6) & ~is_low
    inside = (position > -1) & (position < 2 * LEFT_ENDS - 1)
    diagonal = np.clip(np.floor(position) + 1, 0, 2 * LEFT_ENDS - 1).astype(np.intp)
    diagonal[is_low] = LEFT_ENDS
    return diagonal, (ambiguous & inside).any(axis=1)


def _interval_diagonal(
    values: Floats, places: Ints, low: Floats, upto: Ints, diagonal: Ints, left_start: Floats, left_stop: Floats,
    table: Floats,
) -> Floats:  # fmt: skip
    """Best ε [B] where l_ij depends on i + j only. upto: [B, 400], place of "everything up to r_i"."""
    n_examples = len(values)
    below = _places_on_grid(diagonal, places, 2 * LEFT_ENDS - 1)  # [B, 799], place of "everything below l"

    # Diagonal 399: l_ij is the lower end of the narrow sample up to rounding, which decides for each i.
    j = np.arange(LEFT_ENDS - 1, -1, -1)
    left = j * ((left_stop - left_start) / (LEFT_ENDS - 1)) + left_start
    left[:, 0] = left_stop[:, 0]
    padded = np.concatenate([np.zeros((n_examples, 1), dtype=np.intp), places], axis=1)
    without = np.take_along_axis(padded, (values < low[:, None]).sum(axis=1)[:, None], axis=1)
    with_low = np.take_along_axis(padded, (values <= low[:, None]).sum(axis=1)[:, None], axis=1)
    accepted = upto - np.where(left > low[:, None], with_low, without)
    epsilons = np.asarray(table.take(accepted, mode="clip").max(axis=1))
    below[:, LEFT_ENDS - 1] = table.size  # done: from here on it counts as an empty interval

    # Right ends that accept the same samples differ in their left ends: row i tries diagonals i … i + 399. The first
    # and the last row of such a run touch or overlap, so the rows between try nothing that these two do not.
    change = upto[:, 1:] != upto[:, :-1]
    needed = np.ones(upto.shape, dtype=bool)
    needed[:, 1:-1] = change[:, 1:] | change[:, :-1]
    windows = np.lib.stride_tricks.sliding_window_view(below, LEFT_ENDS, axis=1)
    example, row = np.nonzero(needed)
    best = np.empty(len(row))
    block = max(1, _BLOCK_ELEMENTS // LEFT_ENDS)
    for begin in range(0, len(row), block):
        at = slice(begin, begin + block)
        accepted = upto[example[at], row[at], None] - windows[example[at], row[at]]
        table.take(accepted, mode="clip").max(axis=1, out=best[at])  # clip: an empty interval is place 0
    starts = np.searchsorted(example, np.arange(n_examples))
    return np.maximum(epsilons, np.maximum.reduceat(best, starts))


def _interval_literal(
    values: Floats, places: Ints, upto: Ints, left_start: Floats, left_stop: Floats, table: Floats
) -> Floats:
    """Best ε [B] for grids that are not aligned: every row i has its own left ends l_ij, evaluated as they stand."""
    best = np.empty(len(values))
    padded = np.concatenate([np.zeros((len(values), 1), dtype=np.intp), places], axis=1)
    for b, sample in enumerate(values):
        start, stop, right = left_start[b, :, None], left_stop[b, :, None], upto[b, :, None]
        if len(sample) <= _FEW_SAMPLES:
            # Sample by sample: left ends j with first[m − 1] ≤ j < first[m] reject exactly the first m samples.
            first = _first_index(sample, start=start, stop=stop, count=LEFT_ENDS, strict=True)
            tried = np.diff(first, axis=1, prepend=0, append=LEFT_ENDS) > 0
            best[b] = np.max(table.take(right - padded[b], mode="clip"), where=tried, initial=0.0)
        else:
            # Left end by left end: the same, but its cost does not grow with the samples.
            left = np.linspace(start[:, 0], stop[:, 0], LEFT_ENDS, axis=1)
            rejected = padded[b].take(np.searchsorted(sample, left))
            best[b] = table.take(right - rejected, mode="clip").max()
    return best
