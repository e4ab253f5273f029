"""SalUn (Fan et al. 2024): random labels, but only the weights that matter most to forget may move.

The gradients of −CE on forget are summed over one pass; the half of all weights where the sum is largest in absolute value
form the mask. Then as :mod:`harness.methods.random_labels`, every step under the mask: masked-out weights stay where they are.

Source: the authors' repository, which restores masked-out weights after each step and masks the momentum; a masked decay
comes to the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness import Data, Ensemble, Rng, losses

from .gradients import masked_step, summed
from .random_labels import drawn
from .surgery import extreme_of_all


@dataclass
class SalUn:
    density: float
    wrong_only: bool
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        mask = saliency(models, data, self.density, self.batch_size)
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum)
        for _ in range(self.epochs):
            for x, y in data.forget.batches(self.batch_size):
                y = drawn(y, data.classes, rng, wrong_only=self.wrong_only)
                masked_step(models, optimizer, mask, self.weight_decay, losses.cross_entropy, x, y)
            for x, y in data.retain.batches(self.batch_size):
                masked_step(models, optimizer, mask, self.weight_decay, losses.cross_entropy, x, y)


def saliency(models: Ensemble, data: Data, density: float, batch_size: int) -> dict[str, Tensor]:
    """Masks, bool as the parameters: each model's largest |Σ ∇(−CE)| over forget, the given share of all weights."""
    total = summed(models, losses.negative_cross_entropy, data.forget.batches(batch_size))
    return extreme_of_all({name: g.abs() for name, g in total.items()}, density, largest=True, lead=models.lead)
