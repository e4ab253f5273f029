"""The two kinds of draw, *trained* and *unlearned*: what identifies one, and how one is made.

Draw i of a stage is a function of the stage's identity and of i. How many draws there are, in which order, in which
process or at which place of a stack they are computed plays no part.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from harness import models as architectures
from harness.draws.probe import probe
from harness.draws.store import Store
from harness.engine.batches import Images, method_data, split_of
from harness.engine.build import Engine, build_ensemble
from harness.engine.dropout import use_streams
from harness.engine.ensemble import Ensemble, joined
from harness.engine.features import features
from harness.engine.training import train
from harness.engine.training_options import TrainingOptions
from harness.files import key_of
from harness.registry.methods import MethodSpec
from harness.streams import Rng, seed_for
from harness.task import Task

# Raised by hand when a change of the code changes the draws; a commit hash would void the store at every commit.
TRAINING_VERSION = 1
UNLEARNING_VERSION = 1

Role = Literal["original", "retrained", "subset"]
EVALUATED = ("retain", "forget", "valid", "test")


@dataclass(frozen=True)
class FinishedDraw:
    """One finished draw: ``tensors`` (logits/*, and weights/* where they are kept) and ``facts`` (seconds, ...)."""

    index: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Training:
    """Models trained from scratch: on retain + forget (``original``) or on retain alone (``retrained``).

    The third role, ``subset``, is :class:`harness.draws.memorisation.SubsetTraining`'s.
    """

    task_hash: str
    model: Mapping[str, Any]
    options: TrainingOptions
    role: Role
    seed: int
    engine: Engine
    features: bool = field(default=False, kw_only=True)  # whether draws keep what enters the head, on forget

    @cached_property
    def identity(self) -> dict[str, Any]:
        return {
            "stage": "training",
            "version": TRAINING_VERSION,
            "task": self.task_hash,
            "model": architectures.identity(self.model),
            "training": self.options.identity,
            "role": self.role,
            "seed": self.seed,
            "numeric_class": self.engine.numeric_class(self.options.precision),
            **_kept(self.features),
        }

    @cached_property
    def key(self) -> str:
        return key_of(self.identity)

    @property
    def name(self) -> str:
        return self.role

    def parents(self, draws: Sequence[int]) -> list[int]:
        return []

    def make(self, draws: Sequence[int], store: Store) -> list[FinishedDraw]:
        """Compute ``draws``; a sequential engine takes one at a time."""
        task, images, models, order = self._begin(draws, store)
        used = ("retain", "forget") if self.role == "original" else ("retain",)
        data, valid = split_of(task, images, order, *used), split_of(task, images, order, "valid")
        options = self.options.for_retrained() if self.role == "retrained" else self.options
        seconds = timed(self.engine, lambda: train(models, data, valid, task.classes, options), models)
        weights = self.role == "original"
        return _finish(models, task, images, draws, seconds, keep_weights=weights, keep_features=self.features)

    def _begin(self, draws: Sequence[int], store: Store) -> tuple[Task, Images, Ensemble, Rng]:
        """The task in a warm process, fresh models with their dropout streams, and the streams of their batches' order."""
        task, images = task_on_device(store.root, self.task_hash, self.engine.device, self.options.dtype)
        self.warm_up(task, images)
        models = self.fresh(task, draws, self.engine)
        use_streams(models, self._rng("dropout", draws))
        return task, images, models, self._rng("order", draws)

    def restore(self, draws: Sequence[int], store: Store, engine: Engine | None = None) -> Ensemble:
        """The trained models of ``draws``, read back from the store, knowing their initial weights."""
        engine = engine or self.engine
        task, _ = task_on_device(store.root, self.task_hash, engine.device, self.options.dtype)
        models = self.fresh(task, draws, engine)
        models.initial = models.snapshot()
        stored = [store.get(self.key, draw, prefix="weights/")[0] for draw in draws]
        states = [{name.removeprefix("weights/"): w for name, w in weights.items()} for weights in stored]
        models.assign(joined(states, stacked=models.stacked))
        return models

    def warm_up(self, task: Task, images: Images) -> None:
        """Once per process: run throw-away steps, so that the first draw's clock does not pay for lazy initialisation."""
        if self.key in _warm:
            return
        probe(self.model, task, engine=self.engine, options=self.options, images=images)
        _warm.add(self.key)

    def fresh(self, task: Task, draws: Sequence[int], engine: Engine) -> Ensemble:
        """The models of ``draws`` before any training."""
        seeds = self._seeds("init", draws)
        return build_ensemble(self.model, task, seeds, engine=engine, options=self.options)

    def _seeds(self, purpose: str, draws: Sequence[int]) -> list[int]:
        return [seed_for("train", self.seed, self.role, purpose, draw) for draw in draws]

    def _rng(self, purpose: str, draws: Sequence[int]) -> Rng:
        return Rng(self._seeds(purpose, draws), stacked=self.engine.stacked)


@dataclass(frozen=True)
class Unlearning:
    """Models unlearned by one method, each from its own original (``paired``) or all from original 0 (``single``)."""

    originals: Training
    method: MethodSpec
    seed: int
    source: Literal["paired", "single"]
    features: bool = False  # as in Training

    @cached_property
    def identity(self) -> dict[str, Any]:
        return {
            "stage": "unlearning",
            "version": UNLEARNING_VERSION,
            "originals": self.originals.key,
            "method": self.method.identity,
            "seed": self.seed,
            "source": self.source,
            **_kept(self.features),
        }

    @cached_property
    def key(self) -> str:
        return key_of(self.identity)

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def engine(self) -> Engine:
        return self.originals.engine

    def parents(self, draws: Sequence[int]) -> list[int]:
        """The originals that ``draws`` start from."""
        return list(draws) if self.source == "paired" else [0] * len(draws)

    def make(self, draws: Sequence[int], store: Store) -> list[FinishedDraw]:
        """Compute ``draws`` from stored originals. Whatever the method raises passes through."""
        training = self.originals
        task, images = task_on_device(store.root, training.task_hash, self.engine.device, training.options.dtype)
        training.warm_up(task, images)
        models = training.restore(self.parents(draws), store)
        use_streams(models, self._rng("dropout", draws))
        models.train()
        data = method_data(task, images, self._rng("order", draws), training.options.for_retrained())
        rng = self._rng("noise", draws)
        method = self.method.build()
        seconds = timed(self.engine, lambda: method.unlearn(models, data, rng), models)
        made = _finish(models, task, images, draws, seconds, keep_weights=False, keep_features=self.features)
        chosen = getattr(method, "chosen", None)
        if isinstance(chosen, list) and len(chosen) == len(made):  # other methods may mean something else by the name
            for draw, facts in zip(made, chosen, strict=True):
                draw.facts["chosen"] = dict(facts)
        return made

    def flops(self, store: Store) -> float:
        """Floating-point operations of one unlearning, counted on a single plain model (draw 0, result thrown away)."""
        from torch.utils.flop_counter import FlopCounterMode

        plain = Engine(self.engine.device, stacked=False)
        training = self.originals
        task, images = task_on_device(store.root, training.task_hash, plain.device, training.options.dtype)
        models = training.restore([0], store, plain)
        rng = [Rng([seed_for("flops", purpose)], stacked=False) for purpose in ("order", "noise")]
        models.train()
        counter = FlopCounterMode(display=False)
        # The counter's own tracker hooks into modules, which fails where a loss takes gradients inside (torch.func.grad).
        counter.mod_tracker = _OneModule()  # type: ignore[assignment]
        with counter:
            data = method_data(task, images, rng[0], training.options.for_retrained())
            self.method.build().unlearn(models, data, rng[1])
        return float(counter.get_total_flops())

    def _rng(self, purpose: str, draws: Sequence[int]) -> Rng:
        # The originals' seed too: with one unlearning seed and two training seeds, streams still differ.
        seeds = [seed_for("unlearn", self.seed, self.originals.seed, self.method.name, purpose, d) for d in draws]
        return Rng(seeds, stacked=self.engine.stacked)


class _OneModule(nullcontext[None]):
    """What the operation counter asks of its module tracker, for totals only."""

    parents = frozenset({"Global"})


Stage = Training | Unlearning
_warm: set[str] = set()


def timed(engine: Engine, work: Any, models: Ensemble) -> float:
    """Seconds per model of ``work``, the device synchronised before and after."""
    engine.synchronise()
    start = time.perf_counter()
    work()
    engine.synchronise()
    return (time.perf_counter() - start) / models.size


def _kept(features: bool) -> dict[str, bool]:
    """Part of a stage's identity; nothing by default, so that keeping more leaves other draws alone."""
    return {"features": True} if features else {}


def _finish(
    models: Ensemble,
    task: Task,
    images: Images,
    draws: Sequence[int],
    seconds: float,
    *,
    keep_weights: bool,
    keep_features: bool,
) -> list[FinishedDraw]:
    """Record the outputs of finished models on the evaluation examples."""
    outputs = {f"logits/{name}": models.logits(_evaluated(task, images, name)) for name in EVALUATED}
    if keep_features:
        outputs["features/forget"] = features(models, _evaluated(task, images, "forget"))
    if keep_weights:
        outputs |= {f"weights/{name}": tensor for name, tensor in models.state().items()}
    return one_by_one(models, draws, outputs, seconds)


def one_by_one(
    models: Ensemble, draws: Sequence[int], tensors: Mapping[str, Tensor], seconds: float
) -> list[FinishedDraw]:
    """The draws of an ensemble apart: tensors [*lead, ...] by name, of each its own part."""
    parts = (
        [{name: tensor[m] for name, tensor in tensors.items()} for m in range(models.size)]
        if models.stacked
        else [tensors]
    )
    return [FinishedDraw(draw, dict(own), {"seconds": seconds}) for draw, own in zip(draws, parts, strict=True)]


def evaluation_index(task: Task, name: str) -> np.ndarray:
    """The images on which outputs are recorded: a whole split, or the fixed sample of retain."""
    return task.retain_sample if name == "retain" else task.splits[name]


def _evaluated(task: Task, images: Images, name: str) -> Tensor:
    return images.gather(torch.from_numpy(evaluation_index(task, name)).to(images.device))


@lru_cache(maxsize=4)
def task_on_device(root: Any, task_hash: str, device: str, dtype: torch.dtype) -> tuple[Task, Images]:
    task = Store(root).get_task(task_hash)
    return task, Images(task, device=torch.device(device), dtype=dtype)
