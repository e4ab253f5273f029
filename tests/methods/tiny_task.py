"""A task of a few random images and ensembles for it, in float64: what the tests of single methods share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.engine.batches import Data, Images, method_data
from harness.engine.build import Engine, build_ensemble
from harness.engine.ensemble import Ensemble
from harness.engine.training_options import TrainingOptions
from harness.registry import methods as registry
from harness.streams import Rng, seed_for
from harness.task import Task

SMALL = {"_target_": "harness.models.small_cnn", "widths": [4, 4, 6]}
RESNET = {"_target_": "harness.models.resnet18"}
OPTIONS = TrainingOptions(epochs=2, batch_size=16, precision="float64")


def tiny_task(*, whole_class: bool = False, channels: int = 1, classes: int = 3) -> Task:
    """40 retain, 12 forget, 18 valid, 6 test images; ``whole_class``: forget is class 0, which retain then lacks."""
    rng = np.random.default_rng(0)
    sizes = {"retain": 40, "forget": 12, "valid": 18, "test": 6}
    n = sum(sizes.values())
    bounds = np.cumsum([0, *sizes.values()])
    splits = {name: np.arange(a, b) for name, a, b in zip(sizes, bounds, bounds[1:], strict=False)}
    labels = np.arange(n) % classes
    if whole_class:
        labels[splits["retain"]] = 1 + np.arange(40) % (classes - 1)
        labels[splits["forget"]] = 0
    images = rng.normal(size=(n, 8, 8, channels)).astype(np.float32) + labels[:, None, None, None] / 2
    images = images.astype(np.float32)
    zeros, ones = np.zeros(channels), np.ones(channels)
    return Task(
        "tiny", "random", classes, images, labels, None, splits, splits["retain"][:10], zeros, ones, np.arange(n)
    )


def ensemble(task: Task, draws: Sequence[int], *, stacked: bool, model: dict[str, Any] | None = None) -> Ensemble:
    seeds = [seed_for("model", d) for d in draws]
    models = build_ensemble(model or SMALL, task, seeds, engine=Engine("cpu", stacked), options=OPTIONS)
    models.initial = models.snapshot()
    return models


def rng_of(draws: Sequence[int], *, stacked: bool, purpose: str = "noise") -> Rng:
    return Rng([seed_for(purpose, d) for d in draws], stacked=stacked)


def data_of(task: Task, draws: Sequence[int], *, stacked: bool) -> Data:
    images = Images(task, device=torch.device("cpu"), dtype=torch.float64)
    return method_data(task, images, rng_of(draws, stacked=stacked, purpose="order"), OPTIONS)


def one(*, task: Task | None = None, model: dict[str, Any] | None = None) -> tuple[Ensemble, Data, Rng]:
    """A single model, its data and its stream."""
    task = task or tiny_task()
    return (
        ensemble(task, [0], stacked=False, model=model),
        data_of(task, [0], stacked=False),
        rng_of([0], stacked=False),
    )


def built(name: str, **changes: Any) -> Any:
    """The method called ``name`` with the authors' constants, but for ``changes``."""
    return registry.spec(name, task="tiny", recipe="authors", changes=changes).build()


def constants(name: str) -> dict[str, Any]:
    return {key: value for key, value in registry.defaults(name).items() if key != "_target_"}


def plain(models: Ensemble) -> nn.Module:
    return models.template


def unlearned_state(name: str, draws: Sequence[int], *, stacked: bool, task: Task, **changes: Any) -> dict[str, Tensor]:
    """Weights and buffers after the method, each [draws, ...]."""
    ensembles = [draws] if stacked else [[d] for d in draws]
    states = []
    for some in ensembles:
        models = ensemble(task, some, stacked=stacked)
        models.train()
        built(name, **changes).unlearn(models, data_of(task, some, stacked=stacked), rng_of(some, stacked=stacked))
        states.append(models.state())
    if stacked:
        return states[0]
    return {key: torch.stack([state[key] for state in states]) for key in states[0]}
