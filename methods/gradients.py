"""Sums over a pass of data, and steps under a mask, of all models of an ensemble: what several methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from harness import Ensemble, losses

Batches = Iterable[tuple[Tensor, ...]]  # (x, y), and perhaps more that is not looked at


def summed(models: Ensemble, loss: losses.Loss, batches: Batches) -> dict[str, Tensor]:
    """Σ over batches of ∇ loss, in evaluation mode; the models are in training mode afterwards."""
    return _accumulated(models, loss, batches, lambda gradient: gradient)[0]


def mean_square(models: Ensemble, loss: losses.Loss, batches: Batches) -> dict[str, Tensor]:
    """Mean over batches of (∇ loss)², a coarse diagonal Fisher information; modes as :func:`summed`."""
    total, steps = _accumulated(models, loss, batches, torch.square)
    return {name: value / steps for name, value in total.items()}


def _accumulated(
    models: Ensemble, loss: losses.Loss, batches: Batches, power: Callable[[Tensor], Tensor]
) -> tuple[dict[str, Tensor], int]:
    models.eval()
    total: dict[str, Tensor] = {}
    steps = 0
    for x, y, *_ in batches:
        steps += 1
        for name, gradient in models.gradients(loss, x, y).items():
            total[name] = total[name] + power(gradient) if name in total else power(gradient)
    models.train()
    return total, steps


def masked_step(
    models: Ensemble,
    optimizer: torch.optim.Optimizer,
    mask: dict[str, Tensor],
    decay: float,
    loss: losses.Loss,
    *batch: Any,
) -> None:
    """A step that leaves weights outside ``mask`` exactly where they are.

    mask: 0 or 1, broadcastable to each parameter [*lead, ...]. The decay is masked with the gradient, so the optimiser
    must have none of its own; its momentum then never moves a masked weight either.
    """
    gradients = models.gradients(loss, *batch)
    for name, gradient in gradients.items():
        gradients[name] = mask[name] * (gradient + decay * models.parameters[name].detach())
    models.apply(optimizer, gradients)


def clipped(gradients: dict[str, Tensor], max_norm: float, lead: tuple[int, ...]) -> dict[str, Tensor]:
    """Gradients [*lead, ...] scaled so that each model's, all parameters together, have at most this Euclidean norm."""
    squares = [g.square().sum(dim=tuple(range(len(lead), g.ndim))) for g in gradients.values()]
    factor = (max_norm / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1)
    return {name: per_model(factor, g, lead) * g for name, g in gradients.items()}


def per_model(values: Tensor, like: Tensor, lead: tuple[int, ...]) -> Tensor:
    """One number per model, [*lead], shaped so that it broadcasts against ``like`` [*lead, ...]."""
    return values.reshape(*lead, *(1 for _ in range(like.ndim - len(lead))))
