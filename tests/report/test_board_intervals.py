"""What a board says about how sure its scores are."""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd
import pytest

from harness.scores.intervals import half_width
from harness.scores.results import Value
from tests.report.boards import markdown, one, row, terminal
from tests.report.test_ranking import FIRST_COLUMNS
from tests.support_cells import cell, failed, metrics


def sure(method, score, half=0.01, *, noise=0.002, **changes):
    """A result with an interval and scores on subsets; the noise belongs to the method."""
    values = metrics(score)
    values["score"] = values["score"].model_copy(update={"interval": (score - half, score + half)})
    rng = np.random.default_rng(zlib.crc32(f"{method} {score}".encode()))
    on_subsets = [score + float(x) for x in rng.normal(0, noise, 60)]
    return cell(method, score=score, metrics=values, score_on_subsets=on_subsets, **changes)


def test_interval_ties_and_normalised():
    made = one(
        sure("retrain", 0.2),
        sure("good", 0.15),
        sure("as_good", 0.149),
        sure("identity", 0.05, floor=True),
        cell("old", score=0.1),
        failed("broken"),
    )
    assert made.rows["method"].tolist() == ["retrain", "identity", "good", "as_good", "old", "broken"]
    assert made.rows["ties"].tolist() == ["a", "c", "b", "b", "", ""]
    assert made.rows["normalised"].tolist()[:5] == pytest.approx([1.0, 0.0, 2 / 3, 0.66, 1 / 3])
    assert pd.isna(row(made, "broken")["normalised"])
    assert row(made, "good")["score_low"] == pytest.approx(0.14)
    assert row(made, "good")["score_high"] == pytest.approx(0.16)
    assert pd.isna(row(made, "old")["score_low"])
    assert list(made.rows.columns)[: len(FIRST_COLUMNS)] == FIRST_COLUMNS


def test_seeds_share_no_draws():
    made = one(sure("a", 0.1, 0.03), sure("a", 0.2, 0.04, seed=1), sure("retrain", 0.2), sure("retrain", 0.2, seed=1))
    shown = row(made, "a")
    assert shown["score_low"] == pytest.approx(0.15 - 0.025)
    assert shown["score_high"] == pytest.approx(0.15 + 0.025)
    assert shown["ties"] == "b"


def test_seeds_that_share_their_models_make_nothing_surer():
    """Seeds of unlearning alone: the same originals and retrained models."""
    again = [sure("a", 0.2, 0.04), sure("a", 0.1, 0.03)]
    again[1] = again[1].model_copy(update={"seeds": {"train": 0, "unlearn": 1, "evaluate": 0}})
    shown = row(one(*again, sure("retrain", 0.2)), "a")
    assert (shown["score_low"], shown["score_high"]) == pytest.approx((0.15 - 0.035, 0.15 + 0.035))


def test_results_of_different_metrics_and_subsets_share_a_board():
    extra = metrics(0.1) | {"exact_forgetting_quality": Value(value=0.05, interval=(0.04, 0.06))}
    made = one(cell("a", metrics=extra), cell("a", seed=1), cell("b"))
    assert row(made, "a")["exact_forgetting_quality"] == 0.05
    assert "exact_forgetting_quality_low" not in made.rows
    odd = sure("odd", 0.12).model_copy(update={"score_on_subsets": [0.1] * 7})
    made = one(sure("retrain", 0.2), sure("good", 0.15), odd)
    assert row(made, "odd")["ties"] == ""
    assert row(made, "good")["ties"] != ""


def test_the_null_is_that_of_all_seeds():
    def with_null(seed, mean):
        values = metrics(0.1)
        null = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
        values["score"] = Value(value=0.1, null=null)
        return cell("a", metrics=values, seed=seed)

    made = one(with_null(0, 0.2), with_null(1, 0.3), cell("b", metrics=with_null(1, 0.3).metrics, seed=1))
    assert made.nulls["score"] == pytest.approx((0.25, 0.15, 0.35))


def test_the_normalised_score_has_an_interval():
    noise = np.random.default_rng(0).normal(0, 0.002, (3, 60))
    rows = {"retrain": 0.2, "identity": 0.05, "good": 0.15}
    cells = [
        sure(name, score, floor=name == "identity").model_copy(update={"score_on_subsets": list(score + noise[i])})
        for i, (name, score) in enumerate(rows.items())
    ]
    made = one(*cells)
    again = (0.15 + noise[2] - 0.05 - noise[1]) / (0.15 + noise[0] - noise[1])
    half = half_width(again, n=8)
    shown = row(made, "good")
    assert (shown["normalised_low"], shown["normalised_high"]) == pytest.approx((2 / 3 - half, 2 / 3 + half))
    assert pd.isna(row(one(*cells[1:]), "good")["normalised_low"])


def test_a_seed_without_an_interval_leaves_the_row_without():
    made = one(sure("a", 0.1), cell("a", score=0.2, seed=1))
    assert "score_low" not in made.rows or pd.isna(row(made, "a")["score_low"])
    assert row(made, "a")["ties"] == ""


def test_every_column_with_an_interval_has_ends():
    values = metrics(0.1) | {"kl": Value(value=0.5, interval=(0.4, 0.7))}
    shown = row(one(cell("a", metrics=values)), "a")
    assert (shown["kl_low"], shown["kl_high"]) == (0.4, 0.7)


def test_looks():
    made = one(sure("retrain", 0.2), sure("identity", 0.05, floor=True))
    for text in (terminal(made), markdown(made)):
        assert "0.190 to 0.210" in text
        assert "normalised" in text
        assert "share a letter" in text
    plain = markdown(one(cell("a")))
    assert "95 %" not in plain.splitlines()[2]
    assert "share a letter" not in plain
    assert "normalised" not in plain
