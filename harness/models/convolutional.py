"""Convolutional networks: torchvision's, with a first layer for small images where wanted, and ResNet-9."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.torchvision_import import torchvision


def resnet18_cifar(*, classes: int, channels: int) -> nn.Module:
    """torchvision's ResNet-18 with the usual change for small images: a 3×3 first convolution, and no max-pooling."""
    net = torchvision("models").resnet18(weights=None, num_classes=classes)
    net.conv1 = _first_layer(channels, net.conv1.out_channels, stride=1)
    net.maxpool = nn.Identity()
    return cast(nn.Module, net)


def resnet9(*, classes: int, channels: int, widths: tuple[int, int, int, int] = (64, 128, 256, 512)) -> nn.Module:
    """Eight 3×3 convolutions, two residual blocks among them, and a head; the short network of fast CIFAR-10 training.

    As in the DAWNBench entries by D. Page and their copies; global max-pooling, so that any image size will do.
    """
    a, b, c, d = widths
    return nn.Sequential(
        _block(channels, a),
        _block(a, b, pool=True),
        Residual(nn.Sequential(_block(b, b), _block(b, b))),
        _block(b, c, pool=True),
        _block(c, d, pool=True),
        Residual(nn.Sequential(_block(d, d), _block(d, d))),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(d, classes),
    )


def mobilenet_v2(*, classes: int, channels: int, small_images: bool = True, dropout: float = 0.2) -> nn.Module:
    """torchvision's MobileNetV2. small_images: the first convolution does not halve the image."""
    net = torchvision("models").mobilenet_v2(weights=None, num_classes=classes, dropout=dropout)
    first = net.features[0]
    first[0] = _first_layer(channels, first[0].out_channels, stride=1 if small_images else 2)
    return cast(nn.Module, net)


def shufflenet_v2(*, classes: int, channels: int, small_images: bool = True) -> nn.Module:
    """torchvision's ShuffleNetV2 ×1.0. small_images: neither first convolution nor max-pooling halve the image."""
    net = torchvision("models").shufflenet_v2_x1_0(weights=None, num_classes=classes)
    net.conv1[0] = _first_layer(channels, net.conv1[0].out_channels, stride=1 if small_images else 2)
    if small_images:
        net.maxpool = nn.Identity()
    return cast(nn.Module, net)


class Residual(nn.Module):
    """x + inner(x)"""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.inner(x)
        return x + change


class HalvingMaxPool(nn.Module):
    """2×2 max-pooling; an image of one pixel stays as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) if min(x.shape[-2:]) > 1 else x


def _block(before: int, after: int, *, pool: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(True)]
    return nn.Sequential(*layers, HalvingMaxPool()) if pool else nn.Sequential(*layers)


def _first_layer(channels: int, width: int, *, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
