"""Kullback–Leibler divergence of the confidences without a model of their distribution: nearest neighbours.

Source: Wang, Kulkarni, Verdú, "Divergence estimation for multidimensional densities via k-nearest-neighbor distances", IEEE
Trans. Inf. Theory 55 (2009), equation 14, in one dimension.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from harness.metrics.base import Column, Outputs, metric
from harness.metrics.samples import Floats, count_below, two_samples

__all__ = ["NEIGHBOURS", "RESOLUTION", "knn_divergence", "knn_kl"]

NEIGHBOURS = 1  # the least biased; the mean over the forget set takes care of the noise
RESOLUTION = 1e-6  # distances below it are not told apart: about the spacing of float32 at a confidence of 10


def knn_divergence(*, unlearned: Any, retrained: Any, k: int = NEIGHBOURS) -> tuple[Floats, Floats]:
    """Estimated KL divergence per example, in both directions, in nats.

    KL(a‖b) ≈ mean over samples x of a of ln(distance from x to its k-th neighbour in b / in the rest of a) +
    ln(size of b / (size of a − 1)). May be slightly negative. Tied values would give distances of 0, so all distances are
    at least ``RESOLUTION``: two constant and equal samples give about 0, a constant against a spread of 1 about 13.

    Args:
        unlearned, retrained: confidences [N, S] and [M, S] (or [N] and [M] for one example).
        k: which neighbour; at most N − 1.

    Returns:
        KL(unlearned‖retrained) [S] and KL(retrained‖unlearned) [S].

    Raises:
        ValueError: shapes that do not fit, fewer than 2 draws, values that are not finite, or k out of range.
    """
    u, r = two_samples(unlearned=unlearned, retrained=retrained)
    if not 1 <= k <= min(u.shape[1], r.shape[1]) - 1:
        raise ValueError(f"k must lie in 1..{min(u.shape[1], r.shape[1]) - 1} (the draws less one), got {k}")
    return _divergence(u, r, k), _divergence(r, u, k)


def _divergence(a: Floats, b: Floats, k: int) -> Floats:
    """KL(a‖b) [S] of ascending samples [S, N] and [S, M]."""
    to_other = np.maximum(_distance(a, b, k), RESOLUTION)
    to_own = np.maximum(_distance(a, a, k + 1), RESOLUTION)  # the nearest is the sample itself
    return np.asarray(np.log(to_other / to_own).mean(axis=1) + math.log(b.shape[1] / (a.shape[1] - 1)))


def _distance(points: Floats, sample: Floats, k: int) -> Floats:
    """Distance from each point [S, N] to the k-th nearest of the ascending samples [S, M].

    In one dimension the k nearest are neighbours of each other: of the k + 1 runs of k samples around the point, the one
    whose farther end is nearest.
    """
    edge = np.full((len(sample), k), np.inf)
    padded = np.concatenate([-edge, sample, edge], axis=1)
    position = count_below(sample, points) + k  # of the first sample at or after the point
    nearest = np.full(points.shape, np.inf)
    for start in range(-k, 1):
        first = np.take_along_axis(padded, position + start, axis=1)
        last = np.take_along_axis(padded, np.minimum(position + start + k - 1, padded.shape[1] - 1), axis=1)
        np.minimum(nearest, np.maximum(points - first, last - points), out=nearest)
    return nearest


@metric(
    name="knn_kl",
    needs={"confidences"},
    columns=(
        Column(
            name="knn_kl",
            direction="lower",
            ideal=0.0,
            range=(-math.inf, math.inf),
            meaning="mean over the forget set of KL(unlearned‖retrained), nearest-neighbour estimate, in nats",
        ),
        Column(
            name="knn_kl_reverse",
            direction="lower",
            ideal=0.0,
            range=(-math.inf, math.inf),
            meaning="mean over the forget set of KL(retrained‖unlearned), nearest-neighbour estimate, in nats",
        ),
    ),
)
def knn_kl(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """Mean divergence in both directions, from the nearest neighbour."""
    forward, reverse = knn_divergence(unlearned=unlearned.confidences, retrained=retrained.confidences)
    return {"knn_kl": float(forward.mean()), "knn_kl_reverse": float(reverse.mean())}
