"""M models as stacked tensors [M, ...], run in one ``vmap``: what a GPU needs, which else would wait for launches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from harness.engine.ensemble import Build, Ensemble, State, joined, net_of
from harness.engine.losses import Loss, Net
from harness.streams import Rng, global_seed


class Stacked(Ensemble):
    """M models; ``template`` is their architecture alone."""

    def __init__(self, nets: Sequence[nn.Module], *, build: Build | None = None, bf16: bool = False) -> None:
        super().__init__(build=build, bf16=bf16)
        self.lead = (len(nets),)
        self.template = nets[0]
        names = [dict(net.named_parameters()) for net in nets]
        self.parameters = {
            name: torch.stack([n[name].detach() for n in names]).contiguous().requires_grad_(p.requires_grad)
            for name, p in nets[0].named_parameters()
        }
        buffers = [dict(net.named_buffers()) for net in nets]
        self.buffers = {name: torch.stack([b[name] for b in buffers]) for name in buffers[0]}

    def gradients(self, loss: Loss, *batch: Any) -> dict[str, Tensor]:
        teachers = {i: entry for i, entry in enumerate(batch) if isinstance(entry, Stacked)}
        tensors = {i: entry for i, entry in enumerate(batch) if i not in teachers}
        wanted = {name: p for name, p in self.parameters.items() if name not in self._frozen}
        fixed = {name: p for name, p in self.parameters.items() if name in self._frozen}

        def one(wanted: State, fixed: State, buffers: State, teacher: Any, tensors: Any) -> tuple[Tensor, State]:
            buffers = {name: buffer.clone() for name, buffer in buffers.items()}  # batch norm writes into them
            arguments: list[Any] = [None] * len(batch)
            for i, tensor in tensors.items():
                arguments[i] = tensor
            for i, entry in teachers.items():
                arguments[i] = net_of(entry.template, teacher[i])
            with self._precision():
                value = loss(net_of(self.template, wanted | fixed | buffers), *arguments)
            return value, buffers

        gradients: dict[str, Tensor]
        gradients, (_, self.buffers) = vmap(grad_and_value(one, has_aux=True), randomness="error")(
            {name: p.detach() for name, p in wanted.items()},
            {name: p.detach() for name, p in fixed.items()},
            self.buffers,
            {i: _detached(entry) for i, entry in teachers.items()},
            tensors,
        )
        return gradients

    def map_models(self, fn: Callable[..., nn.Module | None], rng: Rng, *extras: Any) -> None:
        states = []
        for m, seed in zip(range(self.size), rng.seeds(), strict=True):
            net, own = self._model(m), [_part(extra, m) for extra in extras]
            with global_seed(seed):
                states.append(self._checked_state(fn(net, *own) or net))
        self.assign(joined(states, stacked=True))

    def snapshot(self) -> Ensemble:
        copied = copy.copy(self)
        copied.template = copy.deepcopy(self.template).eval()
        copied.parameters = {name: p.detach().clone() for name, p in self.parameters.items()}
        copied.buffers = {name: b.clone() for name, b in self.buffers.items()}
        return copied

    def _each(self, fn: Callable[[Net, Tensor], Tensor], x: Tensor) -> Tensor:
        def one(state: State) -> Tensor:
            with self._precision():
                return fn(net_of(self.template, state), x)

        outputs: Tensor = vmap(one)(_detached(self))
        return outputs

    def _model(self, m: int) -> nn.Module:
        """Model ``m`` as a plain module, a copy."""
        net, state = copy.deepcopy(self.template), self.parameters | self.buffers
        with torch.no_grad():
            for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
                tensor.copy_(state[name][m])
        return net


def _part(extra: Any, m: int) -> Any:
    """What belongs to model ``m`` of something that a stack holds for all its models."""
    if isinstance(extra, Stacked):
        return extra._model(m)
    return {name: tensor[m] for name, tensor in extra.items()} if isinstance(extra, dict) else extra[m]


def _detached(models: Ensemble) -> State:
    """Parameters and buffers without gradients, and without a copy."""
    return {name: tensor.detach() for name, tensor in (models.parameters | models.buffers).items()}
