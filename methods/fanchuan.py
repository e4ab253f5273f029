"""fanchuan, first in the NeurIPS 2023 competition (private rank 2, one entry above was removed): two phases.

Scatter: one pass over forget pushes its predictions to the uniform distribution. Then, epoch by epoch, contrast: forget
logits are made equally similar to all retain logits; and repair: cross entropy on retain.

Source: the team's write-up and three public copies of its code, which agree. KL(uniform ‖ p) follows the code (a prose
account has the reverse). The repair rate is the authors' 1e-3 · batch/64. Forget batches: 64, as the competition's loader.
All forward passes are in training mode, so forget batches move the batch-norm statistics too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from harness import Data, Ensemble, Net, Rng, losses


@dataclass
class Fanchuan:
    epochs: int
    scatter_lr: float
    contrast_lr: float
    repair_lr_per_64: float
    momentum: float
    repair_weight_decay: float
    temperature: float
    forget_batch_size: int
    retain_batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        repair_lr = self.repair_lr_per_64 * self.retain_batch_size / 64
        scatter = models.sgd(lr=self.scatter_lr, momentum=self.momentum)
        contrast = models.sgd(lr=self.contrast_lr, momentum=self.momentum)
        repair = models.sgd(lr=repair_lr, momentum=self.momentum, weight_decay=self.repair_weight_decay)
        contrast_steps = data.forget.steps(self.forget_batch_size) * self.epochs
        cosine = CosineAnnealingLR(contrast, T_max=contrast_steps, eta_min=1e-6)

        for x, _ in data.forget.batches(self.forget_batch_size):
            models.step(scatter, losses.divergence_from_uniform, x)
        for _ in range(self.epochs):
            pairs = zip(
                data.forget.batches(self.forget_batch_size), data.retain.batches(self.retain_batch_size), strict=False
            )
            for (x_f, _), (x_r, _) in pairs:
                models.step(contrast, self.contrastive, x_f, x_r)
                cosine.step()
            for x, y in data.retain.batches(self.retain_batch_size):
                models.step(repair, losses.cross_entropy, x, y)

    def contrastive(self, net: Net, x_f: Tensor, x_r: Tensor) -> Tensor:
        """−mean log-softmax of the similarities of forget logits [F, C] to retain logits [R, C], the latter held fixed."""
        similarity = net(x_f) @ net(x_r).detach().T / self.temperature
        return -F.log_softmax(similarity, dim=1).mean()
