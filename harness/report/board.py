"""The board, from result files and from nothing else, to what people read: built, shown, written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harness.files import write_atomically
from harness.report.documents import board_latex, board_markdown
from harness.report.figure import picture
from harness.report.ranking import COLUMNS, Board, build
from harness.report.terminal import show
from harness.scores.results import read_all

__all__ = ["COLUMNS", "Board", "build", "files", "rebuild", "show", "write"]


def write(folder: Path, boards: Sequence[Board]) -> None:
    """Write :func:`files` into ``folder``."""
    for name, text in files(boards).items():
        write_atomically(folder / name, text.encode())


def files(boards: Sequence[Board]) -> dict[str, str]:
    """By name, the files a run leaves: all boards as unrounded numbers, as text and as a picture.

    In ``leaderboard.csv`` the column ``board`` tells the boards apart.
    """
    table = pd.concat([board.rows for board in boards], ignore_index=True)
    return {
        "leaderboard.csv": table.to_csv(index=False),
        "leaderboard.md": board_markdown(boards),
        "leaderboard.tex": board_latex(boards),
        "leaderboard.svg": picture(boards, dark=False),
        "leaderboard-dark.svg": picture(boards, dark=True),
    }


def rebuild(folder: Path) -> list[Board]:
    """Read every result below ``folder`` and write its boards there."""
    boards = build(read_all(folder))
    write(folder, boards)
    return boards
