"""One model under plain autograd: what a CPU core needs, where stacking gains nothing.

Worker processes run many of these ensembles of one member, one after the other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from harness.engine.ensemble import Build, Ensemble
from harness.engine.losses import Loss, Net
from harness.streams import Rng, global_seed


class Sequential(Ensemble):
    """One model; ``template`` holds its weights."""

    lead = ()

    def __init__(self, net: nn.Module, *, build: Build | None = None, bf16: bool = False) -> None:
        super().__init__(build=build, bf16=bf16)
        self.template = net
        self.parameters = dict(net.named_parameters())
        self.buffers = dict(net.named_buffers())

    def gradients(self, loss: Loss, *batch: Any) -> dict[str, Tensor]:
        arguments = [entry.template if isinstance(entry, Sequential) else entry for entry in batch]
        wanted = {name: p for name, p in self.parameters.items() if name not in self._frozen}
        with self._precision():
            value = loss(self.template, *arguments)
        gradients = torch.autograd.grad(value, list(wanted.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(wanted, gradients, strict=True))

    def map_models(self, fn: Callable[..., nn.Module | None], rng: Rng, *extras: Any) -> None:
        (seed,) = rng.seeds()
        net = copy.deepcopy(self.template)
        own = [copy.deepcopy(extra.template) if isinstance(extra, Sequential) else extra for extra in extras]
        with global_seed(seed):
            net = fn(net, *own) or net
        self.assign(self._checked_state(net))

    def snapshot(self) -> Ensemble:
        net = copy.deepcopy(self.template).eval().requires_grad_(False)
        copied = Sequential(net, build=self._build, bf16=self._bf16)
        copied._initial = self._initial
        return copied

    def _each(self, fn: Callable[[Net, Tensor], Tensor], x: Tensor) -> Tensor:
        with self._precision():
            return fn(self.template, x)
