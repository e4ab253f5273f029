"""Throw-away training steps: they warm a process up, and tell what a step takes in time and in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from harness.engine.batches import Images, split_of
from harness.engine.build import Engine, build_ensemble
from harness.engine.ensemble import Ensemble
from harness.engine.losses import cross_entropy
from harness.engine.training_options import TrainingOptions
from harness.streams import Rng
from harness.task import Task

WARM_UP_STEPS = 3  # the first steps of a process pay for lazy initialisation


@dataclass(frozen=True)
class Probe:
    """What a training step of one model takes.

    seconds: NaN where no step was timed. weights: bytes of parameters and buffers. activations: bytes that autograd keeps of one
    batch (0 in a stack, where hooks do not see them). peak: the most bytes a GPU held for it (0 on a CPU).
    """

    seconds: float
    weights: int
    activations: int
    peak: int


def probe(
    model: Mapping[str, Any],
    task: Task,
    *,
    engine: Engine,
    options: TrainingOptions,
    images: Images | None = None,
    steps: int = 0,
    stack: int = 2,
) -> Probe:
    """Train a model (``stack`` models, where the engine is stacked) for some steps, and throw it away.

    The first three steps are not timed: without ``steps`` this is a warm-up. images: the task's, where they are loaded.
    """
    device = torch.device(engine.device)
    images = images or Images(task, device=device, dtype=options.dtype)
    before = _allocated_from_here(device)
    models = build_ensemble(model, task, [0] * (stack if engine.stacked else 1), engine=engine, options=options)
    split = split_of(task, images, Rng([0] * models.size, stacked=models.stacked), "retain")
    optimizer = models.sgd(lr=0.0, momentum=0.9)
    kept: dict[int, int] = {}
    start = time.perf_counter()
    for step, (x, y) in enumerate(split.first_batches(WARM_UP_STEPS + steps, options.batch_size)):
        if step == WARM_UP_STEPS:
            engine.synchronise()
            start = time.perf_counter()
        with _noting(kept, models) if step == 0 and not models.stacked else nullcontext():
            models.step(optimizer, cross_entropy, x, y)
    engine.synchronise()
    seconds = (time.perf_counter() - start) / steps / models.size if steps else float("nan")
    peak = torch.cuda.max_memory_allocated(device) - before if engine.on_gpu else 0
    return Probe(seconds, weight_bytes(models), sum(kept.values()), peak // models.size)


def weight_bytes(models: Ensemble) -> int:
    """Of the parameters and buffers of one model."""
    tensors = [*models.parameters.values(), *models.buffers.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) // models.size


@contextmanager
def _noting(kept: dict[int, int], models: Ensemble) -> Iterator[None]:
    """Note the bytes of every storage that autograd keeps, by address; parameters are kept anyway."""
    own = {parameter.untyped_storage().data_ptr() for parameter in models.parameters.values()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        yield


def _allocated_from_here(device: torch.device) -> int:
    """Bytes that a GPU has given out; from now on its peak is counted anew."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)
