"""The task of a run and the weights its models start from: the one step before the draws that touches the store."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness import models as architectures
from harness.draws import memorisation, pretraining
from harness.draws.executor import Pool
from harness.draws.stages import Training
from harness.draws.store import Store
from harness.engine.build import Engine
from harness.errors import UserError, unknown_name
from harness.models import pretrained
from harness.options import RunOptions
from harness.task import Source, Task
from harness.tasks.options import Memorised, SplitOptions
from harness.tasks.splits import make_task

Fill = Callable[[Pool, RunOptions], None]


@dataclass(frozen=True)
class Material:
    """What a data node stands for: the images, and how they are to be split."""

    source: Source
    split: Mapping[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A task that is in the store, and the model's node.

    pools: what had to be trained first (a pre-trained network, the models that memorisation is estimated from). Where one of
    them is not filled, the forget set is a stand-in of the right size, or the weights are random.
    """

    task: Task
    model: dict[str, Any]
    pools: tuple[Pool, ...] = ()


def material(node: Mapping[str, Any]) -> Material:
    """Load the data of a configuration node. Raises UserError for keys that neither its source nor a split knows."""
    from hydra.utils import get_method

    if not node.get("_target_"):
        raise UserError("data has no _target_; choose one with data=NAME (unlearn list data)")
    options = dict(node)
    load = get_method(options.pop("_target_"))
    split = {key: options.pop(key) for key in list(options) if key in SplitOptions.model_fields}
    known = list(inspect.signature(load).parameters)
    for key in options:
        if key not in known:
            raise unknown_name("key", key, [*known, *SplitOptions.model_fields], within="data")
    SplitOptions.read(split, "data")
    source = load(**options)
    if not isinstance(source, Source):
        raise UserError(f"data._target_={node['_target_']} returned a {type(source).__name__}; expected a Source")
    return Material(source, split)


def prepare(options: RunOptions, data: Material, engine: Engine, store: Store, fill: Fill | None) -> Prepared:
    """Split the data, and train what the choice of the forget set and the first weights need.

    fill: trains a pool; None to train nothing, so that stand-ins may be left. Raises UserError.
    """
    task = make_task(data.source, forget=options.forget, split_seed=options.split_seed, **data.split)
    store.put_task(task)
    model = checked_model(options.model, task)
    pools: list[Pool] = []
    if options.pretrain is not None:
        pools.append(_pretraining(options, model, engine, store))
        if not _filled(pools[-1], options, store, fill):
            return Prepared(task, model, tuple(pools))
        model = checked_model({**options.model, "pretrained": str(pretraining.weights_file(pools[-1], store))}, task)
    if isinstance(options.forget, Memorised):
        subsets = Training(task.hash, model, options.train, "subset", options.split_seed, engine)
        pools.append(memorisation.pool(options.forget, subsets))
        _filled(pools[-1], options, store, fill)
        images = memorisation.images(options.forget, task, pools[-1], store)
        task = make_task(data.source, forget=options.forget, split_seed=options.split_seed, chosen=images, **data.split)
        store.put_task(task)
    return Prepared(task, model, tuple(pools))


def checked_model(node: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The model's node, built once to see that it can be; with pretrained weights, their hash too. Raises UserError."""
    if "_target_" not in node:
        raise UserError("model has no _target_; choose one with model=NAME (unlearn list models)")
    weights = node.get("pretrained")
    bare = {key: value for key, value in node.items() if key != "pretrained"}
    try:
        net = architectures.build(bare, classes=task.classes, channels=task.images.shape[-1], seed=0)
    except Exception as error:  # whatever the model's constructor raises
        raise UserError(f"model: {' '.join(str(error).split())}") from error
    if not weights:
        return bare
    fresh = pretrained.load(net, weights)
    if fresh:
        print(f"{weights} fits but for {', '.join(fresh)}: freshly initialised", file=sys.stderr)
    return {**bare, "pretrained": weights, "pretrained_sha256": pretrained.sha256_of(weights)}


def _pretraining(options: RunOptions, model: dict[str, Any], engine: Engine, store: Store) -> Pool:
    assert options.pretrain is not None
    data, train = pretraining.merged(options.pretrain.data, options.pretrain.train, options.data, options.train)
    other = material(data)
    return pretraining.pool(
        other.source, other.split, train, model, engine=engine, split_seed=options.split_seed, store=store
    )


def _filled(pool: Pool, options: RunOptions, store: Store, fill: Fill | None) -> bool:
    if fill is not None and store.missing(pool.stage.key, pool.draws):
        fill(pool, options)
    return not store.missing(pool.stage.key, pool.draws)
