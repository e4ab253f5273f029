"""How many models fit into one stack."""

from __future__ import annotations

import torch

from harness.draws.stages import Training, build_ensemble
from harness.draws.store import Store
from harness.engine.batches import Images, split_of
from harness.engine.losses import cross_entropy
from harness.engine.streams import Rng

ON_CPU = 8
_LARGEST = 128
_PROBE = 2
_USABLE = 0.7  # of the free memory: fragmentation, and methods that keep a teacher beside the models


def stack_size(training: Training, store: Store) -> int:
    """Models per stack: on a GPU from the peak memory of one training step of two models, on a CPU a constant."""
    device = torch.device(training.engine.device)
    if device.type != "cuda":
        return ON_CPU
    task = store.get_task(training.task_hash)
    images = Images(task, device=device, dtype=training.options.dtype)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    models = build_ensemble(training.model, task, [0] * _PROBE, engine=training.engine, options=training.options)
    optimizer = models.sgd(lr=0.0, momentum=0.9)
    for x, y in split_of(task, images, Rng([0] * _PROBE, stacked=True), "retain").first_batches(
        2, training.options.batch_size
    ):
        models.step(optimizer, cross_entropy, x, y)
    per_model = (torch.cuda.max_memory_allocated(device) - before) / _PROBE
    free = torch.cuda.mem_get_info(device)[0]
    return int(max(1, min(_LARGEST, _USABLE * free / per_model)))
