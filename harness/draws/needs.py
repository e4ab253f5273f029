"""What pools of draws need of the machine: disk in the store, memory, and how many models fit into one stack."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.draws.executor import Pool
from harness.draws.memorisation import SubsetTraining
from harness.draws.probe import probe, weight_bytes
from harness.draws.stages import Stage, Training, task_on_device
from harness.draws.store import Store
from harness.engine.build import Engine
from harness.errors import UserError
from harness.task import Task

_FILE = 8192  # header, checksum, and the rest of a disk block
_PROCESS = 350_000_000  # a Python process with torch loaded
_OPTIMIZER_STATE = {"sgd": 1, "adam": 2, "adamw": 2}  # tensors as large as the weights
_STACK_ON_CPU = 8
_LARGEST_STACK = 128
_USABLE = 0.7  # of a GPU's free memory: fragmentation, and methods that keep a teacher beside the models
_PLAIN = Engine("cpu", stacked=False)


def bytes_per_draw(stage: Stage, store: Store) -> int:
    """What one draw takes in the store: float32 logits, and for originals the weights."""
    training = stage if isinstance(stage, Training) else stage.originals
    task, _ = task_on_device(store.root, training.task_hash, _PLAIN.device, training.options.dtype)
    if isinstance(stage, SubsetTraining):
        return 2 * (len(task.splits["retain"]) + len(task.splits["forget"])) + _FILE
    examples = len(task.retain_sample) + sum(len(task.splits[name]) for name in ("forget", "valid", "test"))
    keeps_weights = stage is training and training.role == "original"
    weights = (
        weight_bytes(training.fresh(task, [0], _PLAIN)) if keeps_weights else 0
    )  # built only: a step costs seconds
    return 4 * task.classes * examples + weights + _FILE


def missing_bytes(pools: Sequence[Pool], store: Store) -> int:
    """What the missing draws of ``pools`` will take on the store's disk."""
    missing = [(pool.stage, len(store.missing(pool.stage.key, pool.draws))) for pool in pools]
    return sum(count * bytes_per_draw(stage, store) for stage, count in missing if count)


def free_bytes(store: Store) -> int:
    return shutil.disk_usage(store.root).free


def check_disk(pools: Sequence[Pool], store: Store) -> None:
    """Raises UserError, with the numbers, if the store's disk cannot hold what is missing."""
    needed, free = missing_bytes(pools, store), free_bytes(store)
    if needed > free:
        raise UserError(
            f"the draws that are missing take {needed / 1e9:.2f} GB, but the disk of the store {store.root} has only "
            f"{free / 1e9:.2f} GB free: make room, point $UNLEARN_STORE to a larger disk, or lower protocol.n; "
            "unlearn plan shows what takes how much"
        )


@dataclass(frozen=True)
class Memory:
    """Bytes, estimated. model: one model in training; shared: what all models of a process or a stack have in common."""

    model: int
    shared: int

    def of_workers(self, workers: int, stack: int | None) -> int:
        """Of all worker processes, each with a stack (of unknown size: one model)."""
        return workers * (_PROCESS + self.shared + self.model * (stack or 1))

    def of_stack(self, stack: int | None) -> int:
        """Of one stack on a GPU (of unknown size: one model)."""
        return self.shared + self.model * (stack or 1)


def memory(training: Training, task: Task) -> Memory:
    """From the weights, the optimiser's state, and the activations that one training step of one model keeps."""
    options = training.options
    step = probe(training.model, task, engine=_PLAIN, options=options)
    copies = 3 + _OPTIMIZER_STATE[options.optimizer] + (options.checkpoint == "best")
    return Memory(model=copies * step.weights + step.activations, shared=task.images.nbytes)


def stack_size(training: Training, store: Store) -> int:
    """Models per stack: on a GPU from the peak memory of training steps of two models, on a CPU a constant."""
    if not training.engine.on_gpu:
        return _STACK_ON_CPU
    task = store.get_task(training.task_hash)
    step = probe(training.model, task, engine=training.engine, options=training.options, stack=2)
    free = torch.cuda.mem_get_info(torch.device(training.engine.device))[0]
    return int(max(1, min(_LARGEST_STACK, _USABLE * free / step.peak)))
