"""Boards and studies as text files: Markdown and LaTeX, from the templates beside this module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.metrics import all_columns
from harness.report.columns import Table, table
from harness.report.footnotes import footnotes
from harness.report.ranking import Board
from harness.report.study import Study
from harness.report.study_tables import sections

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "ε": r"$\varepsilon$",
    "τ": r"$\tau$",
    "σ": r"$\sigma$",
}
_TO_LATEX = {ord(character): command for character, command in _LATEX.items()}


def board_markdown(boards: Sequence[Board]) -> str:
    """Boards as Markdown, and below them what the columns mean."""
    return _render("leaderboard.md.j2", boards=_views(boards), legend=_legend(boards))


def board_latex(boards: Sequence[Board]) -> str:
    """Boards as LaTeX tables in the style of booktabs, to be ``\\input`` into a paper."""
    return _render("leaderboard.tex.j2", boards=_views(boards))


def study_markdown(studies: Sequence[Study]) -> str:
    """The tables of studies as Markdown."""
    return _render("protocols.md.j2", studies=[{"title": s.title, "sections": sections(s)} for s in studies])


def in_markdown(value: str) -> str:
    """Text in a cell of a Markdown table."""
    return value.replace("|", "&#124;")


def in_latex(value: str) -> str:
    """Any text in LaTeX; a hyphen that begins a number is a minus sign."""
    return re.sub(r"^-(?=\d)", "$-$", value.translate(_TO_LATEX))


def _views(boards: Iterable[Board]) -> list[Mapping[str, Any]]:
    return [{"title": b.title, "warnings": b.warnings, "table": table(b), "footnotes": footnotes(b)} for b in boards]


def _legend(boards: Iterable[Board]) -> Table | None:
    """Best value, direction and meaning of every metric that has a column in these boards; None without any."""
    present = {name for board in boards for name in board.rows.columns if board.rows[name].notna().any()}
    rows = [
        [column.name, column.direction, "" if column.ideal is None else f"{column.ideal:g}", column.meaning]
        for name, column in all_columns().items()
        if name in present
    ]
    return Table(["column", "better", "ideal", "meaning"], [True, True, False, True], rows) if rows else None


def _render(template: str, **values: Any) -> str:
    latex = template.endswith(".tex.j2")
    # braces belong to LaTeX
    marks = {"block_start_string": "<%", "block_end_string": "%>"} if latex else {}
    marks |= {"variable_start_string": "<<", "variable_end_string": ">>"} if latex else {}
    environment = Environment(
        loader=PackageLoader("harness.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # no HTML; each template escapes what it prints
        **marks,  # type: ignore[arg-type]
    )
    environment.filters |= {"cell": in_markdown, "latex": in_latex}
    return environment.get_template(template).render(**values).rstrip("\n") + "\n"
