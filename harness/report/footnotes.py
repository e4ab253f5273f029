"""The lines below a board: what its marks and columns mean, and why rows are missing."""

from __future__ import annotations

from collections.abc import Iterable

from harness.report.columns import SHOWN, band, shown
from harness.report.ranking import Board


def footnotes(board: Board) -> list[str]:
    """Plain lines, in any medium the same."""
    return [*_of_the_board(board), *_of_rows(board), *_of_marks(board)]


def _of_the_board(board: Board) -> Iterable[str]:
    columns = shown(board)
    if board.references:
        names = " and ".join(dict.fromkeys(board.rows["method"].head(board.references)))
        yield f"{names}: references to read every score against, without a rank"
    if set(board.rows["protocol"]) == {"reuse_n_1"}:
        yield (
            "reuse_n_1: everything, the intervals too, is conditional on the one original; what adds no randomness of its own "
            "(doing nothing, say) has no spread here, hence ε = 50 and F = 0 whatever it does"
        )
    named = ("score", "forgetting_quality", "ks_rejected", "kl")
    nulls = [f"{SHOWN[name].heading} {band(name, *board.nulls[name])}" for name in named if name in board.nulls]
    if nulls:
        yield f"null, retrained against retrained at this N, mean and central 95 %: {', '.join(nulls)}"
    if "ties" in columns:
        yield (
            "95 %: interval over draws; methods that share a letter are not separated at 95 % "
            "(paired, each pair on its own)"
        )
    if "normalised" in columns:
        yield "normalised: 0 = doing nothing, 1 = retraining"


def _of_rows(board: Board) -> Iterable[str]:
    rows = board.rows.to_dict("records")
    for row in rows:
        if row["chosen"]:
            yield f"{row['method']} chose {row['chosen']}"
    for row in rows:
        if row["status"] != "ok":
            yield f"{row['method']}: {row['status'].replace('_', ' ')}: {' '.join(str(row['reason']).split())}"


def _of_marks(board: Board) -> Iterable[str]:
    rows = board.rows.to_dict("records")
    if any(row["over_limit"] is True for row in rows):
        yield "! over the cost limit: the competition would have rejected it"
    if any(row["comparable_cost"] is False for row in rows):
        yield "~ a plain function, timed with its data loaders: not comparable with the other times"
