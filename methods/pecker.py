"""PECKER for classifiers (after Ma et al. 2026): distil forgetting through a saliency mask, remembering without one.

The student starts from the teacher (the original). Each step adds λ · the full gradient of τ² KL(teacher ‖ student) + β CE on a
retain batch, and μ · the gradient of KL(target ‖ student) on a forget batch, masked to the weights where |Σ ∇ of the forget
loss| over forget is largest. Forget batches are seen with batch norm's running statistics, which they do not move.

targets: ``uniform``; ``incompetent``, a freshly initialised network; ``cover``, the teacher without the true class.
mask (the controls): ``saliency``; ``none``; ``random``, the saliency mask permuted over all weights, of equal density;
``both``, saliency on the retain gradient too (SalUn's rule). refresh: epochs between new masks, 0 for once.

Source: the paper is about diffusion models (arXiv 2604.05634); its rule, one network with masked forget and full
retain updates, is carried over to classifiers here, where nothing is published: the constants are this project's own.
The paper recomputes the mask at every step and leaves its density open; 50 % is SalUn's. One threshold holds for all
tensors together (a threshold per tensor is not offered), saliency is that of the forget loss (not of CE), and
``cover`` keeps the teacher's odds among the other classes also on a random forget set (not the second-best class
alone).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Data, Ensemble, Net, Rng

from .divergence import kl, without
from .surgery import extreme_of_all

Gradients = dict[str, Tensor]


@dataclass
class Pecker:
    mask: Literal["saliency", "none", "random", "both"]
    targets: Literal["uniform", "incompetent", "cover"]
    density: float
    refresh: int
    retain_weight: float  # λ
    forget_weight: float  # μ
    label_weight: float  # β
    temperature: float  # τ
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        teacher, guide = models.snapshot(), models.snapshot()
        if self.targets == "incompetent":
            guide.reinitialise(rng)
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum)
        for epoch in range(self.epochs):
            if epoch == 0 or (self.refresh and epoch % self.refresh == 0):
                mask = self.masks(models, guide, data, rng)
            forget = data.forget.first_batches(data.retain.steps(self.batch_size), self.batch_size)
            for (x_r, y_r), (x_f, y_f) in zip(data.retain.batches(self.batch_size), forget, strict=True):
                models.freeze_batch_norm()
                forgetting = models.gradients(self.forget_loss, guide, x_f, y_f)
                models.train()
                remembering = models.gradients(self.retain_loss, teacher, x_r, y_r)
                models.apply(optimizer, self.combined(models, remembering, forgetting, mask))

    def combined(self, models: Ensemble, remembering: Gradients, forgetting: Gradients, mask: Gradients) -> Gradients:
        """λ · retain gradient and decay, in full (masked too for ``both``), + μ · forget gradient under the mask."""
        total = {}
        for name, own in mask.items():
            kept = self.retain_weight * remembering[name] + self.weight_decay * models.parameters[name].detach()
            total[name] = (own * kept if self.mask == "both" else kept) + own * self.forget_weight * forgetting[name]
        return total

    def masks(self, models: Ensemble, guide: Ensemble, data: Data, rng: Rng) -> dict[str, Tensor]:
        """Each model's mask, bool as the parameters, with ``density`` of all weights set (all of them for ``none``)."""
        lead = models.lead
        if self.mask == "none":
            return {name: torch.ones_like(p, dtype=torch.bool) for name, p in models.parameters.items()}
        if self.mask == "random":
            scores = {n: rng.uniform(*p.shape[len(lead) :]).to(p.device) for n, p in models.parameters.items()}
        else:
            models.eval()
            scores = {name: torch.zeros_like(p) for name, p in models.parameters.items()}
            for x, y in data.forget.batches(self.batch_size):
                for name, gradient in models.gradients(self.forget_loss, guide, x, y).items():
                    scores[name] = scores[name] + gradient
            models.train()
        return extreme_of_all({n: s.abs() for n, s in scores.items()}, self.density, largest=True, lead=lead)

    def forget_loss(self, net: Net, guide: Net, x: Tensor, y: Tensor) -> Tensor:
        logits = guide(x).detach()
        targets = {"uniform": torch.zeros_like(logits), "incompetent": logits, "cover": without(logits, y)}
        return kl(net(x), targets[self.targets])

    def retain_loss(self, net: Net, teacher: Net, x: Tensor, y: Tensor) -> Tensor:
        logits = net(x)
        tie = self.temperature**2 * kl(logits, teacher(x).detach(), self.temperature)
        return tie + self.label_weight * F.cross_entropy(logits, y)
