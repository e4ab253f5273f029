"""Vision transformers, with visual prompts: extra tokens that can be trained while everything else stays as it is."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.torchvision_import import torchvision


def vit_tiny(
    *,
    classes: int,
    channels: int,
    image_size: int = 32,
    patch_size: int = 4,
    layers: int = 12,
    prompts: int = 0,
    deep: bool = False,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
) -> nn.Module:
    """The width of DeiT-Tiny (192, three heads), for small images."""
    shape = {"num_layers": layers, "num_heads": 3, "hidden_dim": 192, "mlp_dim": 768}
    chances = {"dropout": dropout, "attention_dropout": attention_dropout}
    vit = torchvision("models").VisionTransformer(image_size, patch_size, num_classes=classes, **shape, **chances)
    return PromptedTransformer(vit, channels, prompts, deep)


def vit_b_16(
    *,
    classes: int,
    channels: int,
    image_size: int = 224,
    patch_size: int = 16,
    layers: int = 12,
    prompts: int = 0,
    deep: bool = False,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
) -> nn.Module:
    """torchvision's ViT-B/16; its published weights fit (``pretrained=``). Images of another size are interpolated."""
    shape = {"num_layers": layers, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
    chances = {"dropout": dropout, "attention_dropout": attention_dropout}
    vit = torchvision("models").VisionTransformer(image_size, patch_size, num_classes=classes, **shape, **chances)
    return PromptedTransformer(vit, channels, prompts, deep)


class PromptedTransformer(nn.Module):
    """The parts of a torchvision ``VisionTransformer`` under their own names, and the prompts (Jia et al. 2022).

    prompts: parameters [depth, k, width] that stand between the class token and the patches; depth 1 (*shallow*: they enter
    the first layer and are carried on) or the number of layers (*deep*: every layer gets new ones). None where k = 0.
    """

    prompts: nn.Parameter | None
    conv_proj: nn.Module
    encoder: Any
    heads: nn.Module

    def __init__(self, vit: Any, channels: int, prompts: int, deep: bool) -> None:
        super().__init__()
        self.image_size: int = vit.image_size
        self.class_token: nn.Parameter = vit.class_token
        self.conv_proj, self.encoder, self.heads = vit.conv_proj, vit.encoder, vit.heads
        width, patch = vit.hidden_dim, vit.patch_size
        if channels != vit.conv_proj.in_channels:
            first = nn.Conv2d(channels, width, patch, stride=patch, bias=True)
            nn.init.trunc_normal_(first.weight, std=math.sqrt(1 / (channels * patch * patch)))
            nn.init.zeros_(first.bias)  # type: ignore[arg-type]
            self.conv_proj = first
        for layer in self.encoder.layers:
            layer.self_attention = SelfAttention(layer.self_attention)
        self.deep = deep
        self.prompts = None
        if prompts:
            bound = math.sqrt(6 / (channels * patch * patch + width))
            depth = len(self.encoder.layers) if deep else 1
            self.prompts = nn.Parameter(torch.empty(depth, prompts, width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.image_size, self.image_size):
            x = F.interpolate(x, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False)
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], 1) + self.encoder.pos_embedding
        if self.prompts is not None:
            x = torch.cat([x[:, :1], self.prompts[0].expand(len(x), -1, -1), x[:, 1:]], 1)
        x = self.encoder.dropout(x)
        for i, layer in enumerate(self.encoder.layers):
            if i and self.deep and self.prompts is not None:
                fresh = self.prompts[i].expand(len(x), -1, -1)
                x = torch.cat([x[:, :1], fresh, x[:, 1 + fresh.shape[1] :]], 1)
            x = layer(x)
        logits: Tensor = self.heads(self.encoder.ln(x)[:, 0])
        return logits


class SelfAttention(nn.Module):
    """What ``nn.MultiheadAttention`` computes of a single sequence, with its parameters under its names.

    That module draws its dropout inside a fused kernel, from one global generator; here it is a module like any other, which
    :func:`harness.models.build` gives a stream for each model.
    """

    def __init__(self, like: nn.MultiheadAttention) -> None:
        super().__init__()
        self.in_proj_weight, self.in_proj_bias = like.in_proj_weight, like.in_proj_bias
        self.out_proj = like.out_proj
        self.heads = like.num_heads
        self.dropout = nn.Dropout(like.dropout)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, need_weights: bool = False) -> tuple[Tensor, None]:
        """x [B, tokens, width]; key and value are x again, as its caller passes them."""
        batch, tokens, width = x.shape
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = projected.reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = self.dropout(torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(width // self.heads), dim=-1))
        return self.out_proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width)), None
