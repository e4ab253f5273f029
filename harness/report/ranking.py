"""From results to boards: a row per method, references first and without a rank, then the methods by their score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.errors import UserError
from harness.files import canonical
from harness.report.grouping import comparable
from harness.report.rows import Band, method_row, nulls
from harness.report.ties import compared
from harness.scores.results import CellResult

COLUMNS = [
    "rank",
    "method",
    "recipe",
    "task",
    "protocol",
    "seeds",
    "status",
    "n",
    "score",
    "forgetting_quality",
    "epsilon_median",
    "ks_statistic",
    "ks_rejected",
    "kl",
    "retain_accuracy",
    "forget_accuracy",
    "test_accuracy",
    "seconds_per_model",
    "cost_ratio",
]
_LAST = [
    "flops",
    "flops_ratio",
    "over_limit",
    "comparable_cost",
    "nan_draws",
    "chosen",
    "reason",
    "model",
    "estimator",
    "task_hash",
    "board",
]


@dataclass(frozen=True)
class Board:
    """One leaderboard.

    Attributes:
        title: what all its rows share.
        rows: a row per method, unrounded: COLUMNS, what else the metrics gave, and _LAST.
        references: how many rows at the top are references (retraining, then doing nothing): read against, not ranked.
        nulls: by column, what two pools of retrained models give at this N.
        warnings: lines to show above the table.
    """

    title: str
    rows: pd.DataFrame
    references: int
    nulls: dict[str, Band]
    warnings: list[str]


def build(cells: Sequence[CellResult]) -> list[Board]:
    """Boards in order of their titles. Raises UserError if there is no result."""
    if not cells:
        raise UserError("no results: expected cells/*.json written by `unlearn`")
    return [_board(title, group) for title, group in comparable(cells)]


def _board(title: str, cells: list[CellResult]) -> Board:
    by_method: dict[tuple[str, str, str, str], list[CellResult]] = {}
    for cell in cells:
        parameters = canonical(cell.parameters)
        by_method.setdefault((cell.method, cell.recipe, cell.target, parameters), []).append(cell)
    groups = list(by_method.values())
    flops = _retraining_flops(cells)
    table = pd.DataFrame(
        [
            {**method_row(group, retraining_flops=flops), **beside_others, "board": title}
            for group, beside_others in zip(groups, compared(groups), strict=True)
        ]
    )
    extra = [name for name in table.columns if name not in COLUMNS and name not in _LAST]
    place = [0 if group[0].ceiling else 1 if group[0].floor else 2 for group in groups]
    return Board(
        title=title,
        rows=_ranked(table, place).reindex(columns=[*COLUMNS, *extra, *_LAST]),
        references=sum(p < 2 for p in place),
        nulls=nulls(cells),
        warnings=list(dict.fromkeys(_named(warning, cell) for cell in cells for warning in cell.warnings)),
    )


def _ranked(table: pd.DataFrame, place: Sequence[int]) -> pd.DataFrame:
    """Sorted, with the column ``rank``: empty for references, and for what failed or has no score."""
    ok = table["status"] == "ok"
    usable = ok & table["score"].notna()
    keys = pd.DataFrame(
        {
            "place": place,
            "ok": ~ok,
            "usable": ~usable,
            "score": -table["score"].where(usable).astype(float),
            "method": table["method"],
        }
    )
    order = keys.sort_values(list(keys.columns)).index
    competes = (usable & (keys["place"] == 2))[order]
    ranks = competes.cumsum().astype(str).where(competes, "")
    return table.loc[order].assign(rank=ranks).reset_index(drop=True)


def _retraining_flops(cells: Iterable[CellResult]) -> float | None:
    return next((c.cost.flops for c in cells if c.ceiling and c.cost is not None), None)


def _named(warning: str, cell: CellResult) -> str:
    return warning if warning[0].isupper() else f"{cell.method}: {warning}"
