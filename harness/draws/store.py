"""A content-addressed cache of draws, safe with several processes and with a kill at any moment.

``<root>/draws/<key>/000007.safetensors`` is draw 7 of the stage whose identity hashes to <key>; ``stage.json`` beside it
says in words what the stage is. A file is written under a temporary name, synced and renamed, so a reader sees a whole
file or none; every file carries a checksum, and a damaged one is set aside and counts as missing. Locks only avoid
double work: draws are deterministic, so on a file system with poor locks the worst is computing one twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from harness.errors import UserError
from harness.files import canonical, default_root, write_atomically
from harness.task import Task


class Damaged(Exception):
    """A stored draw failed its checksum and has been set aside."""


class Missing(KeyError):
    """A draw is not in the store (any more: another process may have found it damaged)."""


class Store:
    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the store {self.root} cannot be created ({error}); set $UNLEARN_STORE") from error

    # --- draws ------------------------------------------------------------------------------------------------------

    def path(self, key: str, draw: int) -> Path:
        return self.root / "draws" / key / f"{draw:06d}.safetensors"

    def missing(self, key: str, draws: Iterable[int]) -> list[int]:
        """Those of ``draws`` that are not stored."""
        try:
            present = set(os.listdir(self.root / "draws" / key))
        except FileNotFoundError:
            return list(draws)
        return [draw for draw in draws if f"{draw:06d}.safetensors" not in present]

    def describe(self, key: str, identity: Mapping[str, Any]) -> None:
        """Leave a readable note of what ``key`` stands for."""
        note = self.root / "draws" / key / "stage.json"
        if not note.exists():
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, json.dumps(identity, indent=1, sort_keys=True).encode())

    def put(self, key: str, draw: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Store one draw: its tensors, and ``facts`` about its making (JSON)."""
        arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = canonical(facts)
        metadata = {"facts": text, "sha256": _checksum(arrays, text)}
        write_atomically(self.path(key, draw), save(arrays, metadata=metadata))

    def get(
        self, key: str, draw: int, *, prefix: str | tuple[str, ...] = ""
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and facts of a draw; with ``prefix`` only the tensors whose name starts with it (or one of them).

        Raises Missing if it is not there, Damaged (after moving the file away) if it cannot be trusted.
        """
        path = self.path(key, draw)
        if not path.exists():
            raise Missing(f"draw {draw} of {key}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            intact = metadata.get("sha256") == _checksum(arrays, metadata.get("facts", ""))
        except Exception as error:  # the format's reader raises types of its own for broken headers
            self._set_aside(path)
            raise Damaged(f"{path}: {error}") from error
        if not intact:
            self._set_aside(path)
            raise Damaged(f"{path}: checksum mismatch")
        return {n: t for n, t in arrays.items() if n.startswith(prefix)}, json.loads(metadata["facts"])

    def lock(self, key: str, draw: int) -> AbstractContextManager[bool]:
        """A lock on making one draw; enters with False at once if another process holds it."""
        return _TryLock(self.root / "locks" / key / f"{draw:06d}.lock")

    def _set_aside(self, path: Path) -> None:
        with suppress(FileNotFoundError):  # another process was first
            path.replace(path.with_name(f"{path.name}.damaged-{uuid.uuid4().hex[:8]}"))

    # --- tasks and small records --------------------------------------------------------------------------------------

    def put_task(self, task: Task) -> Path:
        path = self.root / "tasks" / f"{task.hash}.npz"
        if not path.exists():
            write_atomically(path, task.to_bytes())
        return path

    def get_task(self, task_hash: str) -> Task:
        return Task.from_bytes((self.root / "tasks" / f"{task_hash}.npz").read_bytes())

    def put_record(self, key: str, record: Mapping[str, Any]) -> None:
        write_atomically(self.root / "records" / f"{key}.json", canonical(record).encode())

    def get_record(self, key: str) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads((self.root / "records" / f"{key}.json").read_text())
            return record
        except (FileNotFoundError, json.JSONDecodeError):
            return None


class _TryLock(AbstractContextManager[bool]):
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path)
        self._held = False

    def __enter__(self) -> bool:
        try:
            self._lock.acquire(timeout=0)
            self._held = True
        except Timeout:
            self._held = False
        return self._held

    def __exit__(self, *_: object) -> None:
        if self._held:
            self._lock.release()


def _checksum(arrays: Mapping[str, Tensor], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}|{array.dtype}|{tuple(array.shape)}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
