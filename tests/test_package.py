"""Configurations are shipped with the package, and each of them can be used."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.command.compose import check, configurations
from harness.engine.training_options import TrainingOptions
from harness.errors import UserError
from harness.metrics import available, get_metrics
from harness.protocols import Protocol
from harness.registry import methods
from harness.registry.catalogue import names, own_groups

GROUPS = ("data", "forget", "model", "train", "protocol", "method", "experiment")


def composed(*overrides: str) -> dict:
    ((cfg, _),) = configurations(list(overrides))
    return OmegaConf.to_container(cfg)


def test_configurations_are_package_data():
    root = files("harness.conf")
    assert (root / "unlearn.yaml").is_file()
    for group in GROUPS:
        assert any(entry.name.endswith(".yaml") for entry in (root / group).iterdir()), group
    assert (files("harness") / "py.typed").is_file()


def test_default():
    cfg = composed()
    assert cfg["methods"] == "all"
    assert cfg["seeds"]["train"] == "${seed}"
    assert cfg["references"] == {"ceiling": "retrain", "floor": "identity"}
    assert set(own_groups()) == set(GROUPS)


ROOT = Path(__file__).parents[1]
METHODS = [
    "retrain",
    "identity",
    "finetune",
    "gradient_ascent",
    "fanchuan",
    "kookmin",
    "seif",
    "sebastian",
    "toshi_k",
    "amnesiacs",
    "sun",
    "forget",
    "random_mask",
    "fast_ntk",
    "pecker",
    "neggrad_plus",
    "random_labels",
    "bad_teacher",
    "scrub",
    "l1_sparse",
    "salun",
    "ssd",
    "cf_k",
    "eu_k",
    "fisher",
    "influence",
    "boundary_shrink",
    "unsir",
    "sfron",
    "delete",
    "erase_repair",
]


def test_the_methods_are_all_there_documented_and_short():
    assert set(METHODS) <= set(names("method"))
    table = (ROOT / "docs" / "methods.md").read_text()
    for name in names("method"):
        assert f"| `{name}`" in table, name
        target = methods.defaults(name)["_target_"].rpartition(".")[0]
        assert (
            len((ROOT / f"{target.removeprefix('harness.').replace('.', '/')}.py").read_text().splitlines()) <= 120
        ), name


@pytest.mark.parametrize("task", ["digits", "mnist_writers"])
def test_tuned_recipes_keep_what_makes_a_method(task):
    sun = methods.spec("sun", task=task, recipe="tuned").parameters
    assert sun["noise_from_epoch"] < sun["partial_epochs"]
    seif = methods.spec("seif", task=task, recipe="tuned").parameters
    assert seif["epochs"] >= 2


@pytest.mark.parametrize("name", names("method"))
def test_every_method_can_be_built(name):
    for recipe in ("authors", "tuned"):
        spec = methods.spec(name, task="digits", recipe=recipe)
        assert callable(spec.build().unlearn)
        assert spec.name == name


def test_without_tuned_values_epochs_go_with_those_of_the_training():
    def fanchuan(epochs, **more):
        return methods.spec("fanchuan", task="unheard-of", recipe="tuned", epochs=epochs, **more)

    given = methods.spec("fanchuan", task="unheard-of", recipe="authors", epochs=10)
    assert (given.recipe, given.parameters["epochs"]) == ("authors", 8)
    assert fanchuan(30).parameters == given.parameters
    assert fanchuan(30).recipe == "authors"
    assert (fanchuan(10).recipe, dict(fanchuan(10).parameters)) == ("authors scaled", {**given.parameters, "epochs": 3})
    assert fanchuan(1).parameters["epochs"] == 1
    assert fanchuan(60).parameters["epochs"] == 16
    assert fanchuan(10, changes={"epochs": 8}).parameters["epochs"] == 8
    assert methods.spec("sebastian", task="unheard-of", recipe="tuned", epochs=15).parameters["epochs"] == 1.6
    scrub = methods.spec("scrub", task="unheard-of", recipe="tuned", epochs=15).parameters
    assert (scrub["epochs"], scrub["ascent_epochs"], scrub["decay_after"]) == (3, 2, 2)
    forget = methods.spec("forget", task="unheard-of", recipe="tuned", epochs=15)
    assert (forget.recipe, forget.parameters["cosine_epochs"]) == ("authors", 2)  # as long as its unscaled cycles


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in GROUPS if g != "experiment" for n in names(g)])
def test_every_choice_composes_with_the_default(group, name):
    check([f"{group}={name}"])
    node = composed(f"{group}={name}")[group]
    assert node
    if group == "train":
        TrainingOptions.read(node)
    if group == "protocol":
        assert Protocol.read(node).kind == name


@pytest.mark.parametrize("name", names("experiment"))
def test_every_experiment_composes(name):
    needs_path = "data.path=" in (files("harness.conf") / "experiment" / f"{name}.yaml").read_text()
    given = [f"experiment={name}", *(["data.path=placeholder.npz"] if needs_path else [])]
    check(given)
    cfg = composed(*given)
    TrainingOptions.read(OmegaConf.to_container(OmegaConf.create(cfg["train"]), resolve=True))
    assert Protocol.read(cfg["protocol"]).n >= 2
    plain = composed()
    swept = cfg["hydra"]["sweeper"]["params"] != plain["hydra"]["sweeper"]["params"]
    assert swept or any(cfg[group] != plain[group] for group in ("data", "model", "train"))


def test_every_metric_loads():
    assert [metric.name for metric in get_metrics(available())] == available()
    assert set(composed()["metrics"]) <= set(available())


TYPED = """
from dataclasses import dataclass
from typing import Callable

@dataclass
class Own:
    lr: float = None  # the author's own default is nobody else's business
    sizes: tuple[int, ...] = (1, 2)
    loss: "Unknown" = 3
    how: Callable = print

    def unlearn(self, models, data, rng): pass

@dataclass
class Typed:
    lr: float = 0.1
    sizes: tuple[int, ...] = (1, 2)

    def unlearn(self, models, data, rng): pass
"""


def test_types_of_hyper_parameters_are_those_of_the_signature(tmp_path):
    (tmp_path / "typed.py").write_text(TYPED)

    def build(name, **values):
        return methods.MethodSpec(name, "own", f"{tmp_path / 'typed.py'}:{name}", values).build()

    assert build("Own", lr=None, loss="x").lr is None  # an annotation nobody can read: nothing is checked
    assert build("Typed", lr=1, sizes=[3]).lr == 1
    with pytest.raises(UserError, match="Typed: lr=fast: expected a number"):
        build("Typed", lr="fast")
    with pytest.raises(UserError, match="Typed: sizes=3: "):
        build("Typed", sizes=3)
