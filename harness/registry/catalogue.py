"""What can be named on the command line: the members of every configuration group, the metrics, the methods."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points
from importlib.resources import files

METHOD_ENTRY_POINTS = "unlearn.methods"
_GROUPS = ("data", "forget", "model", "train", "protocol", "method", "experiment")
KINDS = {
    "methods": "method",
    "data": "data",
    "models": "model",
    "metrics": "metrics",
    "protocols": "protocol",
    "forget": "forget",
    "train": "train",
    "experiments": "experiment",
}


def own_groups() -> tuple[str, ...]:
    """The configuration groups a user chooses from."""
    return _GROUPS


def listed_as(group: str) -> str:
    """What ``unlearn list`` calls the members of a group."""
    return next(kind for kind, members in KINDS.items() if members == group)


def names(group: str) -> list[str]:
    """The members of a group; methods include installed plug-ins."""
    if group == "metrics":
        from harness import metrics

        return metrics.available()
    folder = files("harness.conf") / group
    files_here = folder.iterdir() if folder.is_dir() else ()
    own = {entry.name.removesuffix(".yaml") for entry in files_here if entry.name.endswith(".yaml")}
    return sorted(own | set(plugins()) if group == "method" else own)


@lru_cache(maxsize=1)
def plugins() -> dict[str, str]:
    """Methods of installed packages, by name: where each one lives, ``package.module.name``."""
    return {point.name: point.value.replace(":", ".") for point in entry_points(group=METHOD_ENTRY_POINTS)}
