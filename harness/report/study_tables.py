"""The tables of a study: which sections it has, their headings, formatted cells and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness.report.columns import MISSING, SHOWN, Format, Table, fixed, signed
from harness.report.study import MEASURES, Study

_TAU, _F, _ERROR, _HOURS = fixed(2), fixed(3), fixed(4), fixed(2)
_EPSILON = SHOWN["epsilon_median"].number or fixed(2)
_DIFFERENCE = signed(3)


@dataclass(frozen=True)
class Section:
    """before, after: lines of text around the table; a table that would have no row is left out."""

    heading: str
    table: Table | None
    before: Sequence[str] = ()
    after: Sequence[str] = ()


def sections(study: Study) -> list[Section]:
    """How well runs agree, for each measure; F by N; and, where one original was tried, what that does to F."""
    tried = (study.by_method["protocol"] == "reuse_n_1").any()
    return [
        *(_rankings(study, measure) for measure in MEASURES),
        _by_n(study),
        *([_one_original(study)] if tried else []),
    ]


def _rankings(study: Study, measure: str) -> Section:
    headings = "protocol|N|runs|methods|τ to full|τ unshared|SD between runs|claimed SE|biased|trained|core hours a run"
    return Section(
        heading=f"One run against the mean of the others: {SHOWN[measure].heading}",
        table=_table(headings.split("|"), [_ranking(row) for _, row in study.rankings(measure).iterrows()]),
        after=[
            "τ to full: Kendall, mean (smallest to largest) over runs; τ unshared: if every method had pools of its own;",
            "SD and SE: median over methods; biased: methods whose difference to full has a 95 % interval without 0",
            "(by chance, 1 in 20); trained, core hours: of one run without the reference rows.",
            "`full` with E experiments costs E runs of reuse_n_n.",
        ],
    )


def _ranking(row: pd.Series) -> list[str]:
    return [
        row["protocol"],
        str(row["n"]),
        str(row["runs"]),
        str(row["methods"]),
        _ranged(_TAU, row["tau"], row["tau_low"], row["tau_high"]),
        "" if pd.isna(row["tau_unshared"]) else _TAU(row["tau_unshared"]),
        _or_missing(_ERROR, row["sd"]),
        _or_missing(_ERROR, row["claimed_error"]),
        "" if pd.isna(row["biased"]) else f"{row['biased']} of {row['methods']}",
        str(row["trained"]),
        _HOURS(row["hours"]),
    ]


def _by_n(study: Study) -> Section:
    wide, null = study.by_n()
    rows = [["null", *(_F(null[n]) for n in wide.columns)]]
    rows += [[str(name), *(_or_missing(_F, values[n]) for n in wide.columns)] for name, values in wide.iterrows()]
    return Section("F under full, and its null, by N", _table(["method", *(f"N = {n}" for n in wide.columns)], rows))


def _one_original(study: Study) -> Section:
    heading = "One original instead of N, at the largest N"
    compared = study.one_original()
    if compared is None:
        return Section(heading, None, before=["no two runs of both protocols with the same seeds"])
    n, cheap, full = compared
    rows = [
        [
            str(name),
            _F(full.loc[name, "mean"]),
            _F(row["mean"]),
            _F(row["sd"]),
            _EPSILON(row["epsilon_median"]),
            _ranged(_DIFFERENCE, row["bias"], row["bias_low"], row["bias_high"]),
        ]
        for name, row in cheap.iterrows()
    ]
    headings = ["method", "F full", "F reuse_n_1", "SD between originals", "median ε", "difference (95 %)"]
    return Section(heading, _table(headings, rows), before=[f"N = {n}"])


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(headings, [True] + [False] * (len(headings) - 1), rows)


def _or_missing(number: Format, value: float) -> str:
    return MISSING if pd.isna(value) else number(value)


def _ranged(number: Format, value: float, low: float, high: float) -> str:
    return MISSING if pd.isna(value) else f"{number(value)} ({number(low)} to {number(high)})"
