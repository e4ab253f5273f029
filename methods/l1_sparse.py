"""L1-sparse (Jia et al. 2023): fine-tune on retain under an L1 penalty that falls linearly to zero.

Epoch t of E minimises CE + α (1 − t/E) · ‖θ‖₁ over all parameters.

Source: the authors' repository (Unlearn-Sparse). It leaves α to the user. 5e-4 is recalled as the paper's value and
was not checked against it; a later paper's authors (SalUn) search from 1e-6 to 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness import Data, Ensemble, Rng, losses


@dataclass
class L1Sparse:
    alpha: float
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        for epoch in range(self.epochs):
            alpha = self.alpha * (1 - epoch / self.epochs)
            for x, y in data.retain.batches(self.batch_size):
                gradients = models.gradients(losses.cross_entropy, x, y)
                penalty = {name: alpha * models.parameters[name].detach().sign() for name in gradients}
                models.apply(optimizer, {name: g + penalty[name] for name, g in gradients.items()})
