"""The pictures of a study: F by N, what one original does to F, how well runs agree, how large their errors are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from harness.report.study import Study
from harness.report.svg import drawing, svg

_COLOURS = {"reuse_n_n": "#1f77b4", "reuse_n_1": "#d62728"}
_NAMED = 6  # methods that are told apart; the others are grey


def study_picture(studies: Sequence[Study]) -> str:
    """A row of four plots for every study, as SVG."""
    with drawing({"font.size": 8}):
        figure = Figure(figsize=(16, 4.2 * len(studies)), layout="constrained")
        axes = figure.subplots(len(studies), 4, squeeze=False)
        for study, (by_n, one_original, agreement, error) in zip(studies, axes, strict=True):
            _plot_by_n(study, by_n)
            _plot_one_original(study, one_original)
            _plot_agreement(study, agreement)
            _plot_error(study, error)
        return svg(figure)


def _plot_by_n(study: Study, axes: Any) -> None:
    wide, null = study.by_n()
    sizes = list(wide.columns)
    for i, (name, values) in enumerate(wide.iterrows()):
        named = i < _NAMED
        axes.plot(
            sizes, values, color=f"C{i}" if named else "0.8", label=name if named else None, zorder=2 if named else 1
        )
    axes.plot(sizes, null[sizes], "k--", label="null")
    _finish(axes, sizes, "F", f"{study.title}\nF under full by N")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
    axes.legend(frameon=False, fontsize=7, loc="upper right", ncols=3)


def _plot_one_original(study: Study, axes: Any) -> None:
    compared = study.one_original()
    if compared is None:
        axes.set_axis_off()
        return
    n, cheap, full = compared
    axes.errorbar(full["mean"], cheap["mean"], xerr=full["sd"], yerr=cheap["sd"], fmt="o", ms=3, lw=0.7, color="0.3")
    top = max(full["mean"].max(), cheap["mean"].max())
    axes.plot([0, top], [0, top], color="0.8", lw=1, zorder=0)
    labelled: list[tuple[float, float]] = []
    for name in cheap["bias"].abs().sort_values(ascending=False).index[:_NAMED]:
        x, y = full.loc[name, "mean"], cheap.loc[name, "mean"]
        if all(abs(x - other_x) > 0.25 * top or abs(y - other_y) > 0.04 * top for other_x, other_y in labelled):
            labelled.append((x, y))
            axes.annotate(name, (x, y), (3, 3), textcoords="offset points", fontsize=7)
    title = f"One original instead of N, N = {n}\n(bars: SD between runs)"
    axes.set(xlabel="F, full", ylabel="F, reuse_n_1", title=title)


def _plot_agreement(study: Study, axes: Any) -> None:
    table = study.rankings("score")
    for protocol, group in table.groupby("protocol"):
        spread = [(group["tau"] - group["tau_low"]).clip(lower=0), (group["tau_high"] - group["tau"]).clip(lower=0)]
        colour = _COLOURS[str(protocol)]
        axes.errorbar(group["n"], group["tau"], yerr=spread, marker="o", ms=3, lw=1, color=colour, label=protocol)
    own = table[table["tau_unshared"].notna()]
    axes.plot(own["n"], own["tau_unshared"], ":", color=_COLOURS["reuse_n_n"], label="pools not shared")
    axes.set_ylim(top=1.03)
    title = "One run against the mean of the others\n(bars: all runs)"
    _finish(axes, sorted(table["n"].unique()), "Kendall's τ of the score", title)
    axes.legend(frameon=False, fontsize=7)


def _plot_error(study: Study, axes: Any) -> None:
    table = study.rankings("score")
    for protocol, group in table.groupby("protocol"):
        look = {"lw": 1, "color": _COLOURS[str(protocol)]}
        axes.plot(group["n"], group["sd"], marker="o", ms=3, label=f"{protocol}, between runs", **look)
        axes.plot(group["n"], group["claimed_error"], "--", label=f"{protocol}, claimed", **look)
    if (table[["sd", "claimed_error"]] > 0).any(axis=None):
        axes.set_yscale("log")
    _finish(axes, sorted(table["n"].unique()), "standard error of the score", "Error of one run, median over methods")
    axes.legend(frameon=False, fontsize=7)


def _finish(axes: Any, sizes: Sequence[int], label: str, title: str) -> None:
    axes.set_xlim(min(sizes) / 1.2, max(sizes) * 1.2)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.set(xlabel="N", ylabel=label, title=title)
