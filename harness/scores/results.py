"""The result of one cell as a JSON file, its schema, and the small arrays beside it.

The board is generated from these files and from nothing else; with the arrays every score can be computed again.
"""

from __future__ import annotations

import io
import platform
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from harness import __version__
from harness.errors import UserError
from harness.files import write_atomically


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Null(_Strict):
    """What two pools of retrained models of the same N give: the mean and the central 95 % over random re-splits."""

    mean: float | None
    low: float | None
    high: float | None


class Value(_Strict):
    """One number of a metric; None where this N does not allow one."""

    value: float | None
    null: Null | None = None
    interval: tuple[float, float] | None = None  # 95 % over draws, at this N (harness/scores/intervals.py)


class TaskInfo(_Strict):
    name: str
    forget_kind: str
    hash: str
    classes: int
    sizes: dict[str, int]
    split_seed: int
    notes: dict[str, Any]


class ProtocolInfo(_Strict):
    kind: str
    n: int
    experiments: int
    experiment: int


class Cost(_Strict):
    """seconds: median over draws of the method's own time, per model. ratio: to training a retrained model, in this mode,
    on this machine. flops: floating-point operations, counted once on a single plain model."""

    seconds_per_model: float
    retraining_seconds: float
    ratio: float
    flops: float | None
    over_limit: bool
    comparable: bool


class CellResult(_Strict):
    """Everything that is known about one (task, protocol, method, recipe, seed)."""

    schema_version: Literal[1] = 1
    method: str
    recipe: str
    target: str
    parameters: dict[str, Any]
    task: TaskInfo
    model: dict[str, Any]
    training: dict[str, Any]
    protocol: ProtocolInfo
    seeds: dict[str, int]
    ceiling: bool  # whether this row is the independent pool of retrained models
    floor: bool = False  # whether this row does nothing
    status: Literal["ok", "failed", "not_applicable"]
    reason: str | None = None
    estimator: str
    metrics: dict[str, Value] = {}
    score_on_subsets: list[float] = []  # on subsets of the draws common to all methods: for paired differences
    stages: dict[str, str] = {}  # where the store keeps the outputs: keys of the unlearned and the retrained draws
    retrained_accuracy: dict[str, float] = {}
    nan_draws: int = 0
    chosen: dict[str, str] = {}  # what a method that decides something by itself chose, over its draws
    cost: Cost | None = None
    warnings: list[str] = []
    numeric_class: str
    environment: dict[str, str]
    created: str

    @property
    def model_name(self) -> str:
        """The last part of the model's target: ``small_cnn``."""
        return str(self.model.get("_target_", "")).rpartition(".")[2]


def write(folder: Path, name: str, result: CellResult, arrays: dict[str, np.ndarray]) -> Path:
    """Write ``folder/name.json`` and, where there are arrays, ``folder/name.npz`` (compressed)."""
    if arrays:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_atomically(folder / f"{name}.npz", buffer.getvalue())
    path = folder / f"{name}.json"
    write_atomically(path, (result.model_dump_json(indent=1) + "\n").encode())
    return path


def read(path: Path) -> CellResult:
    """Raises UserError naming the file and the field that does not fit the schema."""
    try:
        return CellResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise UserError(f"{path}: not a result of this version ({where}: {first['msg']})") from error


def read_all(folder: Path) -> list[CellResult]:
    """All results below ``folder``, in the order of their file names; lists of splits (``tasks/``) are passed over."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such directory")
    return [read(path) for path in sorted(folder.rglob("*.json")) if path.parent.name != "tasks"]


@lru_cache(maxsize=1)
def environment() -> dict[str, str]:
    packages = ("torch", "torchvision", "numpy", "scipy", "scikit-learn")
    versions = {name: version(name) for name in packages}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {platform.machine()}"
    return {"unlearn": __version__, "python": platform.python_version(), "device": device, **versions}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def as_number(value: float) -> float | None:
    """JSON has no NaN: an absent number is null."""
    return float(value) if np.isfinite(value) else None
