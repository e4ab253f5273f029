"""Influence unlearning with WoodFisher (Izzo et al. 2021; as in Jia et al. 2023): one Newton-like step away from forget.

v = Σ ∇L(forget) / n − n_f / (n · n_r) · Σ ∇L(retain), the gradient difference between training on all data and on retain.
A recursion over up to 1,000 single retain images turns v into an approximation of H⁻¹v; θ ← θ + α H⁻¹v. Evaluation mode.

Source: Unlearn-Sparse (Jia et al. 2023). The recursion is the published code's: its second vector starts at the first
image's gradient and is only ever rescaled, so the inverse corrects v along that one direction. The papers' authors tune α.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Data, Ensemble, Net, Rng, losses

from .gradients import summed


@dataclass
class Influence:
    alpha: float
    samples: int
    batch_size: int
    chunk: int  # images whose gradients are held at once; changes nothing but memory

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        n_f, n_r = len(data.forget), len(data.retain)
        forget = summed(models, total_cross_entropy, data.forget.batches(self.batch_size))
        retain = summed(models, total_cross_entropy, data.retain.batches(self.batch_size))
        v = {name: forget[name] / (n_f + n_r) - retain[name] * n_f / ((n_f + n_r) * n_r) for name in forget}
        step = self.inverse_hessian_times(models, data, _flat(v, models))
        parts = torch.split(step, [_flat({name: value}, models).shape[-1] for name, value in v.items()], dim=-1)
        moves = {name: part.reshape(v[name].shape) for name, part in zip(v, parts, strict=True)}
        models.assign({name: models.parameters[name] + self.alpha * move for name, move in moves.items()})

    def inverse_hessian_times(self, models: Ensemble, data: Data, v: Tensor) -> Tensor:
        """The recursion, on v [*lead, P]."""
        models.eval()
        o: Tensor | None = None
        k, seen = v, 0
        for x, y in data.retain.batches(self.chunk, shuffle=False):
            each = models.example_gradients(losses.cross_entropy, x, y)
            for gradient in _flat(each, models, batched=True).unbind(len(models.lead))[: self.samples - seen]:
                if o is None:
                    o = gradient
                    continue
                overlap = (o * gradient).sum(-1, keepdim=True)
                k = k - (k * gradient).sum(-1, keepdim=True) / (self.samples + overlap) * o
                o = o - overlap / (self.samples + overlap) * o
            seen += y.shape[-1]
            if seen >= self.samples:
                break
        models.train()
        return k


def _flat(values: dict[str, Tensor], models: Ensemble, *, batched: bool = False) -> Tensor:
    """All tensors [*lead, ...] (or [*lead, B, ...]) as one, [*lead, P] (or [*lead, B, P])."""
    kept = len(models.lead) + batched
    return torch.cat([value.reshape(*value.shape[:kept], -1) for value in values.values()], dim=-1)


def total_cross_entropy(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y, reduction="sum")
