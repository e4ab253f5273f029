"""A configuration, made into the benchmark it describes: task, stages, pools and cells. Nothing is computed here."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from harness import models as architectures
from harness.draws import memorisation, pretraining
from harness.draws.cores import cores
from harness.draws.executor import Pool
from harness.draws.stages import Engine, Training, Unlearning
from harness.draws.store import Store
from harness.engine.training_options import TrainingOptions
from harness.errors import UserError, unknown_name
from harness.metrics import Metric, get_metrics
from harness.metrics.estimators import ESTIMATORS, ranked_by
from harness.models import pretrained
from harness.protocols import Protocol
from harness.registry import methods as registry
from harness.registry.methods import MethodSpec
from harness.task import Source, Task
from harness.tasks.splits import make_task

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
    training: TrainingOptions
    protocol: Protocol
    methods: tuple[MethodSpec, ...]
    ceiling: str  # the reference row that is an independent pool of retrained models
    floor: str  # the reference row that does nothing
    metrics: tuple[Metric, ...]
    estimator: str  # of ε, that ranks
    seeds: dict[str, int]
    engine: Engine
    workers: int
    stack: int | None
    cost_limit: float
    out: Path
    forget: dict[str, Any] = field(default_factory=dict)  # the options the forget set was chosen by
    preparation: Pool | None = None  # what must be trained before the task and the first weights are known
    prepared: bool = True  # False: the forget set is a stand-in of the right size, or the weights are random

    @cached_property
    def originals(self) -> Training:
        return Training(self.task.hash, self.model, self.training, "original", self.seeds["train"], self.engine)

    @cached_property
    def retrained(self) -> Training:
        seed = self.seeds["train"]
        return Training(
            self.task.hash, self.model, self.training, "retrained", seed, self.engine, features=self.features
        )

    @cached_property
    def unlearned(self) -> tuple[Unlearning, ...]:
        source = self.protocol.source
        seed = self.seeds["unlearn"]
        return tuple(Unlearning(self.originals, method, seed, source, self.features) for method in self.methods)

    @property
    def features(self) -> bool:
        """Whether a metric needs what enters the head, so that draws must keep it."""
        return any("features" in metric.needs for metric in self.metrics)

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
    whole = {"split_seed": config["split_seed"]} | {f"seeds.{name}": seed for name, seed in config["seeds"].items()}
    for key, value in whole.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"{key}={value}: expected a whole number")
    if not isinstance(config["cost_limit"], int | float):
        raise UserError(f"cost_limit={config['cost_limit']}: expected a number, a share of the time of retraining")
    training = TrainingOptions.read(config["train"], "train")
    device = _device(str(config["device"]))
    engine = Engine(device, _stacked(config["engine"], device))
    forget, split_seed = config["forget"], config["split_seed"]
    task_of = _splitter(config["data"], split_seed)
    memorised = memorisation.Wanted.from_config(forget) if forget.get("kind") == "memorised" else None
    task = task_of(forget=forget if memorised is None else {"kind": "memorised"})
    store.put_task(task)
    model = _model(config["model"], task)
    preparation, prepared = None, True
    if config["pretrain"]:
        preparation = _pretraining(config, model, engine, store)
        file = pretraining.weights_file(preparation, store)
        prepared = file is not None
        if file is not None:
            model = _model({**config["model"], "pretrained": str(file)}, task)
    if memorised is not None and prepared:
        preparation = memorised.pool(Training(task.hash, model, training, "subset", split_seed, engine))
        images, prepared = memorised.images(task, preparation, store)
        task = task_of(forget={"kind": "memorised", "chosen": images})
        store.put_task(task)
    references: dict[str, str] = config["references"]
    return Benchmark(
        task=task,
        split_seed=split_seed,
        model=model,
        training=training,
        protocol=Protocol.read(config["protocol"], "protocol"),
        methods=_methods(config, method_name, task.name, training.epochs, tuple(references.values())),
        ceiling=references["ceiling"],
        floor=references["floor"],
        metrics=tuple(_metrics(config["metrics"], config["estimator"])),
        estimator=config["estimator"],
        seeds=dict(config["seeds"]),
        engine=engine,
        workers=_whole("workers", config["workers"]) or cores(),
        stack=_whole("stack", config["stack"]),
        cost_limit=float(config["cost_limit"]),
        out=Path(config["out"] or "runs/latest").expanduser(),
        forget=forget,
        preparation=preparation,
        prepared=prepared,
    )


def _splitter(data: dict[str, Any], split_seed: int) -> Callable[..., Task]:
    """The data, loaded; a function of the forget set that splits them."""
    source, splits = _source(data)
    return partial(make_task, source, split_seed=split_seed, **splits)


def _pretraining(config: dict[str, Any], model: dict[str, Any], engine: Engine, store: Store) -> Pool:
    other = pretraining.merged(config["pretrain"], config)
    source, splits = _source(other["data"])
    return pretraining.pool(
        source, splits, other["train"], model, engine=engine, split_seed=config["split_seed"], store=store
    )


def _source(data: dict[str, Any]) -> tuple[Source, dict[str, Any]]:
    """The data, loaded, and the options that are about splitting them."""
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
    return source, splits


def _model(node: dict[str, Any], task: Task) -> dict[str, Any]:
    if "_target_" not in node:
        raise UserError("model has no _target_; choose one with model=NAME (unlearn list models)")
    weights = node.get("pretrained")
    node = {key: value for key, value in node.items() if key != "pretrained"}
    try:
        net = architectures.build(node, classes=task.classes, channels=task.images.shape[-1], seed=0)
    except Exception as error:  # whatever the model's constructor raises
        raise UserError(f"model: {' '.join(str(error).split())}") from error
    if not weights:
        return node
    fresh = pretrained.load(net, weights)
    if fresh:
        print(f"{weights} fits but for {', '.join(fresh)}: freshly initialised", file=sys.stderr)
    return {**node, "pretrained": weights, "pretrained_sha256": pretrained.sha256_of(weights)}


def _methods(
    config: Mapping[str, Any], name: str | None, task: str, epochs: int, references: tuple[str, ...]
) -> tuple[MethodSpec, ...]:
    """The chosen methods, the reference rows first; none twice."""
    recipe = config["recipe"]
    if recipe not in ("tuned", "authors"):
        raise unknown_name("recipe", str(recipe), ("tuned", "authors"))
    settings = config["settings"]
    for method in settings:
        if method not in registry.available():
            raise unknown_name("key settings", method, registry.available())

    def named(name: str, changes: Mapping[str, Any] | None = None) -> MethodSpec:
        changes = {**settings.get(name, {}), **(changes or {})}
        return registry.spec(name, task=task, recipe=recipe, epochs=epochs, changes=changes)

    reference_specs = [named(name) for name in references]
    node = config["method"]
    if node.get("_target_"):
        chosen = [named(name, _changes(name, node))] if name else [registry.spec_of_target(node)]
    else:
        names = config["methods"]
        names = registry.available() if names == "all" else [names] if isinstance(names, str) else names
        if not isinstance(names, list):
            raise UserError(f"methods={names}: expected all, or a list such as methods=[{','.join(references)}]")
        chosen = [named(str(name)) for name in names]
    for spec in chosen:
        spec.build()
    seen: dict[Any, MethodSpec] = {(s.name, s.recipe): s for s in [*reference_specs, *chosen]}
    return tuple(seen.values())


def _changes(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The hyper-parameters that differ from the ones the method's configuration file gives."""
    given = registry.defaults(name)
    return {key: value for key, value in values.items() if key != "_target_" and given.get(key, _ABSENT) != value}


def _metrics(names: Any, estimator: str) -> list[Metric]:
    if estimator not in ESTIMATORS:
        raise unknown_name("estimator", str(estimator), ESTIMATORS)
    if not isinstance(names, str | list):
        raise UserError(f"metrics={names}: expected a list of names (unlearn list metrics)")
    try:
        return ranked_by(estimator, get_metrics([names] if isinstance(names, str) else list(map(str, names))))
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
