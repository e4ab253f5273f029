"""Does the cheap protocol agree with the expensive one? What results of repeated runs say of each other.

A *run* is one set of pools that all methods are scored on: a result of ``reuse_n_n`` or ``reuse_n_1`` with one seed, or one
experiment of ``full``, which is a ``reuse_n_n`` run with draws of its own. Runs with different seeds, and experiments, share
no model. So ``full`` is, for every method, the mean over the ``reuse_n_n`` runs, and each run is held against the mean of the
*other* ones. A ``reuse_n_1`` run is held against the runs with other seeds. docs/protocols.md says what was found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from harness.files import canonical
from harness.report.grouping import task_title
from harness.scores.results import CellResult
from harness.streams import seed_for

MEASURES = ("score", "forgetting_quality")
ASSIGNMENTS = 200
_RUN = ["protocol", "n", "run"]


@dataclass(frozen=True)
class Study:
    """One task and one way of training.

    by_method: a row per measure, protocol, N and method: mean and standard deviation between runs, the standard error that the
        intervals claim, the rank, and the difference to ``full`` (``bias``) with its 95 % interval.
    summary: a row per measure, protocol and N: Kendall's τ to ``full``, typical errors, cost.
    """

    title: str
    by_method: pd.DataFrame
    summary: pd.DataFrame

    def methods(self, measure: str, protocol: str) -> pd.DataFrame:
        """The rows of ``by_method`` for one measure and protocol."""
        table = self.by_method
        return table[(table["measure"] == measure) & (table["protocol"] == protocol)]

    def rankings(self, measure: str) -> pd.DataFrame:
        """The rows of ``summary`` for one measure."""
        return self.summary[self.summary["measure"] == measure]

    def by_n(self) -> tuple[pd.DataFrame, pd.Series]:
        """F under ``full`` by method and N, methods by their F at the largest N; and its null by N."""
        table = self.methods("forgetting_quality", "reuse_n_n")
        wide = table.pivot(index="method", columns="n", values="mean")
        return wide.sort_values(wide.columns.max(), ascending=False), table.groupby("n")["null"].mean()

    def one_original(self) -> tuple[int, pd.DataFrame, pd.DataFrame] | None:
        """F from one original and under ``full``, by method in order of the bias, at the largest N that has both.

        None without two runs of both protocols with the same seeds.
        """
        cheap = self.methods("forgetting_quality", "reuse_n_1").dropna(subset="bias")
        if cheap.empty:
            return None
        n = int(cheap["n"].max())
        cheap = cheap[cheap["n"] == n].sort_values("bias").set_index("method")
        full = self.methods("forgetting_quality", "reuse_n_n")
        return n, cheap, full[full["n"] == n].set_index("method").loc[cheap.index]


def studies(cells: Sequence[CellResult]) -> list[Study]:
    """A study of every task that has at least two runs of ``reuse_n_n`` (or ``full``) at one N; others are left out."""
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        key = canonical([cell.task.hash, cell.model, cell.training, cell.estimator])
        groups.setdefault(key, []).append(cell)
    return [study for group in groups.values() if (study := _study(group)) is not None]


def _study(cells: list[CellResult]) -> Study | None:
    table = _table(cells)
    methods = table[~table["reference"]] if len(table) else table
    if methods.empty or methods[methods["protocol"] == "reuse_n_n"].groupby("n")["run"].nunique().max() < 2:
        return None
    by_method = pd.concat([_by_method(table, measure) for measure in MEASURES], ignore_index=True)
    summary = pd.concat([_summary(table, by_method, measure) for measure in MEASURES], ignore_index=True)
    return Study(task_title(cells[0].task), by_method, summary)


def _table(cells: Sequence[CellResult]) -> pd.DataFrame:
    """A row per run and method. What has the same draws counts once: ``reuse_n_n`` and an experiment of ``full``, or
    seeds that differ in something else than training."""
    rows = []
    for cell in cells:
        if cell.status != "ok":
            continue
        kind, n = cell.protocol.kind, cell.protocol.n
        row: dict[str, object] = {
            "protocol": "reuse_n_n" if kind == "full" else kind,
            "n": n,
            "run": canonical([cell.seeds["train"], cell.protocol.experiment * n]),
            "name": cell.method,
            "recipe": cell.recipe,
            "parameters": canonical([cell.target, cell.parameters]),
            "reference": cell.ceiling or cell.floor,
            "seconds": cell.cost.seconds_per_model if cell.cost else math.nan,
            "retraining": cell.cost.retraining_seconds if cell.cost else math.nan,
            "epsilon_median": getattr(cell.metrics.get("epsilon_median"), "value", None),
        }
        for measure in MEASURES:
            value = cell.metrics.get(measure)
            ends = value.interval if value is not None else None
            row[measure] = math.nan if value is None or value.value is None else value.value
            row[f"{measure}_error"] = (ends[1] - ends[0]) / 2 / stats.t.ppf(0.975, n - 1) if ends else math.nan
            null = value.null if value is not None else None
            row[f"{measure}_null"] = null.mean if null is not None and null.mean is not None else math.nan
        rows.append(row)
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    identity = ["name", "recipe", "parameters"]
    table = table.drop_duplicates([*identity, *_RUN])
    return table.assign(method=_labels(table[identity]))


def _labels(table: pd.DataFrame) -> pd.Series:
    """The name; with the recipe where that says more, and a number where only other parameters do."""
    settings = table.drop_duplicates()
    recipes = settings.groupby("name")["recipe"].nunique()
    labels = {}
    for (name, recipe), group in settings.groupby(["name", "recipe"], sort=False):
        label = f"{name} ({recipe})" if recipes[name] > 1 else str(name)
        for i, parameters in enumerate(group["parameters"]):
            labels[name, recipe, parameters] = f"{label} #{i + 1}" if len(group) > 1 else label
    return pd.Series([labels[key] for key in table.itertuples(index=False, name=None)], index=table.index)


def _by_method(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    grouped = table.groupby(["protocol", "n", "method"])
    means = grouped[measure].agg(mean="mean", sd="std", runs="count").reset_index()
    means["claimed_error"] = grouped[f"{measure}_error"].mean().to_numpy()
    means["null"] = grouped[f"{measure}_null"].mean().to_numpy()
    means["epsilon_median"] = grouped["epsilon_median"].median().to_numpy()
    means["rank"] = means.groupby(["protocol", "n"])["mean"].rank(ascending=False, method="min").astype("Int64")
    values = {key: group.set_index("run")[measure] for key, group in grouped}
    rows = [
        _bias(values[row.protocol, row.n, row.method], values.get(("reuse_n_n", row.n, row.method)))
        if row.protocol != "reuse_n_n"
        else _bias(None, None)
        for row in means.itertuples()
    ]
    return pd.concat([means.assign(measure=measure), pd.DataFrame(rows)], axis=1)


def _bias(cheap: pd.Series | None, full: pd.Series | None) -> dict[str, float]:
    """The mean difference to ``full`` and its 95 % interval, from runs with the same retrained models (paired t)."""
    nothing = {"bias": math.nan, "bias_low": math.nan, "bias_high": math.nan}
    if cheap is None or full is None:
        return nothing
    difference = (cheap - full).dropna()
    if len(difference) < 2:
        return nothing
    half = stats.t.ppf(0.975, len(difference) - 1) * difference.std() / math.sqrt(len(difference))
    return {"bias": difference.mean(), "bias_low": difference.mean() - half, "bias_high": difference.mean() + half}


def _summary(table: pd.DataFrame, by_method: pd.DataFrame, measure: str) -> pd.DataFrame:
    rows = []
    for (protocol, n), group in table[~table["reference"]].groupby(["protocol", "n"]):
        runs = group.pivot(index="run", columns="method", values=measure).dropna(axis=1)
        whole = table[(table["protocol"] == "reuse_n_n") & (table["n"] == n) & ~table["reference"]]
        full = whole.pivot(index="run", columns="method", values=measure).dropna(axis=1)
        taus = [
            tau
            for run in runs.index
            if not math.isnan(tau := _tau(runs.loc[run], full.drop(index=run, errors="ignore")))
        ]
        own = by_method[(by_method["measure"] == measure) & (by_method["protocol"] == protocol) & (by_method["n"] == n)]
        own = own[own["method"].isin(runs.columns)]
        biased = (own["bias_low"] > 0) | (own["bias_high"] < 0)
        rows.append(
            {
                "measure": measure,
                "protocol": protocol,
                "n": n,
                "runs": len(runs),
                "methods": runs.shape[1],
                "tau": np.mean(taus) if taus else math.nan,
                "tau_low": min(taus, default=math.nan),
                "tau_high": max(taus, default=math.nan),
                "tau_unshared": _tau_unshared(full) if protocol == "reuse_n_n" else math.nan,
                "sd": own["sd"].median(),
                "claimed_error": own["claimed_error"].median(),
                "biased": int(biased.sum()) if own["bias"].notna().any() else pd.NA,
                **_cost(group, str(protocol), int(n)),
            }
        )
    return pd.DataFrame(rows)


def _tau(run: pd.Series, others: pd.DataFrame) -> float:
    """Kendall's τ between a run and the mean of ``others`` (a row each), over the methods that both have."""
    both = run.index.intersection(others.columns)
    if others.empty or len(both) < 2:
        return math.nan
    return float(stats.kendalltau(run[both], others[both].mean()).statistic)


def _tau_unshared(full: pd.DataFrame) -> float:
    """The mean τ if no two methods shared their pools: each method's value is taken from a run drawn at random."""
    values = full.sort_values(list(full.columns)).to_numpy()  # so that the order of runs plays no part
    runs, methods = values.shape
    if runs < 2 or methods < 2:
        return math.nan
    rng = np.random.default_rng(seed_for("assignments"))
    taus = []
    for _ in range(ASSIGNMENTS):
        one = values[rng.integers(runs, size=methods), np.arange(methods)]
        taus.append(stats.kendalltau(one, (values.sum(0) - one) / (runs - 1)).statistic)
    return float(np.nanmean(taus)) if np.isfinite(taus).any() else math.nan


def _cost(group: pd.DataFrame, protocol: str, n: int) -> dict[str, float]:
    """Models trained from scratch in one run, and hours of one core for all of it; the reference rows left out.

    An original is taken to cost what a retrained model costs.
    """
    trained = 1 + n if protocol == "reuse_n_1" else 2 * n
    unlearning = group.groupby("method")["seconds"].mean().sum()
    return {"trained": trained, "hours": (trained * group["retraining"].mean() + n * unlearning) / 3600}
