"""Start from weights in a local file instead of random ones."""

from __future__ import annotations

import hashlib
import pickle
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.errors import UserError

_SUFFIXES = (".safetensors", ".pt", ".pth")


def sha256_of(path: str) -> str:
    """Raises UserError if the file is not there or is of another kind."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"model.pretrained={path}: no such file")
    if file.suffix not in _SUFFIXES:
        raise UserError(f"model.pretrained={path}: expected a file {', '.join(_SUFFIXES)} with a state dict")
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def load(net: nn.Module, path: str, sha256: str | None = None) -> list[str]:
    """Give ``net`` the weights in ``path``; returns the names that keep their fresh values.

    Fresh may stay: the head (the last linear layer) where the file has one for other classes or none, and visual prompts.

    sha256: of the file when the run was planned; another one is refused.

    Raises UserError naming the tensors that do not fit.
    """
    given = _state_dict(path, sha256 or sha256_of(path))
    own = net.state_dict()
    head = next((name for name, module in reversed([*net.named_modules()]) if isinstance(module, nn.Linear)), None)
    spare = {name for name in own if name.rpartition(".")[0] == head or name == "prompts"}
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    misfits = [name for name in own if name in given and given[name].shape != own[name].shape]
    missing = [name for name in own if name not in given and name not in spare | counters]
    unknown = [name for name in given if name not in own and name.rpartition(".")[0] != head]
    wrong = [
        f"{name} is {list(given[name].shape)}, not {list(own[name].shape)}" for name in misfits if name not in spare
    ]
    if missing or unknown or wrong:
        parts = [f"lacks {_some(missing)}"] * bool(missing) + [f"has unknown {_some(unknown)}"] * bool(unknown)
        raise UserError(f"model.pretrained={path} does not fit this model: {'; '.join([*parts, *wrong[:3]])}")
    loaded = {name: tensor for name, tensor in given.items() if name in own and name not in misfits}
    net.load_state_dict(own | loaded)
    return sorted(spare - set(loaded))


@lru_cache(maxsize=1)
def _state_dict(path: str, sha256: str) -> dict[str, Tensor]:
    if sha256_of(path) != sha256:
        raise UserError(f"model.pretrained={path}: the file has changed since this run was started")
    file = Path(path).expanduser()
    try:
        safe = file.suffix == ".safetensors"
        loaded: Any = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(f"model.pretrained={path}: cannot be read as a state dict ({first})") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise UserError(f"model.pretrained={path}: expected a state dict (names and tensors)")
    return {_current(name): tensor for name, tensor in loaded.items()}


def _current(name: str) -> str:
    """Without the prefix of a parallel wrapper; torchvision's transformers as they are called since version 0.13."""
    name = name.removeprefix("module.")
    return re.sub(r"\.mlp\.linear_([12])\.", lambda match: f".mlp.{3 * (int(match[1]) - 1)}.", name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
