"""Train an ensemble by a recipe. The recipe is plain configuration; every field is part of a draw's identity."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor, nn

from harness.engine.batches import Augment, Split
from harness.engine.ensemble import Ensemble
from harness.engine.losses import cross_entropy, mse_one_hot
from harness.errors import UserError, unknown_name
from harness.models import head

_NUMBERS: dict[Any, tuple[Any, str]] = {
    int: (int, "a whole number"),
    int | None: (int | None, "a whole number, or null"),
    float: (int | float, "a number"),
}
TrainableSubset = Literal["all", "bn", "head", "bn+head"]


@dataclass(frozen=True)
class Recipe:
    """How originals and retrained models are trained; the competition's values are in ``conf/train/competition.yaml``.

    schedule: ``constant``; ``cosine`` to 0, stepped once per epoch; ``one_cycle`` with peak ``lr``, stepped once per batch.
    class_weights: ``none`` or ``balanced`` (1 / count of the class in the training set).
    loss: ``cross_entropy``, or ``mse`` (½‖logits − one-hot‖²).
    checkpoint: keep the ``last`` epoch, or the ``best`` on valid among the epochs from ``checkpoint_from`` (0-based) on;
        retrained models from ``retrained_checkpoint_from`` on, where it is given.
    trainable: the parameters that are trained; the others keep their initial values.
    l2_to_initial: coefficient λ of (λ/2)‖w − w₀‖², w₀ the weights training started from.
    precision: ``float32``, ``float64``, or ``bf16`` (autocast over float32 weights).
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    epochs: int = 10
    batch_size: int = 64
    class_weights: Literal["none", "balanced"] = "none"
    flip: bool = False
    crop: int = 0
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    checkpoint: Literal["last", "best"] = "last"
    checkpoint_from: int = 0
    retrained_checkpoint_from: int | None = None
    trainable: TrainableSubset = "all"
    freeze_batch_norm: bool = False
    l2_to_initial: float = 0.0
    precision: Literal["float32", "float64", "bf16"] = "float32"

    def __post_init__(self) -> None:
        import typing

        for name, hint in typing.get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise unknown_name(f"train.{name}", str(value), get_args(hint))
            if hint in _NUMBERS and (not isinstance(value, _NUMBERS[hint][0]) or isinstance(value, bool)):
                raise UserError(f"train.{name}={value}: expected {_NUMBERS[hint][1]}")
            if hint is bool and not isinstance(value, bool):
                raise UserError(f"train.{name}={value}: expected true or false")
        for name, low in (("epochs", 1), ("batch_size", 1), ("lr", 0), ("weight_decay", 0), ("l2_to_initial", 0)):
            if getattr(self, name) < low:
                raise UserError(f"train.{name}={getattr(self, name)}: expected at least {low}")
        for name in ("checkpoint_from", "retrained_checkpoint_from"):
            first = getattr(self, name)
            if self.checkpoint == "best" and first is not None and not 0 <= first < self.epochs:
                raise UserError(f"train.{name}={first}: expected 0 to {self.epochs - 1} (epochs - 1)")

    @classmethod
    def from_config(cls, node: dict[str, Any]) -> Recipe:
        known = [field.name for field in fields(cls)]
        for key in node:
            if key not in known:
                raise unknown_name("key train", key, known)
        return cls(**node)

    @property
    def identity(self) -> dict[str, Any]:
        """What differs from the defaults: a field added later, at its default, does not change old draws' addresses."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}

    def for_retrained(self) -> Recipe:
        """The recipe that retrained models follow."""
        if self.retrained_checkpoint_from is None:
            return self
        return replace(self, checkpoint_from=self.retrained_checkpoint_from)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.precision == "float64" else torch.float32


def train(models: Ensemble, data: Split, valid: Split, classes: int, recipe: Recipe) -> None:
    """Train ``models`` from the weights they have; leaves the chosen checkpoint in them.

    data: the training images (retain, or retain and forget); valid: only looked at when ``recipe.checkpoint`` is best.
    """
    models.train()
    if recipe.freeze_batch_norm:
        models.freeze_batch_norm()
    models.freeze(_trainable(models, recipe.trainable))
    optimizer = _optimizer(models, recipe)
    steps = data.steps(recipe.batch_size)
    per_batch, per_epoch = _schedules(optimizer, recipe, steps)
    loss = _loss(data, classes, recipe)
    augment = Augment(recipe.flip, recipe.crop) if recipe.flip or recipe.crop else None
    start = {n: p.detach().clone() for n, p in models.parameters.items()} if recipe.l2_to_initial else {}
    best = _Best(models, valid) if recipe.checkpoint == "best" else None

    for epoch in range(recipe.epochs):
        for x, y in data.batches(recipe.batch_size, augment=augment):
            gradients = models.gradients(loss, x, y)
            for name in gradients if recipe.l2_to_initial else ():
                pull = models.parameters[name].detach() - start[name]
                gradients[name] = gradients[name] + recipe.l2_to_initial * pull
            models.apply(optimizer, gradients)
            if per_batch is not None:
                per_batch.step()
        if per_epoch is not None:
            per_epoch.step()
        if best is not None and epoch >= recipe.checkpoint_from:
            best.consider()
    if best is not None:
        best.restore()
    models.freeze(lambda name: True)


class _Best:
    """Per model, the state with the highest accuracy on valid so far (the earliest of equals)."""

    def __init__(self, models: Ensemble, valid: Split) -> None:
        self.models = models
        self.x, self.y = valid.tensors()
        self.accuracy: Tensor | None = None
        self.state: dict[str, Tensor] = {}

    def consider(self) -> None:
        accuracy = (self.models.logits(self.x).argmax(-1) == self.y).float().mean(-1)  # [*lead]
        state = self.models.state()
        if self.accuracy is None:
            self.accuracy, self.state = accuracy, state
            return
        better = accuracy > self.accuracy
        self.accuracy = torch.where(better, accuracy, self.accuracy)
        for name, new in state.items():
            chosen = better.view(better.shape + (1,) * (new.ndim - better.ndim))
            self.state[name] = torch.where(chosen, new, self.state[name])

    def restore(self) -> None:
        self.models.load_state(self.state)


def _trainable(models: Ensemble, subset: TrainableSubset) -> Any:
    if subset == "all":
        return lambda name: True
    modules = dict(models.template.named_modules())
    norms = {n for n, m in modules.items() if isinstance(m, nn.modules.batchnorm._BatchNorm | nn.LayerNorm)}
    allowed = norms if "bn" in subset else set()
    if "head" in subset:
        last = head(models.template)
        allowed = allowed | {name for name, module in modules.items() if module is last}
    return lambda name: name.rpartition(".")[0] in allowed


def _optimizer(models: Ensemble, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return models.sgd(
            lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
        )
    return models.adam(lr=recipe.lr, weight_decay=recipe.weight_decay, decoupled=recipe.optimizer == "adamw")


def _schedules(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> tuple[Any, Any]:
    """The schedulers that step once per batch and once per epoch; None where there is none."""
    if recipe.schedule == "one_cycle":
        one_cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=recipe.lr, total_steps=steps * recipe.epochs, cycle_momentum=False
        )
        return one_cycle, None
    if recipe.schedule == "cosine":
        return None, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=recipe.epochs)
    return None, None


def _loss(data: Split, classes: int, recipe: Recipe) -> Any:
    loss = cross_entropy if recipe.loss == "cross_entropy" else mse_one_hot
    if recipe.class_weights == "none":
        return loss
    counts = data.label_counts(classes)
    weights = torch.where(counts > 0, 1 / counts.clamp(min=1), torch.zeros_like(counts))
    return partial(loss, weight=weights)
