"""Forget (Ahn, Lee, Bae, Yim, Jung), eighth in the competition: cycles of forgetting layers and remembering outputs.

Each cycle draws six parameter tensors with replacement, re-initialises them, and trains on retain so that the logits on
slightly noisy images match the original's in squared error; labels are not used. The head and projection shortcuts are
never drawn. Two variants were submitted: cycles of 1, 2, 2 epochs at 1e-3 with cosine (``cycles``, ``cosine_epochs``), and of
2, 1, 1, 1 epochs at the rates 5e-4, then 1e-3 (``rates``).

Source: the write-up and the team's project page. Unstated there and chosen here: the pool is counted in parameter
tensors (six are "about 10 %" of a ResNet-18's 62; 51 are left of them), batch norm's among them; layers are
re-initialised as their constructors do; SGD with the starter notebook's momentum, decay and batch size; the cosine
and the momentum restart with each cycle; the teacher is in evaluation mode. σ = 0.01 is in the models' input units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from harness import Data, Ensemble, GaussianNoise, Net, Rng

from .surgery import head_names, in_shortcut, reset


@dataclass
class Forget:
    tensors: int
    cycles: list[int]  # epochs of each
    lr: float
    cosine_epochs: int | None  # T_max, restarted with each cycle; None: ``rates`` instead
    rates: list[float]  # one per epoch, running on over the cycles; the last is kept
    noise: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        original = models.snapshot()
        done = 0
        for epochs in self.cycles:
            models.map_weights(self.forget, rng)
            optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
            schedule = self.schedule(optimizer, done)
            for _ in range(epochs):
                for x, _ in data.retain.batches(self.batch_size, augment=GaussianNoise(self.noise)):
                    models.step(optimizer, remember, original, x)
                schedule.step()
            done += epochs

    def forget(self, net: nn.Module) -> None:
        names = pool(net)
        for i in torch.randint(len(names), (self.tensors,)).tolist():
            reset(net, names[i])

    def schedule(self, optimizer: torch.optim.Optimizer, done: int) -> torch.optim.lr_scheduler.LRScheduler:
        if self.cosine_epochs is not None:
            return CosineAnnealingLR(optimizer, T_max=self.cosine_epochs)
        return LambdaLR(optimizer, lambda e: self.rates[min(done + e, len(self.rates) - 1)] / self.lr)


def pool(net: nn.Module) -> list[str]:
    """The tensors that may be forgotten."""
    last = head_names(net)
    return [name for name, _ in net.named_parameters() if name not in last and not in_shortcut(name)]


def remember(net: Net, original: Net, x: Tensor) -> Tensor:
    """Mean squared error of the logits to the original's on the same noisy images."""
    return F.mse_loss(net(x), original(x).detach())
