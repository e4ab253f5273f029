"""Run the command in this process, on a benchmark so small that a run takes about a second."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.command import cli

TINY = [
    "data.train_limit=60",
    "data.valid_fraction=0.2",
    "data.test_limit=60",
    "forget.n=10",
    "train.epochs=2",
    "train.batch_size=32",
    "model.widths=[4,4,8]",
]
TIMES = ["seconds_per_model", "cost_ratio", "flops", "flops_ratio", "over_limit"]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str
    folder: Path

    @property
    def csv(self) -> pd.DataFrame:
        return read_csv(self.folder)

    @property
    def markdown(self) -> str:
        return (self.folder / "leaderboard.md").read_text()

    def row(self, method: str) -> pd.Series:
        (row,) = [row for _, row in self.csv.iterrows() if row["method"] == method]
        return row


class Command:
    """Calls ``unlearn`` as a user would from ``folder``, with a store of its own."""

    def __init__(
        self, folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self.store, self.monkeypatch, self.capsys = folder, store, monkeypatch, capsys
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["unlearn"])
        self.use(store)

    def use(self, store: Path) -> None:
        self.store = store
        self.monkeypatch.setenv("UNLEARN_STORE", str(store))

    def __call__(self, *arguments: str, out: str = "out") -> Result:
        """The arguments as they are."""
        self.capsys.readouterr()
        code = cli._main(list(arguments))
        text = self.capsys.readouterr()
        return Result(code, text.out, text.err, self.folder / out)

    def run(self, *arguments: str, out: str = "out") -> Result:
        """A tiny run into ``out``."""
        return self(*TINY, *arguments, f"out={out}", out=out)

    def draws(self) -> dict[str, int]:
        """Every stored draw and when it was written."""
        return {str(p.relative_to(self.store)): p.stat().st_mtime_ns for p in self.store.rglob("*.safetensors")}


def read_csv(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "leaderboard.csv", dtype={"rank": str, "seeds": str, "reason": str})


def same_board(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """Equal in all columns but the measured times."""
    pd.testing.assert_frame_equal(a.drop(columns=TIMES), b.drop(columns=TIMES), check_exact=True)


def people_npz(path: Path, *, people: int = 14, each: int = 6) -> Path:
    """Random pictures, two classes told apart by brightness, of some people."""
    rng = np.random.default_rng(0)
    n = people * each
    labels = np.arange(n) % 2
    images = rng.integers(0, 128, (n, 8, 8), dtype=np.uint8) + (labels * 100).astype(np.uint8)[:, None, None]
    np.savez(path, train_images=images, train_labels=labels, train_groups=np.arange(n) // each)
    return path
