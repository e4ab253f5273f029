"""Sums over a pass of data, and steps under a mask, of all models of an ensemble: what several methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from harness.ensemble import Ensemble, Loss


def summed(
    models: Ensemble,
    loss: Loss,
    batches: Iterable[tuple[Tensor, Tensor]],
    power: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> dict[str, Tensor]:
    """Σ over batches of power(∇ loss), in evaluation mode; the models are in training mode afterwards."""
    models.eval()
    total: dict[str, Tensor] = {}
    for x, y in batches:
        for name, gradient in models.gradients(loss, x, y).items():
            total[name] = total[name] + power(gradient) if name in total else power(gradient)
    models.train()
    return total


def masked_step(
    models: Ensemble, optimizer: torch.optim.Optimizer, mask: dict[str, Tensor], decay: float, loss: Loss, *batch: Any
) -> None:
    """A step that leaves weights outside ``mask`` exactly where they are.

    mask: 0 or 1, broadcastable to each parameter [*lead, ...]. The decay is masked with the gradient, so the optimiser
    must have none of its own; its momentum then never moves a masked weight either.
    """
    gradients = models.gradients(loss, *batch)
    for name, gradient in gradients.items():
        gradients[name] = mask[name] * (gradient + decay * models.parameters[name].detach())
    models.apply(optimizer, gradients)
