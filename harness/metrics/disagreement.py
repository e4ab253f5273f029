"""How often an unlearned and a retrained model predict different classes, beyond what two retrained models do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from harness.metrics.base import Column, Outputs, metric
from harness.metrics.samples import Floats

__all__ = ["disagreement", "disagreement_rates"]


def disagreement_rates(*, unlearned: Any, retrained: Any) -> tuple[Floats, Floats]:
    """Share of pairs of models with different predictions, per example, over all pairs.

    Args:
        unlearned, retrained: logits [N, S, C] and [M, S, C]; the prediction is the largest (the first of equal ones).

    Returns:
        [S] over the N · M pairs of an unlearned and a retrained model, and [S] over the pairs of two different retrained models.

    Raises:
        ValueError: shapes that do not fit, or fewer than 2 retrained draws.
    """
    u, r = _votes(unlearned, "unlearned"), _votes(retrained, "retrained")
    if u.shape != r.shape:
        raise ValueError(
            f"unlearned and retrained must cover the same examples and classes, got {u.shape} and {r.shape}"
        )
    n, m = len(unlearned), len(retrained)
    if m < 2:
        raise ValueError(f"retrained must hold at least 2 draws, got {m}")
    between = 1.0 - (u * r).sum(axis=1) / (n * m)
    within = 1.0 - (r * (r - 1)).sum(axis=1) / (m * (m - 1))
    return between, within


def _votes(logits: Any, what: str) -> Floats:
    """How many draws predict each class, [S, C]."""
    z = np.asarray(logits)
    if z.ndim != 3 or z.shape[0] < 1:
        raise ValueError(f"{what} must have shape [N, S, C] with at least 1 draw, got {list(z.shape)}")
    predicted = z.argmax(axis=-1)
    return np.stack([(predicted == c).sum(axis=0) for c in range(z.shape[-1])], axis=1).astype(np.float64)


@metric(
    name="disagreement",
    needs={"logits"},
    columns=(
        Column(
            name="disagreement",
            direction="closer",
            ideal=None,
            range=(0.0, 1.0),
            meaning="share of (unlearned, retrained) pairs that predict different classes; ideal: that of retrained pairs",
        ),
        Column(
            name="disagreement_excess",
            direction="closer",
            ideal=0.0,
            range=(-1.0, 1.0),
            meaning="disagreement less that of pairs of retrained models; negative: more alike than retrained models are",
        ),
    ),
)
def disagreement(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """Means over the forget set; NaN with a single retrained draw."""
    if retrained.n < 2:
        return {"disagreement": math.nan, "disagreement_excess": math.nan}
    between, within = disagreement_rates(unlearned=unlearned.logits, retrained=retrained.logits)
    return {"disagreement": float(between.mean()), "disagreement_excess": float((between - within).mean())}
