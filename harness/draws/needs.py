"""What a benchmark needs of the machine before it starts: disk in the store, and memory."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from harness.benchmark import Benchmark
from harness.draws.executor import Pool
from harness.draws.memorisation import SubsetTraining
from harness.draws.stages import Engine, build_ensemble
from harness.draws.store import Store
from harness.engine.batches import Images, split_of
from harness.engine.ensemble import Ensemble
from harness.engine.losses import cross_entropy
from harness.engine.streams import Rng
from harness.errors import UserError

_FILE = 8192  # header, checksum, and the rest of a disk block
_PROCESS = 350_000_000  # a Python process with torch loaded
_OPTIMIZER_STATE = {"sgd": 1, "adam": 2, "adamw": 2}  # tensors as large as the weights


def bytes_per_draw(benchmark: Benchmark, pool: Pool) -> int:
    """What one draw takes in the store: float32 logits, and for originals the weights."""
    task = benchmark.task
    if isinstance(pool.stage, SubsetTraining):
        return 2 * (len(task.splits["retain"]) + len(task.splits["forget"])) + _FILE
    examples = len(task.retain_sample) + sum(len(task.splits[name]) for name in ("forget", "valid", "test"))
    logits = 4 * task.classes * examples
    return logits + _FILE + (_weights(benchmark) if pool.stage is benchmark.originals else 0)


def disk(benchmark: Benchmark, store: Store) -> int:
    """Bytes that the missing draws will take."""
    return sum(
        len(store.missing(pool.stage.key, pool.draws)) * bytes_per_draw(benchmark, pool)
        for pool in all_pools(benchmark)
    )


def check_disk(benchmark: Benchmark, store: Store) -> None:
    """Raises UserError, with the numbers, if the store's disk cannot hold what is missing."""
    needed, free = disk(benchmark, store), free_bytes(store)
    if needed > free:
        raise UserError(
            f"the draws that are missing take {needed / 1e9:.2f} GB, but the disk of the store {store.root} has only "
            f"{free / 1e9:.2f} GB free: make room, point $UNLEARN_STORE to a larger disk, or lower protocol.n "
            f"({benchmark.protocol.n}); unlearn plan shows what takes how much"
        )


def free_bytes(store: Store) -> int:
    return shutil.disk_usage(store.root).free


def all_pools(benchmark: Benchmark) -> list[Pool]:
    """What is trained to choose the forget set, then what is compared."""
    return ([benchmark.preparation] if benchmark.preparation is not None else []) + benchmark.pools()


@dataclass(frozen=True)
class Memory:
    """Bytes, estimated. model: one model in training; shared: what all models of a process or a stack have in common."""

    model: int
    shared: int

    def total(self, benchmark: Benchmark) -> int:
        """Of all worker processes; on a GPU, of one stack (a stack of unknown size counts as one model)."""
        if benchmark.engine.device.startswith("cuda"):
            return self.shared + self.model * (benchmark.stack or 1)
        return benchmark.workers * (_PROCESS + self.shared + self.model * (benchmark.stack or 1))


def memory(benchmark: Benchmark) -> Memory:
    """From the weights, the optimiser's state, and the activations that one training step of one model keeps."""
    weights = _weights(benchmark)
    copies = 3 + _OPTIMIZER_STATE[benchmark.training.optimizer] + (benchmark.training.checkpoint == "best")
    return Memory(model=copies * weights + _activations(benchmark), shared=benchmark.task.images.nbytes)


def _weights(benchmark: Benchmark) -> int:
    return sum(t.numel() * t.element_size() for t in _one_model(benchmark).state().values())


def _activations(benchmark: Benchmark) -> int:
    """Bytes that autograd keeps of one batch, measured on one model."""
    models, task = _one_model(benchmark), benchmark.task
    images = Images(task, device=torch.device("cpu"), dtype=benchmark.training.dtype)
    ((x, y),) = split_of(task, images, Rng([0], stacked=False), "retain").first_batches(
        1, benchmark.training.batch_size
    )
    kept: dict[int, int] = {parameter.untyped_storage().data_ptr(): 0 for parameter in models.parameters.values()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        models.gradients(cross_entropy, x, y)
    return sum(kept.values())


def _one_model(benchmark: Benchmark) -> Ensemble:
    cpu = Engine("cpu", stacked=False)
    return build_ensemble(benchmark.model, benchmark.task, [0], engine=cpu, options=benchmark.training)
