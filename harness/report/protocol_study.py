"""Does the cheap protocol agree with the expensive one? What results of repeated runs say of each other.

A *run* is one set of pools that all methods are scored on: a result of ``reuse_n_n`` or ``reuse_n_1`` with one seed, or one
experiment of ``full``, which is a ``reuse_n_n`` run with draws of its own. Runs with different seeds, and experiments, share
no model. So ``full`` is, for every method, the mean over the ``reuse_n_n`` runs, and each run is held against the mean of the
*other* ones. A ``reuse_n_1`` run is held against the runs with other seeds. docs/protocols.md says what was found.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from harness.draws.store import write_atomically
from harness.errors import UserError
from harness.scores.results import CellResult, read_all
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


def studies(cells: Sequence[CellResult]) -> list[Study]:
    """A study of every task that has at least two runs of ``reuse_n_n`` (or ``full``) at one N; others are left out."""
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        key = json.dumps([cell.task.hash, cell.model, cell.training, cell.estimator], sort_keys=True)
        groups.setdefault(key, []).append(cell)
    return [study for group in groups.values() if (study := _study(group)) is not None]


def rebuild(folder: Path) -> list[Study]:
    """Read every result below ``folder`` and write its studies there. Raises UserError where there are no repeated runs."""
    found = studies(read_all(folder))
    if not found:
        raise UserError(
            f"{folder}: nothing to compare: expected results of at least two runs at one N, such as "
            "-m seed=0,1 protocol=reuse_n_n,reuse_n_1, or protocol=full protocol.experiments=2"
        )
    write(folder, found)
    return found


def write(folder: Path, found: Sequence[Study]) -> None:
    """``protocols.csv``, ``protocols_summary.csv``, ``protocols.md`` and ``protocols.svg``."""
    for name, part in (("protocols", "by_method"), ("protocols_summary", "summary")):
        table = pd.concat([getattr(study, part).assign(task=study.title) for study in found], ignore_index=True)
        write_atomically(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.5g").encode())
    write_atomically(folder / "protocols.md", "\n".join(map(markdown, found)).encode())
    write_atomically(folder / "protocols.svg", picture(found).encode())


# --- from results to tables -------------------------------------------------------------------------------------------


def _study(cells: list[CellResult]) -> Study | None:
    table = _table(cells)
    methods = table[~table["reference"]] if len(table) else table
    if methods.empty or methods[methods["protocol"] == "reuse_n_n"].groupby("n")["run"].nunique().max() < 2:
        return None
    task = cells[0].task
    sizes = task.sizes
    title = f"{task.name}, forget {sizes['forget']} of {sizes['retain'] + sizes['forget']} ({task.forget_kind})"
    by_method = pd.concat([_by_method(table, measure) for measure in MEASURES], ignore_index=True)
    summary = pd.concat([_summary(table, by_method, measure) for measure in MEASURES], ignore_index=True)
    return Study(title, by_method, summary)


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
            "run": json.dumps([cell.seeds["train"], cell.protocol.experiment * n]),
            "name": cell.method,
            "recipe": cell.recipe,
            "parameters": json.dumps([cell.target, cell.parameters], sort_keys=True),
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
    found = grouped[measure].agg(mean="mean", sd="std", runs="count").reset_index()
    found["claimed_error"] = grouped[f"{measure}_error"].mean().to_numpy()
    found["null"] = grouped[f"{measure}_null"].mean().to_numpy()
    found["epsilon_median"] = grouped["epsilon_median"].median().to_numpy()
    found["rank"] = found.groupby(["protocol", "n"])["mean"].rank(ascending=False, method="min").astype("Int64")
    values = {key: group.set_index("run")[measure] for key, group in grouped}
    rows = [
        _bias(values[row.protocol, row.n, row.method], values.get(("reuse_n_n", row.n, row.method)))
        if row.protocol != "reuse_n_n"
        else _bias(None, None)
        for row in found.itertuples()
    ]
    return pd.concat([found.assign(measure=measure), pd.DataFrame(rows)], axis=1)


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


# --- how a study looks ------------------------------------------------------------------------------------------------

_NAMES = {"score": "score", "forgetting_quality": "F"}


def markdown(study: Study) -> str:
    """The tables of a study as a Markdown section."""
    lines = [f"## {study.title}", ""]
    for measure in MEASURES:
        lines += [
            f"### One run against the mean of the others: {_NAMES[measure]}",
            "",
            *_summary_lines(study, measure),
            "",
        ]
    lines += ["### F under full, and its null, by N", "", *_by_n_lines(study), ""]
    if (study.by_method["protocol"] == "reuse_n_1").any():
        lines += ["### One original instead of N, at the largest N", "", *_bias_lines(study), ""]
    return "\n".join(lines)


def _summary_lines(study: Study, measure: str) -> list[str]:
    table = study.summary[study.summary["measure"] == measure]
    rows = [
        [
            row["protocol"],
            f"{row['n']}",
            f"{row['runs']}",
            f"{row['methods']}",
            "–" if math.isnan(row["tau"]) else f"{row['tau']:.2f} ({row['tau_low']:.2f} to {row['tau_high']:.2f})",
            "" if math.isnan(row["tau_unshared"]) else f"{row['tau_unshared']:.2f}",
            _number(row["sd"]),
            _number(row["claimed_error"]),
            "" if pd.isna(row["biased"]) else f"{row['biased']} of {row['methods']}",
            f"{row['trained']}",
            f"{row['hours']:.2f}",
        ]
        for _, row in table.iterrows()
    ]
    headings = "protocol|N|runs|methods|τ to full|τ unshared|SD between runs|claimed SE|biased|trained|core hours a run"
    notes = [
        "τ to full: Kendall, mean (smallest to largest) over runs; τ unshared: if every method had pools of its own; SD and SE:",
        "median over methods; biased: methods whose difference to full has a 95 % interval without 0 (by chance, 1 in 20);",
        "trained, core hours: of one run without the reference rows. `full` with E experiments costs E runs of reuse_n_n.",
    ]
    return [*_markdown_table(headings.split("|"), rows, left=1), "", *notes]


def _by_n_lines(study: Study) -> list[str]:
    found = study.by_method
    found = found[(found["measure"] == "forgetting_quality") & (found["protocol"] == "reuse_n_n")]
    sizes = sorted(found["n"].unique())
    wide, null = found.pivot(index="method", columns="n", values="mean"), found.groupby("n")["null"].mean()
    rows = [["null", *(f"{null[n]:.3f}" for n in sizes)]]
    for name, values in wide.sort_values(sizes[-1], ascending=False).iterrows():
        rows.append([str(name), *("–" if math.isnan(values[n]) else f"{values[n]:.3f}" for n in sizes)])
    return _markdown_table(["method", *(f"N = {n}" for n in sizes)], rows, left=1)


def _bias_lines(study: Study) -> list[str]:
    found = study.by_method[study.by_method["measure"] == "forgetting_quality"]
    cheap = found[(found["protocol"] == "reuse_n_1") & found["bias"].notna()]
    if cheap.empty:
        return ["no two runs of both protocols with the same seeds"]
    cheap = cheap[cheap["n"] == cheap["n"].max()].sort_values("bias")
    full = found[(found["protocol"] == "reuse_n_n")].set_index(["n", "method"])
    rows = []
    for _, row in cheap.iterrows():
        other = full.loc[(row["n"], row["method"])]
        rows.append(
            [
                row["method"],
                f"{other['mean']:.3f}",
                f"{row['mean']:.3f}",
                f"{row['sd']:.3f}",
                f"{row['epsilon_median']:.3g}",
                f"{row['bias']:+.3f} ({row['bias_low']:+.3f} to {row['bias_high']:+.3f})",
            ]
        )
    headings = ["method", "F full", "F reuse_n_1", "SD between originals", "median ε", "difference (95 %)"]
    return [f"N = {cheap['n'].max()}", "", *_markdown_table(headings, rows, left=1)]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    marks = ["---"] * left + ["---:"] * (len(headings) - left)
    return [f"| {' | '.join(map(str, cells))} |" for cells in (headings, marks, *rows)]


def picture(found: Sequence[Study]) -> str:
    """A row of four plots for every study, as SVG."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(
        {"svg.hashsalt": "unlearn", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(16, 4.2 * len(found)), layout="constrained")
        axes = figure.subplots(len(found), 4, squeeze=False)
        for study, (by_n, bias, tau, error) in zip(found, axes, strict=True):
            _plot_by_n(study, by_n)
            _plot_bias(study, bias)
            _plot_tau(study, tau)
            _plot_error(study, error)
        buffer = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue().decode()


_COLOURS = {"reuse_n_n": "#1f77b4", "reuse_n_1": "#d62728"}


def _plot_by_n(study: Study, axes: Any) -> None:
    found = study.by_method
    found = found[(found["measure"] == "forgetting_quality") & (found["protocol"] == "reuse_n_n")]
    sizes = sorted(found["n"].unique())
    wide = found.pivot(index="method", columns="n", values="mean").sort_values(sizes[-1], ascending=False)
    for i, (name, values) in enumerate(wide.iterrows()):
        axes.plot(
            sizes,
            values[sizes],
            color=f"C{i}" if i < 6 else "0.8",
            label=name if i < 6 else None,
            zorder=2 if i < 6 else 1,
        )
    null = found.groupby("n")["null"].mean()
    axes.plot(sizes, null[sizes], "k--", label="null")
    _finish(axes, sizes, "F", f"{study.title}\nF under full by N")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
    axes.legend(frameon=False, fontsize=7, loc="upper right", ncols=3)


def _plot_bias(study: Study, axes: Any) -> None:
    found = study.by_method[study.by_method["measure"] == "forgetting_quality"]
    cheap = found[(found["protocol"] == "reuse_n_1") & found["bias"].notna()]
    if cheap.empty:
        axes.set_axis_off()
        return
    n = cheap["n"].max()
    cheap = cheap[cheap["n"] == n].set_index("method")
    full = found[(found["protocol"] == "reuse_n_n") & (found["n"] == n)].set_index("method").loc[cheap.index]
    axes.errorbar(full["mean"], cheap["mean"], xerr=full["sd"], yerr=cheap["sd"], fmt="o", ms=3, lw=0.7, color="0.3")
    top = max(full["mean"].max(), cheap["mean"].max())
    axes.plot([0, top], [0, top], color="0.8", lw=1, zorder=0)
    labelled: list[tuple[float, float]] = []
    for name in cheap["bias"].abs().sort_values(ascending=False).index[:6]:
        x, y = full.loc[name, "mean"], cheap.loc[name, "mean"]
        if all(abs(x - other_x) > 0.25 * top or abs(y - other_y) > 0.04 * top for other_x, other_y in labelled):
            labelled.append((x, y))
            axes.annotate(name, (x, y), (3, 3), textcoords="offset points", fontsize=7)
    axes.set(
        xlabel="F, full", ylabel="F, reuse_n_1", title=f"One original instead of N, N = {n}\n(bars: SD between runs)"
    )


def _plot_tau(study: Study, axes: Any) -> None:
    found = study.summary[study.summary["measure"] == "score"]
    for protocol, group in found.groupby("protocol"):
        spread = [(group["tau"] - group["tau_low"]).clip(lower=0), (group["tau_high"] - group["tau"]).clip(lower=0)]
        colour = _COLOURS[str(protocol)]
        axes.errorbar(group["n"], group["tau"], yerr=spread, marker="o", ms=3, lw=1, color=colour, label=protocol)
    own = found[found["tau_unshared"].notna()]
    axes.plot(own["n"], own["tau_unshared"], ":", color=_COLOURS["reuse_n_n"], label="pools not shared")
    axes.set_ylim(top=1.03)
    _finish(
        axes,
        sorted(found["n"].unique()),
        "Kendall's τ of the score",
        "One run against the mean of the others\n(bars: all runs)",
    )
    axes.legend(frameon=False, fontsize=7)


def _plot_error(study: Study, axes: Any) -> None:
    found = study.summary[study.summary["measure"] == "score"]
    for protocol, group in found.groupby("protocol"):
        axes.plot(
            group["n"],
            group["sd"],
            marker="o",
            ms=3,
            lw=1,
            color=_COLOURS[str(protocol)],
            label=f"{protocol}, between runs",
        )
        axes.plot(
            group["n"], group["claimed_error"], "--", lw=1, color=_COLOURS[str(protocol)], label=f"{protocol}, claimed"
        )
    if (found[["sd", "claimed_error"]] > 0).any(axis=None):
        axes.set_yscale("log")
    _finish(axes, sorted(found["n"].unique()), "standard error of the score", "Error of one run, median over methods")
    axes.legend(frameon=False, fontsize=7)


def _finish(axes: Any, sizes: Sequence[int], label: str, title: str) -> None:
    axes.set_xlim(min(sizes) / 1.2, max(sizes) * 1.2)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.set(xlabel="N", ylabel=label, title=title)
