"""One method of a board from its results: means over seeds and experiments, with their intervals, and the cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.scores.intervals import combined
from harness.scores.results import CellResult, Value

Band = tuple[float, float, float]  # mean, low, high


def method_row(cells: Sequence[CellResult], *, retraining_flops: float | None) -> dict[str, Any]:
    """The columns of one method, from its results with every seed and experiment.

    Args:
        cells: results of one method, recipe and set of hyper-parameters; failed ones contribute their reason only.
        retraining_flops: floating-point operations of training again from scratch, or None where nobody counted.
    """
    ok = [cell for cell in cells if cell.status == "ok"]
    return {**_identity(cells), **_metrics(ok), **_cost(ok, retraining_flops)}


def nulls(cells: Sequence[CellResult]) -> dict[str, Band]:
    """Mean and 95 % band of every column for retrained against retrained, averaged over seeds and experiments."""
    bands: dict[str, dict[Any, Band]] = {}
    for cell in cells:
        for name, value in cell.metrics.items():
            null = value.null
            if null is not None and null.mean is not None and null.low is not None and null.high is not None:
                bands.setdefault(name, {}).setdefault(_models(cell), (null.mean, null.low, null.high))
    return {name: tuple(np.mean(list(of.values()), axis=0).tolist()) for name, of in bands.items()}


def _identity(cells: Sequence[CellResult]) -> dict[str, Any]:
    first = cells[0]
    bad = [cell for cell in cells if cell.status != "ok"]
    return {
        "method": first.method,
        "recipe": first.recipe,
        "task": f"{first.task.name}/{first.task.forget_kind}",
        "protocol": first.protocol.kind,
        "seeds": " ".join(str(seed) for seed in sorted({cell.seeds["train"] for cell in cells})),
        "status": bad[0].status if bad else "ok",
        "n": first.protocol.n,
        "reason": "; ".join(dict.fromkeys(f"{_where(cell, cells)}{cell.reason}" for cell in bad)),
        "model": first.model_name,
        "estimator": first.estimator,
        "task_hash": first.task.hash,
        "nan_draws": sum(cell.nan_draws for cell in cells),
        "chosen": " | ".join(dict.fromkeys(_choice(c) for c in cells if c.status == "ok" and c.chosen)),
    }


def _where(cell: CellResult, cells: Sequence[CellResult]) -> str:
    if len(cells) == 1:
        return ""
    experiment = f", experiment {cell.protocol.experiment}" if cell.protocol.experiments > 1 else ""
    return f"seed {cell.seeds['train']}{experiment}: "


def _choice(cell: CellResult) -> str:
    return "; ".join(f"{name}: {value}" for name, value in cell.chosen.items())


def _metrics(ok: Sequence[CellResult]) -> dict[str, Any]:
    """Every column's mean, with ``_low`` and ``_high`` where it has an interval; ``score_sd`` is the spread over seeds."""
    row: dict[str, Any] = {}
    independent = len({_models(cell) for cell in ok}) == len(ok)
    for name in dict.fromkeys(name for cell in ok for name in cell.metrics):
        values = [cell.metrics.get(name, Value(value=None)) for cell in ok]
        known = [value.value for value in values if value.value is not None]
        row[name] = sum(known) / len(known) if known else None
        ends = _interval(values, independent=independent)
        if ends is not None:
            row[f"{name}_low"], row[f"{name}_high"] = ends
        if name == "score":
            row["score_sd"] = float(np.std(known, ddof=1)) if len(known) > 1 else None
    row.setdefault("score", None)
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


def _cost(ok: Sequence[CellResult], retraining_flops: float | None) -> dict[str, Any]:
    costs = [cell.cost for cell in ok if cell.cost is not None]
    if not costs:
        return {}
    row: dict[str, Any] = {
        "seconds_per_model": sum(cost.seconds_per_model for cost in costs) / len(costs),
        "cost_ratio": sum(cost.ratio for cost in costs) / len(costs),
        "over_limit": any(cost.over_limit for cost in costs),
        "comparable_cost": all(cost.comparable for cost in costs),
        "flops": costs[0].flops,
    }
    if costs[0].flops is not None and retraining_flops:
        row["flops_ratio"] = costs[0].flops / retraining_flops
    return row
