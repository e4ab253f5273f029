"""ε by every interval there is: the official attacks without the official grid.

An attack predicts "positive" inside an interval; all intervals between order statistics of the pooled sample are tried
(one-sided ones are the thresholds), with the unlearned models as positive and with the retrained ones. So the number
does not depend on the scale of the confidences, nor on which sample is called which; and it is never below
what the official grid would find with intervals that end between the same samples. Error rates, the discarding of
attacks with exactly one error rate 0, the cap and the bins are the official ones.

There are O(N²) intervals but only N interesting ones for each number f of accepted negatives: those that reach from one
negative to the (f + 1)-th after it, which accept as many positives as f negatives allow. All of them, for all examples,
are one subtraction of shifted counts (:func:`_best_interval`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.attacks import DELTA, EPSILON_CAP, attack_table
from harness.metrics.base import Column, Outputs, metric
from harness.metrics.official import SMALLEST_N, forgetting_quality
from harness.metrics.samples import Floats, Ints, count_below, two_samples

__all__ = ["exact", "exact_epsilons", "windows"]

_CHUNK_SAMPLES = 1 << 16


def exact_epsilons(*, unlearned: Any, retrained: Any, delta: float = DELTA) -> Floats:
    """ε of every example of the forget set by all order-statistic intervals and thresholds, clipped to [0, 50].

    Args:
        unlearned, retrained: confidences [N, S] and [M, S] (or [N] and [M] for one example).
        delta: δ of (ε, δ)-unlearning.

    Returns:
        [S]. Symmetric under exchange of the two samples; unchanged by any increasing transformation of both.
        50 = an interval without error. Tied values are never separated, so equal samples give 0 whatever their ties.

    Raises:
        ValueError: shapes that do not fit, fewer than 2 draws, or values that are not finite.
    """
    u, r = two_samples(unlearned=unlearned, retrained=retrained)
    epsilons = np.empty(len(u))
    chunk = max(1, _CHUNK_SAMPLES // (u.shape[1] + r.shape[1]))
    for begin in range(0, len(u), chunk):
        part = slice(begin, begin + chunk)
        epsilons[part] = np.maximum(_best_interval(u[part], r[part], delta), _best_interval(r[part], u[part], delta))
    return epsilons


def windows(positive: Floats, negative: Floats) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Positives [B, P] at or below the left end, and below the right end, of windows between negatives [B, Q].

    Left end i is just above the i-th negative, right end j just below the (j + 1)-th (0 and Q: no bound), both
    [B, Q + 1]; the window (i, j) accepts j − i negatives and right[j] − left[i] positives. Where a tie of negatives
    would be cut the counts are such that the difference is negative.
    """
    n_examples, n_positive = positive.shape
    impossible = 2 * n_positive
    left = np.zeros((n_examples, negative.shape[1] + 1), dtype=np.int32)
    right = np.full_like(left, n_positive)
    left[:, 1:] = count_below(positive, negative, inclusive=True)
    right[:, :-1] = count_below(positive, negative)
    example, tied = np.nonzero(negative[:, 1:] == negative[:, :-1])
    left[example, tied + 1] = impossible
    right[example, tied + 1] = -impossible
    return left, right


def _best_interval(positive: Floats, negative: Floats, delta: float) -> Floats:
    """Best ε [B] of "positive if l ≤ c ≤ r"; positive [B, P], negative [B, Q], both ascending."""
    n_positive, n_negative = positive.shape[1], negative.shape[1]
    table = attack_table(n_positive, n_negative, delta)
    left, right = windows(positive, negative)
    without_error = (right - left == n_positive).any(axis=1)  # accepts every positive and no negative

    # The widest window for every number of accepted negatives. One that accepts every positive is discarded by definition,
    # and hides the others with as many negatives; but what they find, the intervals added below find too.
    most = np.full((len(left), n_negative + 1), -1, dtype=np.int32)
    for accepted in range(1, n_negative + 1):
        gained = right[:, accepted:] - left[:, : n_negative + 1 - accepted]
        gained.max(axis=1, out=most[:, accepted])
    epsilons = _lookup(table, most, np.arange(n_negative + 1), n_negative)

    # An interval that misses a positive misses the lowest or the highest.
    low, high = positive[:, :1], positive[:, -1:]
    ends = np.arange(n_negative + 1)
    after_low = right - count_below(positive, low, inclusive=True)
    before_high = count_below(positive, high) - left
    epsilons = np.maximum(
        epsilons, _lookup(table, after_low, ends - count_below(negative, low, inclusive=True), n_negative)
    )
    epsilons = np.maximum(epsilons, _lookup(table, before_high, count_below(negative, high) - ends, n_negative))
    return np.where(without_error, EPSILON_CAP, epsilons)


def _lookup(table: Floats, positives: Any, negatives: Ints, n_negative: int) -> Floats:
    """Largest ε [B] of attacks that accept these many positives and negatives [B, K]; impossible ones count 0."""
    possible = (positives >= 0) & (negatives >= 0)
    places = np.where(possible, positives * (n_negative + 1) + negatives, 0)
    return np.asarray(table[places].max(axis=1))


@metric(
    name="exact",
    needs={"confidences"},
    columns=(
        Column(
            name="exact_forgetting_quality",
            direction="higher",
            ideal=None,
            range=(0.0, 1.0),
            meaning="forgetting quality from ε over all intervals; stricter than the official grid, best: the retrain row",
        ),
        Column(
            name="exact_epsilon_median",
            direction="lower",
            ideal=0.0,
            range=(0.0, EPSILON_CAP),
            meaning="median over the forget set of ε over all order-statistic intervals and thresholds",
        ),
    ),
)
def exact(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """Forgetting quality (NaN below 8 draws) and median ε."""
    epsilons = exact_epsilons(unlearned=unlearned.confidences, retrained=retrained.confidences)
    n = min(unlearned.n, retrained.n)
    return {
        "exact_forgetting_quality": forgetting_quality(epsilons, n=n) if n >= SMALLEST_N else math.nan,
        "exact_epsilon_median": float(np.median(epsilons)),
    }
