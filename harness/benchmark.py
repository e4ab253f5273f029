"""A configuration, made into the benchmark it describes: task, stages, pools and cells. No draw is computed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from harness.draws.executor import Pool
from harness.draws.stages import Training, Unlearning
from harness.draws.store import Store
from harness.engine.build import Engine
from harness.errors import UserError, unknown_name
from harness.metrics import Metric, get_metrics
from harness.metrics.estimators import ranked_by
from harness.options import RunOptions, read
from harness.prepare import Fill, Prepared, material, prepare
from harness.protocols import Protocol
from harness.registry import methods as registry
from harness.registry.methods import MethodSpec
from harness.task import Task

_ABSENT = object()


@dataclass(frozen=True)
class Benchmark:
    """What one run computes and where it puts it."""

    options: RunOptions
    prepared: Prepared
    methods: tuple[MethodSpec, ...]
    metrics: tuple[Metric, ...]
    engine: Engine

    @property
    def task(self) -> Task:
        return self.prepared.task

    @property
    def protocol(self) -> Protocol:
        return self.options.protocol

    @property
    def seeds(self) -> dict[str, int]:
        return self.options.seeds.model_dump()

    @property
    def workers(self) -> int:
        return self.options.processes

    @property
    def out(self) -> Path:
        return self.options.folder

    @property
    def parallel(self) -> int:
        """How many draws are computed at a time."""
        return 1 if self.engine.on_gpu else self.workers

    @property
    def features(self) -> bool:
        """Whether a metric needs what enters the head, so that draws must keep it."""
        return any("features" in metric.needs for metric in self.metrics)

    @cached_property
    def originals(self) -> Training:
        return self._training("original", features=False)

    @cached_property
    def retrained(self) -> Training:
        return self._training("retrained", features=self.features)

    @cached_property
    def unlearned(self) -> tuple[Unlearning, ...]:
        source, seed = self.protocol.source, self.options.seeds.unlearn
        return tuple(Unlearning(self.originals, method, seed, source, self.features) for method in self.methods)

    def pools(self) -> list[Pool]:
        """Every draw that is compared."""
        pools = [Pool(self.originals, self.protocol.originals), Pool(self.retrained, self.protocol.draws)]
        return pools + [Pool(stage, self.protocol.draws) for stage in self.unlearned]

    def all_pools(self) -> list[Pool]:
        """What is trained to prepare the task, then what is compared."""
        return [*self.prepared.pools, *self.pools()]

    def is_ceiling(self, method: MethodSpec) -> bool:
        """Whether this row is the independent pool of retrained models."""
        return method.name == self.options.references.ceiling

    def is_floor(self, method: MethodSpec) -> bool:
        """Whether this row does nothing."""
        return method.name == self.options.references.floor

    def _training(self, role: Any, *, features: bool) -> Training:
        model, options, seed = self.prepared.model, self.options.train, self.options.seeds.train
        return Training(self.task.hash, model, options, role, seed, self.engine, features=features)


def from_config(
    cfg: DictConfig, store: Store, *, method_name: str | None = None, fill: Fill | None = None
) -> Benchmark:
    """Read the options, prepare the task, put the benchmark together.

    method_name: what was chosen in the group ``method``, if anything. fill: trains what the task needs first (see prepare).

    Raises UserError for everything that is wrong with the configuration or with the data.
    """
    options = read(cfg)
    engine = engine_of(options)
    metrics = chosen_metrics(options)
    data = material(options.data)
    methods = chosen_methods(options, method_name, data.source.name)
    return Benchmark(options, prepare(options, data, engine, store, fill), methods, metrics, engine)


def engine_of(options: RunOptions) -> Engine:
    """Raises UserError for a device that there is not."""
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(device)
    except RuntimeError as error:
        raise unknown_name("device", device, ("auto", "cpu", "cuda")) from error
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={device}: this torch ({torch.__version__}) sees no CUDA device")
    stacked = device.startswith("cuda") if options.engine == "auto" else options.engine == "stacked"
    return Engine(device, stacked)


def chosen_metrics(options: RunOptions) -> tuple[Metric, ...]:
    try:
        return tuple(ranked_by(options.estimator, get_metrics(options.metrics)))
    except ValueError as error:
        raise UserError(f"metrics: {error}") from error


def chosen_methods(options: RunOptions, name: str | None, task: str) -> tuple[MethodSpec, ...]:
    """The chosen methods, the reference rows first; none twice. task: the data set that tuned recipes are for."""
    available = registry.available()
    for method in options.settings:
        if method not in available:
            raise unknown_name("key", method, available, within="settings")

    def named(name: str, changes: Mapping[str, Any] | None = None) -> MethodSpec:
        changes = {**options.settings.get(name, {}), **(changes or {})}
        return registry.spec(name, task=task, recipe=options.recipe, epochs=options.train.epochs, changes=changes)

    references = [_reference(kind, named(value)) for kind, value in options.references]
    node = options.method
    if node.get("_target_"):
        chosen = [named(name, _changes(name, node))] if name else [registry.spec_of_target(node)]
    else:
        chosen = [named(method) for method in (available if options.methods is None else options.methods)]
    for spec in chosen:
        spec.build()
    return tuple({(spec.name, spec.recipe): spec for spec in [*references, *chosen]}.values())


def _reference(kind: str, spec: MethodSpec) -> MethodSpec:
    """Raises UserError unless the method says of itself that it is this kind of reference."""
    if getattr(spec.build(), "reference", None) != kind:
        what = {"ceiling": "trains new models on retain alone", "floor": "does nothing"}[kind]
        raise UserError(
            f"references.{kind}={spec.name}: expected a method that {what} and says so (reference = {kind!r} in its class)"
        )
    return spec


def _changes(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters that differ from the ones the method's configuration file gives."""
    given = registry.defaults(name)
    return {key: value for key, value in values.items() if key != "_target_" and given.get(key, _ABSENT) != value}
