"""Boards: order, ranks, rows, and what shares a table."""

from __future__ import annotations

import pandas as pd
import pytest

from harness.errors import UserError
from harness.report import board
from tests.report.boards import one, row
from tests.support_cells import cell, failed

FIRST_COLUMNS = [
    "rank",
    "method",
    "recipe",
    "task",
    "protocol",
    "seeds",
    "status",
    "n",
    "score",
    "forgetting_quality",
    "epsilon_median",
    "ks_statistic",
    "ks_rejected",
    "kl",
    "retain_accuracy",
    "forget_accuracy",
    "test_accuracy",
    "seconds_per_model",
    "cost_ratio",
]


# --- order ----------------------------------------------------------------------------------------------------------


def test_sorted_by_score_and_ranked():
    made = one(cell("a", score=0.1), cell("b", score=0.3), cell("c", score=0.2))
    assert made.rows["method"].tolist() == ["b", "c", "a"]
    assert made.rows["rank"].tolist() == ["1", "2", "3"]


def test_failed_rows_come_last_without_a_rank():
    made = one(
        failed("a", "draw 3: ValueError: boom"),
        cell("b", score=None),
        cell("c", score=0.2),
        failed("d", "for classes only", status="not_applicable"),
        cell("e", score=0.1),
    )
    assert made.rows["method"].tolist() == ["c", "e", "b", "a", "d"]
    assert made.rows["rank"].tolist() == ["1", "2", "", "", ""]
    assert made.rows["status"].tolist() == ["ok", "ok", "ok", "failed", "not_applicable"]
    assert row(made, "a")["reason"] == "draw 3: ValueError: boom"
    assert row(made, "d")["reason"] == "for classes only"
    assert row(made, "c")["reason"] == ""
    assert pd.isna(row(made, "a")["score"])


def test_all_failed():
    made = one(failed("b"), failed("a"))
    assert made.rows["method"].tolist() == ["a", "b"]
    assert made.rows["rank"].tolist() == ["", ""]


def test_references_come_first_and_have_no_rank():
    made = one(
        cell("best", score=0.4),
        cell("identity", score=0.3, floor=True),
        cell("worse", score=0.1),
        cell("retrain", score=0.2),
    )
    assert made.rows["method"].tolist() == ["retrain", "identity", "best", "worse"]
    assert made.rows["rank"].tolist() == ["", "", "1", "2"]
    assert made.references == 2


def test_a_failed_reference_keeps_its_place():
    made = one(cell("a"), failed("identity", floor=True), cell("retrain", score=0.01))
    assert made.rows["method"].tolist() == ["retrain", "identity", "a"]
    assert made.rows["rank"].tolist() == ["", "", "1"]


def test_columns():
    made = one(cell("a"), failed("b"))
    assert list(made.rows.columns)[: len(FIRST_COLUMNS)] == FIRST_COLUMNS
    assert {"reason", "estimator", "task_hash", "over_limit", "nan_draws", "flops", "board"} <= set(made.rows.columns)
    shown = row(made, "a")
    assert shown["task"] == "digits/random"
    assert shown["protocol"] == "reuse_n_n"
    assert shown["n"] == 8
    assert shown["kl"] == 0.5
    assert shown["cost_ratio"] == 0.1
    assert list(one(failed("b")).rows.columns)[: len(FIRST_COLUMNS)] == FIRST_COLUMNS


# --- rows -----------------------------------------------------------------------------------------------------------


def test_several_seeds_are_one_row():
    made = one(
        *(cell("a", score=s, seed=i, cost__ratio=0.1 * (i + 1)) for i, s in enumerate([0.1, 0.2, 0.6])), cell("b")
    )
    shown = row(made, "a")
    assert shown["seeds"] == "0 1 2"
    assert shown["score"] == pytest.approx(0.3)
    assert shown["score_sd"] == pytest.approx(0.2645751)
    assert shown["cost_ratio"] == pytest.approx(0.2)
    assert pd.isna(row(made, "b")["score_sd"])


def test_several_experiments_are_one_row():
    changes = {"protocol__kind": "full", "protocol__experiments": 2}
    made = one(*(cell("a", score=s, protocol__experiment=e, **changes) for e, s in enumerate([0.1, 0.3])))
    shown = row(made, "a")
    assert shown["seeds"] == "0"
    assert shown["score"] == pytest.approx(0.2)


def test_one_failed_seed_is_told():
    made = one(cell("a", seed=0), failed("a", "boom", seed=1))
    shown = row(made, "a")
    assert shown["status"] == "failed"
    assert shown["rank"] == ""
    assert shown["reason"] == "seed 1: boom"


@pytest.mark.parametrize("change", [{"parameters": {"lr": 0.5}}, {"recipe": "tuned"}, {"target": "other.py:a"}])
def test_other_settings_of_a_method_are_another_row(change):
    assert len(one(cell("a", score=0.1), cell("a", score=0.2, seed=1, **change)).rows) == 2


def test_operations_relative_to_retraining():
    made = one(cell("retrain", cost__flops=50.0), cell("a", cost__flops=5.0), cell("b", cost__flops=None))
    assert row(made, "a")["flops_ratio"] == 0.1
    assert row(made, "retrain")["flops_ratio"] == 1
    assert pd.isna(row(made, "b")["flops_ratio"])


# --- what shares a table --------------------------------------------------------------------------------------------

DIFFERENT = {
    "N": {"protocol__n": 16},
    "protocol": {"protocol__kind": "reuse_n_1"},
    "task": {"task__hash": "cd" * 16},
    "estimator": {"estimator": "gaussian"},
    "model": {"model": {"_target_": "harness.models.small_cnn", "widths": [8, 8, 8]}},
    "training": {"training": {"lr": 0.2, "epochs": 2}},
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_cannot_be_compared_never_shares_a_table(what, tmp_path):
    boards = board.build([cell("a"), cell("b"), cell("a", **DIFFERENT[what]), cell("c", **DIFFERENT[what])])
    assert sorted(sorted(made.rows["method"]) for made in boards) == [["a", "b"], ["a", "c"]]
    assert boards[0].title != boards[1].title
    board.write(tmp_path, boards)
    table = pd.read_csv(tmp_path / "leaderboard.csv")
    together = table.groupby("board")["method"].apply(sorted)
    assert sorted(together) == [["a", "b"], ["a", "c"]]
    assert (tmp_path / "leaderboard.md").read_text().count("## ") == 2


def test_titles_say_in_what_boards_differ():
    titles = [made.title for made in board.build([cell("a"), cell("a", **DIFFERENT["training"])])]
    assert [title.rpartition(", ")[2] for title in titles] == ["train.lr=0.1", "train.lr=0.2"]
    (alone,) = board.build([cell("a")])
    assert "train.lr" not in alone.title
    assert alone.title == "digits, forget 80 of 400 (random), small_cnn, reuse_n_n, N = 8, task abababab"


def test_no_results():
    with pytest.raises(UserError, match=r"no results: expected cells/\*.json"):
        board.build([])
