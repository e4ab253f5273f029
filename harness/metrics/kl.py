"""Kullback–Leibler divergence between Gaussians fitted to the confidences of unlearned and retrained models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.base import Column, Outputs, metric

__all__ = ["VARIANCE_FLOOR", "fit", "gaussian_kl", "kl"]

Floats = NDArray[np.float64]

# A sample without spread (a deterministic method, saturated confidences) would make the divergence infinite. Spreads
# below 0.001 are not told apart: against a sample of variance 1 that gives about 5e5 one way and 6.4 the other.
VARIANCE_FLOOR = 1e-6


def gaussian_kl(*, unlearned: Any, retrained: Any) -> tuple[Floats, Floats]:
    """KL divergence of Gaussian fits, per example, in both directions, in nats.

    KL(a‖b) = ½ [ ln(v_b / v_a) + (v_a + (m_a − m_b)²) / v_b − 1 ], with mean m and variance v of each sample
    (maximum likelihood, i.e. divided by N), every variance at least ``VARIANCE_FLOOR``. So the result is always
    finite, and 0 for two equal samples. Independent samples of one Gaussian give about 2/N, not 0.

    Args:
        unlearned, retrained: confidences [N, S] and [M, S] (or [N] and [M] for one example).

    Returns:
        KL(unlearned‖retrained) [S] and KL(retrained‖unlearned) [S].

    Raises:
        ValueError: shapes that do not fit, fewer than 2 draws, or values that are not finite.
    """
    mean_u, var_u = fit(unlearned, "unlearned")
    mean_r, var_r = fit(retrained, "retrained")
    if mean_u.shape != mean_r.shape:
        raise ValueError(
            f"unlearned and retrained must cover the same examples, got S = {len(mean_u)} and {len(mean_r)}"
        )
    squared = (mean_u - mean_r) ** 2
    log_ratio = np.log(var_r / var_u)
    return (
        0.5 * (log_ratio + (var_u + squared) / var_r - 1.0),
        0.5 * (-log_ratio + (var_r + squared) / var_u - 1.0),
    )


def fit(values: Any, what: str) -> tuple[Floats, Floats]:
    """Mean and floored variance over draws, [S] each."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim == 1:
        sample = sample[:, None]
    if sample.ndim != 2:
        raise ValueError(f"{what} must have shape [N, S] (draws, examples), got {list(sample.shape)}")
    if sample.shape[0] < 2:
        raise ValueError(f"{what} must hold at least 2 draws, got {sample.shape[0]}")
    if not np.isfinite(sample).all():
        raise ValueError(f"{what} holds values that are not finite")
    return sample.mean(axis=0), np.maximum(sample.var(axis=0), VARIANCE_FLOOR)


@metric(
    name="kl",
    needs={"confidences"},
    columns=(
        Column(
            name="kl",
            direction="lower",
            ideal=0.0,
            range=(0.0, math.inf),
            meaning="mean over the forget set of KL(unlearned‖retrained) between Gaussian fits, in nats",
        ),
        Column(
            name="kl_reverse",
            direction="lower",
            ideal=0.0,
            range=(0.0, math.inf),
            meaning="mean over the forget set of KL(retrained‖unlearned) between Gaussian fits, in nats",
        ),
    ),
)
def kl(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """Mean divergence of the confidences in both directions."""
    forward, reverse = gaussian_kl(unlearned=unlearned.confidences, retrained=retrained.confidences)
    return {"kl": float(forward.mean()), "kl_reverse": float(reverse.mean())}
