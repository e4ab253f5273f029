"""Boundary shrink (Chen et al. 2023): move forget images across the nearest decision boundary.

A step of size ε along the sign of the input gradient of the original's loss (FGSM) leads to the original's nearest class;
the model is fine-tuned on forget with that class as the label.

Source: the authors' repository. Their ε = 0.1 is for pixels of 0 to 1, clamped to that range and rounded to 8 bits; here ε is
in the model's input units (standard deviations of the pixels, where the task normalises) and nothing is clamped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Data, Ensemble, Net, Rng, losses


@dataclass
class BoundaryShrink:
    bound: float  # ε
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        original = models.snapshot()
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        for _ in range(self.epochs):
            for x, y in data.forget.batches(self.batch_size):
                models.step(optimizer, self.loss, original, x, y)

    def loss(self, net: Net, original: Net, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), self.nearest(original, x, y))

    def nearest(self, original: Net, x: Tensor, y: Tensor) -> Tensor:
        """The original's prediction after the step, int64 [B]."""
        uphill = torch.func.grad(lambda x: losses.cross_entropy(original, x, y))(x).sign()
        return original(x + self.bound * uphill).detach().argmax(-1)
