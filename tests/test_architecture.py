"""The house keeps its shape: rooms build on those below them, no circles, small modules, and one page that shows them all."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
# From the ground up: a room imports from its own modules and from rooms on lower floors.
FLOORS = [
    {"errors", "files", "streams", "task"},
    {"validation"},
    {"models", "metrics"},
    {"engine", "data", "protocols"},
    {"methods", "tasks", "registry"},
    {"draws"},
    {"scores", "options"},
    {"prepare"},
    {"benchmark", "report"},
    {"run"},
    {"command"},
]
LONGEST_MODULE, LONGEST_FUNCTION = 300, 50


def modules() -> dict[str, Path]:
    """Dotted name → file, of everything that is installed but configuration."""
    found = {}
    for base, prefix in ((ROOT / "harness", "harness"), (ROOT / "methods", "harness.methods")):
        for file in base.rglob("*.py"):
            parts = [prefix, *file.relative_to(base).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imports(name: str, *, lazy: bool) -> set[str]:
    """Modules of this project that ``name`` imports; lazy: also inside functions and for type checkers."""
    tree = ast.parse(MODULES[name].read_text())
    nodes = ast.walk(tree) if lazy else tree.body
    targets: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
            base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], node.module or ""]).strip(
                "."
            )
            base = base if node.level else node.module or ""
            targets |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return {target for target in targets if target in MODULES} - {name}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else "harness"


def test_no_circles():
    graph = {name: imports(name, lazy=True) - {"harness"} for name in MODULES if name != "harness"}
    while leaves := [name for name, targets in graph.items() if not targets & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph, f"import each other, or build on such: {sorted(graph)}"


def test_rooms_build_on_those_below():
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    assert {room(name) for name in MODULES} - {"harness"} == set(floor)
    wrong = [
        f"{name} imports {target}"
        for name in MODULES
        if name != "harness"
        for target in imports(name, lazy=True) - {"harness"}
        if room(target) != room(name) and floor[room(target)] >= floor[room(name)]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "file", sorted({*MODULES.values(), *(ROOT / "benchmarks").glob("*.py")}), ids=lambda file: file.stem
)
def test_modules_and_functions_are_short(file):
    text = file.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= LONGEST_FUNCTION, node.name


def test_the_page_names_every_module_and_no_other():
    """A module is named by its path below harness/, such as ``engine/batches.py``; methods have a page of their own."""
    real = {
        str(file.relative_to(ROOT / "harness"))
        for name, file in MODULES.items()
        if room(name) != "methods" and file.name != "__init__.py"
    }
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", PAGE))
    assert named == real, f"not named: {sorted(real - named)}; no such module: {sorted(named - real)}"
