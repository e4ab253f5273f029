"""SFRon (Huang et al. 2024, "Unified gradient-based machine unlearning with remain geometry enhancement").

Every step descends CE on a retain batch; every fifth is preceded by an ascent on a forget batch: examples are weighted
∝ 1 / CE^λ, the whole by a coefficient that falls from α by a cosine; its gradient is masked to the weights with
F_forget / F_retain ≥ γ (mean squared batch gradients) and clipped.

Source: the authors' repository, CIFAR-10, 10 % random. Their 1,500 steps of 128 are 4.7 epochs of its 40,500 retained images,
and are counted in epochs here. Their average of slow and fast weights has no effect at the released value and is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from harness import Data, Ensemble, Net, Rng, losses

from .gradients import clipped, mean_square


@dataclass
class SFRon:
    alpha: float
    adaptivity: float  # λ
    threshold: float  # γ
    forget_every: int
    max_norm: float
    epochs: float
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        mask = self.mask(models, data)
        steps = max(1, round(self.epochs * data.retain.steps(self.batch_size)))
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        schedule = CosineAnnealingLR(optimizer, T_max=steps)
        forget = data.forget.first_batches(steps, self.batch_size)
        for step, (x, y) in enumerate(data.retain.first_batches(steps, self.batch_size)):
            if step % self.forget_every == 0:
                alpha = self.alpha * (1 + math.cos(math.pi * step / steps)) / 2
                ascent = models.gradients(partial(self.ascent, alpha=alpha), *next(forget))
                ascent = {name: mask[name] * gradient for name, gradient in ascent.items()}
                models.apply(optimizer, clipped(ascent, self.max_norm, models.lead))
            models.step(optimizer, losses.cross_entropy, x, y)
            schedule.step()

    def mask(self, models: Ensemble, data: Data) -> dict[str, Tensor]:
        """Weights that matter at least γ times as much to forget as to retain, bool as the parameters."""
        of_forget = mean_square(models, losses.cross_entropy, data.forget.batches(self.batch_size))
        of_retain = mean_square(models, losses.cross_entropy, data.retain.batches(self.batch_size))
        return {n: (of_forget[n] + 1e-15) / (of_retain[n] + 1e-15) >= self.threshold for n in of_forget}

    def ascent(self, net: Net, x: Tensor, y: Tensor, alpha: float) -> Tensor:
        each = F.cross_entropy(net(x), y, reduction="none")
        weight = 1 / (each.detach() ** self.adaptivity + 1e-15)
        return -alpha * (weight / weight.sum() * each).sum()
