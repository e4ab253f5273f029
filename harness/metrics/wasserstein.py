"""Wasserstein-1 distance of the confidences: how far the draws of one kind must be moved to become the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from harness.metrics.base import Column, Outputs, metric
from harness.metrics.samples import Floats, count_below, two_samples

__all__ = ["wasserstein", "wasserstein_distances"]


def wasserstein_distances(*, unlearned: Any, retrained: Any) -> Floats:
    """The area between the empirical distribution functions per example, in units of confidence.

    Args:
        unlearned, retrained: confidences [N, S] and [M, S] (or [N] and [M] for one example).

    Returns:
        [S]; equals ``scipy.stats.wasserstein_distance`` example by example. Never negative, so two samples of one
        distribution give about 1.2 · σ · sqrt(2/N) rather than 0.

    Raises:
        ValueError: shapes that do not fit, no draws, or values that are not finite.
    """
    u, r = two_samples(unlearned=unlearned, retrained=retrained, smallest=1)
    if u.shape == r.shape:
        return np.asarray(np.abs(u - r).mean(axis=1))
    pooled = np.sort(np.concatenate([u, r], axis=1), axis=1)
    at = pooled[:, :-1]
    difference = count_below(u, at, inclusive=True) / u.shape[1] - count_below(r, at, inclusive=True) / r.shape[1]
    return np.asarray((np.abs(difference) * np.diff(pooled, axis=1)).sum(axis=1))


@metric(
    name="wasserstein",
    needs={"confidences"},
    columns=(
        Column(
            name="wasserstein",
            direction="lower",
            ideal=0.0,
            range=(0.0, math.inf),
            meaning="mean over the forget set of the Wasserstein-1 distance of the confidences, in their own units",
        ),
    ),
)
def wasserstein(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """Mean distance over the forget set."""
    distances = wasserstein_distances(unlearned=unlearned.confidences, retrained=retrained.confidences)
    return {"wasserstein": float(distances.mean())}
