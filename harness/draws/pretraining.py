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
from harness.draws.stages import Engine, Training
from harness.draws.store import Store, write_atomically
from harness.engine.training_options import TrainingOptions
from harness.errors import unknown_name
from harness.task import Source
from harness.tasks.splits import make_task

_KEYS = ("data", "train")


def merged(node: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The data and training configuration of the pre-training: the benchmark's own, with what ``pretrain`` changes."""
    for key in node:
        if key not in _KEYS:
            raise unknown_name("key pretrain", key, _KEYS)
    changed = {key: dict(node.get(key) or {}) for key in _KEYS}
    other_source = "_target_" in changed["data"]
    data = changed["data"] if other_source else {**base["data"], **changed["data"]}
    return {"data": data, "train": {**base["train"], **changed["train"]}}


def pool(
    source: Source,
    splits: Mapping[str, Any],
    train: Mapping[str, Any],
    model: Mapping[str, Any],
    *,
    engine: Engine,
    split_seed: int,
    store: Store,
) -> Pool:
    """The one draw to train. Its task forgets nothing: forget is a single image, and originals are trained on all."""
    task = make_task(source, forget={"kind": "random", "n": 1}, split_seed=split_seed, **splits)
    store.put_task(task)
    stage = Training(
        task.hash, model, TrainingOptions.read(dict(train), "pretrain.train"), "original", split_seed, engine
    )
    return Pool(stage, (0,))


def weights_file(pool: Pool, store: Store) -> Path | None:
    """A file with nothing but the weights, so that its hash is theirs; None until the pool is filled."""
    if store.missing(pool.stage.key, pool.draws):
        return None
    path = store.root / "pretrained" / f"{pool.stage.key}.safetensors"
    if not path.exists():
        tensors, _ = store.get(pool.stage.key, pool.draws[0], prefix="weights/")
        weights = {name.removeprefix("weights/"): tensor for name, tensor in sorted(tensors.items())}
        write_atomically(path, save(weights))
    return path
