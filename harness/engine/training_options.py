"""How originals and retrained models are trained: the configuration group ``train``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator

from harness.validation import Options

NotNegative = Annotated[float, Field(ge=0)]
FromOne = Annotated[int, Field(ge=1)]
TrainableSubset = Literal["all", "bn", "head", "bn+head"]


class TrainingOptions(Options):
    """Every field is part of a draw's identity; the competition's values are in ``conf/train/competition.yaml``.

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
    lr: NotNegative = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 0.0
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    epochs: FromOne = 10
    batch_size: FromOne = 64
    class_weights: Literal["none", "balanced"] = "none"
    flip: bool = False
    crop: Annotated[int, Field(ge=0)] = 0
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    checkpoint: Literal["last", "best"] = "last"
    checkpoint_from: int = 0
    retrained_checkpoint_from: int | None = None
    trainable: TrainableSubset = "all"
    freeze_batch_norm: bool = False
    l2_to_initial: NotNegative = 0.0
    precision: Literal["float32", "float64", "bf16"] = "float32"

    @field_validator("checkpoint_from", "retrained_checkpoint_from")
    @classmethod
    def _an_epoch_there_is(cls, first: int | None, others: ValidationInfo) -> int | None:
        epochs = others.data.get("epochs", 0)
        if others.data.get("checkpoint") == "best" and first is not None and not 0 <= first < epochs:
            raise ValueError(f"expected 0 to {epochs - 1} (epochs - 1)")
        return first

    @property
    def identity(self) -> dict[str, Any]:
        """What differs from the defaults: a field added later, at its default, does not change old draws' addresses."""
        defaults = type(self)()
        return {name: value for name, value in self if value != getattr(defaults, name)}

    def for_retrained(self) -> TrainingOptions:
        """What retrained models are trained by."""
        if self.retrained_checkpoint_from is None:
            return self
        return self.model_copy(update={"checkpoint_from": self.retrained_checkpoint_from})

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.precision == "float64" else torch.float32
