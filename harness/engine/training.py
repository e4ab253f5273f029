"""Train an ensemble."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.engine.batches import Augment, Split
from harness.engine.ensemble import Ensemble
from harness.engine.losses import cross_entropy, mse_one_hot
from harness.engine.training_options import TrainableSubset, TrainingOptions
from harness.models import head


def train(models: Ensemble, data: Split, valid: Split, classes: int, options: TrainingOptions) -> None:
    """Train ``models`` from the weights they have; leaves the chosen checkpoint in them.

    data: the training images (retain, or retain and forget); valid: only looked at when ``options.checkpoint`` is best.
    """
    models.train()
    if options.freeze_batch_norm:
        models.freeze_batch_norm()
    models.freeze(_trainable(models, options.trainable))
    optimizer = _optimizer(models, options)
    steps = data.steps(options.batch_size)
    per_batch, per_epoch = _schedules(optimizer, options, steps)
    loss = _loss(data, classes, options)
    augment = Augment(options.flip, options.crop) if options.flip or options.crop else None
    start = {n: p.detach().clone() for n, p in models.parameters.items()} if options.l2_to_initial else {}
    best = _Best(models, valid) if options.checkpoint == "best" else None

    for epoch in range(options.epochs):
        for x, y in data.batches(options.batch_size, augment=augment):
            gradients = models.gradients(loss, x, y)
            for name in gradients if options.l2_to_initial else ():
                pull = models.parameters[name].detach() - start[name]
                gradients[name] = gradients[name] + options.l2_to_initial * pull
            models.apply(optimizer, gradients)
            if per_batch is not None:
                per_batch.step()
        if per_epoch is not None:
            per_epoch.step()
        if best is not None and epoch >= options.checkpoint_from:
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
        self.models.assign(self.state)


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


def _optimizer(models: Ensemble, options: TrainingOptions) -> torch.optim.Optimizer:
    if options.optimizer == "sgd":
        return models.sgd(
            lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay, nesterov=options.nesterov
        )
    return models.adam(lr=options.lr, weight_decay=options.weight_decay, decoupled=options.optimizer == "adamw")


def _schedules(optimizer: torch.optim.Optimizer, options: TrainingOptions, steps: int) -> tuple[Any, Any]:
    """The schedulers that step once per batch and once per epoch; None where there is none."""
    if options.schedule == "one_cycle":
        one_cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=options.lr, total_steps=steps * options.epochs, cycle_momentum=False
        )
        return one_cycle, None
    if options.schedule == "cosine":
        return None, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=options.epochs)
    return None, None


def _loss(data: Split, classes: int, options: TrainingOptions) -> Any:
    loss = cross_entropy if options.loss == "cross_entropy" else mse_one_hot
    if options.class_weights == "none":
        return loss
    counts = data.label_counts(classes)
    weights = torch.where(counts > 0, 1 / counts.clamp(min=1), torch.zeros_like(counts))
    return partial(loss, weight=weights)
