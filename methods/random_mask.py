"""Random weight mask, a public entry of the competition outside its top eight: half of the weights become 0.

A random half of every tensor that is not batch norm is set to 0; five epochs of Adam on retain follow. On a ResNet-18 the
batch norms of the shortcuts are masked too, since the code goes by names that lack "bn".

Source: the notebook songxinkuan/Machine-unlearning-random-mask (private leaderboard 0.0937). Exactly half of each tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from harness import Data, Ensemble, Rng, losses

from .surgery import extreme, main_path_norms


@dataclass
class RandomMask:
    masked: float
    epochs: int
    lr: float
    lr_end_factor: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        models.map_weights(self.mask, rng)
        optimizer = models.adam(lr=self.lr, weight_decay=self.weight_decay)
        steps = self.epochs * data.retain.steps(self.batch_size)
        schedule = CosineAnnealingLR(optimizer, T_max=steps, eta_min=self.lr * self.lr_end_factor)
        for x, y in data.retain.first_batches(steps, self.batch_size):
            models.step(optimizer, losses.cross_entropy, x, y)
            schedule.step()

    def mask(self, net: nn.Module) -> None:
        norms = main_path_norms(net)
        for name, parameter in net.named_parameters():
            if name not in norms:
                zero = extreme(torch.rand(parameter.numel(), device=parameter.device), self.masked, largest=True)
                parameter.masked_fill_(zero.view_as(parameter), 0)
