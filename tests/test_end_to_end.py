"""From a command to a board: what is computed, what is reused, and that nothing depends on how it was computed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support_cli import TINY, people_npz, read_csv, same_board

REFERENCES = {"retrain", "identity"}


def new_stages(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """The keys of the stages that got draws; checks that no stored draw was touched."""
    assert before.items() <= after.items()
    return {Path(name).parent.name for name in set(after) - set(before)}


# --- reuse ----------------------------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing(unlearn, tmp_path):
    unlearn.use(tmp_path / "own")
    first = unlearn.run("methods=[finetune]", "protocol.n=8")
    assert first.code == 0, first.err
    assert "40 draws to compute, 0 in the store" in first.err
    before = unlearn.draws()
    assert len(before) == 40
    second = unlearn.run("methods=[finetune]", "protocol.n=8", out="again")
    assert second.code == 0
    assert "0 draws to compute, 40 in the store" in second.err
    assert unlearn.draws() == before
    pd.testing.assert_frame_equal(first.csv, second.csv)  # the times too: they are stored
    assert first.csv["method"].tolist() == ["retrain", "identity", "finetune"]
    assert first.csv["rank"].fillna("").tolist() == ["", "", "1"]


def test_another_method_trains_no_models_anew(unlearn, tmp_path):
    unlearn.use(tmp_path / "own")
    unlearn.run("methods=[identity]", "protocol.n=2")
    before = unlearn.draws()
    assert len({Path(name).parent.name for name in before}) == 4  # originals, retrained, and the two reference rows
    result = unlearn.run("methods=[finetune]", "protocol.n=2")
    assert result.code == 0
    assert "2 draws to compute, 8 in the store" in result.err
    (key,) = new_stages(before, unlearn.draws())
    note = json.loads((unlearn.store / "draws" / key / "stage.json").read_text())
    assert note["method"]["target"] == "harness.methods.finetune.Finetune"


def test_more_draws_keep_the_old_ones(unlearn, tmp_path):
    unlearn.use(tmp_path / "own")
    unlearn.run("methods=[identity]", "protocol.n=2")
    before = unlearn.draws()
    unlearn.run("methods=[identity]", "protocol.n=3")
    after = unlearn.draws()
    assert len(after) == 12
    new_stages(before, after)


@pytest.mark.parametrize("change", ["seed=1", "train.lr=0.01", "forget=class"])
def test_another_setting_shares_no_draws(unlearn, tmp_path, change):
    store = tmp_path / "own"
    unlearn.use(store)
    unlearn.run("methods=[identity]", "protocol.n=2")
    before = unlearn.draws()
    rest = [argument for argument in TINY if change != "forget=class" or not argument.startswith("forget")]
    unlearn(*rest, change, "methods=[identity]", "protocol.n=2", "out=other")
    assert len(new_stages(before, unlearn.draws())) == 4


def test_stores_are_separate(unlearn, tmp_path):
    unlearn.use(tmp_path / "a")
    unlearn.run("methods=[identity]", "protocol.n=2")
    before = unlearn.draws()
    unlearn.use(tmp_path / "b")
    result = unlearn.run("methods=[identity]", "protocol.n=2", out="b_out")
    assert "8 draws to compute, 0 in the store" in result.err
    unlearn.use(tmp_path / "a")
    assert unlearn.draws() == before


# --- the same numbers, whatever computed them -----------------------------------------------------------------------


def test_the_board_does_not_depend_on_store_or_workers(unlearn, tmp_path):
    boards = []
    for name, workers in (("a", 2), ("b", 1)):
        unlearn.use(tmp_path / name)
        result = unlearn.run("methods=[finetune,sebastian]", "protocol.n=8", f"workers={workers}", out=f"out_{name}")
        assert result.code == 0, result.err
        boards.append(result)
    same_board(boards[0].csv, boards[1].csv)
    for result in boards:
        arrays = {path.name: dict(np.load(path)) for path in sorted((result.folder / "cells").glob("*.npz"))}
        assert len(arrays) == 4


def test_killed_and_repeated(unlearn, tmp_path):
    """Kill everything mid-run; the same command then goes on, and the board is that of a run that was not killed."""
    arguments = ["methods=[finetune]", "protocol.n=4", "train.epochs=10"]
    unlearn.use(tmp_path / "killed")
    command = [str(Path(sys.executable).with_name("unlearn")), *TINY, *arguments, "out=out"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, env=dict(os.environ))
    deadline = time.time() + 120
    while len(unlearn.draws()) < 3 and time.time() < deadline:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    done = unlearn.draws()
    assert 3 <= len(done) < 20
    assert not (unlearn.folder / "out" / "leaderboard.csv").exists()
    again = unlearn.run(*arguments)
    assert again.code == 0, again.err
    assert f"{20 - len(done)} draws to compute, {len(done)} in the store" in again.err
    assert done.items() <= unlearn.draws().items()
    unlearn.use(tmp_path / "fresh")
    same_board(again.csv, unlearn.run(*arguments, out="fresh_out").csv)


def test_a_damaged_draw_is_made_again(unlearn, tmp_path):
    unlearn.use(tmp_path / "own")
    first = unlearn.run("methods=[identity]", "protocol.n=2")
    for path in unlearn.store.rglob("000001.safetensors"):
        data = bytearray(path.read_bytes())
        data[-5] ^= 255
        path.write_bytes(data)
    second = unlearn.run("methods=[identity]", "protocol.n=2", out="again")
    assert second.code == 0, second.err
    same_board(first.csv, second.csv)
    assert list(unlearn.store.rglob("*.damaged-*"))


# --- sweeps ---------------------------------------------------------------------------------------------------------


def test_a_sweep_has_one_board(unlearn):
    result = unlearn.run("-m", "method=finetune,identity", "seed=0,1", "protocol.n=8")
    assert result.code == 0, result.err
    table = result.csv
    assert sorted(table["method"]) == ["finetune", "identity", "retrain"]
    assert set(table["seeds"]) == {"0 1"}
    assert table["score_sd"].notna().all()
    assert table["board"].nunique() == 1
    cells = [json.loads(path.read_text()) for path in (result.folder / "cells").glob("*finetune*.json")]
    assert sorted(cell["seeds"]["train"] for cell in cells) == [0, 1]
    row = result.row("finetune")
    for column in ("score", "kl", "test_accuracy"):
        alone = [cell["metrics"][column]["value"] for cell in cells]
        assert alone[0] != alone[1]
        assert row[column] == pytest.approx(np.mean(alone)), column
    assert row["score_sd"] == pytest.approx(np.std([cell["metrics"]["score"]["value"] for cell in cells], ddof=1))


def test_a_sweep_over_tasks_has_several_boards(unlearn):
    result = unlearn.run("-m", "split_seed=0,1", "methods=[identity]", "protocol.n=2")
    assert result.code == 0, result.err
    assert result.csv["board"].nunique() == 2
    assert result.csv["task_hash"].nunique() == 2
    assert result.markdown.count("## digits") == 2


def test_one_bad_job_does_not_stop_a_sweep(unlearn):
    result = unlearn.run("-m", "forget.n=10,600", "methods=[identity]", "protocol.n=2")
    assert result.code == 1
    assert "forget.n=600: expected a whole number from 1 to 59" in result.err
    assert "forget.n=600" in result.err.split(": expected")[0]
    assert "Traceback" not in result.err
    assert set(result.csv["method"]) == REFERENCES


# --- protocols and forget sets --------------------------------------------------------------------------------------


def test_below_eight_draws_there_is_no_score(unlearn):
    result = unlearn.run("methods=[identity]", "protocol.n=2")
    assert result.code == 0
    table = result.csv
    assert table[["score", "forgetting_quality", "rank"]].isna().all(axis=None)
    assert table[["kl", "ks_statistic", "epsilon_median", "test_accuracy"]].notna().all(axis=None)
    assert "N = 2 < 8: the ε bins say nothing" in " ".join(result.out.split())
    assert "N = 2 < 8" in result.markdown
    assert "< 8" not in unlearn.run("methods=[identity]", "protocol.n=8", out="eight").markdown


def test_full(unlearn, tmp_path):
    unlearn.use(tmp_path / "own")
    assert unlearn.run("protocol=full", "protocol.experiments=1", "protocol.n=2", "methods=[identity]").code == 0
    result = unlearn.run("protocol=full", "protocol.experiments=2", "protocol.n=2", "methods=[identity]")
    assert result.code == 0, result.err
    assert len(unlearn.draws()) == 4 * 4  # nothing is shared between the two experiments
    assert sorted(result.csv["method"]) == sorted(REFERENCES)
    assert set(result.csv["protocol"]) == {"full"}
    cells = [json.loads(path.read_text()) for path in (result.folder / "cells").glob("*identity*.json")]
    assert sorted(cell["protocol"]["experiment"] for cell in cells) == [0, 1]  # the first, done before, counts once
    kl = {cell["protocol"]["experiment"]: cell["metrics"]["kl"]["value"] for cell in cells}
    assert kl[0] != kl[1]
    assert result.row("identity")["kl"] == pytest.approx(np.mean(list(kl.values())))
    before = unlearn.draws()
    paired = unlearn.run("protocol=reuse_n_n", "protocol.n=2", "methods=[identity]", out="paired")
    assert unlearn.draws() == before  # an experiment of full is a run of reuse_n_n
    assert paired.row("identity")["kl"] == kl[0]


def test_a_sweep_over_protocols_compares_them(unlearn):
    swept = ["-m", "protocol=reuse_n_n,reuse_n_1", "seed=0,1", "protocol.n=8", "methods=[finetune,gradient_ascent]"]
    result = unlearn.run(*swept)
    assert result.code == 0, result.err
    assert "protocols compared in" in result.out
    table = pd.read_csv(result.folder / "protocols_summary.csv")
    assert sorted(zip(table["measure"], table["protocol"], strict=True)) == [
        ("forgetting_quality", "reuse_n_1"),
        ("forgetting_quality", "reuse_n_n"),
        ("score", "reuse_n_1"),
        ("score", "reuse_n_n"),
    ]
    assert set(table["runs"]) == {2}
    alone = pd.read_csv(result.folder / "protocols.csv")
    alone = alone[(alone["method"] == "finetune") & (alone["protocol"] == "reuse_n_n") & (alone["measure"] == "score")]
    board = result.csv[(result.csv["method"] == "finetune") & (result.csv["protocol"] == "reuse_n_n")]
    assert alone["mean"].item() == pytest.approx(board["score"].item(), rel=1e-4)
    assert alone["sd"].item() == pytest.approx(board["score_sd"].item(), rel=1e-4)
    (result.folder / "protocols.md").unlink()
    found = unlearn("protocols", str(result.folder))
    assert found.code == 0
    assert (result.folder / "protocols.md").read_text() in found.out
    assert unlearn("protocols").code == 2


def test_reuse_n_1(unlearn, tmp_path):
    unlearn.use(tmp_path / "own")
    result = unlearn.run("protocol=reuse_n_1", "protocol.n=3", "methods=[sebastian]")
    assert result.code == 0, result.err
    assert len(unlearn.draws()) == 1 + 3 + 3 * 3
    (cell,) = (result.folder / "cells").glob("*identity*.npz")
    confidences = np.load(cell)["unlearned_confidences"]
    assert (confidences == confidences[0]).all()  # doing nothing to one original
    (cell,) = (result.folder / "cells").glob("*sebastian*.npz")
    assert len(np.unique(np.load(cell)["unlearned_confidences"], axis=0)) == 3  # other seeds, other models


def test_forgetting_a_class(unlearn):
    rest = [argument for argument in TINY if not argument.startswith("forget")]
    result = unlearn(*rest, "forget=class", "forget.label=3", "methods=[finetune]", "protocol.n=2", "out=out")
    assert result.code == 0, result.err
    assert set(result.csv["task"]) == {"digits/class"}
    assert result.row("retrain")["forget_accuracy"] == 0  # a class that was never seen
    assert "SANITY" not in result.out


def test_forgetting_people(unlearn):
    people_npz(unlearn.folder / "faces.npz")
    train = [argument for argument in TINY if argument.startswith(("train", "model"))]
    result = unlearn(
        "data=npz", "data.path=faces.npz", "forget=groups", "forget.n=2", *train, "methods=[finetune]", "protocol.n=2", "out=out"
    )  # fmt: skip
    assert result.code == 0, result.err
    assert set(result.csv["task"]) == {"faces/groups"}
    cell = json.loads(next((result.folder / "cells").glob("*identity*.json")).read_text())
    assert cell["task"]["sizes"]["forget"] == 12
    assert set(result.csv["method"]) == REFERENCES | {"finetune"}


def test_settings_of_single_methods(unlearn):
    result = unlearn.run(
        "methods=[finetune,gradient_ascent]", "+settings.finetune.lr=0.5", "recipe=authors", "protocol.n=2"
    )
    assert result.code == 0, result.err
    assert result.row("finetune")["recipe"] == "authors lr=0.5"
    assert result.row("gradient_ascent")["recipe"] == "authors"
    cell = json.loads(next((result.folder / "cells").glob("*finetune*.json")).read_text())
    assert cell["parameters"]["lr"] == 0.5


def test_all_is_the_default(unlearn):
    plan = unlearn("plan", *TINY, "protocol.n=2").out
    listed = unlearn("list", "methods", "--plain").out.split()
    assert set(listed) >= REFERENCES
    for name in listed:
        assert any(line.split()[:1] == [name] for line in plan.splitlines()), name


# --- what is left behind --------------------------------------------------------------------------------------------


def test_files_of_a_run(unlearn):
    result = unlearn.run("methods=[identity]", "protocol.n=8")
    names = {path.name.rpartition(".")[2] for path in (result.folder / "cells").iterdir()}
    assert names == {"json", "npz"}
    boards = {f"leaderboard{end}" for end in (".csv", ".md", ".tex", ".svg", "-dark.svg")}
    assert boards | {"cells"} <= {path.name for path in result.folder.iterdir()}
    assert not (unlearn.folder / "outputs").exists()
    assert not (unlearn.folder / "multirun").exists()
    assert not list(result.folder.rglob(".hydra"))
    assert not list(result.folder.rglob("*.log"))


def test_every_score_can_be_computed_again_from_the_files(unlearn):
    from harness.metrics import forgetting_quality, official_epsilons

    result = unlearn.run("methods=[finetune]", "protocol.n=8")
    (path,) = (result.folder / "cells").glob("*finetune*.npz")
    cell = json.loads(path.with_suffix(".json").read_text())
    with np.load(path) as arrays:
        epsilons = official_epsilons(
            unlearned=arrays["unlearned_confidences"], retrained=arrays["retrained_confidences"]
        )
        quality = forgetting_quality(epsilons, n=8)
        ratios = [
            arrays[f"unlearned_accuracy_{part}"].mean() / arrays[f"retrained_accuracy_{part}"].mean()
            for part in ("retain", "test")
        ]
    assert cell["metrics"]["forgetting_quality"]["value"] == pytest.approx(quality)
    assert cell["metrics"]["score"]["value"] == pytest.approx(quality * np.prod(ratios), rel=1e-5)
    assert result.row("finetune")["score"] == pytest.approx(cell["metrics"]["score"]["value"])


def test_the_installed_command(tmp_path):
    """Once through the console script, from another folder, with nothing of this process."""
    env = dict(os.environ, UNLEARN_STORE=str(tmp_path / "store"))
    command = str(Path(sys.executable).with_name("unlearn"))
    done = subprocess.run(
        [command, *TINY, "methods=[identity]", "protocol.n=2"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert set(read_csv(run)["method"]) == REFERENCES
    assert "identity" in done.stdout
    bad = subprocess.run([command, "method=finetun"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert bad.returncode == 2
    assert bad.stderr.startswith("unlearn: unknown method 'finetun': did you mean finetune")
    assert len(bad.stderr.splitlines()) == 1
