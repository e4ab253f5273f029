"""The picture of boards: for each a panel with a dot and an interval per method, beside lines for the references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from harness.report.columns import text
from harness.report.ranking import Board
from harness.report.svg import drawing, svg


@dataclass(frozen=True)
class Theme:
    background: str
    text: str
    muted: str
    rule: str
    method: str
    null: str


LIGHT = Theme("#ffffff", "#1f2328", "#59636e", "#e6eaef", "#0969da", "#d8f0de")
DARK = Theme("#0d1117", "#e6edf3", "#9198a1", "#222932", "#58a6ff", "#123420")

# In points, of which 675 are 900 pixels on a page.
_WIDTH, _EDGE = 675, 12
_ROW = 15.5
_FRAME = 82  # of a panel around its rows: the names of the references, the axis, what keeps panels apart
_TITLE, _NOTE = 14, 12
_LINE = 120  # letters of a note that fit in the width


def picture(boards: Sequence[Board], *, dark: bool) -> str:
    """All boards as one SVG, one panel under another. It is readable in a page 900 pixels wide."""
    theme = DARK if dark else LIGHT
    with drawing(_style(theme)):
        return svg(_figure(boards, theme))


def _style(theme: Theme) -> dict[str, object]:
    return {
        "font.size": 9.5,
        "figure.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "axes.edgecolor": theme.muted,
        "axes.spines.left": False,
        "axes.labelcolor": theme.muted,
        "text.color": theme.text,
        "xtick.color": theme.muted,
        "ytick.color": theme.text,
        "ytick.left": False,
    }


def _figure(boards: Sequence[Board], theme: Theme) -> Figure:
    panels = [Panel.of(board, title) for board, title in zip(boards, _titles(boards), strict=True)]
    layout = ConstrainedLayoutEngine(w_pad=_EDGE / 72, h_pad=10 / 72, hspace=0)
    figure = Figure(figsize=(_WIDTH / 72, sum(panel.height for panel in panels) / 72), layout=layout)
    places = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[panel.height for panel in panels])[:, 0]
    for panel, axes in zip(panels, places, strict=True):
        _draw(panel, axes, theme)
    return figure


def _titles(boards: Sequence[Board]) -> list[str]:
    """Task, protocol and N; the board's whole title where that does not tell it from the others."""
    firsts = [board.rows.iloc[0] for board in boards]
    short = [f"{row['task']}, {row['protocol']}, N = {row['n']}" for row in firsts]
    count = Counter(short)
    return [title if count[title] == 1 else board.title for title, board in zip(short, boards, strict=True)]


@dataclass(frozen=True)
class Panel:
    """What is drawn of one board.

    Attributes:
        methods: the rows that get a dot, best first.
        references: the rows that get a vertical line.
        null: where 95 % of the scores of retrained models against retrained models lie, or None.
        notes: lines of text below.
        height: in points.
    """

    title: str
    methods: pd.DataFrame
    references: pd.DataFrame
    null: tuple[float, float] | None
    notes: list[str]
    height: float

    @staticmethod
    def of(board: Board, title: str) -> Panel:
        scored = board.rows[(board.rows["status"] == "ok") & board.rows["score"].notna()]
        methods = scored[scored.index >= board.references]
        null = board.nulls["score"][1:] if "score" in board.nulls else None
        notes = [line for note in _notes(board, methods, null) for line in wrap(note, _LINE)]
        title_lines = wrap(title, _LINE * 3 // 4)
        return Panel(
            title="\n".join(title_lines),
            methods=methods,
            references=scored[scored.index < board.references],
            null=null,
            notes=notes,
            height=_FRAME + _ROW * max(1, len(methods)) + _NOTE * len(notes) + _TITLE * len(title_lines),
        )


def _notes(board: Board, methods: pd.DataFrame, null: tuple[float, float] | None) -> Iterable[str]:
    if methods.empty:
        yield "No method has a score."
    else:
        bar = ", bar: its 95 % interval" if _has_intervals(methods) else ""
        band = "; shaded: 95 % of the scores of retrained against retrained models" if null else ""
        yield f"Dot: score{bar}{band}."
    ranked = board.rows.iloc[board.references :]
    missing = ranked.drop(methods.index)
    if len(methods) and len(missing):
        names = (f"{row['method']} ({_why(row['status'])})" for row in missing.to_dict("records"))
        yield f"Not shown: {', '.join(names)}."


def _why(status: str) -> str:
    return "no score" if status == "ok" else status.replace("_", " ")


def _has_intervals(methods: pd.DataFrame) -> bool:
    return "score_low" in methods and bool(methods["score_low"].notna().any())


def _draw(panel: Panel, axes: Axes, theme: Theme) -> None:
    _write(axes, panel.title, 1, 22, size=11, weight="bold", va="bottom")
    below = -36 if len(panel.methods) else -4
    for i, note in enumerate(panel.notes):
        _write(axes, note, 0, below - _NOTE * i, size=8.5, color=theme.muted, va="top")
    if panel.methods.empty:
        axes.set_axis_off()
        return
    axes.set_xlim(*_limits(panel))
    axes.set_ylim(len(panel.methods) - 0.4, -0.6)  # the best at the top
    axes.set_yticks(range(len(panel.methods)), _labels(panel.methods))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axes.set_xlabel("score")
    axes.grid(axis="y", color=theme.rule, linewidth=0.8)
    axes.set_axisbelow(True)
    if panel.null is not None:
        axes.axvspan(*panel.null, color=theme.null, linewidth=0, zorder=0)
    _reference_lines(panel.references, axes, theme)
    _dots(panel.methods, axes, theme)


def _limits(panel: Panel) -> tuple[float, float]:
    """From 0, or what lies lower, to a little above the largest."""
    rows = pd.concat([panel.methods, panel.references])
    ends = [rows["score"].to_numpy(), panel.null or ()]
    ends += [rows[name].dropna().to_numpy() for name in ("score_low", "score_high") if name in rows]
    values = np.concatenate(ends).astype(float)
    low, high = min(0.0, values.min()), values.max()
    return low, high + (0.04 * (high - low) or 1.0)


def _labels(methods: pd.DataFrame) -> list[str]:
    """The method; with its recipe where another row is of the same method."""
    twice = methods["method"].duplicated(keep=False)
    return list(methods["method"].where(~twice, methods["method"] + " (" + methods["recipe"] + ")"))


def _reference_lines(references: pd.DataFrame, axes: Axes, theme: Theme) -> None:
    """A vertical line each with its name above; names of lines that lie close together are written away from each other."""
    ordered = references.sort_values("score")
    low, high = axes.get_xlim()
    close = len(ordered) > 1 and ordered["score"].diff().min() < 0.2 * (high - low)
    for i, row in enumerate(ordered.to_dict("records")):
        axes.axvline(row["score"], color=theme.text, linewidth=1, linestyle=(0, (4, 2)), zorder=1.5)
        axes.annotate(
            f"{row['method']} {text('score', row['score'])}",
            (row["score"], 1),
            (0, 5),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha=("right" if i == 0 else "left") if close else "center",
            size=8.5,
        )


def _dots(methods: pd.DataFrame, axes: Axes, theme: Theme) -> None:
    for place, row in enumerate(methods.to_dict("records")):
        low, high = row.get("score_low"), row.get("score_high")
        if low is not None and high is not None:  # NaN draws nothing
            axes.plot(
                [low, high], [place, place], color=theme.method, linewidth=1.8, solid_capstyle="round", alpha=0.55
            )
        axes.plot([row["score"]], [place], "o", color=theme.method, markersize=5)
        axes.annotate(
            text("score", row["score"]),
            (1, place),
            (8, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            size=8.5,
            color=theme.muted,
        )


def _write(axes: Axes, line: str, edge: float, above: float, **look: Any) -> None:
    """Text at the left of the picture, so many points above the lower (0) or upper (1) edge of the axes."""
    at = ("figure fraction", "axes fraction")
    axes.annotate(line, (_EDGE / _WIDTH, edge), (0, above), xycoords=at, textcoords="offset points", **look)
