"""Subsets of a network's parameters, from its last norm to all of them. For ONE plain module."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn

from harness import UserError

from .surgery import convolutions, head_names, names_in

BatchNorm = nn.modules.batchnorm._BatchNorm

_LADDER = ("last_norm", "bn", "bn+head", "bn+head+last_convolution")
_LADDER_OF_PROMPTS = ("prompts", "prompts+head")


def subset_names(net: nn.Module, subset: str) -> list[str]:
    """The parameters of a subset, in the network's order. Raises UserError if it is empty or unknown."""
    norms, last = names_in(net, BatchNorm, nn.LayerNorm), head_names(net)
    prompts = {name for name, _ in net.named_parameters() if "prompt" in name}
    known: dict[str, set[str]] = {
        "last_norm": set(norms[-2:]),
        "bn": set(norms),
        "head": last,
        "bn+head": last.union(norms),
        "prompts": prompts,
        "prompts+head": last.union(prompts) if prompts else set(),
        "all": {name for name, _ in net.named_parameters()},
    }
    if subset == "bn+head+last_convolution" and convolutions(net):
        weights = {id(p) for p in convolutions(net)[-1].parameters()}
        known[subset] = known["bn+head"] | {name for name, p in net.named_parameters() if id(p) in weights}
    names = [name for name, _ in net.named_parameters() if name in known.get(subset, set())]
    if not names:
        raise UserError(f"method.subset={subset} has no parameters in this model; known: auto, {', '.join(known)}")
    return names


def ladder(net: nn.Module) -> list[str]:
    """Nested subsets that this model has, small to large; for a model with prompts, those of its prompts."""
    rungs: dict[tuple[str, ...], str] = {}
    for subset in _LADDER_OF_PROMPTS if any("prompt" in name for name, _ in net.named_parameters()) else _LADDER:
        with suppress(UserError):
            rungs.setdefault(tuple(subset_names(net, subset)), subset)
    return list(rungs.values())


def flat(net: nn.Module, names: list[str]) -> Tensor:
    """The parameters ``names`` as one vector, float64 [P]."""
    return torch.cat([net.get_parameter(name).detach().flatten() for name in names]).double()
