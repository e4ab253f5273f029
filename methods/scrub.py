"""SCRUB (Kurmanji et al. 2023): move away from the original on forget, stay near it on retain.

In the first epochs one pass over forget maximises KL(original ‖ model), T = 4 with the factor T²; in every epoch one pass
over retain minimises γ · CE + α · KL. ``rewind`` is SCRUB+R: of the models after each epoch, the one whose error on forget is
closest to the last one's error on validation images of forget's classes is returned.

Source: the authors' repository, constants of its CIFAR-10 membership-inference experiment (forget of one class). For a
forget set of all classes, rewind compares with the whole validation set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import MultiStepLR

from harness import Data, Ensemble, Net, Rng, Split

from .divergence import distillation, kl


@dataclass
class Scrub:
    gamma: float
    alpha: float
    temperature: float
    ascent_epochs: int
    epochs: int
    lr: float
    decay_after: int  # epochs at the full rate; a tenth of it afterwards
    momentum: float
    weight_decay: float
    retain_batch_size: int
    forget_batch_size: int
    rewind: bool

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        original = models.snapshot()
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        schedule = MultiStepLR(optimizer, [self.decay_after], gamma=0.1)
        path: list[dict[str, Tensor]] = []
        errors: list[Tensor] = []
        for epoch in range(self.epochs):
            if epoch < self.ascent_epochs:
                for x, _ in data.forget.batches(self.forget_batch_size):
                    models.step(optimizer, self.away, original, x)
            for x, y in data.retain.batches(self.retain_batch_size):
                models.step(optimizer, self.repair, original, x, y)
            schedule.step()
            if self.rewind:
                path.append(models.state())
                errors.append(error(models, data.forget))
        if self.rewind:
            reference = error(models, data.valid.of_classes(data.forget.label_counts(data.classes) > 0))
            best = (torch.stack(errors) - reference).abs().argmin(dim=0)  # [*lead]
            models.assign({name: self.pick([state[name] for state in path], best) for name in path[0]})

    def away(self, net: Net, original: Net, x: Tensor) -> Tensor:
        return -(self.temperature**2) * distillation(net, original, x, self.temperature)

    def repair(self, net: Net, original: Net, x: Tensor, y: Tensor) -> Tensor:
        logits = net(x)
        tie = self.temperature**2 * kl(logits, original(x).detach(), self.temperature)
        return self.gamma * F.cross_entropy(logits, y) + self.alpha * tie

    def pick(self, checkpoints: list[Tensor], best: Tensor) -> Tensor:
        """Each model's best checkpoint: checkpoints [*lead, ...] each, best int64 [*lead]."""
        stacked = torch.stack(checkpoints)
        return stacked[best, torch.arange(len(best), device=best.device)] if best.ndim else stacked[best]


def error(models: Ensemble, split: Split) -> Tensor:
    """Share of wrong predictions, [*lead]."""
    x, y = split.tensors()
    return (models.logits(x).argmax(-1) != y).float().mean(-1)
