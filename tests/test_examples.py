"""The examples, run as their pages say: from a built wheel, in a folder of the stranger's own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from harness.metrics import confidences, forgetting_quality, official_epsilons
from tests.support_install import Installed

EXAMPLES = Path(__file__).parents[1] / "examples"
PLUGIN = EXAMPLES / "plugin_package"


def test_every_example_has_a_page_of_its_own_and_a_row():
    index = (EXAMPLES / "README.md").read_text()
    folders = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
    assert folders == ["plain_function", "plugin_package", "scoring_arrays"]
    for folder in folders:
        assert f"({folder}/README.md)" in index


def test_the_plain_function(stranger):
    shutil.copy(EXAMPLES / "plain_function" / "reset_last_layer.py", stranger.folder)
    swept = stranger.run("-m", "method._target_=reset_last_layer.py:unlearning", "+method.epochs=1,2", "protocol.n=2")
    assert swept.code == 0, swept.err
    rows = swept.csv[swept.csv["method"] == "unlearning"]
    assert sorted(rows["recipe"]) == ["own epochs=1", "own epochs=2"]
    assert (rows["status"] == "ok").all(), rows["reason"]
    assert rows["kl"].nunique() == 2  # the number of epochs reached the function


def install_plugin(stranger: Installed) -> None:
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())
    files = {str(file.relative_to(PLUGIN)): file.read_text() for file in (PLUGIN / "unlearn_shrink").glob("*.py")}
    points = "\n".join(f"{k} = {v}" for k, v in project["project"]["entry-points"]["unlearn.methods"].items())
    stranger.package(project["project"]["name"].replace("-", "_"), files, f"[unlearn.methods]\n{points}\n")


def test_the_plugin_package_runs_by_name(stranger):
    install_plugin(stranger)
    found = stranger.run("methods=[shrink_and_perturb,smooth_forget]", "protocol.n=2")
    assert found.code == 0, found.err
    for name in ("shrink_and_perturb", "smooth_forget"):
        assert found.row(name)["status"] == "ok", found.row(name)["reason"]
    assert bool(found.row("shrink_and_perturb")["comparable_cost"])
    assert not bool(found.row("smooth_forget")["comparable_cost"])

    changed = stranger.run("method=shrink_and_perturb", "method.keep=0.9", "protocol.n=2", out="changed")
    assert changed.code == 0, changed.err
    row = changed.row("shrink_and_perturb")
    assert row["recipe"] == "authors scaled keep=0.9"  # its epochs are, as docs/adding-a-method.md says
    assert row["kl"] != found.row("shrink_and_perturb")["kl"]
    listed = stranger("list", "methods", "--plain")
    assert {"shrink_and_perturb", "smooth_forget"} <= set(listed.out.split())


def test_the_plugin_packages_own_tests(site, tmp_path):
    copied = shutil.copytree(PLUGIN, tmp_path / "plugin")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(copied)],
        env={"PYTHONPATH": f"{site}:{copied}", "PATH": "", "HOME": str(tmp_path)},
        cwd=copied,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def script(site: Path, folder: Path, *arguments: str) -> str:
    """What one of the scripts prints, run in ``folder``."""
    name, *rest = arguments
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "scoring_arrays" / name), *rest],
        env={"PYTHONPATH": str(site), "PATH": "", "HOME": str(folder), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_scoring_arrays(site, tmp_path):
    script(site, tmp_path, "make_arrays.py", "8")
    printed = script(site, tmp_path, "score.py", "U.npy", "R.npy", "Y.npy")
    _, *lines = printed.splitlines()
    values = {name.strip(): float(value) for name, value, _ in (re.split(r"\s{2,}", line) for line in lines)}

    labels = np.load(tmp_path / "Y.npy")
    logits = {kind: np.load(tmp_path / f"{kind}.npy") for kind in "UR"}
    assert logits["U"].shape == logits["R"].shape == (8, 40, 10)
    u, r = (confidences(logits[kind], labels) for kind in "UR")
    epsilons = official_epsilons(unlearned=u, retrained=r)
    assert values["F"] == pytest.approx(forgetting_quality(epsilons, n=8), abs=1e-4)
    assert values["median ε"] == pytest.approx(np.median(epsilons), abs=1e-4)
    tests = [ks_2samp(u[:, s], r[:, s]) for s in range(40)]
    assert values["ks_statistic"] == pytest.approx(np.mean([test.statistic for test in tests]), abs=1e-4)
    assert values["ks_rejected"] == pytest.approx(np.mean([test.pvalue <= 0.05 for test in tests]), abs=1e-4)
    predicted = {kind: logits[kind].argmax(axis=-1) for kind in "UR"}
    assert values["disagreement"] == pytest.approx(np.mean(predicted["U"][:, None] != predicted["R"][None]), abs=1e-4)
