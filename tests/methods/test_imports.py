"""A method imports from the harness by its front door, in one line."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import harness

FILES = sorted((Path(__file__).parents[2] / "methods").glob("[a-z]*.py"))
ALGEBRA = {"jacobians", "linearised"}  # of one plain network: they need nothing of the harness


def imports(file: Path) -> list[tuple[str, list[str], int]]:
    """Every import of a file, also within functions: module (relative ones begin with a dot), names, lines it takes."""
    statements = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            statements += [(alias.name, [], 1) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            statements.append((module, [alias.name for alias in node.names], lines))
    return statements


def test_there_are_methods_to_look_at():
    assert {"fanchuan", "gradients", "surgery"} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_one_line_from_the_harness(file):
    front = [statement for statement in imports(file) if statement[0].partition(".")[0] == "harness"]
    if file.stem in ALGEBRA:
        assert not front
        return
    assert [module for module, _, _ in front] == ["harness"]
    ((_, names, lines),) = front
    assert lines == 1
    assert set(names) <= set(harness.__all__)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nothing_else_but_torch_python_and_what_lies_beside(file):
    beside = {f".{other.stem}" for other in FILES}
    for module, _, _ in imports(file):
        top = module.partition(".")[0]
        assert top in {"harness", "torch", *sys.stdlib_module_names} or module in beside, module
