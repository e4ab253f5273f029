"""Gradient ascent on the forget set, "NegGrad" (Golatkar et al. 2020; Thudi et al. 2022).

Constants: Unlearn-Sparse (Jia et al. 2023), 5 epochs, momentum 0.9, weight decay 5e-4, batches of 256, lr constant; their
lr of 1e-4 was raised by the authors' own advice to between 5e-4 and 1e-3.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness import Data, Ensemble, Rng, losses


@dataclass
class GradientAscent:
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        for _ in range(self.epochs):
            for x, y in data.forget.batches(self.batch_size):
                models.step(optimizer, losses.negative_cross_entropy, x, y)
