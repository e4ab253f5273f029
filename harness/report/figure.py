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

# Lengths in points, of which 675 are 900 pixels on a page. Nothing is measured, so every machine draws the same.
_WIDTH, _EDGE, _VALUES = 675, 12, 56  # the last: room for the scores at the right
_ROW, _TITLE, _REFERENCES, _AXIS, _NOTE, _GAP = 15.5, 15, 18, 40, 12, 14  # heights, in the order they come in a panel
_LETTER, _LONGEST = 6.1, 40  # width of a letter of a method's name; letters of it that are shown
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
    figure = Figure(figsize=(_WIDTH / 72, (_EDGE + sum(panel.height for panel in panels)) / 72))
    top: float = _EDGE
    for panel in panels:
        _draw(panel, figure, top, theme)
        top += panel.height
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
        null: where 95 % of the scores of retrained against retrained models lie, or None.
        title, notes: lines of text above and below.
    """

    title: list[str]
    methods: pd.DataFrame
    references: pd.DataFrame
    null: tuple[float, float] | None
    notes: list[str]

    @staticmethod
    def of(board: Board, title: str) -> Panel:
        scored = board.rows[(board.rows["status"] == "ok") & board.rows["score"].notna()]
        methods = scored[scored.index >= board.references]
        null = board.nulls["score"][1:] if "score" in board.nulls else None
        return Panel(
            title=wrap(title, _LINE * 3 // 4),
            methods=methods,
            references=scored[scored.index < board.references],
            null=null,
            notes=[line for note in _notes(board, methods, null) for line in wrap(note, _LINE)],
        )

    @property
    def height(self) -> float:
        return _TITLE * len(self.title) + self.plot_height + _NOTE * len(self.notes) + _GAP

    @property
    def plot_height(self) -> float:
        """Of the rows with what is above and below them; 0 without any."""
        return _REFERENCES + _ROW * len(self.methods) + _AXIS if len(self.methods) else 0


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


def _draw(panel: Panel, figure: Figure, top: float, theme: Theme) -> None:
    """top: points between the upper edges of the figure and of the panel."""
    for line in panel.title:
        _write(figure, line, top, size=11, weight="bold")
        top += _TITLE
    if len(panel.methods):
        names = [_shortened(name) for name in _labels(panel.methods)]
        _plot(panel, names, _axes(figure, names, top + _REFERENCES), theme)
    top += panel.plot_height + 2
    for line in panel.notes:
        _write(figure, line, top, size=8.5, color=theme.muted)
        top += _NOTE


def _write(figure: Figure, line: str, top: float, **look: Any) -> None:
    height = figure.get_figheight() * 72
    figure.text(_EDGE / _WIDTH, 1 - top / height, line, va="top", **look)


def _axes(figure: Figure, names: Sequence[str], top: float) -> Axes:
    height = figure.get_figheight() * 72
    left = _EDGE + _LETTER * max(map(len, names)) + 6
    rows = _ROW * len(names)
    return figure.add_axes(
        (left / _WIDTH, 1 - (top + rows) / height, (_WIDTH - left - _VALUES) / _WIDTH, rows / height)
    )


def _plot(panel: Panel, names: Sequence[str], axes: Axes, theme: Theme) -> None:
    axes.set_xlim(*_limits(panel))
    axes.set_ylim(len(names) - 0.5, -0.5)  # the best at the top
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axes.set_xlabel("score")
    axes.grid(axis="y", color=theme.rule, linewidth=0.8)
    axes.set_axisbelow(True)
    if panel.null is not None:
        axes.axvspan(*panel.null, color=theme.null, linewidth=0, zorder=0)
    _reference_lines(panel.references, axes, theme)
    _dots(panel.methods, axes, theme)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _limits(panel: Panel) -> tuple[float, float]:
    """From 0, or a little below what lies lower, to a little above the largest."""
    rows = pd.concat([panel.methods, panel.references])
    ends = [rows["score"].to_numpy(), panel.null or ()]
    ends += [rows[name].dropna().to_numpy() for name in ("score_low", "score_high") if name in rows]
    values = np.concatenate(ends).astype(float)
    low, high = min(0.0, values.min()), values.max()
    margin = 0.04 * (high - low) or 1.0
    return (low - margin if low < 0 else 0.0), high + margin


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
