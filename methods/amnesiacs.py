"""Algorithmic Amnesiacs, sixth in the competition: reset the first and last layers, distil on valid, repair on retain.

The first convolution and the head are drawn anew. Three epochs of distillation from the original on the validation images
(no labels) warm them up; three epochs on retain follow with soft cross entropy + cross entropy + KL to the original, T = 5.

Source: the write-up, deepunlearn (Cadet et al. 2024) and a public copy of the notebook's function; they agree on every
constant. The team's better entry warmed up on the classes that forget has (``warm_up_on: forget_classes``), the copies
on all of valid (``all``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from harness import Data, Ensemble, Net, Rng, head

from .divergence import distillation, kl
from .surgery import first_convolution


@dataclass
class Amnesiacs:
    temperature: float
    warm_up_on: Literal["forget_classes", "all"]
    warm_up_epochs: int
    warm_up_lr: float
    repair_epochs: int
    repair_lr: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        original = models.snapshot()
        models.map_weights(reset_both_ends, rng)

        warm_up = models.sgd(lr=self.warm_up_lr, momentum=self.momentum, weight_decay=self.weight_decay)
        valid = data.valid
        if self.warm_up_on == "forget_classes":
            valid = valid.of_classes(data.forget.label_counts(data.classes) > 0)
        for _ in range(self.warm_up_epochs):
            for x, _ in valid.batches(self.batch_size):
                models.step(warm_up, partial(distillation, temperature=self.temperature), original, x)

        repair = models.sgd(lr=self.repair_lr, momentum=self.momentum, weight_decay=self.weight_decay)
        schedule = CosineAnnealingLR(repair, T_max=self.repair_epochs)
        for _ in range(self.repair_epochs):
            for x, y in data.retain.batches(self.batch_size):
                models.step(repair, self.repair_loss, original, x, y)
            schedule.step()

    def repair_loss(self, net: Net, original: Net, x: Tensor, y: Tensor) -> Tensor:
        logits, teacher = net(x), original(x).detach()
        soft = F.cross_entropy(logits / self.temperature, F.softmax(teacher / self.temperature, dim=-1))
        return soft + F.cross_entropy(logits, y) + kl(logits, teacher, self.temperature)


def reset_both_ends(net: nn.Module) -> None:
    first_convolution(net).reset_parameters()
    head(net).reset_parameters()
