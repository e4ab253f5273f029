"""``from harness import ...``: complete, light, and helpful about misspelt names."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import harness

HEAVY = ("torch", "numpy", "pandas", "scipy", "hydra", "omegaconf", "pydantic")


@pytest.mark.parametrize("name", harness.__all__)
def test_every_name_resolves(name):
    value = getattr(harness, name)
    assert value is getattr(harness, name)
    assert name in dir(harness)


def test_names_are_those_of_the_modules_behind():
    from harness import Data, Ensemble, Net, NotApplicable, Rng, errors, losses, streams
    from harness.engine import batches, ensemble

    assert losses is import_module("harness.engine.losses")
    assert (Data, Ensemble, Net, Rng) == (batches.Data, ensemble.Ensemble, losses.Net, streams.Rng)
    assert NotApplicable is errors.NotApplicable


def test_type_checkers_see_the_same_names():
    """What is imported for them alone is what there is at run time, from the same places."""
    tree = ast.parse(Path(harness.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(seen) == sorted(harness.__all__)
    assert seen == harness._HOMES


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, harness; print(*[name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_errors_need_no_torch():
    code = "import sys; from harness import NotApplicable, UserError; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_misspelt_names():
    with pytest.raises(
        AttributeError, match=r"^module 'harness' has no attribute 'Ensembel'; did you mean Ensemble\?$"
    ):
        _ = harness.Ensembel
    with pytest.raises(AttributeError, match=r"^module 'harness' has no attribute 'qqq'$"):
        _ = harness.qqq
    with pytest.raises(ImportError, match="cannot import name 'Ensembel' from 'harness'"):
        from harness import Ensembel  # noqa: F401
    assert not hasattr(harness, "__wrapped__")


def test_submodules_can_be_imported_as_ever():
    code = "from harness import errors, registry; print(errors.__name__, registry.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["harness.errors", "harness.registry"]


def test_version():
    assert harness.__version__[0].isdigit()
