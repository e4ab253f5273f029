"""The columns of a board that people see: heading, alignment and number format of each, and the cells they make.

Terminal, Markdown and LaTeX print these cells; none of them formats a number of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.report.ranking import Board

MISSING = "–"
_HUGE = 1e5  # from here on digits are counted, not read: 1.23e+06

Format = Callable[[float], str]


@dataclass(frozen=True)
class Table:
    """A table as it is printed, whatever the medium.

    Attributes:
        headings: one per column.
        left: per column, whether it is flush left; numbers are flush right.
        rows: the cells.
        references: how many rows at the top are set apart from the others.
        name: the column that holds the name of the row.
    """

    headings: Sequence[str]
    left: Sequence[bool]
    rows: Sequence[Sequence[str]]
    references: int = 0
    name: int = 0


@dataclass(frozen=True)
class ShownColumn:
    """number: how its numbers are printed; None for text."""

    heading: str
    number: Format | None = None
    left: bool = False
    optional: bool = False  # left out of a board where no row has it


def fixed(decimals: int) -> Format:
    """A number with so many decimals; from 100,000 on as a power of ten."""
    return lambda value: f"{value:.2e}" if abs(value) >= _HUGE else f"{value:z.{decimals}f}"


def signed(decimals: int) -> Format:
    """The same for differences: with the sign, also of what rounds to zero, since it says on which side of zero they lie."""
    return lambda value: f"{value:+.2e}" if abs(value) >= _HUGE else f"{value:+.{decimals}f}"


def percent(value: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{value:.2e}" if abs(value) >= _HUGE else f"{value:z.1%}"


SHOWN: Mapping[str, ShownColumn] = {
    "rank": ShownColumn("#"),
    "method": ShownColumn("method", left=True),
    "recipe": ShownColumn("recipe", left=True),
    "score": ShownColumn("score", fixed(4)),
    "interval": ShownColumn("95 %", optional=True),
    "ties": ShownColumn("ties", left=True, optional=True),
    "normalised": ShownColumn("normalised", fixed(2), optional=True),
    "forgetting_quality": ShownColumn("F", fixed(4)),
    "epsilon_median": ShownColumn("median ε", fixed(2)),
    "ks_rejected": ShownColumn("KS rejected", percent),
    "kl": ShownColumn("KL", fixed(3)),
    "retain_accuracy": ShownColumn("retain", percent),
    "forget_accuracy": ShownColumn("forget", percent),
    "test_accuracy": ShownColumn("test", percent),
    "seconds_per_model": ShownColumn("s/model", fixed(3)),
    "cost_ratio": ShownColumn("cost", percent),
}
_END = fixed(3)  # of the score's interval


def shown(board: Board) -> list[str]:
    """Names of the columns this board shows: intervals, ties and the normalised score only where there are any."""
    rows = [_with_interval(row) for row in board.rows.to_dict("records")]
    return [
        name
        for name, column in SHOWN.items()
        if not column.optional or any(_is_there(row.get(name)) and row[name] != "" for row in rows)
    ]


def table(board: Board) -> Table:
    """The board as headings and formatted cells."""
    names = shown(board)
    columns = [SHOWN[name] for name in names]
    rows = [_with_interval(row) for row in board.rows.to_dict("records")]
    return Table(
        headings=[column.heading for column in columns],
        left=[column.left for column in columns],
        rows=[[text(name, row.get(name)) + _mark(name, row) for name in names] for row in rows],
        references=board.references,
        name=names.index("method"),
    )


def text(name: str, value: Any) -> str:
    """A value of a shown column as it is printed."""
    number = SHOWN[name].number
    if not _is_there(value):
        return MISSING
    return str(value) if number is None else number(value)


def band(name: str, mean: float, low: float, high: float) -> str:
    """A number of a shown column with its 95 % range."""
    return f"{text(name, mean)} ({text(name, low)} to {text(name, high)})"


def _with_interval(row: Mapping[Any, Any]) -> dict[str, Any]:
    low, high = row.get("score_low"), row.get("score_high")
    known = _is_there(low) and _is_there(high)
    return {**row, "interval": f"{_END(float(low))} to {_END(float(high))}" if known else None}  # type: ignore[arg-type]


def _mark(name: str, row: Mapping[str, Any]) -> str:
    """What the footnotes explain: a row that is not ok, ``!`` over the cost limit, ``~`` a cost of another kind."""
    if name == "method" and row["status"] != "ok":
        return f" ({row['status'].replace('_', ' ')})"
    if name == "cost_ratio":
        over, other = row.get("over_limit") is True, row.get("comparable_cost") is False
        return " !" * over + " ~" * other
    return ""


def _is_there(value: Any) -> bool:
    return value is not None and not pd.isna(value)
