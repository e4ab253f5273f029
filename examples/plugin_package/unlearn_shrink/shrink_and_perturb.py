"""Shrink and perturb (Ash and Adams 2020), used to unlearn: pull all weights towards 0, add noise, train on retain.

Source: "On Warm-Starting Neural Network Training", who do it before training on new data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from harness import Data, Ensemble, Rng, losses


@dataclass
class ShrinkAndPerturb:
    """keep: factor on every weight; noise: standard deviation of what is added to it."""

    keep: float = 0.4
    noise: float = 0.05
    epochs: int = 4
    lr: float = 0.05
    batch_size: int = 64

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        models.map_weights(self.erase, rng)
        optimizer = models.sgd(lr=self.lr, momentum=0.9)
        for _ in range(self.epochs):
            for x, y in data.retain.batches(self.batch_size):
                models.step(optimizer, losses.cross_entropy, x, y)

    def erase(self, net: nn.Module) -> None:
        for weight in net.parameters():
            weight.mul_(self.keep).add_(torch.randn_like(weight), alpha=self.noise)
