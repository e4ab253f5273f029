"""Kookmin University (LD, BGW, KJH), second in the competition: targeted re-initialisation by gradient.

The gradients of CE on a random part of retain, as large as forget, and of −CE on forget are added up over batches. In each
convolution the 30 % of weights where the sum is smallest, where both agree, are drawn anew (He normal, fan-out). Then five
epochs on retain, in which the gradient of the convolution weights that were kept is multiplied by 0.1.

Source: the write-up, and the re-implementation in deepunlearn (Cadet et al. 2024), whose constants are the authors'. The
30 % are per layer as in that code; the write-up's "globally" is the option ``scope: global``. The gradients are taken in
evaluation mode, as in all but the first of the authors' 512 runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from harness import Data, Ensemble, Rng, losses

from .gradients import summed
from .surgery import extreme_of_all, names_in


@dataclass
class Kookmin:
    reinitialise: float
    scope: Literal["layer", "global"]
    kept_gradient: float
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        redrawn = self.least_disputed(self.scores(models, data), models)
        models.map_weights(redraw, rng, redrawn)

        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        schedule = LambdaLR(optimizer, self.warm_up_and_decay)
        for _ in range(self.epochs):
            for x, y in data.retain.batches(self.batch_size):
                gradients = models.gradients(losses.cross_entropy, x, y)
                for name, new in redrawn.items():
                    gradients[name] = torch.where(new, gradients[name], self.kept_gradient * gradients[name])
                models.apply(optimizer, gradients)
            schedule.step()

    def scores(self, models: Ensemble, data: Data) -> dict[str, Tensor]:
        """|Σ ∇CE(retain part) − Σ ∇CE(forget)| of every convolution weight, [*lead, ...] by name."""
        part = data.retain.random_subset(len(data.forget))
        retain = summed(models, losses.cross_entropy, part.batches(self.batch_size))
        forget = summed(models, losses.negative_cross_entropy, data.forget.batches(self.batch_size))
        weights = [name for name in names_in(models.template, nn.Conv2d) if name.endswith("weight")]
        return {name: (retain[name] + forget[name]).abs() for name in weights}

    def least_disputed(self, scores: dict[str, Tensor], models: Ensemble) -> dict[str, Tensor]:
        """Masks of the weights to draw anew."""
        groups = [scores] if self.scope == "global" else [{name: score} for name, score in scores.items()]
        masks: dict[str, Tensor] = {}
        for group in groups:
            masks |= extreme_of_all(group, self.reinitialise, largest=False, lead=models.lead)
        return masks

    def warm_up_and_decay(self, epoch: int) -> float:
        """Factor of the learning rate: up to 1 over the first half of the epochs, then down; ends above 0."""
        step, top, total = epoch + 1, (self.epochs + 1) // 2, self.epochs + 1
        return step / top if step <= top else (total - step) / (total - top)


def redraw(net: nn.Module, masks: dict[str, Tensor]) -> None:
    """Where its mask is set, draw each weight from N(0, 2 / fan_out)."""
    for name, mask in masks.items():
        weight = net.get_parameter(name)
        fresh = nn.init.kaiming_normal_(torch.empty_like(weight), mode="fan_out", nonlinearity="relu")
        weight.copy_(torch.where(mask, fresh, weight))
