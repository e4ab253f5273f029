"""The store: whole files or none, damage noticed, locks that die with their process, keys that mean something."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from harness.draws import store as module
from harness.draws.store import Damaged, Store
from harness.errors import UserError
from harness.files import default_root, key_of
from harness.registry.sources import Sources, source_hash

KEY = "ab" * 16
TENSORS = {
    "logits/test": torch.arange(12.0).reshape(3, 4),
    "logits/forget": torch.tensor([[float("nan"), -0.0, float("inf")]]),
    "weights/scalar": torch.tensor(7),
    "weights/half": torch.tensor(1.5, dtype=torch.bfloat16),
    "weights/bf16": torch.randn(5, 3).bfloat16(),
    "weights/int": torch.tensor([-1, 2**62]),
    "weights/bool": torch.tensor([True, False, True]),
    "weights/double": torch.randn(2, 2, dtype=torch.float64),
    "weights/empty": torch.zeros(0, 4),
    "weights/strided": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "weights/slice": torch.randn(4, 6)[1],
}
FACTS = {"seconds": 0.125, "note": "ε", "n": 3}


def put(store, draw=0):
    store.put(KEY, draw, TENSORS, FACTS)
    return store.path(KEY, draw)


def test_round_trip(store):
    put(store, 7)
    tensors, facts = store.get(KEY, 7)
    assert facts == FACTS
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        same = tensors[name].reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(*same), name  # bit for bit: NaN and -0 too


def test_prefix(store):
    put(store)
    assert set(store.get(KEY, 0, prefix="logits/")[0]) == {"logits/test", "logits/forget"}


def test_missing(store):
    assert store.missing(KEY, [3, 1]) == [3, 1]
    put(store, 1)
    assert store.missing(KEY, range(4)) == [0, 2, 3]
    with pytest.raises(KeyError):
        store.get(KEY, 0)


def test_describe_says_what_a_key_is(store):
    store.describe(KEY, {"stage": "training", "seed": 0})
    store.describe(KEY, {"stage": "other"})
    assert '"seed": 0' in (store.root / "draws" / KEY / "stage.json").read_text()
    assert store.missing(KEY, [0]) == [0]


# --- whole files or none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_nothing(store, monkeypatch, failing):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match="disk full"):
        put(store)
    monkeypatch.undo()
    assert os.listdir(store.path(KEY, 0).parent) == []
    assert store.missing(KEY, [0]) == [0]


def test_a_write_that_fails_leaves_the_old_file(store, monkeypatch):
    path = put(store)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.put(KEY, 0, {"a": torch.zeros(1)}, {})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_file_is_synced_before_it_gets_its_name(store, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda fd: (events.append("sync"), fsync(fd)))
    monkeypatch.setattr("os.replace", lambda *paths: (events.append("rename"), replace(*paths)))
    put(store)
    assert events[:2] == ["sync", "rename"]


def test_temporary_files_do_not_count_as_draws(store):
    path = put(store, 0)
    for name in (".000001.safetensors.12-abc", "000002.safetensors.damaged-12345678", "000003.safetensors.tmp"):
        (path.parent / name).write_bytes(b"half a file")
    assert store.missing(KEY, range(4)) == [1, 2, 3]


def test_a_killed_writer_leaves_no_draw(store):
    """SIGKILL between write and rename: the draw is missing, not broken."""
    code = f"""
import os, signal, torch
from harness.draws.store import Store
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Store({str(store.root)!r} and __import__("pathlib").Path({str(store.root)!r})).put({KEY!r}, 0, {{"a": torch.zeros(9)}}, {{}})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert len(os.listdir(store.path(KEY, 0).parent)) == 1
    assert store.missing(KEY, [0]) == [0]


# --- damage ---------------------------------------------------------------------------------------------------------


def flipped(data, position):
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


DAMAGE = {
    "first byte of the tensors": lambda d: flipped(d, 8 + int.from_bytes(d[:8], "little")),
    "last byte": lambda d: flipped(d, len(d) - 1),
    "header": lambda d: flipped(d, 40),
    "length of the header": lambda d: flipped(d, 0),
    "facts": lambda d: d.replace(b"0.125", b"0.126"),
    "truncated": lambda d: d[:-10],
    "truncated header": lambda d: d[:20],
    "empty": lambda d: b"",
    "zeros": lambda d: bytes(len(d)),
    "longer": lambda d: d + b"more",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_noticed_and_set_aside(store, kind):
    path = put(store)
    put(store, 1)
    broken = DAMAGE[kind](path.read_bytes())
    assert broken != path.read_bytes()
    path.write_bytes(broken)
    with pytest.raises(Damaged):
        store.get(KEY, 0)
    assert store.missing(KEY, [0, 1]) == [0]
    (aside,) = [name for name in os.listdir(path.parent) if "damaged" in name]
    assert (path.parent / aside).read_bytes() == broken
    with pytest.raises(KeyError):
        store.get(KEY, 0)
    put(store)
    assert store.get(KEY, 0)[1] == FACTS


def test_any_flipped_bit_is_noticed(store):
    path = put(store)
    whole = path.read_bytes()
    for position in range(0, len(whole), 37):
        path.write_bytes(flipped(whole, position))
        with pytest.raises(Damaged):
            store.get(KEY, 0)


def test_damage_outside_the_prefix_is_noticed_too(store):
    path = put(store)
    path.write_bytes(DAMAGE["last byte"](path.read_bytes()))
    with pytest.raises(Damaged):
        store.get(KEY, 0, prefix="logits/")


@pytest.mark.parametrize("when", ["before it is opened", "before it is set aside"])
def test_two_readers_of_one_damaged_file(store, monkeypatch, when):
    """The second finds the file gone: that is damage too, not a crash."""
    path = put(store)
    path.write_bytes(b"broken")
    original = module.safe_open

    def other_reader_first(*args, **options):
        if when == "before it is opened":
            path.rename(path.with_name("elsewhere"))
            return original(*args, **options)
        try:
            return original(*args, **options)
        finally:
            path.rename(path.with_name("elsewhere"))

    monkeypatch.setattr(module, "safe_open", other_reader_first)
    with pytest.raises((Damaged, KeyError)):
        store.get(KEY, 0)


# --- locks ----------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from harness.draws.store import Store
with Store(Path(sys.argv[1])).lock(sys.argv[2], 0) as held:
    print(held, flush=True)
    time.sleep(120)
"""


def test_a_lock_is_exclusive_and_dies_with_its_process(store):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root), KEY],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert holder.stdout.readline().strip() == "True"
        with store.lock(KEY, 0) as held:
            assert held is False
        with store.lock(KEY, 1) as held:
            assert held is True
        with store.lock("cd" * 16, 0) as held:
            assert held is True
        start = time.monotonic()
        with store.lock(KEY, 0):
            assert time.monotonic() - start < 1  # never waits
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with store.lock(KEY, 0) as held:
        assert held is True


def test_a_lock_is_given_back(store):
    for _ in range(3):
        with store.lock(KEY, 0) as held:
            assert held is True
    with pytest.raises(RuntimeError), store.lock(KEY, 0):
        raise RuntimeError
    with store.lock(KEY, 0) as held:
        assert held is True


# --- addresses ------------------------------------------------------------------------------------------------------


def test_key_of_is_stable_and_sees_every_field():
    base = {"a": 1, "b": {"c": [1, 2.5, "x"], "d": None}, "e": True}
    assert key_of(base) == key_of({"e": True, "b": {"d": None, "c": [1, 2.5, "x"]}, "a": 1})
    assert key_of({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad808"
    others = [
        base | {"a": 2},
        base | {"a": "1"},
        base | {"b": {"c": [2.5, 1, "x"], "d": None}},
        base | {"b": {"c": [1, 2.5, "x"], "d": 0}},
        base | {"e": False},
        base | {"f": 0},
        {k: v for k, v in base.items() if k != "e"},
    ]
    assert len({key_of(other) for other in [base, *others]}) == len(others) + 1


def test_default_root(monkeypatch, tmp_path):
    monkeypatch.setenv("UNLEARN_STORE", "~/here")
    assert default_root() == Path.home() / "here"
    monkeypatch.delenv("UNLEARN_STORE")
    assert default_root().name == "unlearn"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "file" / "store"))
    with pytest.raises(UserError, match="UNLEARN_STORE"):
        Store()


def test_records(store):
    assert store.get_record("flops-x") is None
    store.put_record("flops-x", {"flops": 12.0})
    assert store.get_record("flops-x") == {"flops": 12.0}
    (store.root / "records" / "flops-x.json").write_text("{broken")
    assert store.get_record("flops-x") is None


def test_tasks(store, task):
    again = store.get_task(task.hash)
    assert again.hash == task.hash
    assert again.classes == task.classes
    assert (again.source_index == task.source_index).all()
    assert again.sizes() == task.sizes()


# --- the code of a method -------------------------------------------------------------------------------------------

SOURCE = '''"""A method."""
import torch


class Own:
    """What it does."""

    def unlearn(self, models, data, rng):
        """Nothing yet."""
        return models.step(1, 2)


def other(x):
    # a comment
    return x + 1
'''
SAME = {
    "comment": SOURCE.replace("# a comment", "# another comment"),
    "no comment": SOURCE.replace("    # a comment\n", ""),
    "docstrings": SOURCE.replace("A method", "The method").replace("What it does", "What").replace("Nothing", "None"),
    "no docstrings": SOURCE.replace('"""A method."""\n', "").replace('        """Nothing yet."""\n', ""),
    "layout": SOURCE.replace("\n\n\n", "\n\n\n\n").replace("(1, 2)", "(\n            1, 2\n        )"),
}
DIFFERENT = {
    "a number": SOURCE.replace("step(1, 2)", "step(1, 3)"),
    "another function": SOURCE.replace("x + 1", "x - 1"),
    "a default": SOURCE.replace("def other(x)", "def other(x=0)"),
    "a decorator": SOURCE.replace("class Own", "@torch.no_grad()\nclass Own"),
    "a string": SOURCE.replace("return x + 1", "return 'x'"),
    "one argument less": SOURCE.replace("data, rng", "data"),
}


def hash_of(tmp_path, source):
    file = tmp_path / "own.py"
    file.write_text(source)
    return source_hash(f"{file}:Own")


def test_the_hash_of_a_method_is_that_of_its_code(tmp_path):
    base = hash_of(tmp_path, SOURCE)
    for name, source in SAME.items():
        assert source != SOURCE, name
        assert hash_of(tmp_path, source) == base, name
    hashes = {name: hash_of(tmp_path, source) for name, source in DIFFERENT.items()}
    assert base not in hashes.values()
    assert len(set(hashes.values())) == len(hashes)


IMPORTS = {
    "beside": "import hash_helper",
    "in a package beside": "from hash_parts.inner import thing",
    "a module as a name": "from hash_parts import inner",
    "inside a function": "def f():\n    import hash_helper",
    "two steps away": "import hash_between",
    "the package around it": "import hash_around.empty",
}


@pytest.mark.parametrize("statement", IMPORTS.values(), ids=IMPORTS)
@pytest.mark.parametrize("as_file", [True, False])
def test_the_hash_covers_what_the_author_imports(tmp_path, monkeypatch, statement, as_file):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = f"hashed_{abs(hash((statement, as_file)))}"
    (tmp_path / f"{module}.py").write_text(f"import numpy\n{statement}\ndef own(net, r, f, v): pass\n")
    (tmp_path / "hash_between.py").write_text("from hash_helper import value\n")
    (tmp_path / "hash_parts").mkdir()
    (tmp_path / "hash_parts" / "__init__.py").write_text("")
    (tmp_path / "hash_around").mkdir()
    (tmp_path / "hash_around" / "empty.py").write_text("")
    target = f"{module}.py:own" if as_file else f"{module}.own"
    helpers = [tmp_path / name for name in ("hash_helper.py", "hash_parts/inner.py", "hash_around/__init__.py")]
    hashes = []
    for value in (1, 2):
        for helper in helpers:
            helper.write_text(f"value = {value}\nthing = {value}\n")
        hashes.append(source_hash(target))
    assert hashes[0] != hashes[1]


def test_the_hash_of_a_built_in_covers_the_tools_it_shares():
    """methods/sun.py imports masked_step from .gradients: that file is part of its hash."""
    sources: dict[str, str] = {}
    module = importlib.import_module("harness.methods.sun")
    Sources(Path(module.__file__), module.__name__).collect(Path(module.__file__), module.__name__, sources)
    assert {Path(name).name for name in sources} == {"sun.py", "gradients.py", "surgery.py"}


def test_the_hash_follows_relative_imports(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    inner = tmp_path / "hash_package" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("")
    (inner / "m.py").write_text("from ..tools import a\nfrom . import near\ndef own(net, r, f, v): pass\n")
    hashes = []
    for a, near in ((1, 1), (2, 1), (2, 2)):
        (inner.parent / "tools.py").write_text(f"a = {a}\n")
        (inner / "near.py").write_text(f"b = {near}\n")
        hashes.append(source_hash("hash_package.inner.m.own"))
    assert len(set(hashes)) == 3
