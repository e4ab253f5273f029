"""The ε that can actually be claimed: an attack chosen on one half of the draws, its error rates bounded on the other.

The official ε is a maximum over attacks on the very samples that choose them; two samples of one distribution reach 1 to 2.
Here the first half of the draws chooses one interval per example, and the second half, which had no say, gives
Clopper–Pearson upper bounds on its two error rates, each at 97.5 %. With probability at least 95 % both hold, and then
Kairouz et al. (2015) bound the true ε from below by max{log((1 − δ − FPR)/FNR), log((1 − δ − FNR)/FPR)}.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import betaincinv

from harness.metrics.attacks import DELTA
from harness.metrics.base import Column, Examples, Outputs, metric
from harness.metrics.exact import windows
from harness.metrics.samples import Floats, count_below, two_samples

__all__ = ["certified", "certified_ceiling", "certified_epsilons"]

LEVEL = 0.975  # of each of the two bounds
SMALLEST = 4  # draws, two in each half


def certified_epsilons(*, unlearned: Any, retrained: Any, delta: float = DELTA) -> Floats:
    """A lower bound on the true ε of every example that holds with probability at least 95 %, example by example.

    Args:
        unlearned, retrained: confidences [N, S] and [M, S] (or [N] and [M] for one example). The first half of the
            draws of each chooses the attack, the second half bounds it: draws must be in no particular order.
        delta: δ of (ε, δ)-unlearning.

    Returns:
        [S], between 0 (nothing can be claimed) and :func:`certified_ceiling`.

    Raises:
        ValueError: shapes that do not fit, fewer than 4 draws, or values that are not finite.
    """
    rates = _error_bounds(unlearned=unlearned, retrained=retrained, delta=delta)
    return _claim(*rates, delta)


def certified_ceiling(n: int, m: int | None = None, *, delta: float = DELTA) -> float:
    """The largest ε that n unlearned and m (default n) retrained draws can certify: an attack that makes no error."""
    m = n if m is None else m
    bounded_u, bounded_r = n - n // 2, m - m // 2
    return float(_table(bounded_u, bounded_r, delta)[bounded_u, 0])


def _error_bounds(*, unlearned: Any, retrained: Any, delta: float) -> tuple[Floats, Floats]:
    """Upper bounds on FNR and FPR of the attack that the first halves choose, from the second halves; [S] each."""
    two_samples(unlearned=unlearned, retrained=retrained, smallest=SMALLEST)  # checks
    u, r = np.asarray(unlearned, dtype=np.float64), np.asarray(retrained, dtype=np.float64)
    half_u, half_r = len(u) // 2, len(r) // 2
    chosen = two_samples(unlearned=u[:half_u], retrained=r[:half_r], smallest=1)
    fresh = two_samples(unlearned=u[half_u:], retrained=r[half_r:], smallest=1)
    forward = _attack(*chosen, delta)
    reverse = _attack(*chosen[::-1], delta)
    # Of two attacks that look equally strong the one for the more confident sample: no matter which sample comes first.
    more_confident = np.median(chosen[0], axis=1) > np.median(chosen[1], axis=1)
    first = (forward[0] > reverse[0]) | ((forward[0] == reverse[0]) & more_confident)
    bounds = _bounds(*fresh, *forward[1:]), _bounds(*fresh[::-1], *reverse[1:])
    fnr, fpr = (np.where(first, one, other) for one, other in zip(*bounds, strict=True))
    return fnr, fpr


def _attack(positive: Floats, negative: Floats, delta: float) -> tuple[Floats, Floats, Floats]:
    """The interval with the best bound if these samples were the fresh ones: that bound, left and right end, each [B]."""
    n_examples, n_negative = negative.shape
    table = _table(positive.shape[1], n_negative, delta)
    left, right = windows(positive, negative)
    best = np.full(n_examples, -1.0)
    first = np.zeros(n_examples, dtype=np.intp)
    last = np.zeros(n_examples, dtype=np.intp)
    for accepted in range(n_negative + 1):
        gained = right[:, accepted:] - left[:, : n_negative + 1 - accepted]
        where = gained.argmax(axis=1)
        reached = table[np.maximum(gained[np.arange(n_examples), where], 0), accepted]
        better = reached > best
        best[better], first[better], last[better] = reached[better], where[better], where[better] + accepted
    return best, *_ends(positive, negative, first, last)


def _ends(positive: Floats, negative: Floats, first: Any, last: Any) -> tuple[Floats, Floats]:
    """Interval ends half-way between the negative outside and the nearest sample inside; [B] each."""
    rows = np.arange(len(negative))
    edge = np.full((len(negative), 1), np.inf)
    bounds = np.concatenate([-edge, negative, edge], axis=1)
    outside_left, outside_right = bounds[rows, first], bounds[rows, last + 1]
    pooled = np.sort(np.concatenate([-edge, positive, negative, edge], axis=1), axis=1)
    inside_left = pooled[
        rows, count_below(pooled, outside_left[:, None], inclusive=True)[:, 0].clip(max=pooled.shape[1] - 1)
    ]
    inside_right = pooled[rows, (count_below(pooled, outside_right[:, None])[:, 0] - 1).clip(min=0)]
    with np.errstate(invalid="ignore"):
        left, right = 0.5 * (outside_left + inside_left), 0.5 * (outside_right + inside_right)
    return np.where(np.isinf(outside_left), -np.inf, left), np.where(np.isinf(outside_right), np.inf, right)


def _bounds(positive: Floats, negative: Floats, left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Upper bounds on FNR and FPR, [B] each, of one interval per example on fresh samples."""
    true_positives, false_positives = (
        count_below(sample, right[:, None], inclusive=True)[:, 0] - count_below(sample, left[:, None])[:, 0]
        for sample in (positive, negative)
    )
    n_positive, n_negative = positive.shape[1], negative.shape[1]
    missed = n_positive - np.maximum(true_positives, 0)
    return _upper(n_positive)[missed], _upper(n_negative)[np.maximum(false_positives, 0)]


def _claim(fnr: Floats, fpr: Floats, delta: float) -> Floats:
    """What two error rates prove: the bound of Kairouz et al. (2015), at least 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        epsilon = np.fmax(np.log((1 - delta - fpr) / fnr), np.log((1 - delta - fnr) / fpr))
    return np.asarray(np.fmax(epsilon, 0.0))


@lru_cache(maxsize=32)
def _table(n_positive: int, n_negative: int, delta: float) -> Floats:
    """Certified ε of an attack that accepts tp positives and fp negatives, [tp, fp]; read-only."""
    epsilon = _claim(_upper(n_positive)[::-1, None], _upper(n_negative)[None, :], delta)
    epsilon.setflags(write=False)
    return epsilon


@lru_cache(maxsize=32)
def _upper(n: int) -> Floats:
    """Clopper–Pearson upper bounds on an error rate after 0, 1, …, n errors in n trials, [n + 1]; read-only."""
    errors = np.arange(n)
    bound = np.append(betaincinv(errors + 1, n - errors, LEVEL), 1.0)
    bound.setflags(write=False)
    return bound


def _summary(examples: Examples) -> dict[str, Any]:
    """Median certified ε, the share above 0, and the ceiling."""
    # ε > 0 exactly where the two bounds leave a margin; unlike ε it also says by how much 0 is missed.
    margin = examples["margin"]
    share = (margin > 0).mean(axis=-1)
    return {
        "certified_epsilon_median": np.median(examples["epsilon"], axis=-1),
        "certified_share": np.where(np.isnan(margin).any(axis=-1), np.nan, share),
        "certified_ceiling": examples["ceiling"].max(axis=-1),
    }


@metric(
    name="certified",
    needs={"confidences"},
    columns=(
        Column(
            name="certified_epsilon_median",
            direction="lower",
            ideal=0.0,
            range=(0.0, math.inf),
            meaning="median over the forget set of the ε that can be claimed at 95 % (attack and bound on separate halves)",
        ),
        Column(
            name="certified_share",
            direction="lower",
            ideal=0.0,
            range=(0.0, 1.0),
            meaning="share of the forget set with a certified ε above 0; by chance at most 5 %",
            share=True,
        ),
        Column(
            name="certified_ceiling",
            direction="higher",
            ideal=None,
            range=(0.0, math.inf),
            meaning="the largest ε that this N can certify; nothing to do with the method",
            null=False,
            interval=False,
        ),
    ),
    summary=_summary,
)
def certified(*, unlearned: Outputs, retrained: Outputs) -> dict[str, Floats]:
    """Per example the certified ε, the margin 1 − δ − FPR − FNR, and the ceiling; NaN below 4 draws."""
    n_examples = unlearned.confidences.shape[1]
    if min(unlearned.n, retrained.n) < SMALLEST:
        return dict.fromkeys(("epsilon", "margin", "ceiling"), np.full(n_examples, np.nan))
    fnr, fpr = _error_bounds(unlearned=unlearned.confidences, retrained=retrained.confidences, delta=DELTA)
    return {
        "epsilon": _claim(fnr, fpr, DELTA),
        "margin": 1 - DELTA - fpr - fnr,
        "ceiling": np.full(n_examples, certified_ceiling(unlearned.n, retrained.n)),
    }
