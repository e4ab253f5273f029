"""Lists of image numbers: read from a file the user made, and written beside the results so that splits can be audited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UserError
from harness.files import write_atomically
from harness.task import SPLITS, Task

_FORMS = ".npy (integers), .txt (one number a line, # starts a comment), or .json (a list, or an object with a list 'forget')"


def read_indices(path: str | None, n: int) -> np.ndarray:
    """Numbers of images in their source, sorted, int64. n: how many images the source has.

    Raises UserError naming the file, the entry that is wrong and what was expected.
    """
    if not path:
        raise UserError(f"forget=file needs forget.path=FILE: {_FORMS}")
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"forget.path={path}: no such file")
    if file.suffix not in _READERS:
        raise UserError(f"forget.path={path}: expected {_FORMS}")
    try:
        numbers = _READERS[file.suffix](file)
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise UserError(f"forget.path={path}: cannot be read ({error}); expected {_FORMS}") from error
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        raise UserError(
            f"forget.path={path}: {numbers.dtype} of shape {numbers.shape}; expected a list of whole numbers"
        )
    numbers = numbers.astype(np.int64)
    if not len(numbers):
        raise UserError(f"forget.path={path}: the list is empty")
    if len(wrong := numbers[(numbers < 0) | (numbers >= n)]):
        raise UserError(f"forget.path={path}: {wrong[0]} is not one of the source's images, 0 to {n - 1}")
    unique, counts = np.unique(numbers, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"forget.path={path}: {unique[counts > 1][0]} is listed twice")
    return unique


def write_audit(folder: Path, task: Task, **facts: Any) -> Path:
    """``folder/<task hash>.json``: every split as numbers of images in their source, and how they came about."""
    record = {
        "hash": task.hash,
        "name": task.name,
        "forget_kind": task.forget_kind,
        **facts,
        "notes": dict(task.notes),
        "sizes": task.sizes(),
        "splits": {name: task.source_index[task.splits[name]].tolist() for name in SPLITS},
        "retain_sample": task.source_index[task.retain_sample].tolist(),
    }
    path = folder / f"{task.hash}.json"
    write_atomically(path, (json.dumps(record, default=str) + "\n").encode())
    return path


def _npy(file: Path) -> np.ndarray:
    return np.asarray(np.load(file, allow_pickle=False))


def _txt(file: Path) -> np.ndarray:
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return np.array([int(line) for line in lines if line], np.int64)


def _json(file: Path) -> np.ndarray:
    content = json.loads(file.read_text())
    if isinstance(content, dict):
        content = content["splits"]["forget"] if "splits" in content else content["forget"]
    if not isinstance(content, list):
        raise ValueError(f"a {type(content).__name__}, not a list")
    return np.array(content) if content else np.array([], np.int64)


_READERS = {".npy": _npy, ".txt": _txt, ".json": _json}
