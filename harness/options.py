"""The options of a run: what ``conf/unlearn.yaml`` and the command line say, checked as a whole before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BeforeValidator, Field, PlainValidator

from harness.draws.cores import cores
from harness.engine.training_options import TrainingOptions
from harness.errors import UserError
from harness.protocols import Protocol
from harness.tasks.options import ForgetOptions, forget_options
from harness.validation import Options


def _auto_or_whole(value: Any) -> int | None:
    if value == "auto":
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("expected auto or a whole number from 1")
    return value


def _methods(value: Any) -> list[str] | None:
    names = [value] if isinstance(value, str) else value
    if value == "all":
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("expected all, or a list such as methods=[finetune,fanchuan] (unlearn list methods)")
    return names


def _metrics(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("expected a list of names such as metrics=[official,ks] (unlearn list metrics)")
    return names


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) else value  # a folder may be called 2026


AutoOrWhole = Annotated[int | None, PlainValidator(_auto_or_whole)]
Changes = dict[str, Any]


class References(Options):
    """The rows every score is read against: an independent pool of retrained models, and doing nothing."""

    ceiling: str
    floor: str


class Seeds(Options):
    """Of training, of unlearning and of evaluation (re-splits, resampling). The split has its own."""

    train: int
    unlearn: int
    evaluate: int


class Pretraining(Options):
    """What the training of the weights that all models start from changes: its data, its training options."""

    data: Changes | None = None
    train: Changes | None = None


class RunOptions(Options):
    """One field for every key of ``conf/unlearn.yaml``; the meaning of each stands there.

    data, model and method are nodes with a ``_target_``: what that takes is checked when it is called.
    methods: None for all. stack, workers: None for auto.
    """

    data: Changes
    forget: Annotated[ForgetOptions, PlainValidator(forget_options)]
    model: Changes
    train: TrainingOptions
    protocol: Protocol
    method: Changes
    methods: Annotated[list[str] | None, PlainValidator(_methods)]
    settings: dict[str, Changes]
    recipe: Literal["tuned", "authors"]
    references: References
    metrics: Annotated[list[str], BeforeValidator(_metrics)]
    estimator: Literal["official", "exact", "gaussian", "certified"]
    seed: int
    seeds: Seeds
    split_seed: int
    pretrain: Pretraining | None
    device: str
    engine: Literal["auto", "stacked", "sequential"]
    stack: AutoOrWhole
    workers: AutoOrWhole
    cost_limit: Annotated[float, Field(ge=0, description="a number, a share of the time of retraining")]
    out: Annotated[str | None, BeforeValidator(_text)]

    @property
    def processes(self) -> int:
        """Worker processes on a CPU: as many as asked for, or one a core."""
        return self.workers or cores()

    @property
    def folder(self) -> Path:
        return Path(self.out or "runs/latest").expanduser()


def read(cfg: DictConfig) -> RunOptions:
    """The options of a composed configuration. Raises UserError for the first that is wrong."""
    node = OmegaConf.to_container(cfg, resolve=True)
    if not isinstance(node, Mapping):
        raise UserError("the configuration is not a mapping")
    return RunOptions.read({key: value for key, value in node.items() if key != "hydra"})
