"""Committed boards are what the code makes of the committed results, and the picture of the README is one of them."""

from __future__ import annotations

import io
import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.report import board
from harness.scores.results import read_all

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent.name for path in ROOT.glob("results/*/cells"))
NUMBER = re.compile(r"(?<![\w#])-?\d+\.?\d*(?:e-?\d+)?(?![\w%])")
NAME = re.compile(r"\b[mp][0-9a-f]{10}\b")  # of a shape: a hash of all its digits


@cache
def made(folder: str) -> dict[str, str]:
    return board.files(board.build(read_all(ROOT / "results" / folder)))


def committed(folder: str, name: str) -> str:
    return (ROOT / "results" / folder / name).read_text()


def same_picture(one: str, other: str) -> None:
    """Equal but for digits of places that a machine may round otherwise."""
    assert re.findall(">(.*)</text>", one) == re.findall(">(.*)</text>", other) != []
    one, other = NAME.sub("name", one), NAME.sub("name", other)
    assert NUMBER.sub("0", one) == NUMBER.sub("0", other)
    np.testing.assert_allclose(*([float(x) for x in NUMBER.findall(text)] for text in (one, other)), atol=0.01)


@pytest.mark.parametrize("folder", FOLDERS)
def test_boards(folder):
    for name in ("leaderboard.md", "leaderboard.tex"):
        assert made(folder)[name] == committed(folder, name), name
    tables = [
        pd.read_csv(io.StringIO(text), dtype={"rank": str})
        for text in (made(folder)["leaderboard.csv"], committed(folder, "leaderboard.csv"))
    ]
    pd.testing.assert_frame_equal(*tables, rtol=1e-9)


@pytest.mark.parametrize("folder", FOLDERS)
def test_pictures(folder):
    for name in ("leaderboard.svg", "leaderboard-dark.svg"):
        same_picture(made(folder)[name], committed(folder, name))


def test_the_readme_shows_the_board_of_digits():
    for theme, name in (("light", "leaderboard.svg"), ("dark", "leaderboard-dark.svg")):
        same_picture((ROOT / "docs" / f"board-{theme}.svg").read_text(), made("digits")[name])
