"""Distillation losses of logits [B, C], shared by the methods that follow a teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Net


def kl(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(teacher/T) ‖ softmax(student/T)), mean over the batch, without the factor T²."""
    log_p = F.log_softmax(logits / temperature, dim=-1)
    log_q = F.log_softmax(teacher_logits / temperature, dim=-1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def distillation(net: Net, teacher: Net, x: Tensor, temperature: float = 1.0) -> Tensor:
    """:func:`kl` of a student to a teacher on images x."""
    return kl(net(x), teacher(x).detach(), temperature)


def without(logits: Tensor, y: Tensor) -> Tensor:
    """The logits [B, C] with class y [B] taken out: its probability is 0, the others' are renormalised."""
    classes = torch.arange(logits.shape[-1], device=logits.device)  # F.one_hot does not run under vmap
    return logits.masked_fill(y[:, None] == classes, -1e10)
