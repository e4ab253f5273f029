"""Every test of a loader has a store of its own: decoded images are kept there."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "store"))
    return tmp_path / "store"
