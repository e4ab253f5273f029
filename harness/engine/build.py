"""Where models are computed, and how an ensemble of fresh ones is built there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness import models as architectures
from harness.engine.ensemble import Ensemble
from harness.engine.sequential import Sequential
from harness.engine.stacked import Stacked
from harness.engine.training_options import TrainingOptions
from harness.task import Task


@dataclass(frozen=True)
class Engine:
    """Where and how draws are computed. ``numeric_class`` is the part that can change their bits."""

    device: str
    stacked: bool

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def numeric_class(self, precision: str) -> str:
        return f"{self.device.partition(':')[0]}/{precision}/{'stacked' if self.stacked else 'sequential'}"

    def synchronise(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def build_ensemble(
    model: Mapping[str, Any], task: Task, seeds: Sequence[int], *, engine: Engine, options: TrainingOptions
) -> Ensemble:
    """Freshly initialised models, one per seed, on the engine's device."""

    def build(seed: int) -> nn.Module:
        net = architectures.build(model, classes=task.classes, channels=task.images.shape[-1], seed=seed)
        net = net.to(torch.device(engine.device), options.dtype)
        in_place: nn.Module = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return in_place

    nets = [build(seed) for seed in seeds]
    bf16 = options.precision == "bf16"
    return Stacked(nets, build=build, bf16=bf16) if engine.stacked else Sequential(nets[0], build=build, bf16=bf16)
