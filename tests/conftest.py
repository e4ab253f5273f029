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
from tests.support_cli import Command
from tests.support_install import Installed, install


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


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the tests of one module fill together."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def unlearn(
    tmp_path: Path, shared_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The command, run in this process from an empty folder."""
    return Command(tmp_path, shared_store, monkeypatch, capsys)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the project's wheel is unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    install(folder / "site", folder / "build")
    return folder / "site"


@pytest.fixture
def stranger(site: Path, tmp_path: Path, shared_store: Path) -> Installed:
    """The command as somebody has it who installed the wheel, in a folder of their own."""
    folder = tmp_path / "work"
    folder.mkdir()
    return Installed(site, folder, shared_store)
