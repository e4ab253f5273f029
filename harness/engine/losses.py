"""Losses of ONE model: ``loss(net, *batch) -> scalar``. The engine runs them for every model of an ensemble."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Net = Callable[[Tensor], Tensor]  # images [B, C, H, W] -> logits [B, classes]
Loss = Callable[..., Tensor]  # (net, *batch) -> scalar


def cross_entropy(net: Net, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross entropy of the logits, x [B, C, H, W], y int64 [B]; ``weight`` [classes] as in ``F.cross_entropy``."""
    return F.cross_entropy(net(x), y, weight=weight)


def negative_cross_entropy(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """What gradient ascent descends."""
    return -cross_entropy(net, x, y)


def mse_one_hot(net: Net, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over examples of ½‖logits − one-hot(y)‖², each example weighted by its class where weights are given."""
    logits = net(x)
    one_hot = (y[:, None] == torch.arange(logits.shape[-1], device=y.device)).to(logits.dtype)  # F.one_hot: not in vmap
    per_example = (logits - one_hot).square().sum(-1) / 2
    if weight is None:
        return per_example.mean()
    return (weight[y] * per_example).sum() / weight[y].sum()


def divergence_from_uniform(net: Net, x: Tensor) -> Tensor:
    """KL(uniform ‖ softmax(net(x))), mean over the batch."""
    log_p = F.log_softmax(net(x), dim=-1)
    return -log_p.mean() - math.log(log_p.shape[-1])
