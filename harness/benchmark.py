"""A configuration, made into the benchmark it describes: task, stages, pools and cells. Nothing is computed here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from harness import methods as registry
from harness.cores import cores
from harness.errors import UserError, unknown_name
from harness.executor import Pool
from harness.methods import MethodSpec
from harness.metrics import Metric, get_metrics
from harness.protocols import Protocol
from harness.splits import make_task
from harness.stages import Engine, Training, Unlearning
from harness.store import Store
from harness.task import Source, Task
from harness.training import Recipe

_SPLIT_KEYS = [
    name
    for name, parameter in inspect.signature(make_task).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in ("forget", "split_seed")
]
_ABSENT = object()


@dataclass(frozen=True)
class Benchmark:
    """What one run computes and where it puts it."""

    task: Task
    split_seed: int
    model: dict[str, Any]
    recipe: Recipe
    protocol: Protocol
    methods: tuple[MethodSpec, ...]
    ceiling: str  # the reference row that is an independent pool of retrained models
    metrics: tuple[Metric, ...]
    seeds: dict[str, int]
    engine: Engine
    workers: int
    stack: int | None
    cost_limit: float
    out: Path

    @cached_property
    def originals(self) -> Training:
        return Training(self.task.hash, self.model, self.recipe, "original", self.seeds["train"], self.engine)

    @cached_property
    def retrained(self) -> Training:
        return Training(self.task.hash, self.model, self.recipe, "retrained", self.seeds["train"], self.engine)

    @cached_property
    def unlearned(self) -> tuple[Unlearning, ...]:
        source = self.protocol.source
        return tuple(Unlearning(self.originals, method, self.seeds["unlearn"], source) for method in self.methods)

    @property
    def parallel(self) -> int:
        """How many draws are computed at a time."""
        return 1 if self.engine.device.startswith("cuda") else self.workers

    def pools(self) -> list[Pool]:
        """Every draw this benchmark needs."""
        pools = [Pool(self.originals, self.protocol.originals), Pool(self.retrained, self.protocol.draws)]
        return pools + [Pool(stage, self.protocol.draws) for stage in self.unlearned]


def from_config(cfg: DictConfig, store: Store, *, method_name: str | None = None) -> Benchmark:
    """Build the benchmark of a composed configuration and put its task into the store.

    method_name: what was chosen in the group ``method``, if anything.

    Raises UserError for everything that is wrong with the configuration or with the data.
    """
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    task = _task(config["data"], config["forget"], config["split_seed"])
    recipe = Recipe.from_config(config["train"])
    store.put_task(task)
    device = _device(config["device"])
    references: dict[str, str] = config["references"]
    return Benchmark(
        task=task,
        split_seed=config["split_seed"],
        model=_model(config["model"]),
        recipe=recipe,
        protocol=Protocol.from_config(config["protocol"]),
        methods=_methods(config, method_name, task.name, tuple(references.values())),
        ceiling=references["ceiling"],
        metrics=tuple(_metrics(config["metrics"])),
        seeds=dict(config["seeds"]),
        engine=Engine(device, _stacked(config["engine"], device)),
        workers=_whole("workers", config["workers"]) or cores(),
        stack=_whole("stack", config["stack"]),
        cost_limit=float(config["cost_limit"]),
        out=Path(config["out"] or "runs/latest").expanduser(),
    )


def _task(data: dict[str, Any], forget: dict[str, Any], split_seed: int) -> Task:
    from hydra.utils import get_method

    options = dict(data)
    load = get_method(options.pop("_target_"))
    splits = {key: options.pop(key) for key in list(options) if key in _SPLIT_KEYS}
    known = list(inspect.signature(load).parameters)
    for key in options:
        if key not in known:
            raise unknown_name("key data", key, known + _SPLIT_KEYS)
    source = load(**options)
    if not isinstance(source, Source):
        raise UserError(f"data._target_={data['_target_']} returned a {type(source).__name__}; expected a Source")
    return make_task(source, forget=forget, split_seed=split_seed, **splits)


def _model(node: dict[str, Any]) -> dict[str, Any]:
    if "_target_" not in node:
        raise UserError("model has no _target_; choose one with model=NAME (unlearn list models)")
    return node


def _methods(
    config: Mapping[str, Any], name: str | None, task: str, references: tuple[str, ...]
) -> tuple[MethodSpec, ...]:
    """The chosen methods, the reference rows first; none twice."""
    recipe = config["recipe"]
    if recipe not in ("tuned", "authors"):
        raise unknown_name("recipe", str(recipe), ("tuned", "authors"))
    reference_specs = [registry.spec(name, task=task, recipe=recipe) for name in references]
    node = config["method"]
    if node.get("_target_"):
        if name:
            chosen = [registry.spec(name, task=task, recipe=recipe, changes=_changes(name, node))]
        else:
            chosen = [registry.spec_of_target(node)]
    else:
        names = config["methods"]
        names = registry.available() if names == "all" else [names] if isinstance(names, str) else names
        chosen = [registry.spec(name, task=task, recipe=recipe) for name in names]
    for spec in chosen:
        spec.build()
    seen: dict[Any, MethodSpec] = {(s.name, s.recipe): s for s in [*reference_specs, *chosen]}
    return tuple(seen.values())


def _changes(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The hyper-parameters that differ from the ones the method's configuration file gives."""
    given = registry.defaults(name)
    return {key: value for key, value in values.items() if key != "_target_" and given.get(key, _ABSENT) != value}


def _metrics(names: Any) -> list[Metric]:
    try:
        return get_metrics([names] if isinstance(names, str) else list(names))
    except ValueError as error:
        raise UserError(f"metrics: {error}") from error


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={name}: this torch ({torch.__version__}) sees no CUDA device")
    try:
        torch.device(name)
    except RuntimeError as error:
        raise unknown_name("device", name, ("auto", "cpu", "cuda")) from error
    return name


def _stacked(engine: str, device: str) -> bool:
    if engine not in ("auto", "stacked", "sequential"):
        raise unknown_name("engine", engine, ("auto", "stacked", "sequential"))
    return engine == "stacked" or (engine == "auto" and device.startswith("cuda"))


def _whole(key: str, value: Any) -> int | None:
    if value == "auto":
        return None
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{key}={value}: expected auto or a whole number from 1")
    return value
