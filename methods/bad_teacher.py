"""Bad teaching (Chundawat et al. 2023): follow the original on retain and an untrained network on forget.

One epoch over forget and a random 30 % of retain, mixed: each image's target is the prediction of its own teacher, the
loss KL(target ‖ student), averaged over examples and classes as ``F.kl_div`` does by default in the authors' code.

Source: the authors' repository. The incompetent teacher is a freshly initialised network in evaluation mode, each model
its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Data, Ensemble, Net, Rng


@dataclass
class BadTeacher:
    retain_share: float
    temperature: float
    epochs: int
    lr: float
    batch_size: int

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        good, bad = models.snapshot(), models.snapshot()
        bad.reinitialise(rng)
        some_retain = data.retain.random_subset(int(self.retain_share * len(data.retain)))
        optimizer = models.adam(lr=self.lr)
        for _ in range(self.epochs):
            for x, _, is_forget in data.forget.mixed_with(some_retain, self.batch_size):
                models.step(optimizer, self.loss, good, bad, x, is_forget)

    def loss(self, net: Net, good: Net, bad: Net, x: Tensor, is_forget: Tensor) -> Tensor:
        teacher = torch.where(is_forget[:, None], bad(x), good(x)).detach()
        log_p = F.log_softmax(net(x) / self.temperature, dim=-1)
        log_q = F.log_softmax(teacher / self.temperature, dim=-1)
        return F.kl_div(log_p, log_q, reduction="none", log_target=True).mean()
