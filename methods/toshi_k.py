"""toshi_k (and marvelworld), fifth in the competition: the published half, transposed kernels.

Every convolution kernel is transposed in space, as if the original saw transposed images; three epochs on retain follow.
The team's best entry made 246 models this way and 266 by pseudo-labels on forget; of that half no constant was published,
so it is not here. This is one algorithm of a blend of two.

Source: the write-up (algorithm, epochs), the copy of the notebook's function in deepunlearn (Cadet et al. 2024; rates).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from harness import Data, Ensemble, Rng, losses

from .surgery import convolutions


@dataclass
class ToshiK:
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        models.map_weights(transpose_kernels, rng)
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        schedule = CosineAnnealingLR(optimizer, T_max=self.epochs)
        for _ in range(self.epochs):
            for x, y in data.retain.batches(self.batch_size):
                models.step(optimizer, losses.cross_entropy, x, y)
            schedule.step()


def transpose_kernels(net: nn.Module) -> None:
    """W[o, i, h, w] → W[o, i, w, h]; kernels that are not square stay."""
    for layer in convolutions(net):
        if layer.kernel_size[0] == layer.kernel_size[1]:
            layer.weight.copy_(layer.weight.transpose(2, 3).clone())
