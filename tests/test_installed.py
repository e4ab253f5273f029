"""What a stranger does first, from a wheel in a folder of their own: a launcher, a plug-in by name, an edited helper."""

from __future__ import annotations

import pytest

PLUGIN = """
import torch

def shrink(net, retain_loader, forget_loader, val_loader, factor=0.5, note="x"):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(factor)
"""
ENTRY = "[unlearn.methods]\nshrink = stranger_pkg.methods:shrink\n"


def test_a_sweep_by_the_joblib_launcher_computes_draws(stranger, tmp_path):
    stranger.store = tmp_path / "empty store"
    found = stranger.run("-m", "method=finetune,gradient_ascent", "protocol.n=2", "hydra/launcher=joblib")
    assert found.code == 0, found.err
    assert set(found.csv["method"]) == {"retrain", "identity", "finetune", "gradient_ascent"}
    assert (found.csv["status"] == "ok").all(), found.csv["reason"]
    assert len(list(tmp_path.glob("empty store/draws/*/*.safetensors"))) == 2 * 6


def test_an_installed_method_runs_by_name(stranger):
    stranger.package("stranger-pkg", {"stranger_pkg/__init__.py": "", "stranger_pkg/methods.py": PLUGIN}, ENTRY)
    found = stranger.run("method=shrink", "method.factor=0.9", "protocol.n=2")
    assert found.code == 0, found.err
    assert found.row("shrink")["recipe"] == "authors factor=0.9"
    shown = stranger.run("method=shrink", "protocol.n=2", "--cfg", "job")
    assert "factor: 0.5" in shown.out, shown.err
    swept = stranger.run("-m", "method=shrink,identity", "protocol.n=2", out="swept")
    assert swept.code == 0, swept.err
    assert {"shrink", "identity", "retrain"} == set(swept.csv["method"])
    wrong = stranger.run("method=shrink", "method.factr=0.9", "protocol.n=2", out="wrong")
    assert wrong.code == 2
    assert "unknown key 'method.factr': did you mean factor" in wrong.err


BASE = """
class BaseMethod:
    factor = 0.5
"""
OWN = """
import torch
from methods.BaseMethod import BaseMethod
from methods import tools

class Mine(BaseMethod):
    def unlearn(self, models, data, rng):
        models.map_weights(lambda net: tools.shrink(net, self.factor), rng)

def unlearning(net, retain_loader, forget_loader, val_loader):
    with torch.no_grad():
        tools.shrink(net, BaseMethod.factor)
"""
TOOLS = """
def shrink(net, factor):
    for parameter in net.parameters():
        parameter.mul_(factor)
"""


@pytest.mark.parametrize("wheel", [True, False], ids=["wheel", "editable"])
def test_a_project_may_have_a_methods_folder_of_its_own(stranger, tmp_path, wheel):
    """Public unlearning code often has one; the harness's methods are ``harness.methods`` and never in its way."""
    stranger.store = tmp_path / "store"  # of its own: both installations give the same methods the same addresses
    if not wheel:
        stranger.site = None
    for file, text in (("__init__", ""), ("BaseMethod", BASE), ("mine", OWN), ("tools", TOOLS)):
        path = stranger.folder / "methods" / f"{file}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    found = stranger.run("-m", "method._target_=methods.mine.unlearning,methods.mine.Mine", "protocol.n=2")
    assert found.code == 0, found.err
    assert (found.csv["status"] == "ok").all()
    assert {"unlearning", "Mine", "retrain", "identity"} == set(found.csv["method"])
    (stranger.folder / "methods" / "tools.py").write_text(TOOLS.replace("mul_(factor)", "mul_(factor * 0.5)"))
    edited = stranger.run("method._target_=methods.mine.unlearning", "protocol.n=2")
    assert "2 draws to compute" in edited.err


METHOD = """
from helper import factor

def unlearning(net, retain, forget, valid):
    for parameter in net.parameters():
        parameter.data.mul_(factor)
"""


def test_an_edited_helper_is_never_served_stale(stranger):
    (stranger.folder / "m.py").write_text(METHOD)
    (stranger.folder / "helper.py").write_text("factor = 1.0\n")
    arguments = ("method._target_=m.unlearning", "protocol.n=2")
    assert stranger.run(*arguments).code == 0
    (stranger.folder / "helper.py").write_text("factor = 0.5\n")
    edited = stranger.run(*arguments)
    assert edited.code == 0, edited.err
    assert "2 draws to compute" in edited.err
    assert "0 draws to compute" in stranger.run(*arguments).err


@pytest.mark.parametrize("where", ["method", "import"])
def test_a_method_that_exits_does_not_end_a_sweep(unlearn, where):
    text = "import sys\n\ndef unlearning(net, retain, forget, valid):\n    sys.exit(7)\n"
    (unlearn.folder / "leaves.py").write_text(text if where == "method" else "import sys\nsys.exit(7)\n")
    found = unlearn.run("-m", "method._target_=leaves.py:unlearning,tests.helpers.reset_head", "protocol.n=2")
    assert found.code == 1
    assert found.row("reset_head")["status"] == "ok"
    if where == "method":
        row = found.row("unlearning")
        assert row["status"] == "failed"
        assert row["reason"] == "SystemExit: 7"
    else:
        assert "leaves.py" in found.err
        assert "SystemExit: 7" in found.err


COLLIDING = """
from harness.metrics.base import Column, metric

@metric(name="mine", needs={"accuracy"},
        columns=[Column(name="kl", direction="lower", ideal=0, range=(0, 1), meaning="not the built-in one")])
def mine(*, unlearned, retrained):
    return {"kl": 0.0}
"""


def test_an_unselected_metric_breaks_no_board(stranger):
    points = "[unlearn.metrics]\nmine = colliding:mine\nbroken = breaking:nothing\n"
    stranger.package("colliding", {"colliding.py": COLLIDING, "breaking.py": "raise SystemError('no')"}, points)
    found = stranger.run("methods=[identity]", "protocol.n=8")
    assert found.code == 0, found.err
    assert "not the built-in one" not in found.markdown
    assert "| kl | lower |" in found.markdown
    listed = stranger("list", "metrics")
    assert listed.code == 0, listed.err
    assert "cannot be loaded: no" in listed.out
    chosen = stranger.run("methods=[identity]", "protocol.n=8", "metrics=[kl,mine]", out="chosen")
    assert chosen.code == 1
    assert "both have a column 'kl'" in chosen.err
