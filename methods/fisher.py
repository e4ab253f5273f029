"""Fisher forgetting (Golatkar et al. 2020): noise where the retain loss does not care, deterministic otherwise.

θ ← θ + N(0, α · v) with v = 1 / (F + 1e-8), at most 1e3 (1e2 in the head), averaged over a tensor's input dimension, times
10 in the head and in one-dimensional tensors. F = Σ_y p_y(x) (∂CE(x, y))², averaged over retain (evaluation mode).
If a whole class is forgotten, its row of the head becomes 0 and gets noise of variance 1e-3.

Source: the authors' notebook (SelectiveForgetting), whose code the SSD and SCRUB repositories use. The authors loop over
single images; here all images of a chunk and all classes are done at once, with the same result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import Data, Ensemble, Net, Rng

from .surgery import head_names


@dataclass
class Fisher:
    alpha: float
    chunk: int  # images whose gradients are held at once; changes nothing but memory

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        last, forgotten, lead = head_names(models.template), data.forgotten_class, len(models.lead)
        deviation = {}
        for name, information in self.fisher(models, data).items():
            variance = (1 / (information + 1e-8)).clamp(max=1e2 if name in last else 1e3)
            if information.ndim - lead > 1:
                variance = variance.mean(dim=lead + 1, keepdim=True).expand_as(information).clone()
            if name in last and forgotten is not None:
                variance.select(lead, forgotten).fill_(1e-4 / self.alpha)
            factor = 10 if name in last or information.ndim - lead == 1 else 1
            deviation[name] = (self.alpha * factor * variance).sqrt()
        models.map_weights(lambda net, own: self.disturb(net, own, last, forgotten), rng, deviation)

    def fisher(self, models: Ensemble, data: Data) -> dict[str, Tensor]:
        """The diagonal of the Fisher information of retain, [*lead, ...] by name."""
        models.eval()
        total: dict[str, Tensor] = {}
        for x, y in data.retain.batches(self.chunk, shuffle=False):
            every_class = torch.arange(data.classes, device=y.device).repeat_interleave(y.shape[-1])
            repeated = torch.cat([x] * data.classes, dim=len(models.lead))
            labels = every_class.expand(*models.lead, -1)
            for name, each in models.example_gradients(root_of_probability_times_loss, repeated, labels).items():
                square = each.square().sum(dim=len(models.lead)) / len(data.retain)
                total[name] = total[name] + square if name in total else square
        models.train()
        return total

    def disturb(self, net: nn.Module, deviation: dict[str, Tensor], last: set[str], forgotten: int | None) -> None:
        for name, parameter in net.named_parameters():
            if name in last and forgotten is not None:
                parameter[forgotten] = 0
            parameter.add_(deviation[name] * torch.randn_like(parameter))


def root_of_probability_times_loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """√p_y · CE(x, y), p held fixed: its squared gradient is the class's share of the Fisher information."""
    log_p = F.log_softmax(net(x), dim=-1).gather(1, y[:, None])
    return -((log_p.detach() / 2).exp() * log_p).sum()
