"""Edits of the weights of ONE plain module, and the names of its parts: what several methods share.

Parts are found by module type, so that they mean the same on any architecture: the first convolution, the head (the last
linear layer), batch norms. Only a projection shortcut is recognised by its usual name.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness import head

_BatchNorm = nn.modules.batchnorm._BatchNorm


def layers(net: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Convolutions and linear layers, in module order."""
    return [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [module for module in net.modules() if isinstance(module, nn.Conv2d)]


def first_convolution(net: nn.Module) -> nn.Conv2d:
    return convolutions(net)[0]


def names_in(net: nn.Module, *kinds: type[nn.Module]) -> list[str]:
    """Names of the parameters that belong to modules of these types."""
    names = []
    for prefix, module in net.named_modules():
        if isinstance(module, kinds):
            names += [f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters(recurse=False)]
    return names


def head_names(net: nn.Module) -> set[str]:
    last = {id(p) for p in head(net).parameters()}
    return {name for name, p in net.named_parameters() if id(p) in last}


def last_names(net: nn.Module, k: int) -> tuple[set[str], list[nn.Conv2d | nn.Linear]]:
    """The last ``k`` convolutions and linear layers, and the names of their parameters and of all batch norms behind them."""
    names: set[str] = set()
    parts: list[nn.Conv2d | nn.Linear] = []
    for prefix, module in reversed(list(net.named_modules())):
        if len(parts) < k and isinstance(module, nn.Conv2d | nn.Linear | _BatchNorm):
            names |= {f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters(recurse=False)}
            if not isinstance(module, _BatchNorm):
                parts.append(module)
    return names, parts


def in_shortcut(name: str) -> bool:
    """Whether a parameter belongs to a projection shortcut (torchvision's ``downsample``)."""
    return "downsample" in name or "shortcut" in name


def main_path_norms(net: nn.Module) -> set[str]:
    """Batch-norm parameters outside shortcuts: those whose names hold "bn" in torchvision's ResNets."""
    return {name for name in names_in(net, _BatchNorm) if not in_shortcut(name)}


def reset(net: nn.Module, name: str) -> None:
    """Draw one parameter tensor anew, as its layer's constructor does; batch norm: weight 1, bias 0."""
    prefix, _, own = name.rpartition(".")
    module = net.get_submodule(prefix)
    before = {n: p.clone() for n, p in module.named_parameters(recurse=False) if n != own}
    statistics = {n: b.clone() for n, b in module.named_buffers(recurse=False)}
    module.reset_parameters()  # type: ignore[operator]
    for n, p in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if n != own:
            p.copy_((before | statistics)[n])


def add_noise(tensor: Tensor, std: float) -> None:
    """In place: + N(0, std²), element by element."""
    tensor.add_(torch.randn_like(tensor), alpha=std)


def extreme(scores: Tensor, fraction: float, *, largest: bool) -> Tensor:
    """Mask of the ``fraction`` of entries with the largest (smallest) score along the last dimension, bool as ``scores``."""
    count = round(fraction * scores.shape[-1])
    chosen = scores.argsort(dim=-1, descending=largest, stable=True)[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, True)


def extreme_of_all(
    scores: dict[str, Tensor], fraction: float, *, largest: bool, lead: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    """:func:`extreme` over all tensors [*lead, ...] of a model together, for every model by itself."""
    flat = [score.reshape(*lead, -1) for score in scores.values()]
    mask = extreme(torch.cat(flat, dim=-1), fraction, largest=largest)
    parts = torch.split(mask, [part.shape[-1] for part in flat], dim=-1)
    return {name: part.reshape(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}
