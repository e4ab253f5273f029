"""``unlearn list``: what can be named on the command line, and what it is."""

from __future__ import annotations

import ast
import importlib.util
from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.errors import unknown_name
from harness.registry.catalogue import KINDS, names


def show(kind: str | None, *, plain: bool) -> None:
    """Print one kind, or all. ``plain``: names only, one a line."""
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    kinds = [kind] if kind else list(KINDS)
    if plain:
        print("\n".join(name for k in kinds for name in names(KINDS[k])))
        return
    console = Console()
    for k in kinds:
        table = Table("name", "what it is", title=k, title_justify="left", box=None, title_style="bold")
        for name in names(KINDS[k]):
            table.add_row(name, _about(KINDS[k], name))
        console.print(table)


def _about(group: str, name: str) -> str:
    """The first comment line of a configuration file, or the first line of the docstring of the module it points to."""
    file = files("harness.conf") / group / f"{name}.yaml"
    if not file.is_file():
        return _metric_columns(name) if group == "metrics" else "plug-in"
    lines = file.read_text().splitlines()
    target = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("_target_:")), "")
    if group == "method":
        return _docstring(target.rpartition(".")[0])
    comments = (line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    return next((comment for comment in comments if not comment.startswith("@")), "")


def _metric_columns(name: str) -> str:
    from harness.metrics import get_metrics

    try:
        (metric,) = get_metrics([name])
    except Exception as error:  # an installed metric may raise anything when it is imported
        return f"cannot be loaded: {error}"
    return ", ".join(column.name for column in metric.columns)


def _docstring(module: str) -> str:
    """The first line of a module's docstring, read without importing the module."""
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or spec.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return text.splitlines()[0] if text else ""
