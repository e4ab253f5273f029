"""Scoring stored outputs again: the same numbers without training, other metrics, and what is missing said plainly."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from harness.draws.store import Store
from harness.metrics import get_metrics
from harness.scores import results
from harness.scores.rescore import rescore


def metrics_of(folder):
    cells = results.read_all(folder / "cells")
    return {cell.method: cell.metrics for cell in cells}


def test_the_same_metrics_give_the_same_numbers(unlearn, tmp_path):
    made = unlearn.run("methods=[finetune]", "protocol.n=12")
    assert made.code == 0, made.err
    before = metrics_of(made.folder)
    for path in made.folder.glob("cells/*.json"):  # whatever was there is replaced
        stored = json.loads(path.read_text())
        stored["metrics"] = {}
        path.write_text(json.dumps(stored))
    assert rescore(made.folder, get_metrics(["official", "ks", "kl", "accuracy"])) == 3
    after = metrics_of(made.folder)
    assert after.keys() == before.keys() == {"retrain", "identity", "finetune"}
    for method, values in before.items():
        for name, value in values.items():
            assert after[method][name].value == value.value, (method, name)
            assert (after[method][name].interval is None) == (value.interval is None)
            assert (after[method][name].null is None) == (value.null is None)
    assert (
        before["finetune"]["score"].interval[0]
        <= before["finetune"]["score"].value
        <= before["finetune"]["score"].interval[1]
    )


def test_other_metrics_from_the_command_line(unlearn, tmp_path):
    made = unlearn.run("methods=[identity]", "protocol.n=12")
    draws = unlearn.draws()
    before = metrics_of(made.folder)
    found = unlearn("score", str(made.folder), "metrics=[exact,disagreement,loss_attack]")
    assert found.code == 0, found.err
    assert "2 results in" in found.out
    assert unlearn.draws() == draws  # nothing was trained
    after = metrics_of(made.folder)
    for method in before:
        assert {"exact_epsilon_median", "disagreement_excess", "loss_attack"} <= set(after[method])
        assert after[method]["score"] == before[method]["score"]
        assert after[method]["exact_epsilon_median"].null is not None
        assert after[method]["loss_attack"].interval is not None
    table = made.csv
    assert "disagreement" in table.columns
    assert table["disagreement_low"].notna().all()


def test_what_is_missing_is_named(unlearn, tmp_path):
    made = unlearn.run("methods=[identity]", "protocol.n=8")
    empty = Store(tmp_path / "empty")
    with pytest.raises(
        results.UserError,
        match=r"disagreement: needs the logits .*this machine's store lacks .*metrics=\[disagreement\]",
    ):
        rescore(made.folder, get_metrics(["disagreement"]), empty)
    assert rescore(made.folder, get_metrics(["ks"]), empty) == 2  # the arrays are enough
    next(made.folder.glob("cells/*.npz")).unlink()
    with pytest.raises(results.UserError, match="npz: missing"):
        rescore(made.folder, get_metrics(["ks"]), empty)
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    with pytest.raises(results.UserError, match="no results with outputs"):
        rescore(nothing, get_metrics(["ks"]))


def test_another_estimator_ranks_on_a_board_of_its_own(unlearn, tmp_path):
    official = unlearn.run("methods=[finetune]", "protocol.n=12", "metrics=[official,exact]")
    exact = unlearn.run("methods=[finetune]", "protocol.n=12", "estimator=exact")  # into the same folder
    assert exact.code == 0, exact.err
    table = exact.csv
    assert table["board"].nunique() == 2
    assert set(table["estimator"]) == {"official", "exact"}
    for method in ("finetune", "identity", "retrain"):
        rows = table[table["method"] == method].set_index("estimator")
        assert rows.loc["exact", "forgetting_quality"] == rows.loc["official", "exact_forgetting_quality"]
        assert rows.loc["exact", "epsilon_median"] == rows.loc["official", "exact_epsilon_median"]
        utility = rows["score"] / rows["forgetting_quality"]
        assert utility["exact"] == pytest.approx(utility["official"])
    before = {path: path.read_bytes() for path in exact.folder.glob("cells/*.json")}
    assert rescore(exact.folder, get_metrics(["official"])) == 6  # each by its own estimator
    assert {path: path.read_bytes() for path in exact.folder.glob("cells/*.json")} == before
    assert official.folder == exact.folder


def test_features_are_kept_when_a_metric_asks_for_them(unlearn, tmp_path):
    """Outputs without features stay as they are, and so do the originals; the outputs of both kinds of draw are equal."""
    plain = unlearn.run("methods=[identity]", "protocol.n=8")
    with pytest.raises(results.UserError, match=r"representation: needs features .*the store's draws have no features"):
        rescore(plain.folder, get_metrics(["representation"]), Store(unlearn.store))
    before = unlearn.draws()
    made = unlearn.run("methods=[identity]", "protocol.n=8", "metrics=[official,representation]", out="features")
    assert made.code == 0, made.err
    after = unlearn.draws()
    assert before.items() <= after.items()
    assert len(after) - len(before) == 8 + 2 * 8  # retrained; retrain and identity; no original
    first, second = metrics_of(plain.folder), metrics_of(made.folder)
    for method in first:
        assert second[method]["score"].value == first[method]["score"].value
    assert second["retrain"]["cka"].null.mean == pytest.approx(second["retrain"]["cka"].value, abs=0.05)
    assert second["identity"]["representation_distance"].interval is not None
    assert rescore(made.folder, get_metrics(["representation"]), Store(unlearn.store)) == 2
    again = metrics_of(made.folder)
    assert again["identity"]["cka"] == second["identity"]["cka"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: unlearn score DIR"),
        (["nowhere"], "nowhere: no such directory"),
        ([".", "metrics=[offical]"], "did you mean 'official'"),
        ([".", "method=identity"], "'method=identity': expected metrics=[a,b]"),
    ],
)
def test_bad_input(unlearn, arguments, message):
    found = unlearn("score", *arguments)
    assert found.code == 2
    assert message in found.err


def test_old_files_without_the_new_fields_are_read(unlearn, tmp_path):
    made = unlearn.run("methods=[identity]", "protocol.n=8")
    for path in made.folder.glob("cells/*.json"):
        stored = json.loads(path.read_text())
        for key in ("score_on_subsets", "stages", "floor"):
            del stored[key]
        for value in stored["metrics"].values():
            del value["interval"]
        path.write_text(json.dumps(stored))
    found = unlearn("leaderboard", str(made.folder))
    assert found.code == 0, found.err
    assert np.isnan(made.csv["normalised"]).all()


@pytest.mark.parametrize("board", ["digits", "mnist_writers"])
def test_what_the_shipped_arrays_do_not_hold_is_said_without_a_path(unlearn, tmp_path, board):
    """The committed results: metrics of confidences and accuracies come out of the arrays, others are refused in one line."""
    folder = tmp_path / board
    cells = Path(__file__).parents[2] / "results" / board / "cells"
    folder.joinpath("cells").mkdir(parents=True)
    for name in ("finetune", "retrain"):
        for file in cells.glob(f"*-{name}-*"):
            shutil.copy(file, folder / "cells")
    refused = unlearn("score", str(folder), "metrics=[class_kl]")
    assert refused.code == 2
    (line,) = refused.err.strip().splitlines()
    assert "class_kl: needs the logits of the forget set" in line
    assert "repeat the run that made it with metrics=[class_kl]" in line
    assert not re.search(r"/\w+/", line), line
    assert unlearn("score", str(folder), "metrics=[exact,gaussian]").code == 0
