"""The tables that end docs/adding-a-method.md list every public member of what a method is given.

They are made from the classes: ``python tests/test_members_table.py`` writes them into the page.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest

from harness import Data, Ensemble, Rng, Split
from harness.engine.sequential import Sequential
from harness.engine.stacked import Stacked

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-method.md"
START = "<!-- members: written by `python tests/test_members_table.py` -->"
END = "<!-- end of members -->"
CLASSES = {"models": Ensemble, "data": Data, "split": Split, "rng": Rng}


def tables() -> str:
    """A Markdown table for each class: member with signature, and the first sentence of its docstring."""
    parts = []
    for variable, cls in CLASSES.items():
        rows = [f"| `{call(variable, cls, name)}` | {summary(doc)} |" for name, doc in members(cls).items()]
        parts.append(
            "\n".join([f"### `{variable}`: `{cls.__name__}`", "", "| member | what it does |", "|---|---|", *rows])
        )
    return "\n\n".join(parts)


def members(cls: type) -> dict[str, str]:
    """Public members and their docstrings (of attributes: the string below them), in the order of the source."""
    docs: dict[str, str] = {}
    body = class_node(cls).body
    for node, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef) and is_public(node.name):
            docs.setdefault(node.name, ast.get_docstring(node) or "")
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and is_public(node.target.id):
            text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and below.value.value
            docs[node.target.id] = inspect.cleandoc(str(text)) if text else ""
    return docs


def class_node(cls: type) -> ast.ClassDef:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    return node


def is_public(name: str) -> bool:
    return not name.startswith("_") or name == "__len__"


def call(variable: str, cls: type, name: str) -> str:
    """``models.step(optimizer, loss, *batch)``"""
    if name == "__len__":
        return f"len({variable})"
    member = inspect.getattr_static(cls, name, None)
    if not inspect.isfunction(member):
        return f"{variable}.{name}"
    _, *parameters = inspect.signature(member).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return f"{variable}.{name}{inspect.Signature(bare)}"


def summary(doc: str) -> str:
    """The first sentence, without the marks of reStructuredText."""
    sentence = re.split(r"(?<=\.)\s", " ".join(doc.split()), maxsplit=1)[0]
    return re.sub(r":\w+:`([^`]*)`", r"`\1`", sentence).replace("``", "`").replace("|", "\\|")


def parts_of_page() -> tuple[str, str, str]:
    """What stands before, between and after the markers."""
    before, rest = PAGE.read_text().split(START)
    between, after = rest.split(END)
    return before, between, after


def test_the_page_has_the_tables_of_today():
    assert parts_of_page()[1].strip() == tables(), "out of date: run `python tests/test_members_table.py` to rewrite it"


@pytest.mark.parametrize("cls", CLASSES.values())
def test_every_member_says_what_it_does(cls):
    undocumented = [name for name, doc in members(cls).items() if not doc.strip()]
    assert undocumented == []
    assert all(summary(doc).endswith(".") for doc in members(cls).values())


@pytest.mark.parametrize("cls", [*CLASSES.values(), Sequential, Stacked])
def test_every_public_attribute_is_declared(cls):
    """An attribute that is only assigned, somewhere in a method, would be missing from the table."""
    declared = members(next(base for base in CLASSES.values() if issubclass(cls, base)))
    targets = [node for node in ast.walk(class_node(cls)) if isinstance(node, ast.Attribute)]
    assigned = {node.attr for node in targets if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"}
    assert {name for name in assigned if is_public(name)} <= set(declared)


def test_members_are_those_of_the_running_class():
    for cls in CLASSES.values():
        public = {name for name in {*dir(cls), *cls.__annotations__} if is_public(name)}
        assert public == set(members(cls))


if __name__ == "__main__":
    before, _, after = parts_of_page()
    PAGE.write_text(f"{before}{START}\n\n{tables()}\n\n{END}{after}")
