"""Whether unlearned models see the forget examples as retrained models do, before the head turns features into classes.

Outputs can agree while representations still hold what was to be forgotten. Features of two models have no axes in common, so a
model is described by what no rotation or scale changes: φ = K / ‖K‖, K = X Xᵀ the Gram matrix [S, S] of its features X [S, D]
on the forget examples, centred over them. ⟨φ, φ'⟩ is the linear CKA of two models (Kornblith et al. 2019).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from harness.metrics.base import Column, Outputs, metric
from harness.metrics.samples import Floats

__all__ = ["mean_similarities", "representation"]

_BLOCK = 2**22  # numbers in the Gram matrices that are held at a time


def mean_similarities(*, unlearned: Any, retrained: Any) -> tuple[float, float, float]:
    """Mean linear CKA over pairs of models.

    Costs one Gram matrix a model, and no pair: a mean over pairs is an inner product of means.

    Args:
        unlearned, retrained: features [N, S, D] and [M, S, D'].

    Returns:
        between an unlearned and a retrained model; between two different unlearned models; between two different retrained
        models. NaN where there is no such pair. A model whose features are all alike has similarity 0 to any.

    Raises:
        ValueError: shapes that do not fit.
    """
    u, r = np.asarray(unlearned), np.asarray(retrained)
    for values, what in ((u, "unlearned"), (r, "retrained")):
        if values.ndim != 3 or len(values) < 1:
            raise ValueError(f"{what} must have shape [N, S, D] with at least 1 draw, got {list(values.shape)}")
    if u.shape[1] != r.shape[1]:
        raise ValueError(f"unlearned and retrained must cover the same examples, got S = {u.shape[1]} and {r.shape[1]}")
    (sum_u, alive_u), (sum_r, alive_r) = _sum_of_unit_grams(u), _sum_of_unit_grams(r)
    n, m = len(u), len(r)
    between = float((sum_u * sum_r).sum()) / (n * m)
    return between, _within(sum_u, alive_u, n), _within(sum_r, alive_r, m)


def _sum_of_unit_grams(features: Any) -> tuple[Floats, int]:
    """Σ φ over models, [S, S], and how many of them are not 0."""
    examples = features.shape[1]
    total, alive = np.zeros((examples, examples)), 0
    size = max(1, _BLOCK // examples**2)
    for start in range(0, len(features), size):
        x = features[start : start + size]
        x = x - x.mean(axis=1, keepdims=True)
        gram = x @ x.transpose(0, 2, 1)
        norm = np.sqrt(np.square(gram).sum((1, 2)))
        total += np.tensordot(np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0), gram, axes=1)
        alive += int((norm > 0).sum())
    return total, alive


def _within(total: Floats, alive: int, n: int) -> float:
    """Mean over ordered pairs of different models: of all pairs, those of a model with itself are left out."""
    return (float((total * total).sum()) - alive) / (n * (n - 1)) if n > 1 else math.nan


@metric(
    name="representation",
    needs={"features"},
    columns=(
        Column(
            name="cka",
            direction="closer",
            ideal=None,
            range=(0.0, 1.0),
            meaning="linear CKA of unlearned and retrained features on forget; ideal: that of two retrained models (null)",
        ),
        Column(
            name="representation_distance",
            direction="closer",
            ideal=0.0,
            range=(-1.0, 2.0),
            meaning="squared distance of mean normalised Gram matrices of forget features, unbiased; 0: as retrained models",
        ),
    ),
)
def representation(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """``cka`` is the mean over (unlearned, retrained) pairs; the distance ‖E φ_U − E φ_R‖², NaN with a single draw of a kind."""
    between, of_u, of_r = mean_similarities(unlearned=unlearned.features, retrained=retrained.features)
    return {"cka": between, "representation_distance": of_u + of_r - 2 * between}
