"""The official ε: the best of the evaluator's attacks on every example, all of them at once.

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

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.samples import Floats, Ints, as_numpy

__all__ = ["DELTA", "EPSILON_CAP", "attack_table", "official_epsilons"]

DELTA = 1e-5
EPSILON_CAP = 50.0
PER_UNIT = 100  # thresholds per unit of confidence
BUFFER = 2.0  # how far beyond the narrow sample an interval may reach
LEFT_ENDS = 400  # left ends tried for every right end: 2 · BUFFER · PER_UNIT
PEAKY = 0.01  # ratio of ranges below which the distributions are told apart without an attack
LARGEST = 1e4  # confidences beyond this would lie coarser in float32 than the thresholds

# Examples handled at once, and grid elements at once: large enough to hide Python, small enough for the cache.
_CHUNK_SAMPLES = 1 << 16
_BLOCK_ELEMENTS = 1 << 17
_FEW_SAMPLES = 256  # pooled; up to here going through the samples is faster than through the 160,000 left ends


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


def _samples(values: Any, what: str) -> Floats:
    """Confidences [N, S] or [N], checked, as [S, N] with every example's sample in ascending order."""
    sample = np.asarray(as_numpy(values), dtype=np.float64)
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
            reached = _threshold(values[rows], places[rows], table)
            epsilons[rows] = np.maximum(epsilons[rows], reached)
        rows = np.flatnonzero(~peaky & (retrained_narrow == is_retrained))
        if rows.size:
            reached = _interval(values[rows], places[rows], sample[rows, 0], sample[rows, -1], table)
            epsilons[rows] = np.maximum(epsilons[rows], reached)
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
    return np.asarray(nearest, dtype=np.intp)


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
    return np.asarray(np.maximum(epsilons, np.maximum.reduceat(best, starts)))


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
