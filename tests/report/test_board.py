"""The board: order, ranks, what shares a table, and how it looks."""

from __future__ import annotations

import io
import re

import pandas as pd
import pytest
from rich.console import Console

from harness.errors import UserError
from harness.report import board
from harness.scores import results
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


def one(*cells):
    (made,) = board.build(list(cells))
    return made


def row(made, method):
    (found,) = [r for _, r in made.rows.iterrows() if r["method"] == method]
    return found


def terminal(made) -> str:
    out = io.StringIO()
    board.show(made, Console(file=out, width=200))
    return out.getvalue()


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


def test_columns():
    made = one(cell("a"), failed("b"))
    assert list(made.rows.columns)[: len(FIRST_COLUMNS)] == FIRST_COLUMNS
    assert {"reason", "estimator", "task_hash", "over_limit", "nan_draws", "flops", "board"} <= set(made.rows.columns)
    found = row(made, "a")
    assert found["task"] == "digits/random"
    assert found["protocol"] == "reuse_n_n"
    assert found["n"] == 8
    assert found["kl"] == 0.5
    assert found["cost_ratio"] == 0.1
    assert list(one(failed("b")).rows.columns)[: len(FIRST_COLUMNS)] == FIRST_COLUMNS


# --- rows -----------------------------------------------------------------------------------------------------------


def test_several_seeds_are_one_row():
    made = one(
        *(cell("a", score=s, seed=i, cost__ratio=0.1 * (i + 1)) for i, s in enumerate([0.1, 0.2, 0.6])), cell("b")
    )
    found = row(made, "a")
    assert found["seeds"] == "0 1 2"
    assert found["score"] == pytest.approx(0.3)
    assert found["score_sd"] == pytest.approx(0.2645751)
    assert found["cost_ratio"] == pytest.approx(0.2)
    assert pd.isna(row(made, "b")["score_sd"])


def test_several_experiments_are_one_row():
    changes = {"protocol__kind": "full", "protocol__experiments": 2}
    made = one(*(cell("a", score=s, protocol__experiment=e, **changes) for e, s in enumerate([0.1, 0.3])))
    found = row(made, "a")
    assert found["seeds"] == "0"
    assert found["score"] == pytest.approx(0.2)


def test_one_failed_seed_is_told():
    made = one(cell("a", seed=0), failed("a", "boom", seed=1))
    found = row(made, "a")
    assert found["status"] == "failed"
    assert found["rank"] == ""
    assert found["reason"] == "seed 1: boom"


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
    found = table.groupby("board")["method"].apply(sorted)
    assert sorted(found) == [["a", "b"], ["a", "c"]]
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


# --- looks ----------------------------------------------------------------------------------------------------------


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every Markdown table."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    return [[line.strip("|").split("|") for line in block.splitlines()] for block in blocks]


def test_markdown_is_well_formed():
    made = one(
        cell("retrain", score=0.3),
        cell("a|b", score=0.2, recipe="authors x=a|b"),
        failed("c", "draw 0: ValueError: a | b\nsecond line"),
        cell("d", score=None),
    )
    text = board.markdown(made)
    (table,) = tables(text)
    assert len({len(line) for line in table}) == 1
    assert len(table) == 2 + 4
    assert set(table[1]) == {"---", "---:"}
    assert text.startswith("## digits, forget 80 of 400")
    assert "c: failed: draw 0: ValueError: a | b second line" in text
    assert "None" not in text
    assert "nan" not in text.replace("finetune", "")


def test_marks_and_footnotes():
    made = one(
        cell("retrain", score=0.3, cost__ratio=1.0),
        cell("slow", score=0.2, cost__ratio=0.5, cost__over_limit=True),
        cell("plain", score=0.15, cost__comparable=False),
    )
    for text in (terminal(made), board.markdown(made)):
        (slow,) = [line for line in text.splitlines() if "slow" in line]
        assert "50.0% !" in slow
        (plain,) = [line for line in text.splitlines() if "plain " in line and "~ a plain" not in line]
        assert "10.0% ~" in plain
        (retrain,) = [line for line in text.splitlines() if "retrain " in line and "null" not in line]
        assert "!" not in retrain
        assert "! dearer than the cost limit" in text
        assert "null, retrained against retrained at this N, mean and central 95 %: score 0.15 (0.1 to 0.2)" in text
    quiet = terminal(one(cell("a")))
    assert "! dearer" not in quiet
    assert "~ a plain" not in quiet


def test_one_original_is_flagged():
    text = "reuse_n_1: everything, the intervals too, is conditional on the one original"
    assert text in board.markdown(one(cell("a", protocol__kind="reuse_n_1")))
    assert text not in board.markdown(one(cell("a")))


def test_columns_are_explained(tmp_path):
    board.write(tmp_path, [one(cell("a"))])
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| forgetting_quality | higher |  | " in text
    assert "| kl | lower | 0 | " in text
    assert "exact_forgetting_quality" not in text


def test_what_a_method_chose_is_told():
    choices = [{"subset": "bn (8x)", "parameters": "322 (median)"}, {"subset": "bn (7x), all (1x)"}]
    cells = [cell("auto", seed=seed, chosen=chosen) for seed, chosen in enumerate(choices)]
    made = one(*cells, cell("plain"))
    text = "auto chose subset: bn (8x); parameters: 322 (median) | subset: bn (7x), all (1x)"
    assert text in " ".join(terminal(made).split())
    assert text in board.markdown(made)
    assert row(made, "plain")["chosen"] == ""


def test_warnings_are_shown_once():
    made = one(*(cell(m, warnings=["SANITY CHECK FAILED: look", "2 draws have NaN outputs"]) for m in "ab"))
    assert made.warnings == ["SANITY CHECK FAILED: look", "a: 2 draws have NaN outputs", "b: 2 draws have NaN outputs"]
    for text in (terminal(made), board.markdown(made)):
        assert text.count("SANITY CHECK FAILED") == 1
        assert text.count("2 draws have NaN") == 2


def test_brackets_in_names_are_not_markup():
    made = one(
        cell("a", recipe="authors layers=[conv]", task__name="faces[old]", warnings=["Look at [bold]this[/nothing]"]),
        failed("b", "ValueError: [red]no"),
    )
    text = terminal(made)
    for shown in ("layers=[conv]", "faces[old]", "[bold]this[/nothing]", "[red]no"):
        assert shown in text, shown


def test_written_files(tmp_path):
    for i, result in enumerate([cell("a", score=0.2), cell("b", score=0.3), failed("c")]):
        results.write(tmp_path / "cells", str(i), result, {})
    boards = board.rebuild(tmp_path)
    table = pd.read_csv(tmp_path / "leaderboard.csv", dtype={"rank": str, "seeds": str})
    assert list(table.columns) == list(boards[0].rows.columns)
    assert table["method"].tolist() == ["b", "a", "c"]
    assert table["rank"].tolist()[:2] == ["1", "2"]
    assert pd.isna(table["rank"][2])
    assert table["reason"][2] == "draw 0: ValueError: boom"
    before = {name: (tmp_path / name).read_bytes() for name in ("leaderboard.csv", "leaderboard.md")}
    board.rebuild(tmp_path)
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
