"""Which results share a board, and what that board is called.

Results that cannot be compared (another task, model, training, protocol, N or estimator) never share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.files import canonical
from harness.scores.results import CellResult, TaskInfo


def comparable(cells: Sequence[CellResult]) -> list[tuple[str, list[CellResult]]]:
    """The results as groups that may be compared, each with its title, in the order of the titles."""
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        parts = [cell.task.hash, cell.model, cell.training, cell.protocol.kind, cell.protocol.n, cell.estimator]
        groups.setdefault(canonical(parts), []).append(cell)
    titles = _titles([group[0] for group in groups.values()])
    return sorted(zip(titles, groups.values(), strict=True), key=lambda titled: titled[0])


def task_title(task: TaskInfo) -> str:
    """The data set, how many examples are forgotten of how many, and which kind."""
    sizes = task.sizes
    return f"{task.name}, forget {sizes['forget']} of {sizes['retain'] + sizes['forget']} ({task.forget_kind})"


def _titles(cells: Sequence[CellResult]) -> list[str]:
    """A title for one result of each group; groups whose titles would be equal also say in which settings they differ."""
    titles = []
    for cell in cells:
        alike = [_settings(other) for other in cells if _title(other) == _title(cell)]
        own = _settings(cell)
        differing = [name for name in own if len({repr(settings.get(name)) for settings in alike}) > 1]
        titles.append(_title(cell) + "".join(f", {name}={own[name]}" for name in differing))
    return titles


def _title(cell: CellResult) -> str:
    protocol = f"{cell.protocol.kind}, N = {cell.protocol.n}"
    return f"{task_title(cell.task)}, {cell.model_name}, {protocol}, task {cell.task.hash[:8]}"


def _settings(cell: CellResult) -> dict[str, Any]:
    nodes = (("model", cell.model), ("train", cell.training))
    settings = {f"{group}.{key}": value for group, node in nodes for key, value in node.items()}
    return settings | {"estimator": cell.estimator}
