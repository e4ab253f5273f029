"""The board in a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.report.columns import table
from harness.report.footnotes import footnotes
from harness.report.ranking import Board


def show(board: Board, console: Console) -> None:
    """Print the board: a rule below the headings and below the references."""
    for warning in board.warnings:
        console.print(Text(warning, style="bold red" if warning.startswith("SANITY") else "yellow"))
    console.print(Text(board.title, style="bold"))
    console.print(_table(board))
    for note in footnotes(board):
        console.print(note, style="dim", markup=False, highlight=False)


def _table(board: Board) -> Table:
    cells = table(board)
    printed = Table(box=box.HORIZONTALS, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), border_style="dim")
    for heading, left in zip(cells.headings, cells.left, strict=True):
        printed.add_column(heading, justify="left" if left else "right", no_wrap=left, overflow="ellipsis")
    for i, row in enumerate(cells.rows):
        # names and values are the user's: [x] in them is not markup
        printed.add_row(*map(Text, row), end_section=i + 1 == cells.references)
    return printed
