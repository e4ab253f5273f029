"""Seif Eddine Achour, third in the competition: "vision confusion", noise on the convolution that sees the image.

N(0, 0.6²) is added to the weights; four epochs on retain follow, with a lighter noise of 0.005 before the last. Class 0 (in
the competition the majority, and half of forget) has weight 1 in the loss, every other class 0.05.

Source: the write-up, and the re-implementation in deepunlearn (Cadet et al. 2024), whose constants are the author's. Its
loop reaches only the stem of a ResNet-18 (``convolutions: first``); the write-up says all convolutions (``all``). As coded,
the weights scale the batch's mean loss by their mean (``weighting: batch``); ``example`` weights each example. σ = 0.6
belongs to inputs of 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from harness import Data, Ensemble, Net, Rng

from .surgery import add_noise, convolutions, first_convolution


@dataclass
class Seif:
    first_noise: float
    last_noise: float
    convolutions: Literal["first", "all"]
    full_weight_class: int
    other_classes_weight: float
    weighting: Literal["batch", "example"]
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        models.map_weights(partial(self.confuse, std=self.first_noise), rng)
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        schedule = CosineAnnealingLR(optimizer, T_max=self.epochs)
        for epoch in range(self.epochs):
            for x, y in data.retain.batches(self.batch_size):
                models.step(optimizer, self.loss, x, y)
            if epoch == self.epochs - 2:
                models.map_weights(partial(self.confuse, std=self.last_noise), rng)
            schedule.step()

    def confuse(self, net: nn.Module, std: float) -> None:
        for layer in convolutions(net) if self.convolutions == "all" else [first_convolution(net)]:
            add_noise(layer.weight, std)

    def loss(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        each = F.cross_entropy(net(x), y, reduction="none")
        weight = torch.where(y == self.full_weight_class, 1.0, self.other_classes_weight).to(each.dtype)
        return each.mean() * weight.mean() if self.weighting == "batch" else (weight * each).mean()
