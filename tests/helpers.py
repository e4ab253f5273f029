"""A tiny task, tiny models and small methods that the tests share; importable by name in worker processes too."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.data.digits import digits
from harness.draws.stages import FinishedDraw, Training, Unlearning
from harness.draws.store import Store
from harness.engine.batches import Data, Images, Split, method_data
from harness.engine.build import Engine, build_ensemble
from harness.engine.dropout import use_streams
from harness.engine.ensemble import Ensemble
from harness.engine.training_options import TrainingOptions
from harness.errors import NotApplicable
from harness.registry.methods import MethodSpec, spec
from harness.streams import Rng
from harness.task import Source, Task
from harness.tasks.splits import make_task

SMALL_CNN = {"_target_": "harness.models.small_cnn", "widths": [4, 6, 8]}
DROPOUT_NET = {"_target_": "tests.helpers.dropout_net"}
ENGINES = {"sequential": False, "stacked": True}


# --- tasks ----------------------------------------------------------------------------------------------------------


def tiny_task() -> Task:
    """44 retain, 16 forget, 15 valid and 20 test images of scikit-learn's digits."""
    forget = {"kind": "random", "n": 16}
    return make_task(digits(), forget=forget, split_seed=0, train_limit=60, test_limit=20, valid_fraction=0.25)


def colour_task(side: int = 8, n: int = 60) -> Task:
    """Random images with three channels: layouts in memory differ there."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    source = Source(name="noise", images=images, labels=rng.integers(0, 3, n), classes=3)
    return make_task(source, forget={"kind": "random", "n": n // 5}, split_seed=0)


def with_labels(task: Task, split: str, shift: int = 1) -> Task:
    """The same task with every label of one split changed."""
    labels = task.labels.copy()
    labels[task.splits[split]] = (labels[task.splits[split]] + shift) % task.classes
    return replace(task, labels=labels)


def with_noise(task: Task, split: str) -> Task:
    """The same task with every image of one split replaced by noise."""
    images = task.images.copy()
    index = task.splits[split]
    images[index] = np.random.default_rng(0).integers(0, 16, images[index].shape)
    return replace(task, images=images)


# --- models ---------------------------------------------------------------------------------------------------------


def dropout_net(*, classes: int, channels: int, p: float = 0.4) -> nn.Module:
    """A convolution, batch norm and two dropouts."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(p / 2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 12),
        nn.ReLU(),
        nn.Dropout(p),
        nn.Linear(12, classes),
    )


class MaskNet(nn.Module):
    """Its gradient is its dropout mask."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2000))
        self.drop = nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.weight) + x


def mask_net(*, classes: int, channels: int) -> nn.Module:
    return MaskNet()


def broken_net(*, classes: int, channels: int) -> nn.Module:
    raise ValueError("no such layer")


# --- draws ----------------------------------------------------------------------------------------------------------


def tiny_options(**changes: Any) -> TrainingOptions:
    values = {"lr": 0.05, "weight_decay": 5e-4, "epochs": 2, "batch_size": 16, "precision": "float64"}
    return TrainingOptions(**(values | changes))


def training(
    task: Task, *, model: dict[str, Any] = SMALL_CNN, stacked: bool = False, role: Any = "original", **options: Any
) -> Training:
    return Training(task.hash, model, tiny_options(**options), role, 0, Engine("cpu", stacked))


def put(store: Store, stage: Training, draws: Sequence[int]) -> None:
    """Make and store ``draws``, one at a time or as one stack, as the engine has it."""
    groups = [draws] if stage.engine.stacked else [[draw] for draw in draws]
    for draw in (draw for group in groups for draw in stage.make(group, store)):
        store.put(stage.key, draw.index, draw.tensors, draw.facts)


def built_in(name: str, **changes: Any) -> MethodSpec:
    return spec(name, task="tests", recipe="authors", changes=changes)


def method(function: str, **parameters: Any) -> MethodSpec:
    """One of the methods below."""
    return MethodSpec(function, "own", f"tests.helpers.{function}", parameters)


def fresh(task: Task, seeds: Sequence[int], *, stacked: bool, model: Any = SMALL_CNN, **options: Any) -> Ensemble:
    """Untrained models; sequential ensembles take the first seed only."""
    seeds = seeds if stacked else seeds[:1]
    return build_ensemble(model, task, seeds, engine=Engine("cpu", stacked), options=tiny_options(**options))


def rng_for(models: Ensemble, seeds: Sequence[int]) -> Rng:
    return Rng(list(seeds)[: models.size], stacked=models.stacked)


def images_of(task: Task, dtype: torch.dtype = torch.float64) -> Images:
    return Images(task, device=torch.device("cpu"), dtype=dtype)


def split(task: Task, name: str, rng: Rng, dtype: torch.dtype = torch.float64) -> Split:
    return Split(images_of(task, dtype), torch.from_numpy(task.splits[name]), rng)


def data_for(task: Task, rng: Rng, **options: Any) -> Data:
    return method_data(task, images_of(task), rng, tiny_options(**options))


def unlearn(stage: Unlearning, draws: Sequence[int], store: Store, task: Task) -> Ensemble:
    """As ``Unlearning.make``, but returns the models."""
    models = stage.originals.restore(stage.parents(draws), store)
    use_streams(models, stage._rng("dropout", draws))
    models.train()
    data = method_data(
        task, images_of(task, stage.originals.options.dtype), stage._rng("order", draws), stage.originals.options
    )
    stage.method.build().unlearn(models, data, stage._rng("noise", draws))
    return models


def differences(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, float]:
    assert a.keys() == b.keys()
    return {name: float((a[name].double() - b[name].double()).abs().max()) for name in a}


def identical(a: FinishedDraw, b: FinishedDraw) -> bool:
    """Equal in every byte of every tensor."""
    return a.tensors.keys() == b.tensors.keys() and all(
        a.tensors[n].contiguous().numpy().tobytes() == b.tensors[n].contiguous().numpy().tobytes() for n in a.tensors
    )


# --- methods, as a user writes them ---------------------------------------------------------------------------------


def traced(net: Any, retain: Any, forget: Any, valid: Any, *, log: str, sleep: float = 0.0) -> None:
    """Leaves a line when it starts and one when it ends, and changes the net by a random number."""
    _note(log, "start")
    with torch.no_grad():
        next(iter(net.parameters())).add_(torch.randn(()))
    time.sleep(sleep)
    _note(log, "end")


def dies(net: Any, retain: Any, forget: Any, valid: Any) -> None:
    os._exit(1)


def raises(net: Any, retain: Any, forget: Any, valid: Any, *, kind: str = "ValueError") -> None:
    if kind == "KeyError":
        raise KeyError("boom")
    raise ValueError("boom\nand a second line")


def declines(models: Any, data: Any, rng: Any) -> None:
    raise NotApplicable("forgets classes only")


def reset_head(net: Any, retain: Any, forget: Any, valid: Any) -> None:
    net[-1].reset_parameters()


def _note(log: str, what: str) -> None:
    with open(log, "a") as file:  # one short line, appended in one write
        file.write(f"{what} {os.getpid()} {time.time()}\n")


def read_log(log: Path) -> list[tuple[str, int, float]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [(what, int(pid), float(when)) for what, pid, when in map(str.split, lines)]
