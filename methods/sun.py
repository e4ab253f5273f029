"""Jiaxi Sun, seventh in the competition: noise injection into a few tensors at a time.

The head is reset. In each of the first five of nine epochs on retain, nine tensors of a pool, chosen at random, and the
batch norms are trained while everything else is frozen; from the second epoch on, six of the nine get noise N(0, 0.04²)
first, but for those that were chosen in an earlier epoch: ten injections a run on average. In the last four epochs
everything is trained, without noise.

Source: deepunlearn (Cadet et al. 2024), which copies the notebook's constants; its pool is what has no "bn" in its name,
and so on a ResNet-18 holds the 20 convolutions, the batch norms of the three shortcuts and the head: 28 tensors. The
write-up says that the first epoch trains the whole model; the code does not, and is followed (``whole_first_epoch``).
A pool of at most nine tensors is chosen whole at once, so that there is noise in the first epoch or never.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness import Data, Ensemble, Rng, head, losses

from .gradients import masked_step, per_model
from .surgery import add_noise, main_path_norms


@dataclass
class Sun:
    selected: int
    noisy_share: float
    noise: float
    noise_from_epoch: int
    partial_epochs: int
    whole_first_epoch: bool
    lr: float
    fine_lr: list[float]  # one epoch each, of the whole model
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        models.map_weights(lambda net: head(net).reset_parameters(), rng)
        fresh = torch.ones((*models.lead, len(pool(models.template))), dtype=torch.bool, device=models.device)
        for epoch in range(self.partial_epochs):
            order = self.random_order(models, rng)
            if epoch >= self.noise_from_epoch:
                models.map_weights(self.disturb, rng, order, fresh)
            fresh = fresh.scatter(-1, order[..., : self.selected], False)
            whole = epoch == 0 and self.whole_first_epoch
            self.one_epoch(models, data, self.lr, everything(models) if whole else self.trainable(models, order))
        for lr in self.fine_lr:
            self.one_epoch(models, data, lr, everything(models))

    def random_order(self, models: Ensemble, rng: Rng) -> Tensor:
        """For every model a random order of its pool, int64 [*lead, pool]; the first ``selected`` are chosen."""
        return rng.permutation(len(pool(models.template))).to(models.device)

    def disturb(self, net: nn.Module, order: Tensor, fresh: Tensor) -> None:
        """Noise on the first of the chosen tensors; fresh: which were never chosen before, bool [pool]."""
        names = pool(net)
        noisy = int(self.noisy_share * min(self.selected, len(names)))
        for place in order[:noisy].tolist():
            if fresh[place]:
                add_noise(net.get_parameter(names[place]), self.noise)

    def trainable(self, models: Ensemble, order: Tensor) -> dict[str, Tensor]:
        """1 for the chosen tensors of each model and for batch norms, else 0."""
        rank = order.argsort(dim=-1)
        chosen = {name: (rank[..., i] < self.selected).to(models.dtype) for i, name in enumerate(pool(models.template))}
        ones = torch.ones(models.lead, device=models.device, dtype=models.dtype)
        return {
            name: per_model(chosen.get(name, ones), parameter, models.lead)
            for name, parameter in models.parameters.items()
        }

    def one_epoch(self, models: Ensemble, data: Data, lr: float, mask: dict[str, Tensor]) -> None:
        optimizer = models.sgd(lr=lr, momentum=self.momentum)
        for x, y in data.retain.batches(self.batch_size):
            masked_step(models, optimizer, mask, self.weight_decay, losses.cross_entropy, x, y)


def everything(models: Ensemble) -> dict[str, Tensor]:
    return {name: torch.ones((), device=models.device) for name in models.parameters}


def pool(net: nn.Module) -> list[str]:
    """The tensors that may be chosen: all but the batch norms of the main path."""
    norms = main_path_norms(net)
    return [name for name, _ in net.named_parameters() if name not in norms]
