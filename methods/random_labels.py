"""Random labels (Golatkar et al. 2020; Graves et al. 2021, "Amnesiac"): train forget on labels drawn at random.

Each epoch is one pass over forget with labels drawn uniformly for every batch anew (the true one allowed, unless
``wrong_only``), then one pass over retain.

Source: the SalUn repository (Fan et al. 2024), where this is "RL" and the method its mask is put on; constants as for SalUn.
Other repositories fix one wrong label per image before training and mix both sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness import Data, Ensemble, Rng, losses


@dataclass
class RandomLabels:
    wrong_only: bool
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        for _ in range(self.epochs):
            for x, y in data.forget.batches(self.batch_size):
                models.step(optimizer, losses.cross_entropy, x, drawn(y, data.classes, rng, wrong_only=self.wrong_only))
            for x, y in data.retain.batches(self.batch_size):
                models.step(optimizer, losses.cross_entropy, x, y)


def drawn(y: Tensor, classes: int, rng: Rng, *, wrong_only: bool) -> Tensor:
    """Labels uniform over all classes, or over all but the true one, int64 as ``y`` [*lead, B]."""
    if wrong_only:
        return torch.remainder(y + 1 + rng.integers(classes - 1, y.shape[-1]).to(y.device), classes)
    return rng.integers(classes, y.shape[-1]).to(y.device)
