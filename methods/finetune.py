"""Fine-tuning on the retain set, the organisers' baseline (their starter notebook; also Golatkar et al. 2020).

Source: one epoch of SGD, lr 1e-3, momentum 0.9, weight decay 5e-4, cosine per epoch, batches of 64.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim.lr_scheduler import CosineAnnealingLR

from harness import Data, Ensemble, Rng, losses


@dataclass
class Finetune:
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        schedule = CosineAnnealingLR(optimizer, T_max=self.epochs)
        for _ in range(self.epochs):
            for x, y in data.retain.batches(self.batch_size):
                models.step(optimizer, losses.cross_entropy, x, y)
            schedule.step()
