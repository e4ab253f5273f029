"""DELETE (Zhou et al. 2025): on forget, follow the original's prediction without the true class.

The target is the softmax of the original's logits with the true class taken out; KL(target ‖ model) on forget, nothing else.

Source: the authors' repository, class-wise CIFAR-10 with a ResNet-18.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness import Data, Ensemble, Net, Rng

from .divergence import kl, without


@dataclass
class Delete:
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int
    freeze_batch_norm: bool

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        original = models.snapshot()
        if self.freeze_batch_norm:
            models.freeze_batch_norm()
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        for _ in range(self.epochs):
            for x, y in data.forget.batches(self.batch_size):
                models.step(optimizer, self.loss, original, x, y)

    def loss(self, net: Net, original: Net, x: Tensor, y: Tensor) -> Tensor:
        return kl(net(x), without(original(x).detach(), y))
