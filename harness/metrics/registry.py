"""Metrics by name: the built-in ones, and those of installed packages."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from harness.metrics.base import Column, Metric

ENTRY_POINT_GROUP = "unlearn.metrics"

# Name → where it lives. Loaded when asked for: a metric may need a heavy library.
_BUILT_IN = {
    "official": "harness.metrics.official:official",
    "ks": "harness.metrics.ks:ks",
    "kl": "harness.metrics.kl:kl",
    "accuracy": "harness.metrics.accuracy:accuracy",
    "exact": "harness.metrics.exact:exact",
    "gaussian": "harness.metrics.gaussian:gaussian",
    "certified": "harness.metrics.certified:certified",
    "knn_kl": "harness.metrics.knn_kl:knn_kl",
    "class_kl": "harness.metrics.class_kl:class_kl",
    "wasserstein": "harness.metrics.wasserstein:wasserstein",
    "jensen_shannon": "harness.metrics.jensen_shannon:jensen_shannon",
    "u_lira": "harness.metrics.u_lira:u_lira",
    "loss_attack": "harness.metrics.loss_attack:loss_attack",
    "disagreement": "harness.metrics.disagreement:disagreement",
    "representation": "harness.metrics.representation:representation",
}


def available() -> list[str]:
    """Names of all metrics, built-in and from installed packages (entry points in group ``unlearn.metrics``)."""
    return sorted({*_BUILT_IN, *_plug_ins()})


def get_metrics(names: Sequence[str]) -> list[Metric]:
    """Load metrics by name, in the order given.

    Raises:
        ValueError: a name is unknown (with the nearest known one), given twice, or claimed by a built-in and a package; or
            two metrics have a column of the same name.
        TypeError: one string instead of a list, or a plug-in that is not a metric.
    """
    if isinstance(names, str):
        raise TypeError(f"names must be a list of metric names, got the string {names!r}")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"metric given twice: {', '.join(twice)}")
    plug_ins = _plug_ins()
    metrics = [_load(name, plug_ins) for name in names]
    owners: dict[str, str] = {}
    for column, owner in ((column.name, metric.name) for metric in metrics for column in metric.columns):
        if owners.setdefault(column, owner) != owner:
            raise ValueError(
                f"metrics {owners[column]!r} and {owner!r} both have a column {column!r}: choose one of them"
            )
    return metrics


def all_columns() -> dict[str, Column]:
    """Every column that some metric gives, by name: what the columns of a board mean.

    Of two metrics that declare one name the built-in one counts. An installed metric that cannot be loaded is passed over:
    it must not break a board that it has no part in.
    """
    plug_ins = _plug_ins()
    columns: dict[str, Column] = {}
    for name in [*_BUILT_IN, *sorted(set(plug_ins) - set(_BUILT_IN))]:
        try:
            loaded = _load(name, {} if name in _BUILT_IN else plug_ins)
        except Exception:  # code of others, which may raise anything
            continue
        for column in loaded.columns:
            columns.setdefault(column.name, column)
    return columns


def _plug_ins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _load(name: str, plug_ins: Mapping[str, EntryPoint]) -> Metric:
    if name in _BUILT_IN and name in plug_ins:
        raise ValueError(
            f"metric {name!r} is built in, but {plug_ins[name].value} claims the name too: rename that one"
        )
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        target = getattr(import_module(module), attribute)
    elif name in plug_ins:
        target = plug_ins[name].load()
    else:
        known = sorted({*_BUILT_IN, *plug_ins})
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"unknown metric {name!r}; {hint}")
    missing = [part for part in ("name", "columns", "needs", "compute") if not hasattr(target, part)]
    if missing:
        raise TypeError(f"metric {name!r} ({target!r}) lacks {', '.join(missing)}; declare it with @metric")
    loaded: Metric = target
    return loaded
