"""Two-sample Kolmogorov–Smirnov test of the confidences, for all examples of the forget set at once."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.base import Column, Examples, Outputs, metric

__all__ = ["benjamini_hochberg", "ks", "ks_test"]

Floats = NDArray[np.float64]

LEVEL = 0.05
SMALLEST = np.finfo(np.float64).tiny  # p-values beyond are 0 in floating point
EXACT_BELOW = 10_000  # beyond this scipy uses the asymptotic distribution


def ks_test(*, unlearned: Any, retrained: Any) -> tuple[Floats, Floats]:
    """Two-sided two-sample KS test per example; equals ``scipy.stats.ks_2samp``, ties included.

    One exception, where p = 1: scipy finds slightly more than 1 for N = 7 and the statistic 1/7, takes that for a
    failure, and falls back to an approximation (0.99996).

    Args:
        unlearned, retrained: confidences [N, S] and [M, S] (or [N] and [M] for one example).

    Returns:
        Statistic [S], the largest difference of the empirical distribution functions, and p-value [S], exact
        where scipy's is (at most 10,000 draws).

    Raises:
        ValueError: shapes that do not fit, no draws, or NaN.
    """
    u, r = _samples(unlearned, "unlearned"), _samples(retrained, "retrained")
    if u.shape[0] != r.shape[0]:
        raise ValueError(f"unlearned and retrained must cover the same examples, got S = {u.shape[0]} and {r.shape[0]}")
    n_u, n_r = u.shape[1], r.shape[1]
    common = math.lcm(n_u, n_r)

    # In units of 1/common both distribution functions move by whole numbers, so the statistic is one: no rounding.
    pooled = np.concatenate([u, r], axis=1)
    order = np.argsort(pooled, axis=1)
    values = np.take_along_axis(pooled, order, axis=1)
    difference = np.cumsum(np.where(order < n_u, common // n_u, -(common // n_r)), axis=1)
    difference[:, :-1][values[:, 1:] == values[:, :-1]] = 0  # within a tie neither function has its value yet
    largest = np.abs(difference).max(axis=1)
    statistic = largest / common

    if n_u == n_r and n_u <= EXACT_BELOW:
        return statistic, _exact_pvalues(n_u)[largest]
    # Unequal N has no closed form; but the p-value depends on the statistic alone, so scipy is asked once for each.
    from scipy.stats import ks_2samp  # slow to import, and not needed for equal N

    _, representative, which = np.unique(largest, return_index=True, return_inverse=True)
    pvalues = np.array([ks_2samp(u[s], r[s]).pvalue for s in representative])
    return statistic, pvalues[which]


def benjamini_hochberg(pvalues: Any, *, level: float = LEVEL) -> NDArray[np.bool_]:
    """Which of the tests [..., S] are rejected at a false discovery rate of ``level`` (Benjamini & Hochberg 1995).

    All whose p-value is at most that of the last one, in ascending order, with p_(i) ≤ level · i / S. The tests of one
    forget set share models; for such positive dependence the rate is kept on average over pools, not in each.
    """
    p = np.asarray(pvalues, dtype=np.float64)
    ordered = np.sort(p, axis=-1)
    passed = ordered <= level * np.arange(1, p.shape[-1] + 1) / p.shape[-1]
    last = np.where(passed, ordered, -1.0).max(axis=-1, keepdims=True)
    return np.asarray(p <= last)


@lru_cache(maxsize=16)
def _exact_pvalues(n: int) -> Floats:
    """P(n·D ≥ h) for h = 0..n and two samples of n each without ties; [n + 1], read-only.

    Reflection principle: P = 2 Σ_{k≥1} (−1)^{k+1} C(2n, n − kh) / C(2n, n), summed from the innermost term out so
    that nothing cancels (Hodges 1958, "The significance probability of the Smirnov two-sample test").
    """
    # log of C(2n, n − d) / C(2n, n) for d = 0..n; differences of neighbours, hence accurate
    d = np.arange(n)
    log_ratio = np.concatenate([[0.0], np.cumsum(np.log((n - d) / (n + d + 1)))])
    pvalues = np.ones(n + 1)
    for h in range(1, n + 1):
        terms = np.exp(log_ratio[h::h])
        terms[1::2] *= -1
        pvalues[h] = 2 * terms[::-1].sum()
    pvalues = np.clip(pvalues, 0.0, 1.0)
    pvalues.setflags(write=False)  # it is shared by all callers
    return pvalues


def _samples(values: Any, what: str) -> Floats:
    """Confidences [N, S] or [N], checked, as [S, N]."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim == 1:
        sample = sample[:, None]
    if sample.ndim != 2:
        raise ValueError(f"{what} must have shape [N, S] (draws, examples), got {list(sample.shape)}")
    if sample.shape[0] < 1:
        raise ValueError(f"{what} must hold at least 1 draw")
    if np.isnan(sample).any():
        raise ValueError(f"{what} holds NaN")
    return np.ascontiguousarray(sample.T)


def _shares(examples: Examples) -> dict[str, Any]:
    """Mean statistic and shares of rejected examples."""
    surprise = np.clip(examples["surprise"], 0.0, examples["largest"])
    rejected = benjamini_hochberg(np.exp(-(surprise**2)))
    return {
        "ks_statistic": examples["statistic"].mean(axis=-1),
        "ks_rejected": (surprise > math.sqrt(-math.log(LEVEL))).mean(axis=-1),
        "ks_rejected_bh": rejected.mean(axis=-1),
    }


@metric(
    name="ks",
    needs={"confidences"},
    columns=(
        Column(
            name="ks_statistic",
            direction="lower",
            ideal=0.0,
            range=(0.0, 1.0),
            meaning="mean over the forget set of the two-sample Kolmogorov–Smirnov statistic",
        ),
        Column(
            name="ks_rejected",
            direction="lower",
            ideal=LEVEL,
            range=(0.0, 1.0),
            meaning="share of the forget set whose KS test rejects at 5 %; by chance at most 5 %, less at small N",
            share=True,
        ),
        Column(
            name="ks_rejected_bh",
            direction="lower",
            ideal=0.0,
            range=(0.0, 1.0),
            meaning="share of the forget set whose KS test rejects at a false discovery rate of 5 % (Benjamini–Hochberg)",
            share=True,
        ),
    ),
    summary=_shares,
)
def ks(*, unlearned: Outputs, retrained: Outputs) -> dict[str, Floats]:
    """The statistic D, and √(−ln p), which moves about as D does, since p falls with exp(−D²); and the largest that N allows."""
    statistic, pvalue = ks_test(unlearned=unlearned.confidences, retrained=retrained.confidences)
    splits = math.comb(unlearned.n + retrained.n, unlearned.n)  # two of which separate the samples
    return {
        "statistic": statistic,
        "surprise": np.sqrt(-np.log(np.maximum(pvalue, SMALLEST))),
        "largest": np.full(len(pvalue), math.sqrt(math.log(splits) - math.log(2))),
    }
