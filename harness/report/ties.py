"""What each method's score says beside those of the other methods: ``ties`` and ``normalised``.

Both are taken subset by subset of the draws (harness/scores/intervals.py), so only rows with the same subsets enter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.scores.intervals import half_width, normalised, tie_letters
from harness.scores.results import CellResult

Floats = NDArray[np.float64]


def compared(rows: Sequence[Sequence[CellResult]]) -> list[dict[str, Any]]:
    """For each row, given as its results: ``ties``, ``normalised`` and its interval; empty or NaN where not known."""
    scores = [_mean_score(cells) for cells in rows]
    subsets = _subsets(rows, scores)
    n = rows[0][0].protocol.n
    letters = tie_letters({str(i): scores[i] for i in subsets}, {str(i): v for i, v in subsets.items()}, n=n)
    floor = next((i for i, cells in enumerate(rows) if cells[0].floor), None)
    ceiling = next((i for i, cells in enumerate(rows) if cells[0].ceiling), None)
    columns: list[dict[str, Any]] = []
    for i, score in enumerate(scores):
        value = half = math.nan
        if floor is not None and ceiling is not None:
            value = normalised(score, floor=scores[floor], ceiling=scores[ceiling])
            if {i, floor, ceiling} <= subsets.keys():  # the same draws left out of all three rows
                triples = zip(subsets[i], subsets[floor], subsets[ceiling], strict=True)
                half = half_width(np.array([normalised(s, floor=f, ceiling=c) for s, f, c in triples]), n=n)
        ends = {"normalised_low": value - half, "normalised_high": value + half}
        columns.append({"ties": letters.get(str(i), ""), "normalised": value, **ends})
    return columns


def _mean_score(cells: Sequence[CellResult]) -> float:
    """NaN where a seed or experiment failed or has no score."""
    values = [cell.metrics["score"].value for cell in cells if "score" in cell.metrics and cell.status == "ok"]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(cells) else math.nan


def _subsets(rows: Sequence[Sequence[CellResult]], scores: Sequence[float]) -> dict[int, Floats]:
    """By the place of the row, its score on the common subsets of draws [subsets]: the number of them most rows have."""
    again = {i: values for i, cells in enumerate(rows) if (values := _score_on_subsets(cells)) is not None}
    usual = Counter(len(values) for values in again.values()).most_common(1)
    return {i: v for i, v in again.items() if not math.isnan(scores[i]) and len(v) == usual[0][0]}


def _score_on_subsets(cells: Sequence[CellResult]) -> Floats | None:
    """[subsets], the mean over seeds and experiments; None where they are missing or do not fit together."""
    lengths = {len(cell.score_on_subsets) for cell in cells}
    if len(lengths) != 1 or lengths == {0}:
        return None
    mean: Floats = np.mean([cell.score_on_subsets for cell in cells], axis=0)
    return mean
