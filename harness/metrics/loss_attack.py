"""The simple attack of the competition's starting kit: does the loss tell forgotten examples from never-seen ones?

For each unlearned model on its own, a logistic regression on the cross-entropy loss separates the forget from the test
examples; its cross-validated accuracy should be that of a coin. It knows nothing of retrained models, so it also
reads as an attack what is no fault of the method (a forget set that is harder than the test set); hence the gap to what
it reaches on retrained models.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from harness.metrics.base import Column, Outputs, metric
from harness.metrics.samples import Floats

__all__ = ["attack_accuracies", "loss_attack"]

FOLDS = 10
_STEPS = 25  # of Newton's method; it converges in under 10


def attack_accuracies(draws: Outputs) -> Floats:
    """Cross-validated accuracy of the attack on each draw, [N].

    As many test as forget examples are used (of the larger group an even selection), so that chance is 0.5. The loss is
    ln(1 + e^−c) for the logit-scaled confidence c. The regression has the kit's penalty (scikit-learn's default, C = 1).

    Raises:
        ValueError: confidences on the test set were not kept.
    """
    if draws.test_confidences is None:
        raise ValueError("the loss attack needs confidences on the test set, which were not kept")
    forget, test = _loss(draws.confidences), _loss(draws.test_confidences)
    size = min(forget.shape[1], test.shape[1])
    forget, test = _even(forget, size), _even(test, size)
    return np.array([_accuracy(f.tobytes(), t.tobytes()) for f, t in zip(forget, test, strict=True)])


def _loss(confidences: Floats) -> Floats:
    return np.asarray(np.logaddexp(0.0, -confidences))


def _even(values: Floats, size: int) -> Floats:
    return np.ascontiguousarray(values[:, np.linspace(0, values.shape[1] - 1, size).round().astype(int)])


@lru_cache(maxsize=4096)  # an interval asks for the same draws again and again
def _accuracy(forget: bytes, test: bytes) -> float:
    loss = np.concatenate([np.frombuffer(forget), np.frombuffer(test)])
    member = np.arange(len(loss)) < len(loss) // 2
    fold = np.arange(len(loss)) % (len(loss) // 2) % min(FOLDS, len(loss) // 2)
    held_out = fold == np.arange(fold.max() + 1)[:, None]  # [folds, examples]
    weight, bias = _logistic(loss, member, ~held_out)
    predicted = weight[:, None] * loss + bias[:, None] > 0
    return float((predicted == member)[held_out].mean())


def _logistic(x: Floats, member: np.ndarray, used: np.ndarray) -> tuple[Floats, Floats]:
    """Weight and bias [folds] that minimise Σ_used log-loss + ½ weight², by Newton's method."""
    centre = x.mean()
    z, use = x - centre, used.astype(np.float64)
    weight, bias = np.zeros(len(use)), np.zeros(len(use))
    for _ in range(_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(weight[:, None] * z + bias[:, None], -500, 500)))
        residual, curvature = use * (p - member), use * np.maximum(p * (1 - p), 1e-12)
        g_w, g_b = residual @ z + weight, residual.sum(axis=1)
        h_ww, h_wb, h_bb = curvature @ z**2 + 1.0, curvature @ z, curvature.sum(axis=1)
        determinant = h_ww * h_bb - h_wb**2
        step_w, step_b = (h_bb * g_w - h_wb * g_b) / determinant, (h_ww * g_b - h_wb * g_w) / determinant
        weight, bias = weight - step_w, bias - step_b
        if max(np.abs(step_w).max(), np.abs(step_b).max()) < 1e-10:
            break
    return weight, bias - weight * centre


@metric(
    name="loss_attack",
    needs={"confidences", "test_confidences"},
    columns=(
        Column(
            name="loss_attack",
            direction="closer",
            ideal=None,
            range=(0.0, 1.0),
            meaning="accuracy of the loss attack, forget against test, mean over draws; ideal: that on retrained models",
        ),
        Column(
            name="loss_attack_gap",
            direction="lower",
            ideal=0.0,
            range=(0.0, 1.0),
            meaning="|accuracy of the loss attack on the unlearned − on the retrained models|",
        ),
    ),
)
def loss_attack(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """Mean accuracy over draws, and its distance to the retrained models'; NaN with fewer than 2 forget or test examples."""
    sizes = [
        unlearned.confidences.shape[1],
        0 if unlearned.test_confidences is None else unlearned.test_confidences.shape[1],
    ]
    if unlearned.test_confidences is not None and min(sizes) < 2:
        return {"loss_attack": math.nan, "loss_attack_gap": math.nan}
    reached = float(attack_accuracies(unlearned).mean())
    return {"loss_attack": reached, "loss_attack_gap": abs(reached - float(attack_accuracies(retrained).mean()))}
