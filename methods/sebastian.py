"""Sebastian Oleszko, fourth in the competition: prune 99 % of the weights, re-draw them, fine-tune with an entropy tie.

Of all convolution and linear weights and biases together the 1 % of largest magnitude are kept; the other weights are drawn
anew from U(±1/√fan_in), the other biases become 0; batch norm is untouched. Then 3.2 epochs on retain on cross entropy
(class weights count^-0.1) + MSE between the entropies of the model's and the original's predictions; finally the weights
pass through half precision once.

Source: the write-up, and the re-implementation in deepunlearn (Cadet et al. 2024), whose constants are the author's.
Differs from it in two points: weights that are exactly 0 without having been pruned are not re-drawn, and batch-norm statistics
stay out of the half precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import Data, Ensemble, Net, Rng


@dataclass
class Sebastian:
    prune: float
    epochs: float
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int
    entropy_weight: float
    class_weight_power: float
    half_precision: bool

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        original = models.snapshot()
        models.map_weights(self.prune_and_redraw, rng)

        counts = data.retain.label_counts(data.classes)
        loss = partial(self.loss, weight=counts.clamp(min=1) ** self.class_weight_power)
        optimizer = models.sgd(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        steps = int(self.epochs * data.retain.steps(self.batch_size))
        for x, y in data.retain.first_batches(steps, self.batch_size):
            models.step(optimizer, loss, original, x, y)
        if self.half_precision:
            models.map_weights(through_half_precision, rng)

    def prune_and_redraw(self, net: nn.Module) -> None:
        layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        tensors = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]
        magnitudes = torch.cat([p.abs().flatten() for p in tensors])
        pruned = torch.zeros_like(magnitudes, dtype=torch.bool)
        pruned[magnitudes.argsort()[: round(self.prune * len(magnitudes))]] = True
        masks = dict(zip(tensors, torch.split(pruned, [p.numel() for p in tensors]), strict=True))
        for layer in layers:
            bound = layer.weight[0].numel() ** -0.5  # fan_in = input channels × kernel area
            fresh = torch.empty_like(layer.weight).uniform_(-bound, bound)
            layer.weight.copy_(torch.where(masks[layer.weight].view_as(fresh), fresh, layer.weight))
            if layer.bias is not None:
                layer.bias.masked_fill_(masks[layer.bias], 0)

    def loss(self, net: Net, original: Net, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        logits = net(x)
        tie = F.mse_loss(entropy(logits), entropy(original(x)))
        return F.cross_entropy(logits, y, weight=weight) + self.entropy_weight * tie


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of softmax(logits), nats, [B]."""
    log_p = F.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(-1)


def through_half_precision(net: nn.Module) -> None:
    for parameter in net.parameters():
        parameter.copy_(parameter.half().to(parameter.dtype))
