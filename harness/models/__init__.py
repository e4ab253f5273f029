"""The architectures, and what the engine needs of any of them: per-model dropout and a reproducible initialisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.models import pretrained
from harness.models.convolutional import mobilenet_v2, resnet9, resnet18_cifar, shufflenet_v2
from harness.models.torchvision_import import torchvision
from harness.models.vit import vit_b_16, vit_tiny
from harness.streams import global_seed

__all__ = [
    "Dropout",
    "build",
    "head",
    "identity",
    "mobilenet_v2",
    "resnet9",
    "resnet18",
    "resnet18_cifar",
    "shufflenet_v2",
    "small_cnn",
    "vit_b_16",
    "vit_tiny",
]


def small_cnn(*, classes: int, channels: int, widths: tuple[int, int, int] = (16, 32, 64)) -> nn.Module:
    """Three 3×3 convolutions with batch norm; the first two halve the image, then global average pooling and a head."""
    layers: list[nn.Module] = []
    before = channels
    for i, width in enumerate(widths):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        if i < 2:
            layers.append(nn.MaxPool2d(2))
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def resnet18(*, classes: int, channels: int) -> nn.Module:
    """torchvision's ResNet-18 with its 7×7 stem, as in the competition; the stem takes ``channels`` input channels."""
    net = torchvision("models").resnet18(weights=None, num_classes=classes)
    if channels != 3:
        stem = net.conv1
        net.conv1 = nn.Conv2d(channels, stem.out_channels, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    return cast(nn.Module, net)


def head(net: nn.Module) -> nn.Linear:
    """The last linear layer. Raises UserError if there is none."""
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(f"{type(net).__name__} has no linear layer, so what enters its head is not defined")
    return linear[-1]


def build(spec: Mapping[str, Any], *, classes: int, channels: int, seed: int) -> nn.Module:
    """Build the model of a config node: ``_target_``, its options, and perhaps ``pretrained``, a file of weights.

    Weights are freshly drawn, a function of ``seed``, except for those the file gives.
    """
    from hydra.utils import instantiate

    options = {key: value for key, value in spec.items() if not key.startswith("pretrained")}
    with global_seed(seed):
        net = instantiate(options, classes=classes, channels=channels)
    if spec.get("pretrained"):
        pretrained.load(net, spec["pretrained"], spec.get("pretrained_sha256"))
    return _with_own_dropout(net)


def identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config node determines the models: of pretrained weights their content, not where the file lies."""
    return {key: value for key, value in spec.items() if key != "pretrained"}


class Dropout(nn.Dropout):
    """Dropout whose mask is a function of (this model's stream, call number, position) alone.

    ``nn.Dropout`` draws from one global generator, so in a stack a model's mask would depend on its neighbours.
    """

    stream: Tensor
    calls: Tensor

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self.register_buffer("stream", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        self.calls += 1
        position = torch.arange(x.numel(), device=x.device).view(x.shape)
        hashed = _mix(_mix(self.stream + 0x9E3779B9 * self.calls) + position)
        return x * (hashed >= self.p * 2**32) / (1 - self.p)


def _mix(x: Tensor) -> Tensor:
    """A 32-bit finaliser (Murmur3's constants) in int64 arithmetic: uniform on 0 .. 2^32 - 1."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


def _with_own_dropout(net: nn.Module) -> nn.Module:
    for parent in list(net.modules()):
        for name, child in list(parent._modules.items()):  # named_children() leaves out a module that is used twice
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p))
    return net
