"""NegGrad+ (Kurmanji et al. 2023): descend on retain and ascend on forget in the same step.

Every step minimises α · CE(retain batch) − (1 − α) · CE(forget batch); forget is cycled over each epoch of retain.

Source: the SCRUB repository, constants of its CIFAR-10 membership-inference experiment.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness import Data, Ensemble, Net, Rng, losses


@dataclass
class NegGradPlus:
    alpha: float
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    retain_batch_size: int
    forget_batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        steps = data.retain.steps(self.retain_batch_size)
        for _ in range(self.epochs):
            retain = data.retain.batches(self.retain_batch_size)
            forget = data.forget.first_batches(steps, self.forget_batch_size)
            for (x_r, y_r), (x_f, y_f) in zip(retain, forget, strict=True):
                models.step(optimizer, self.loss, x_r, y_r, x_f, y_f)

    def loss(self, net: Net, x_r: Tensor, y_r: Tensor, x_f: Tensor, y_f: Tensor) -> Tensor:
        return self.alpha * losses.cross_entropy(net, x_r, y_r) - (1 - self.alpha) * losses.cross_entropy(net, x_f, y_f)
