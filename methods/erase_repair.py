"""Erase, then repair: the simple heuristics that most competition entries are made of, as one family to sweep.

erase: ``reinitialise`` or disturb by ``noise`` some layers (convolutions and linear layers), or ``prune`` the smallest
weights, or ``none``. layers: ``all``, or ``layer_count`` of them: the ``first``, the ``last``, at ``random``, those with the
largest mean absolute ``gradient`` of the forget loss, or with the largest root-mean-square weight (``norm``).
repair: on retain, ``finetune`` (cross entropy) or ``distil`` (T² · KL to the original's predictions).

Source: the heuristics of the NeurIPS 2023 competition (Triantafillou et al. 2024, "Are we making progress in unlearning?");
seif, amnesiacs, random_mask and toshi_k are members of the same family with an eraser or a repair of their own. The
constants are the organisers' starter notebook's, with three epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from harness import Data, Ensemble, Net, Rng, losses

from .divergence import distillation
from .gradients import summed
from .surgery import add_noise, extreme_of_all, layers


@dataclass
class EraseRepair:
    erase: Literal["none", "reinitialise", "noise", "prune"]
    layers: Literal["all", "first", "last", "random", "gradient", "norm"]
    layer_count: int
    noise: float
    prune: float
    prune_scope: Literal["global", "layer"]
    repair: Literal["finetune", "distil"]
    temperature: float
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        original = models.snapshot()
        gradient = {}
        if self.layers == "gradient":
            gradient = summed(models, losses.cross_entropy, data.forget.batches(self.batch_size))
        models.map_weights(self.eraser(), rng, gradient)

        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        schedule = CosineAnnealingLR(optimizer, T_max=self.epochs)
        for _ in range(self.epochs):
            for x, y in data.retain.batches(self.batch_size):
                if self.repair == "finetune":
                    models.step(optimizer, losses.cross_entropy, x, y)
                else:
                    models.step(optimizer, self.distil, original, x)
            schedule.step()

    def eraser(self) -> Callable[[nn.Module, dict[str, Tensor]], None]:
        return {
            "none": lambda net, gradient: None,
            "reinitialise": self.reinitialise,
            "noise": self.add_noise,
            "prune": self.set_to_zero,
        }[self.erase]

    def reinitialise(self, net: nn.Module, gradient: dict[str, Tensor]) -> None:
        for layer in self.chosen(net, gradient):
            layer.reset_parameters()

    def add_noise(self, net: nn.Module, gradient: dict[str, Tensor]) -> None:
        for layer in self.chosen(net, gradient):
            add_noise(layer.weight, self.noise)

    def set_to_zero(self, net: nn.Module, gradient: dict[str, Tensor]) -> None:
        scores = {str(i): layer.weight.abs() for i, layer in enumerate(layers(net))}
        groups = [scores] if self.prune_scope == "global" else [{name: score} for name, score in scores.items()]
        for group in groups:
            for name, mask in extreme_of_all(group, self.prune, largest=False).items():
                layers(net)[int(name)].weight.masked_fill_(mask, 0)

    def chosen(self, net: nn.Module, gradient: dict[str, Tensor]) -> list[nn.Conv2d | nn.Linear]:
        """The layers to erase, of one model."""
        candidates = layers(net)
        if self.layers == "all":
            return candidates
        if self.layers == "random":
            order = torch.randperm(len(candidates))
        elif self.layers in ("first", "last"):
            order = torch.arange(len(candidates)).flip(0) if self.layers == "last" else torch.arange(len(candidates))
        else:
            names = {id(p): name for name, p in net.named_parameters()}
            weights = [layer.weight for layer in candidates]
            if self.layers == "gradient":
                score = torch.stack([gradient[names[id(w)]].abs().mean() for w in weights])
            else:
                score = torch.stack([w.square().mean() for w in weights])
            order = score.argsort(descending=True)
        return [candidates[i] for i in order[: self.layer_count].tolist()]

    def distil(self, net: Net, original: Net, x: Tensor) -> Tensor:
        return self.temperature**2 * distillation(net, original, x, self.temperature)
