"""The code behind a method: what must be hashed so that an edited method is never served from the store."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from harness.registry.targets import module_of


def source_hash(target: str) -> str:
    """SHA-256 of the code behind the target, so that an edited method is never served from the store.

    That is the file that defines it and what it imports of the author's own, theirs included: modules of its package, of
    its file's folder, and of the current directory. Comments, docstrings and layout do not count.
    """
    module = module_of(target)
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        return "compiled"
    code: dict[str, str] = {}
    Sources(Path(file), "" if ":" in target else module.__name__).collect(Path(file), module.__name__, code)
    return hashlib.sha256("".join(code.values()).encode()).hexdigest()[:16]


class Sources:
    """The files that belong to one method, found by following its imports."""

    def __init__(self, file: Path, module: str) -> None:
        """module: its dotted name, empty for a method given as a file."""
        self.package = module.partition(".")[0]
        self.folders = [file.resolve().parent, Path.cwd().resolve()]

    def collect(self, file: Path, module: str, code: dict[str, str]) -> None:
        """The syntax tree of ``file`` and of what it imports of the author's own, by path, in the order found."""
        if str(file) in code:
            return
        tree = ast.parse(file.read_text())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        for node in ast.walk(tree):
            if isinstance(node, documented) and ast.get_docstring(node):
                del node.body[0]
        code[str(file)] = ast.dump(tree)
        for node in ast.walk(tree):
            for name in _imported(node, module, is_package=file.name == "__init__.py"):
                origin = self._origin(name)
                if origin is not None:
                    self.collect(origin, name, code)

    def _origin(self, name: str) -> Path | None:
        """The file of a module, if it is the author's own. Nothing is imported to find it."""
        parts = name.split(".")
        if parts[0] == "harness" and parts[1:2] != ["methods"]:  # what changes draws there raises a version number
            return None
        origin = _file_of([self.folders[0]], parts)
        if origin is not None:
            return origin
        package = next((n for n in range(len(parts) - 1, 0, -1) if ".".join(parts[:n]) in sys.modules), 0)
        if package:
            origin = _file_of(getattr(sys.modules[".".join(parts[:package])], "__path__", ()), parts[package:])
        else:
            with suppress(ImportError, ValueError):
                spec = importlib.util.find_spec(parts[0])
                if spec is not None:
                    locations = spec.submodule_search_locations or ()
                    origin = _file_of(locations, parts[1:]) if parts[1:] else Path(spec.origin or "")
        if origin is None or origin.suffix != ".py":
            return None
        installed = {"site-packages", "dist-packages"} & set(origin.resolve().parts)
        beside = not installed and any(folder in origin.resolve().parents for folder in self.folders)
        return origin if beside or parts[0] == self.package else None


def _file_of(folders: Iterable[str | Path], parts: Sequence[str]) -> Path | None:
    for folder in folders:
        stem = Path(folder).joinpath(*parts)
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if file.is_file():
                return file
    return None


def _imported(node: ast.AST, module: str, *, is_package: bool) -> list[str]:
    """The dotted names a statement may import, seen from ``module``: of ``from a import b`` both a and a.b."""
    if isinstance(node, ast.Import):
        return [part for alias in node.names for part in _with_parents(alias.name)]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parents = module.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
        base = ".".join([*parents, *([base] if base else [])])
    return [*_with_parents(base), *(f"{base}.{alias.name}" for alias in node.names if base)]


def _with_parents(name: str) -> list[str]:
    """a, a.b and a.b.c for a.b.c: importing it runs the packages around it."""
    parts = name.split(".") if name else []
    return [".".join(parts[: n + 1]) for n in range(len(parts))]
