"""CF-k, catastrophic forgetting of the last k layers (Goel et al. 2022): fine-tune only these on retain.

Layers are convolutions and linear layers counted from the output; the batch norms behind the k-th are trained too. The rate
follows cosines with restarts after 1, 2, 4, … epochs; gradients are clipped.

Source: the authors' repository. There k is 10 of a ResNet-110's 110 layers in the running example; a tenth of the
layers is about 1 for the default network, the configured k on every model, and would be 2 for a ResNet-18. Their
CutMix is off by default and left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from harness import Data, Ensemble, Rng, losses

from .gradients import clipped
from .surgery import last_names


@dataclass
class CFk:
    k: int
    epochs: int
    lr: float
    lr_end: float
    momentum: float
    weight_decay: float
    max_norm: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        names, _ = last_names(models.template, self.k)
        models.freeze(names.__contains__)
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        schedule = CosineAnnealingWarmRestarts(optimizer, T_0=1, T_mult=2, eta_min=self.lr_end)
        for _ in range(self.epochs):
            for x, y in data.retain.batches(self.batch_size):
                gradients = models.gradients(losses.cross_entropy, x, y)
                models.apply(optimizer, clipped(gradients, self.max_norm, models.lead))
            schedule.step()
        models.freeze(lambda name: True)
