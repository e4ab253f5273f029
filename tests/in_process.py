"""Benchmarks without worker processes, for tests that are about something else: starting one takes seconds."""

from typing import Any

import pytest

from harness import run
from harness.draws.executor import Executor
from harness.draws.store import Store


class InProcess(Executor):
    def __init__(self, store: Store, **options: Any) -> None:
        super().__init__(store, **(options | {"in_process": True}))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Executor", InProcess)
