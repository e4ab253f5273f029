"""Jensen–Shannon divergence of the confidences: what one confidence tells about which kind of model gave it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import xlogy

from harness.metrics.base import Column, Outputs, metric
from harness.metrics.samples import Floats, count_below, two_samples

__all__ = ["jensen_shannon", "js_divergences", "n_bins"]


def js_divergences(*, unlearned: Any, retrained: Any) -> Floats:
    """Jensen–Shannon divergence per example, in nats, from bins that hold equally many of the pooled samples.

    The pooled sample is cut into B = :func:`n_bins` bins at its own quantiles, so none is empty and the scale of the
    confidences plays no part; the divergence is that of the two histograms. Binning loses a little (about 4 % of the
    value for two Gaussians one σ apart, N = 512), finite samples add about (B − 1)/(4N), which is also the value for
    two samples of one distribution. Ties fall into one bin.

    Args:
        unlearned, retrained: confidences [N, S] and [M, S] (or [N] and [M] for one example).

    Returns:
        [S], symmetric under exchange, from 0 to ln 2 (reached by samples that do not overlap).

    Raises:
        ValueError: shapes that do not fit, fewer than 2 draws, or values that are not finite.
    """
    u, r = two_samples(unlearned=unlearned, retrained=retrained)
    n_u, n_r = u.shape[1], r.shape[1]
    bins = n_bins(min(n_u, n_r))
    pooled = np.sort(np.concatenate([u, r], axis=1), axis=1)
    cuts = pooled[:, (np.arange(1, bins) * (n_u + n_r)) // bins]
    p = np.diff(count_below(u, cuts), axis=1, prepend=0, append=n_u) / n_u
    q = np.diff(count_below(r, cuts), axis=1, prepend=0, append=n_r) / n_r
    middle = 0.5 * (p + q)
    divergence = (0.5 * (xlogy(p, p) + xlogy(q, q)) - xlogy(middle, middle)).sum(axis=1)
    return np.asarray(np.clip(divergence, 0.0, math.log(2)))


def n_bins(n: int) -> int:
    """2 · n^(1/3) rounded to an even number (so that the median is always a cut): 6 at n = 32, 16 at n = 512."""
    return max(2, 2 * round(math.pow(n, 1 / 3)))


@metric(
    name="jensen_shannon",
    needs={"confidences"},
    columns=(
        Column(
            name="jensen_shannon",
            direction="lower",
            ideal=0.0,
            range=(0.0, math.log(2)),
            meaning="mean over the forget set of the Jensen–Shannon divergence of the confidences, in nats",
        ),
    ),
)
def jensen_shannon(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """Mean divergence over the forget set."""
    divergences = js_divergences(unlearned=unlearned.confidences, retrained=retrained.confidences)
    return {"jensen_shannon": float(divergences.mean())}
