"""Every named experiment composes, and runs when it is shrunk; data that are not ours to ship are made up in their formats."""

import re
from functools import partial

import numpy as np
import pytest

from harness.benchmark import from_config
from harness.command import cli, compose
from harness.draws.store import Store
from harness.engine.training_options import TrainingOptions
from harness.registry.catalogue import names
from harness.run import fill_first, run
from tests.data.pictures import casia_surf_folder, utkface_folder
from tests.in_process import in_process  # noqa: F401 - a fixture

EXPERIMENTS = names("experiment")


pytestmark = pytest.mark.usefixtures("in_process")


def arrays(path, side, channels, *, groups):
    rng = np.random.default_rng(0)
    n = {"train": 300, "test": 100}
    made = {f"{part}_images": rng.integers(0, 256, (k, side, side, channels), dtype=np.uint8) for part, k in n.items()}
    made |= {f"{part}_labels": np.arange(k) % 10 for part, k in n.items()}
    if groups:
        made |= {"train_groups": np.arange(300) // 10, "test_groups": 100 + np.arange(100) // 10}
    np.savez(path, **made)
    return path


def own_data(experiment, folder):
    """What a user would have to bring."""
    if experiment == "competition":
        return [f"data.root={casia_surf_folder(folder / 'casia', people=17, each=2)}"]
    if experiment == "competition_faces":
        return [f"data.root={utkface_folder(folder / 'utk', 50)}", "data.train_limit=24", "forget.n=4"]
    if experiment == "cifar10":
        return [
            f"data.path={arrays(folder / 'c.npz', 32, 3, groups=False)}",
            "data.train_limit=24",
            "data.test_limit=20",
            "forget.n=4",
        ]
    if experiment == "mnist_writers":
        return [
            f"data.path={arrays(folder / 'm.npz', 28, 1, groups=True)}",
            "data.train_limit=90",
            "data.valid_fraction=0.25",
            "data.test_limit=40",
            "forget.n=2",
        ]
    small = ["data.train_limit=60", "data.test_limit=20"]
    return small if experiment == "fast_ntk" else [*small, "forget.n=10"]


def composed(*arguments):
    ((cfg, method),) = compose.configurations(list(arguments))
    return cfg, method


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_says_what_it_is(name):
    cfg, _ = composed(f"experiment={name}")
    assert cfg.protocol.n >= 2
    TrainingOptions.read(dict(cfg.train))
    from importlib.resources import files

    text = files("harness.conf").joinpath("experiment", f"{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n# ")
    assert re.search(r"cost|minute|hour|cores", text, re.IGNORECASE)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "competition"])  # that one: see below
def test_every_experiment_runs_shrunk(name, store, tmp_path):
    shrunk = ["protocol.n=2", "train.epochs=2", "methods=[finetune]", "device=cpu", "engine=sequential"]
    cfg, _ = composed(f"experiment={name}")
    if cfg.train.retrained_checkpoint_from is not None:
        shrunk.append("train.retrained_checkpoint_from=1")
    if cfg.protocol.kind == "full":
        shrunk.append("protocol.experiments=1")
    cfg, method = composed(f"experiment={name}", *own_data(name, tmp_path), *shrunk, f"out={tmp_path / 'out'}")
    benchmark = from_config(cfg, store, method_name=method, fill=partial(fill_first, store=store, quiet=True))
    cells = run(benchmark, store, quiet=True)
    assert {cell.method for cell in cells} == {"retrain", "identity", "finetune"}
    assert {cell.status for cell in cells} == {"ok"}


def test_the_competition_is_the_organisers_setting(tmp_path):
    cfg, method = composed("experiment=competition", *own_data("competition", tmp_path), "device=cpu")
    benchmark = from_config(cfg, Store(tmp_path / "store"), method_name=method)
    options = benchmark.options.train
    assert benchmark.prepared.model == {"_target_": "harness.models.resnet18"}
    assert (options.optimizer, options.lr, options.weight_decay, options.schedule) == ("adam", 1e-4, 5e-3, "cosine")
    assert (options.epochs, options.batch_size, options.class_weights) == (30, 64, "balanced")
    assert (options.checkpoint, options.checkpoint_from, options.for_retrained().checkpoint_from) == ("best", 0, 20)
    assert (benchmark.protocol.kind, benchmark.protocol.n, benchmark.options.cost_limit) == ("reuse_n_1", 512, 0.2)
    assert benchmark.task.forget_kind == "official"
    assert benchmark.task.images.shape[1:] == (32, 32, 3)
    assert benchmark.task.std.tolist() == [1, 1, 1]
    assert len(np.unique(benchmark.task.groups[benchmark.task.splits["forget"]])) == 15


def test_the_competition_is_planned_and_runs_to_a_board(capsys, store, tmp_path):
    data = own_data("competition", tmp_path)
    assert cli._main(["plan", "experiment=competition", *data, "methods=[finetune]", "device=cpu"]) == 0
    text = capsys.readouterr().out
    assert "casia_surf, forget=official, reuse_n_1, N = 512" in text
    assert re.search(r"original +1 +0 +1 ", text)
    assert re.search(r"retrained +512 +0 +512 ", text)
    assert re.search(r"about \d+\.\d minutes", text)

    small = ["protocol.n=2", "train.epochs=2", "train.retrained_checkpoint_from=1", "methods=[finetune]", "device=cpu"]
    out = tmp_path / "board"
    assert cli._main(["experiment=competition", *data, *small, f"out={out}"]) == 0
    rows = (out / "leaderboard.csv").read_text().splitlines()
    assert len(rows) == 4
    assert all("casia_surf" in row for row in rows[1:])
    assert (out / "leaderboard.md").is_file()
    assert len(list((out / "tasks").iterdir())) == 1


def test_a_later_checkpoint_for_retrained_models_leaves_other_draws_where_they_are():
    assert TrainingOptions().identity == {}
    assert TrainingOptions(retrained_checkpoint_from=None).for_retrained() == TrainingOptions()
    late = TrainingOptions(checkpoint="best", epochs=5, retrained_checkpoint_from=3)
    assert late.identity["retrained_checkpoint_from"] == 3
    assert late.for_retrained().checkpoint_from == 3
    assert late.checkpoint_from == 0
