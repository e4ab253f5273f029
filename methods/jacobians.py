"""Jacobians of a network's logits in some of its parameters, for every example. For ONE plain module, in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

BatchNorm = nn.modules.batchnorm._BatchNorm


def jacobian(net: nn.Module, names: list[str], x: Tensor) -> Tensor:
    """∂ logits / ∂ the parameters ``names`` (evaluation mode), [n, C, P] in their order, as x."""
    layers = {name: net.get_submodule(name.rpartition(".")[0]) for name in names}
    if all(isinstance(layer, BatchNorm | nn.LayerNorm | nn.Linear) for layer in layers.values()):
        return _by_layer(net, names, layers, x)
    return _by_example(net, names, x)


def _by_layer(net: nn.Module, names: list[str], layers: dict[str, nn.Module], x: Tensor) -> Tensor:
    """From inputs and output gradients of norms and linear layers: C backward passes, no gradients of single examples."""
    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs[layer], outputs[layer] = args[0].detach(), output
        return output.clone()  # so that an in-place activation behind it leaves ``output`` alone

    used = list(dict.fromkeys(layers.values()))
    hooks = [layer.register_forward_hook(keep) for layer in used]
    try:
        with torch.enable_grad():
            logits = net(x)
    finally:
        for hook in hooks:
            hook.remove()
    of_class = []
    for c in range(logits.shape[-1]):
        gradients = torch.autograd.grad(logits[:, c].sum(), [outputs[layer] for layer in used], retain_graph=True)
        gradient = dict(zip(used, gradients, strict=True))
        parts = [_own(layers[name], name, inputs[layers[name]], gradient[layers[name]]) for name in names]
        of_class.append(torch.cat([part.flatten(1) for part in parts], dim=1))
    return torch.stack(of_class, dim=1).detach()


def _own(layer: nn.Module, name: str, h: Tensor, g: Tensor) -> Tensor:
    """Gradient of each example [n, ...] for one parameter of a layer with input h and output gradient g."""
    weight = name.endswith("weight")
    if isinstance(layer, nn.Linear):
        g, h = g.reshape(len(g), -1, g.shape[-1]), h.reshape(len(h), -1, h.shape[-1])
        return torch.einsum("nto,nti->noi", g, h) if weight else g.sum(1)
    if isinstance(layer, nn.LayerNorm):
        product = g * F.layer_norm(h, layer.normalized_shape, eps=layer.eps) if weight else g
        return product.reshape(len(g), -1, g.shape[-1]).sum(1)
    assert isinstance(layer, BatchNorm)
    product = g * F.batch_norm(h, layer.running_mean, layer.running_var, eps=layer.eps) if weight else g
    return product.flatten(2).sum(2) if product.ndim > 2 else product


def _by_example(net: nn.Module, names: list[str], x: Tensor) -> Tensor:
    chosen, f = function_of(net, names)
    each = vmap(jacrev(lambda theta, x: f(theta, x[None])[0]), (None, 0))(chosen, x)
    return torch.cat([each[name].flatten(2) for name in names], dim=2).detach()


def function_of(net: nn.Module, names: list[str]) -> tuple[dict[str, Tensor], Callable[..., Tensor]]:
    """The chosen parameters, and the logits as a function of them and of x."""
    state = {name: tensor.detach() for name, tensor in [*net.named_parameters(), *net.named_buffers()]}
    chosen = {name: state.pop(name) for name in names}
    return chosen, lambda theta, x: functional_call(net, theta | state, (x,))
