"""Selective Synaptic Dampening (Foster et al. 2024): shrink the weights that matter far more to forget than to all data.

The importance I of a weight is the mean over batches of its squared gradient (evaluation mode), on all training data (I_D)
and on forget (I_f). Where I_f > α · I_D the weight is multiplied by min(λ · I_D / I_f, 1). Nothing is trained.

Source: the authors' repository, constants for ResNet-18. Importance depends on the batch size, which is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness import Data, Ensemble, Rng, losses

from .gradients import mean_square


@dataclass
class SSD:
    alpha: float
    dampening: float  # λ
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        everything = data.retain.mixed_with(data.forget, self.batch_size)
        of_all = mean_square(models, losses.cross_entropy, everything)
        of_forget = mean_square(models, losses.cross_entropy, data.forget.batches(self.batch_size))
        weights = models.parameters.items()
        models.assign({name: weight * self.factor(of_all[name], of_forget[name]) for name, weight in weights})

    def factor(self, of_all: Tensor, of_forget: Tensor) -> Tensor:
        """What a weight is multiplied by, given its importance to all training data and to forget."""
        damped = (self.dampening * of_all / of_forget).clamp(max=1)
        return torch.where(of_forget > self.alpha * of_all, damped, 1)
