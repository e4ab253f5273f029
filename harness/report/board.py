"""The leaderboard, generated from result files and from nothing else.

Results that cannot be compared (another task, model, training, protocol, N or estimator) never share a board: there is
one board for each such combination. Several seeds, and several experiments of ``full``, make one row.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

from harness.draws.store import write_atomically
from harness.errors import UserError
from harness.metrics import all_columns
from harness.scores.intervals import combined, half_width, normalised, tie_letters
from harness.scores.results import CellResult, Value, read_all

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
    """One table. ``title`` says what all its rows share; ``nulls`` what two pools of retrained models give at this N."""

    key: str
    title: str
    rows: pd.DataFrame
    nulls: dict[str, tuple[float, float, float]]
    warnings: list[str]


def build(cells: Sequence[CellResult]) -> list[Board]:
    """Boards in order of their titles. Raises UserError if there is no result."""
    if not cells:
        raise UserError("no results: expected cells/*.json written by `unlearn`")
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        groups.setdefault(_board_key(cell), []).append(cell)
    titles = _titles({key: group[0] for key, group in groups.items()})
    return sorted((_board(key, group, titles[key]) for key, group in groups.items()), key=lambda board: board.title)


def write(folder: Path, boards: Sequence[Board]) -> None:
    """``leaderboard.csv`` (all boards, told apart by the column ``board``), ``leaderboard.md`` and a picture of it."""
    table = pd.concat([board.rows for board in boards], ignore_index=True)
    write_atomically(folder / "leaderboard.csv", table.to_csv(index=False).encode())
    text = "\n".join([*map(markdown, boards), *_legend(boards)])
    write_atomically(folder / "leaderboard.md", text.encode())
    write_atomically(folder / "leaderboard.svg", picture(boards).encode())


def rebuild(folder: Path) -> list[Board]:
    """Read every result below ``folder`` and write its board there."""
    boards = build(read_all(folder))
    write(folder, boards)
    return boards


def _board_key(cell: CellResult) -> str:
    parts = [cell.task.hash, cell.model, cell.training, cell.protocol.kind, cell.protocol.n, cell.estimator]
    return json.dumps(parts, sort_keys=True)


def _board(key: str, cells: list[CellResult], title: str) -> Board:
    rows: dict[tuple[str, str, str, str], list[CellResult]] = {}
    for cell in cells:
        parameters = json.dumps(cell.parameters, sort_keys=True)
        rows.setdefault((cell.method, cell.recipe, cell.target, parameters), []).append(cell)
    flops = _retraining_flops(cells)
    found = [_row(group, flops, title) for group in rows.values()]
    for row, extra_columns in zip(found, _compared(list(rows.values())), strict=True):
        row |= extra_columns
    table = pd.DataFrame(found)
    ok = table["status"] == "ok"
    usable = ok & table["score"].notna()
    table = table.assign(_ok=ok, _usable=usable, _score=table["score"].where(usable))
    order = ["_ok", "_usable", "_score", "method"]
    table = table.sort_values(order, ascending=[False, False, False, True], ignore_index=True)
    table["rank"] = [str(i + 1) if usable else "" for i, usable in enumerate(table.pop("_usable"))]
    table = table.drop(columns=["_ok", "_score"])
    extra = [name for name in table.columns if name not in COLUMNS and name not in _LAST]
    return Board(
        key=key,
        title=title,
        rows=table.reindex(columns=[*COLUMNS, *extra, *_LAST]),
        nulls=_nulls(cells),
        warnings=list(dict.fromkeys(_named(warning, cell) for cell in cells for warning in cell.warnings)),
    )


def _row(cells: list[CellResult], retraining_flops: float | None, title: str) -> dict[str, Any]:
    """One method: the mean over its seeds and experiments, and the standard deviation of the score between them."""
    first = cells[0]
    ok = [cell for cell in cells if cell.status == "ok"]
    bad = [cell for cell in cells if cell.status != "ok"]
    row: dict[str, Any] = {
        "method": first.method,
        "recipe": first.recipe,
        "task": f"{first.task.name}/{first.task.forget_kind}",
        "protocol": first.protocol.kind,
        "seeds": " ".join(str(seed) for seed in sorted({cell.seeds["train"] for cell in cells})),
        "status": bad[0].status if bad else "ok",
        "n": first.protocol.n,
        "reason": "; ".join(dict.fromkeys(f"{_where(c, cells)}{c.reason}" for c in bad)),
        "model": str(first.model.get("_target_", "")).rpartition(".")[2],
        "estimator": first.estimator,
        "task_hash": first.task.hash,
        "board": title,
        "nan_draws": sum(cell.nan_draws for cell in cells),
        "chosen": " | ".join(dict.fromkeys(_choice(cell) for cell in ok if cell.chosen)),
    }
    for name in dict.fromkeys(name for cell in ok for name in cell.metrics):
        values = [cell.metrics.get(name, Value(value=None)) for cell in ok]
        found = [value.value for value in values if value.value is not None]
        row[name] = sum(found) / len(found) if found else None
        ends = _interval(values, independent=len({_models(cell) for cell in ok}) == len(ok))
        if ends is not None:
            row[f"{name}_low"], row[f"{name}_high"] = ends
        if name == "score":
            row["score_sd"] = float(pd.Series(found).std()) if len(found) > 1 else None
    row.setdefault("score", None)
    costs = [cell.cost for cell in ok if cell.cost is not None]
    if costs:
        row["seconds_per_model"] = sum(cost.seconds_per_model for cost in costs) / len(costs)
        row["cost_ratio"] = sum(cost.ratio for cost in costs) / len(costs)
        row["over_limit"] = any(cost.over_limit for cost in costs)
        row["comparable_cost"] = all(cost.comparable for cost in costs)
        row["flops"] = costs[0].flops
        if costs[0].flops is not None and retraining_flops:
            row["flops_ratio"] = costs[0].flops / retraining_flops
    return row


def _interval(values: Sequence[Value], *, independent: bool) -> tuple[float, float] | None:
    """The interval of the mean over seeds and experiments; None where one of them has none.

    independent: whether they share no models; if they do, the mean is not taken to be surer than one of them.
    """
    known = [(v.value, v.interval) for v in values if v.value is not None and v.interval is not None]
    if not known or len(known) < len(values):
        return None
    mean = sum(value for value, _ in known) / len(known)
    below, above = [value - ends[0] for value, ends in known], [ends[1] - value for value, ends in known]
    if not independent:
        return mean - sum(below) / len(below), mean + sum(above) / len(above)
    return mean - combined(below), mean + combined(above)


def _models(cell: CellResult) -> tuple[int, int]:
    """Equal for cells that share originals and retrained models: seeds other than that of training draw no new ones."""
    return cell.seeds["train"], cell.protocol.experiment


def _compared(rows: Sequence[Sequence[CellResult]]) -> list[dict[str, Any]]:
    """What each row's score says beside those of the other rows: ``ties`` and ``normalised`` (see scores/intervals.py)."""
    usable = [all(cell.status == "ok" for cell in cells) for cells in rows]
    scores = [_mean_score(cells) if fine else math.nan for cells, fine in zip(rows, usable, strict=True)]
    again = [_score_on_subsets(cells) for cells in rows]
    usual = Counter(len(values) for values in again if values is not None).most_common(1)
    comparable = {
        i: values
        for i, values in enumerate(again)
        if values is not None and not math.isnan(scores[i]) and len(values) == usual[0][0]
    }
    n = rows[0][0].protocol.n
    letters = tie_letters({str(i): scores[i] for i in comparable}, {str(i): v for i, v in comparable.items()}, n=n)
    floor = next((i for i, cells in enumerate(rows) if cells[0].floor), None)
    ceiling = next((i for i, cells in enumerate(rows) if cells[0].ceiling), None)
    found: list[dict[str, Any]] = []
    for i, score in enumerate(scores):
        value = half = math.nan
        if floor is not None and ceiling is not None:
            value = normalised(score, floor=scores[floor], ceiling=scores[ceiling])
            if {i, floor, ceiling} <= comparable.keys():  # the same draws left out of all three rows
                subsets = zip(comparable[i], comparable[floor], comparable[ceiling], strict=True)
                half = half_width(np.array([normalised(s, floor=f, ceiling=c) for s, f, c in subsets]), n=n)
        ends = {"normalised_low": value - half, "normalised_high": value + half}
        found.append({"ties": letters.get(str(i), ""), "normalised": value, **ends})
    return found


def _mean_score(cells: Sequence[CellResult]) -> float:
    values = [cell.metrics["score"].value for cell in cells if "score" in cell.metrics]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(cells) else math.nan


def _score_on_subsets(cells: Sequence[CellResult]) -> np.ndarray | None:
    """[subsets], the mean over seeds and experiments; None where they are missing or do not fit together."""
    lengths = {len(cell.score_on_subsets) for cell in cells}
    if len(lengths) != 1 or lengths == {0}:
        return None
    return np.mean([cell.score_on_subsets for cell in cells], axis=0)


def _retraining_flops(cells: Iterable[CellResult]) -> float | None:
    """Operations of the costliest kind of row there is on every board: training again from scratch."""
    return next((c.cost.flops for c in cells if c.ceiling and c.cost is not None), None)


def _choice(cell: CellResult) -> str:
    return "; ".join(f"{name}: {value}" for name, value in cell.chosen.items())


def _where(cell: CellResult, cells: list[CellResult]) -> str:
    if len(cells) == 1:
        return ""
    experiment = f", experiment {cell.protocol.experiment}" if cell.protocol.experiments > 1 else ""
    return f"seed {cell.seeds['train']}{experiment}: "


def _named(warning: str, cell: CellResult) -> str:
    return warning if warning[0].isupper() else f"{cell.method}: {warning}"


def _nulls(cells: list[CellResult]) -> dict[str, tuple[float, float, float]]:
    """Mean and band of every column, averaged over seeds and experiments."""
    found: dict[str, dict[Any, tuple[float, float, float]]] = {}
    for cell in cells:
        for name, value in cell.metrics.items():
            null = value.null
            if null is not None and null.mean is not None and null.low is not None and null.high is not None:
                found.setdefault(name, {}).setdefault(_models(cell), (null.mean, null.low, null.high))
    return {name: tuple(np.mean(list(of.values()), axis=0).tolist()) for name, of in found.items()}


def _titles(cells: dict[str, CellResult]) -> dict[str, str]:
    """A title for each board; boards whose titles would be equal also say in which settings they differ."""
    titles = {key: _title(cell) for key, cell in cells.items()}
    for key, cell in cells.items():
        alike = [other for k, other in cells.items() if _title(other) == _title(cell)]
        settings = [_settings(other) for other in alike]
        differing = [s for s in _settings(cell) if len({repr(other.get(s)) for other in settings}) > 1]
        titles[key] += "".join(f", {name}={_settings(cell)[name]}" for name in differing)
    return titles


def _settings(cell: CellResult) -> dict[str, Any]:
    nodes = (("model", cell.model), ("train", cell.training))
    return {f"{group}.{key}": value for group, node in nodes for key, value in node.items()} | {
        "estimator": cell.estimator
    }


def _title(cell: CellResult) -> str:
    model = str(cell.model.get("_target_", "")).rpartition(".")[2]
    sizes = cell.task.sizes
    return (
        f"{cell.task.name}, forget {sizes['forget']} of {sizes['retain'] + sizes['forget']} ({cell.task.forget_kind}), "
        f"{model}, {cell.protocol.kind}, N = {cell.protocol.n}, task {cell.task.hash[:8]}"
    )


# --- how a board looks ------------------------------------------------------------------------------------------------

_HEADINGS = {
    "rank": "#",
    "method": "method",
    "recipe": "recipe",
    "score": "score",
    "interval": "95 %",
    "ties": "ties",
    "normalised": "normalised",
    "forgetting_quality": "F",
    "epsilon_median": "median ε",
    "ks_rejected": "KS rejected",
    "kl": "KL",
    "retain_accuracy": "retain",
    "forget_accuracy": "forget",
    "test_accuracy": "test",
    "seconds_per_model": "s/model",
    "cost_ratio": "cost",
}
_PERCENT = {"ks_rejected", "retain_accuracy", "forget_accuracy", "test_accuracy", "cost_ratio"}


def show(board: Board, console: Console) -> None:
    """Print the board to a terminal."""
    for warning in board.warnings:
        console.print(Text(warning, style="bold red" if warning.startswith("SANITY") else "yellow"))
    table = Table(title=Text(board.title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, heading in _headings(board).items():
        text = name in ("method", "recipe", "ties")
        table.add_column(heading, justify="left" if text else "right", no_wrap=text, overflow="ellipsis")
    for cells in _cells(board):
        table.add_row(*map(Text, cells))  # names and values are the user's: [x] in them is not markup
    console.print(table)
    for note in _footnotes(board):
        console.print(note, style="dim", markup=False, highlight=False)


def markdown(board: Board) -> str:
    """The board as a Markdown section."""
    headings = list(_headings(board).values())
    lines = [f"## {board.title}", ""]
    lines += [f"> **{warning}**\n" for warning in board.warnings]
    lines += [f"| {' | '.join(headings)} |", f"|{'|'.join(['---'] * 3 + ['---:'] * (len(headings) - 3))}|"]
    lines += [f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |" for cells in _cells(board)]
    lines += ["", *(f"{note}  " for note in _footnotes(board)), ""]
    return "\n".join(lines)


def _legend(boards: Sequence[Board]) -> list[str]:
    """What the columns mean, best value and direction included: of every metric that has a column in these boards."""
    present = {name for board in boards for name in board.rows.columns if board.rows[name].notna().any()}
    columns = [column for name, column in all_columns().items() if name in present]
    if not columns:
        return []
    lines = ["**Columns**", "", "| column | better | ideal | meaning |", "|---|---|---|---|"]
    for column in columns:
        ideal = "" if column.ideal is None else f"{column.ideal:g}"
        lines.append(f"| {column.name} | {column.direction} | {ideal} | {column.meaning.replace('|', '&#124;')} |")
    return [*lines, ""]


def picture(boards: Sequence[Board]) -> str:
    """The boards as they look in a terminal, as one SVG that refers to nothing outside itself."""
    console = Console(record=True, width=180, file=io.StringIO(), force_terminal=True)
    for board in boards:
        show(board, console)
    svg = console.export_svg(title="unlearn", theme=DEFAULT_TERMINAL_THEME, unique_id="board")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def _headings(board: Board) -> dict[str, str]:
    """What is shown: intervals, ties and the normalised score only where there are any."""
    rows = board.rows
    shown = {
        "interval": "score_low" in rows and rows["score_low"].notna().any(),
        "ties": "ties" in rows and (rows["ties"].fillna("") != "").any(),
        "normalised": "normalised" in rows and rows["normalised"].notna().any(),
    }
    return {name: heading for name, heading in _HEADINGS.items() if shown.get(name, True)}


def _ends(row: pd.Series) -> str | None:
    low, high = row.get("score_low"), row.get("score_high")
    return None if pd.isna(low) or pd.isna(high) else f"{low:.3f} to {high:.3f}"


def _cells(board: Board) -> list[list[str]]:
    rows = []
    for _, row in board.rows.iterrows():
        row["interval"] = _ends(row)
        cells = [_text(name, row.get(name)) for name in _headings(board)]
        if row["status"] != "ok":
            cells[1] += f" ({row['status'].replace('_', ' ')})"
        if row.get("over_limit") is True:
            cells[-1] += " !"
        if row.get("comparable_cost") is False:
            cells[-1] += " ~"
        rows.append(cells)
    return rows


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "–"
    if name in _PERCENT:
        return f"{value:.1%}"
    if name == "normalised":
        return f"{value:.2f}"
    return f"{value:.4f}" if name in ("score", "forgetting_quality") else f"{value:.3g}"


def _footnotes(board: Board) -> list[str]:
    rows = board.rows
    notes = []
    if set(rows["protocol"]) == {"reuse_n_1"}:
        notes.append(
            "reuse_n_1: everything, the intervals too, is conditional on the one original; what adds no randomness of its own "
            "(doing nothing, say) has no spread here, hence ε = 50 and F = 0 whatever it does"
        )
    if board.nulls:
        shown = [n for n in ("score", "forgetting_quality", "ks_rejected", "kl") if n in board.nulls]
        texts = [
            f"{_HEADINGS[n]} {board.nulls[n][0]:.3g} ({board.nulls[n][1]:.3g} to {board.nulls[n][2]:.3g})"
            for n in shown
        ]
        notes.append("null, retrained against retrained at this N, mean and central 95 %: " + ", ".join(texts))
    if "ties" in _headings(board):
        notes.append(
            "95 %: interval over draws; methods that share a letter are not separated at 95 % (paired, each pair on its own)"
        )
    if "normalised" in _headings(board):
        notes.append("normalised: 0 = doing nothing, 1 = retraining")
    for _, row in rows[rows["chosen"] != ""].iterrows():
        notes.append(f"{row['method']} chose {row['chosen']}")
    for _, row in rows[rows["status"] != "ok"].iterrows():
        notes.append(f"{row['method']}: {row['status'].replace('_', ' ')}: {' '.join(str(row['reason']).split())}")
    if (rows["over_limit"] == True).any():  # noqa: E712 - the column also holds missing values
        notes.append("! dearer than the cost limit: the competition would have rejected it")
    if (rows["comparable_cost"] == False).any():  # noqa: E712
        notes.append("~ a plain function, timed with its data loaders: not comparable with the other times")
    return notes
