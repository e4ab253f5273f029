"""Fixtures: one thread, a store and core slots of the tests' own, and a tiny task."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing.util import Finalize
from pathlib import Path

import pytest
import torch

from harness.draws.store import Store
from harness.task import Task
from tests.helpers import tiny_task


@pytest.fixture(scope="session", autouse=True)
def _own_machine() -> Iterator[None]:
    """A temporary folder of the tests' own: core slots live there, and other runs on this machine hold the usual ones."""
    folder = tempfile.mkdtemp(prefix="unlearn-tests-")  # short: sockets of worker processes live in it too
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"], tempfile.tempdir = folder, folder
    torch.set_num_threads(1)
    yield
    tempfile.tempdir = before[1]
    if before[0] is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before[0]
    Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)  # after multiprocessing has left it (-100)


@pytest.fixture(scope="session")
def task() -> Task:
    return tiny_task()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task) -> Store:
    """An empty store that knows the tiny task."""
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "store"))
    store = Store()
    assert store.root == tmp_path / "store"
    store.put_task(task)
    return store
