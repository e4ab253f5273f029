"""Boards of made-up results, and what they look like."""

from __future__ import annotations

import io

import pandas as pd
from rich.console import Console

from harness.report import board
from harness.report.documents import board_markdown
from harness.scores.results import CellResult


def one(*cells: CellResult) -> board.Board:
    """The only board of these results."""
    (made,) = board.build(list(cells))
    return made


def row(made: board.Board, method: str) -> pd.Series:
    (only,) = [r for _, r in made.rows.iterrows() if r["method"] == method]
    return only


def terminal(made: board.Board, width: int = 200) -> str:
    out = io.StringIO()
    board.show(made, Console(file=out, width=width))
    return out.getvalue()


def markdown(made: board.Board) -> str:
    return board_markdown([made])
