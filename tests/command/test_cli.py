"""The command line: what it refuses, and in which words."""

from __future__ import annotations

import shutil
from importlib.resources import files

import numpy as np
import pytest

import harness
from harness.command import cli
from tests.support_cli import TINY, people_npz


def refused(result) -> str:
    """The one line a refused command leaves; checks that it is one, and that nothing else is said."""
    assert result.code not in (0, None)
    assert "Traceback" not in result.err + result.out
    lines = result.err.strip().splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("unlearn: ")
    assert "object at 0x" not in lines[0]
    assert not result.folder.joinpath("leaderboard.csv").exists()
    return lines[0].removeprefix("unlearn: ")


# --- refused before anything runs -----------------------------------------------------------------------------------

TYPOS = {
    "method=finetun": "unknown method 'finetun': did you mean finetune",
    "method=zzzzzz": "unknown method 'zzzzzz': known: .*fanchuan.*sebastian",
    "data=digit": "unknown data 'digit': did you mean digits",
    "model=small_cn": "unknown model 'small_cn': did you mean small_cnn",
    "forget=randm": "unknown forget 'randm': did you mean random",
    "protocol=reuse_nn": "unknown protocol 'reuse_nn': did you mean reuse_n_n",
    "experiment=mnist_writer": "unknown experiment 'mnist_writer': did you mean mnist_writers",
    "train=digit": "unknown train 'digit': did you mean digits",
    "metod=finetune": "unknown key 'metod': did you mean method",
    "protocl.n=8": "unknown key 'protocl': did you mean protocol",
    "protocol.m=8": "unknown key 'protocol.m': .*n",
    "data.trainlimit=8": "unknown key 'data.trainlimit': did you mean train_limit",
    "train.epoch=8": "unknown key 'train.epoch': did you mean epochs",
    "forget.label=3": "unknown key 'forget.label': known: n$|unknown key 'forget.label': known: kind, n$",
    "sed=3": "unknown key 'sed': did you mean seed",
}
CONTRADICTIONS = {
    "method=[finetune,identity]": r"method=\[finetune,identity\]: one method only; .*methods=\[finetune,identity\].*-m method=",
    "method=finetune methods=[identity]": "method= and methods= exclude each other",
    "method=finetune method._target_=a.b": "method=NAME and method._target_= exclude each other",
    "method._target_=a.b methods=[identity]": "method._target_= and methods= exclude each other",
    "method=finetune,identity": r"method=finetune,identity names several values: add -m .*methods=\[finetune,identity\]",
    "seed=0,1": "seed=0,1 names several values: add -m to sweep over them .*-m seed=0,1",
    "data=[digits,npz]": r"data=\[digits,npz\]: expected one name",
    "method=finetune method.epoch=3": "unknown key 'method.epoch': did you mean epochs",
    "method.epochs=3": "method.epochs: choose the method first",
    "finetune": "unknown command 'finetune': known: leaderboard, list, plan",
    "pln": "unknown command 'pln': did you mean plan",
    "method=finetune fast": "'fast': expected KEY=VALUE",
    "--fast": "unknown option --fast; see unlearn --help",
    "plan method=finetun": "unknown method 'finetun': did you mean finetune",
    "list method": "unknown kind 'method': did you mean methods",
    "list methods data": r"usage: unlearn list \[KIND\] \[--plain\]",
    "leaderboard a b": r"usage: unlearn leaderboard \[DIR\]",
    "leaderboard nowhere": "nowhere: no such directory",
    "leaderboard": r"no runs/\*/cells here; name the directory",
    "out=[1]": r"out=\[1\]: expected the name of a folder",
    "out=null": "out=null: expected the name of a folder",
    "plan --fast": "unrecognized arguments: --fast; usage: unlearn plan",
    "score": r"the following arguments are required: DIR.*usage: unlearn score DIR",
    "-m method=finetune,identty": "unknown method 'identty': did you mean identity",
}


@pytest.mark.parametrize("arguments", [*TYPOS, *CONTRADICTIONS])
def test_refused_at_once(unlearn, arguments):
    message = refused(unlearn(*arguments.split()))
    assert re_search((TYPOS | CONTRADICTIONS)[arguments], message), message
    assert list(unlearn.folder.iterdir()) == []


def re_search(pattern: str, text: str) -> bool:
    import re

    return re.search(pattern, text) is not None


# --- refused when the configuration is used -------------------------------------------------------------------------

BAD_VALUES = {
    "forget.n=0": r"forget.n=0: expected a whole number from 1 to \d+",
    "forget.n=60": r"forget.n=60: expected a whole number from 1 to 59 \(there are 60 training images\)",
    "forget.n=some": "forget.n=some: expected a whole number",
    "forget=class forget.label=10": "forget.label=10: expected a class from 0 to 9",
    "forget=class forget.label=x": "forget.label=x: expected a class",
    "forget=groups forget.n=2": "forget=groups needs data with group ids",
    "+forget.colour=red": "unknown key 'forget.colour': known: kind, n",
    "protocol.n=1": "protocol.n=1: expected a whole number, at least 2",
    "protocol.n=lots": "protocol.n=lots: expected a whole number",
    "protocol=full protocol.experiments=0": "protocol.experiments=0: expected a whole number, at least 1",
    "+protocol.m=3": "unknown key 'protocol.m'",
    "data.train_limit=0": "data.train_limit=0: expected a whole number from 1",
    "data.label_noise=1": "data.label_noise=1: expected a share",
    "data.test_fraction=2": "data.test_fraction=2: expected a share between 0 and 1",
    "+data.pth=x": "unknown key 'data.pth'",
    "metrics=[oficial]": "metrics: unknown metric 'oficial'; did you mean 'official'",
    "metrics=ks,kl": "metrics=ks,kl names several values",
    "metrics=null": "metrics=null: expected a list of names",
    "estimator=exct": "unknown estimator 'exct': did you mean exact",
    "+settings.finetun.lr=1": "unknown key 'settings.finetun': did you mean finetune",
    "+settings.finetune.rate=1": "finetune.*rate",
    "metrics=[ks,ks]": "metrics: metric given twice: ks",
    "methods=[finetun]": "unknown method 'finetun': did you mean finetune",
    "methods=null": r"methods=null: expected all, or a list such as methods=\[",
    "metrics=[]": r"metrics=\[\]: expected a list of names",
    "methods=[]": r"methods=\[\]: expected all, or a list",
    "methods=[1]": r"methods=\[1\]: expected all, or a list",
    "seeds=null": "seeds=null: expected keys with values",
    "settings=null": "settings=null: expected keys with values",
    "references=null": "references=null: expected keys with values",
    "references={}": r"references=\{\}: an empty mapping changes nothing",
    "references.ceiling=identity": "references.ceiling=identity: expected a method that trains new models on retain alone",
    "references.floor=finetune": "references.floor=finetune: expected a method that does nothing",
    "references.floor=null": "references.floor=null: expected a text",
    "~references.floor": "references.floor is missing: expected a value",
    "engine=null": "unknown engine 'null': known: auto, sequential, stacked",
    "seed=true": "seed=true: expected a whole number",
    "pretrain=3": "pretrain=3: expected keys with values",
    "+settings.finetune=3": "settings.finetune=3: expected keys with values",
    "train=null": r"train=null: expected a name \(unlearn list train\)",
    "method=null": r"method=null: expected a name \(unlearn list methods\)",
    "+colour=red": "unknown key 'colour': known: .*seed",
    "device=null": "device=null: expected a text",
    "cost_limit=-1": "cost_limit=-1: expected a number, a share of the time of retraining",
    "device=gpu": "unknown device 'gpu'|device=gpu",
    "engine=fast": "unknown engine 'fast'",
    "recipe=tune": "unknown recipe 'tune': did you mean tuned",
    "workers=0": "workers=0: expected auto or a whole number from 1",
    "seed=first": "expected a whole number",
    "split_seed=1.5": "split_seed=1.5: expected a whole number",
    "cost_limit=cheap": "cost_limit=cheap: expected a number",
    "train.epochs=0": "train.epochs=0: expected at least 1",
    "train.epochs=ten": "train.epochs=ten: expected a whole number",
    "train.lr=fast": "train.lr=fast: expected a number",
    "train.optimizer=sdg": "unknown train.optimizer 'sdg': did you mean sgd",
    "train.flip=maybe": "train.flip=maybe: expected true or false",
    "model.widths=4": "model: .*small_cnn",
    "+model.depth=3": "model: .*depth",
    "data=npz": "data=npz needs data.path=FILE.npz",
    "data=npz data.path=nowhere.npz": "data.path=nowhere.npz: no such file",
    "data=image_folder": "data=image_folder needs data.root=DIRECTORY",
    "method._target_=nowhere.method": "method._target_=nowhere.method: no module named 'nowhere'",
    "method._target_=method": "method._target_=method: expected package.module.name or path/file.py:name",
    "method._target_=nowhere.py": "method._target_=nowhere.py: which function or class of the file.*nowhere.py:NAME",
    "method=finetune method.lr=high": "finetune: lr=high: expected a number",
    "method=finetune method.epochs=1.5": "finetune: epochs=1.5: expected a whole number",
    "method=finetune method.lr=null": "finetune: lr=null: expected a number",
    "method=pecker method.mask=salience": "unknown pecker: mask 'salience': did you mean saliency",
    "method=sun method.fine_lr=3": "sun: fine_lr=3: expected a list",
    "+settings.seif.convolutions=frist": "unknown seif: convolutions 'frist': did you mean first",
    "method._target_=nowhere.py:method": "method._target_=.*nowhere.py.*no such file",
    "method._target_=harness.methods.finetune.Finetun": "unknown name in harness.methods.finetune 'Finetun': did you mean F",
    "method._target_=harness.methods.finetune.Finetune": "Finetune needs a value for epochs, lr.*add \\+method.epochs=",
}


@pytest.mark.parametrize("arguments", BAD_VALUES)
def test_bad_values(unlearn, arguments):
    given = arguments.split()
    tiny = TINY if "data=" not in arguments and "forget=" not in arguments else []
    keys = {argument.partition("=")[0] for argument in given}
    rest = [argument for argument in tiny if argument.partition("=")[0] not in keys]
    message = refused(unlearn(*rest, *given, "out=out"))
    assert re_search(BAD_VALUES[arguments], message), message
    assert not list((unlearn.folder / "out").glob("cells/*"))


def test_unreadable_npz(unlearn):
    path = people_npz(unlearn.folder / "faces.npz")
    path.write_bytes(path.read_bytes()[:200])
    message = refused(unlearn("data=npz", "data.path=faces.npz", "forget=groups", "out=out"))
    assert "data.path=faces.npz: not a readable .npz file" in message


def test_forgetting_everybody_or_nobody(unlearn):
    people_npz(unlearn.folder / "faces.npz")
    data = ["data=npz", "data.path=faces.npz", "forget=groups", "out=out"]
    assert re_search("forget.n=0: expected a whole number from 1 to", refused(unlearn(*data, "forget.n=0")))
    everybody = refused(unlearn(*data, "forget.n=14"))
    assert re_search(r"forget.n=14: expected a whole number from 1 to \d+ \(there are \d+ groups", everybody)
    assert re_search(r"forget.ids: no training images of groups \[99\]", refused(unlearn(*data, "forget.ids=[99]")))


def test_labels_out_of_range(unlearn):
    path = unlearn.folder / "odd.npz"
    images = np.zeros((20, 4, 4), np.uint8)
    np.savez(path, train_images=images, train_labels=np.arange(20) - 1)
    assert "train_labels holds -1; expected integers from 0" in refused(
        unlearn("data=npz", f"data.path={path}", "out=out")
    )


# --- methods that misbehave -----------------------------------------------------------------------------------------

METHODS = """
import torch
from torch import nn

def raises(net, retain, forget, valid):
    raise RuntimeError("no such\\nluck")

def poisons(net, retain, forget, valid):
    for p in net.parameters():
        p.data.fill_(float("nan"))

def explodes(net, retain, forget, valid):
    for p in net.parameters():
        p.data.fill_(1e30)

def widens(net, retain, forget, valid):
    net[-1] = nn.Linear(net[-1].in_features, 99)

def swaps(net, retain, forget, valid):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def fine(net, retain, forget, valid, scale=1.0):
    with torch.no_grad():
        net[-1].weight.mul_(scale)
"""

FAILURES = {
    "raises": "RuntimeError: no such",
    "poisons": r"2 of 2 draws have NaN( or infinite)? outputs \(at most 10 % may\)",
    "explodes": r"2 of 2 draws have NaN( or infinite)? outputs \(at most 10 % may\)",
    "widens": r"ValueError: the method changed '\d+.weight' from shape \(10, 8\) to \(99, 8\)",
    "swaps": r"ValueError: the method removed '.*' from the model",
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failing_method_is_a_failed_row(unlearn, name):
    (unlearn.folder / "mine.py").write_text(METHODS)
    result = unlearn.run(f"method._target_=mine.py:{name}", "protocol.n=2")
    assert result.code == 1
    assert result.csv["method"].tolist()[-1] == name
    row = result.row(name)
    assert row["status"] == "failed"
    assert re_search(FAILURES[name], row["reason"]), row["reason"]
    assert "\n" not in row["reason"]
    assert np.isnan(row["kl"])
    for method in ("retrain", "identity"):
        assert result.row(method)["status"] == "ok"
        assert result.row(method)["kl"] > 0
    assert f"{name}: failed: " in result.out
    assert f"| {name} (failed) |" in result.markdown


def test_own_method(unlearn):
    (unlearn.folder / "mine.py").write_text(METHODS)
    result = unlearn.run("method._target_=mine.py:fine", "+method.scale=0.5", "protocol.n=2")
    assert result.code == 0, result.err
    row = result.row("fine")
    assert (row["status"], row["recipe"], bool(row["comparable_cost"])) == ("ok", "own scale=0.5", False)
    unlearn("method._target_=mine.py:fine", "+method.scael=0.5", *TINY, "out=typo")
    assert not (unlearn.folder / "typo" / "cells").exists()


def test_own_method_from_a_module_here(unlearn):
    (unlearn.folder / "my_module.py").write_text(METHODS)
    result = unlearn.run("method._target_=my_module.fine", "protocol.n=2")
    assert result.code == 0, result.err
    assert result.row("fine")["status"] == "ok"


# --- subcommands ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_help(unlearn, arguments):
    result = unlearn(*arguments)
    assert result.code == 0
    assert result.out.startswith("unlearn: benchmark machine unlearning")
    for command in cli.COMMANDS.values():
        assert command.usage in result.out
        assert command.summary in result.out
    assert max(map(len, result.out.splitlines())) <= 120


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_every_command(unlearn, name):
    result = unlearn(name, "--help")
    assert result.code == 0
    assert result.out.startswith(f"usage: unlearn {name}")
    assert cli.COMMANDS[name].details.split(".")[0] in " ".join(result.out.split())


def test_version_is_this_projects(unlearn):
    result = unlearn("--version")
    assert result.code == 0
    assert result.out == f"unlearn {harness.__version__}\n"


KINDS = {
    "methods": "method",
    "data": "data",
    "models": "model",
    "protocols": "protocol",
    "forget": "forget",
    "train": "train",
    "experiments": "experiment",
}


@pytest.mark.parametrize("kind", KINDS)
def test_list_plain(unlearn, kind):
    result = unlearn("list", kind, "--plain")
    folder = files("harness.conf") / KINDS[kind]
    expected = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    assert result.code == 0
    assert result.out.splitlines() == expected
    assert len(expected) > 0


def test_list_metrics_and_everything(unlearn):
    assert {"official", "ks", "kl", "accuracy"} <= set(unlearn("list", "metrics", "--plain").out.splitlines())
    plain = unlearn("list", "--plain").out.splitlines()
    assert {"finetune", "digits", "small_cnn", "official", "reuse_n_n", "mislabelled", "mnist_writers"} <= set(plain)
    shown = unlearn("list").out
    for name in plain:
        assert name in shown


@pytest.mark.parametrize("kind", [*KINDS, "metrics"])
def test_list_says_what_each_thing_is(unlearn, kind):
    names = unlearn("list", kind, "--plain").out.split()
    lines = unlearn("list", kind).out.splitlines()
    for name in names:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert len(line.strip().removeprefix(name).strip()) > 10, line


def test_plan_runs_nothing_and_counts(unlearn, tmp_path):
    unlearn.use(tmp_path / "own")
    first = unlearn("plan", *TINY, "methods=[finetune]", "protocol.n=3")
    assert first.code == 0
    assert unlearn.draws() == {}
    assert counts(first.out) == {
        "original": (3, 0, 3),
        "retrained": (3, 0, 3),
        "retrain": (3, 0, 3),
        "identity": (3, 0, 3),
        "finetune": (3, 0, 3),
    }
    assert "retain 50, forget 10, valid 12, test 60" in " ".join(first.out.split())
    assert not (tmp_path / "runs").exists()

    assert unlearn.run("methods=[identity]", "protocol.n=2").code == 0
    before = unlearn.draws()
    second = unlearn("plan", *TINY, "methods=[finetune]", "protocol.n=3")
    assert unlearn.draws() == before
    assert counts(second.out) == {
        "original": (3, 2, 1),
        "retrained": (3, 2, 1),
        "retrain": (3, 2, 1),
        "identity": (3, 2, 1),
        "finetune": (3, 0, 3),
    }


def counts(text: str) -> dict[str, tuple[int, int, int]]:
    rows = [line.split() for line in text.splitlines()]
    return {
        row[0]: (int(row[1]), int(row[2]), int(row[3]))
        for row in rows
        if len(row) == 7 and row[1].isdigit() and row[2].isdigit()
    }


def test_plan_of_a_sweep(unlearn):
    result = unlearn("plan", "-m", *TINY, "method=finetune,identity", "seed=0,1", "protocol.n=2")
    assert result.code == 0
    assert result.out.count("task ") == 4
    assert "runs nothing" not in result.out


def test_plan_with_bad_values(unlearn):
    assert "protocol.n=1: expected" in refused(unlearn("plan", *TINY, "protocol.n=1"))
    assert "data=npz needs data.path" in refused(unlearn("plan", "data=npz"))


def test_leaderboard_rebuilds_the_same_files(unlearn):
    result = unlearn.run("methods=[identity]", "protocol.n=8")
    assert result.code == 0, result.err
    names = ["leaderboard.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.svg", "leaderboard-dark.svg"]
    before = {name: (result.folder / name).read_bytes() for name in names}
    for name in names:
        (result.folder / name).unlink()
    again = unlearn("leaderboard", "out")
    assert again.code == 0
    assert {name: (result.folder / name).read_bytes() for name in names} == before
    assert "identity" in again.out
    copied = unlearn.folder / "elsewhere"
    shutil.copytree(result.folder / "cells", copied / "cells")
    unlearn("leaderboard", "elsewhere")
    assert (copied / "leaderboard.csv").read_bytes() == before["leaderboard.csv"]


def test_leaderboard_of_the_newest_run(unlearn):
    assert unlearn.run("methods=[identity]", "protocol.n=2", out="runs/one").code == 0
    assert "identity" in unlearn("leaderboard").out


def test_leaderboard_names_a_broken_result(unlearn):
    cells = unlearn.folder / "odd" / "cells"
    cells.mkdir(parents=True)
    (cells / "one.json").write_text("{}")
    assert "one.json: not a result of this version" in refused(unlearn("leaderboard", "odd"))


@pytest.mark.parametrize(
    "arguments", ["method=finetune --cfg job", "--cfg job method=finetune", "-c job method=finetune"]
)
def test_configuration_is_printed(unlearn, arguments):
    result = unlearn(*arguments.split())
    assert result.code == 0, result.err
    assert "_target_: harness.methods.finetune.Finetune" in result.out
    assert not (unlearn.folder / "runs").exists()
