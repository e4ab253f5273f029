"""Weights to start from that are trained inside the run, on other classes or another data set.

One model is trained on the pre-training data; every original and every retrained model then starts from its weights, as if
they had been given by ``model.pretrained=FILE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from harness.draws.executor import Pool
from harness.draws.stages import Training
from harness.draws.store import Store
from harness.engine.build import Engine
from harness.engine.training_options import TrainingOptions
from harness.files import write_atomically
from harness.task import Source
from harness.tasks.options import Random
from harness.tasks.splits import make_task


def merged(
    data: Mapping[str, Any] | None,
    train: Mapping[str, Any] | None,
    base_data: Mapping[str, Any],
    base_train: TrainingOptions,
) -> tuple[dict[str, Any], TrainingOptions]:
    """The pre-training's data node and training options: the benchmark's own, with what ``pretrain`` changes.

    A data node with a ``_target_`` of its own replaces the benchmark's. Raises UserError.
    """
    node = dict(data or {}) if data and "_target_" in data else {**base_data, **(data or {})}
    return node, TrainingOptions.read({**base_train.model_dump(), **(train or {})}, "pretrain.train")


def pool(
    source: Source,
    split: Mapping[str, Any],
    options: TrainingOptions,
    model: Mapping[str, Any],
    *,
    engine: Engine,
    split_seed: int,
    store: Store,
) -> Pool:
    """The one draw to train. Its task forgets nothing: forget is a single image, and originals are trained on all."""
    task = make_task(source, forget=Random(n=1), split_seed=split_seed, **split)
    store.put_task(task)
    return Pool(Training(task.hash, model, options, "original", split_seed, engine), (0,))


def weights_file(pool: Pool, store: Store) -> Path:
    """A file with nothing but the weights of the filled pool's draw, so that its hash is theirs."""
    path = store.root / "pretrained" / f"{pool.stage.key}.safetensors"
    if not path.exists():
        tensors, _ = store.get(pool.stage.key, pool.draws[0], prefix="weights/")
        weights = {name.removeprefix("weights/"): tensor for name, tensor in sorted(tensors.items())}
        write_atomically(path, save(weights))
    return path
