"""Find methods, built-in or brought by the user, and turn their configuration into something that unlearns.

A method is either an *ensemble method*, an object with ``unlearn(models, data, rng)`` (or a function of that signature),
or a *plain function* ``unlearning(net, retain_loader, forget_loader, val_loader)``; see ``docs/adding-a-method.md``.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol, cast

from omegaconf import OmegaConf

from harness.engine.batches import Data
from harness.engine.ensemble import Ensemble
from harness.engine.plain import PlainFunction
from harness.engine.streams import Rng
from harness.errors import UserError, unknown_name
from harness.registry.catalogue import names, plugins

EPOCHS = 30  # of the competition's training, for which most authors' constants were chosen
_COUNT_EPOCHS = ("epochs", "warm_up_epochs", "repair_epochs", "ascent_epochs", "partial_epochs", "decay_after")


class Method(Protocol):
    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None: ...


@dataclasses.dataclass(frozen=True)
class MethodSpec:
    """A method with its hyper-parameters, ready to be built in any process.

    name: the row it belongs to; recipe: where the hyper-parameters come from, as printed on the board;
    target: ``package.module.name`` or ``file.py:name``; parameters: its hyper-parameters.
    """

    name: str
    recipe: str
    target: str
    parameters: Mapping[str, Any]

    @property
    def label(self) -> str:
        return self.name

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "target": self.target,
            "parameters": dict(self.parameters),
            "source": source_hash(self.target),
        }

    def build(self) -> Method:
        """Raises UserError if the target cannot be imported or does not take these hyper-parameters."""
        target = resolve(self.target)
        _check_parameters(self, target)
        if inspect.isclass(target):
            method = target(**self.parameters)
            if not callable(getattr(method, "unlearn", None)):
                raise UserError(f"{self.target} has no method unlearn(models, data, rng)")
            return cast(Method, method)
        if _is_ensemble_function(target):
            return _EnsembleFunction(target, self.parameters)
        return PlainFunction(target, self.parameters)


@dataclasses.dataclass(frozen=True)
class _EnsembleFunction:
    function: Any
    parameters: Mapping[str, Any]

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        self.function(models, data, rng, **self.parameters)


# --- names ----------------------------------------------------------------------------------------------------------


def available() -> list[str]:
    """The names ``method=`` and ``methods=`` accept."""
    return names("method")


def is_built_in(name: str) -> bool:
    return files("harness.conf").joinpath("method", f"{name}.yaml").is_file()


def spec(
    name: str, *, task: str, recipe: str, epochs: int = EPOCHS, changes: Mapping[str, Any] | None = None
) -> MethodSpec:
    """The method called ``name`` for the data set ``task``, whose originals are trained for ``epochs``.

    recipe: ``authors``, or ``tuned`` to use the values found for this data set; where there are none, the authors' with
    their epochs scaled to those of the training (:func:`scaled_epochs`), so that they cost the same share of it.
    changes: hyper-parameters set by the user; they win, and the recipe's name on the board shows them.
    """
    node, used = defaults(name), "authors"
    if recipe == "tuned":
        if (tuned := _yaml("tuned", task, f"{name}.yaml")) is not None:
            node, used = node | tuned, "tuned"
        elif (scaled := scaled_epochs(node, epochs)) != node:
            node, used = scaled, "authors scaled"
    return _spec(name, node, used, changes or {})


def scaled_epochs(
    parameters: Mapping[str, Any], epochs: int, *, whole: Callable[[float], int] = math.ceil
) -> dict[str, Any]:
    """Every parameter that counts epochs, times ``epochs`` / 30, those of the competition's training.

    whole: what makes whole numbers whole again (at least 1). Rounded up, phases keep their order and none vanishes.
    """
    factor = epochs / EPOCHS

    def scaled(value: float) -> float:
        return max(1, whole(round(value * factor, 9))) if isinstance(value, int) else float(f"{value * factor:.3g}")

    return {name: scaled(value) if name in _COUNT_EPOCHS else value for name, value in parameters.items()}


def defaults(name: str) -> dict[str, Any]:
    """The configuration node of a named method, with the authors' constants."""
    if (node := _yaml("method", f"{name}.yaml")) is not None:
        return node
    if name not in plugins():
        raise unknown_name("method", name, available())
    target = plugins()[name]
    parameters = inspect.signature(resolve(target)).parameters.values()
    return {"_target_": target} | {
        p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty and p.kind != p.VAR_KEYWORD
    }


def spec_of_target(node: Mapping[str, Any]) -> MethodSpec:
    """A method given by ``method._target_=`` alone."""
    target = str(node["_target_"])
    name = target.rpartition(":")[2].rpartition(".")[2]
    return _spec(name, {"_target_": target}, "own", {k: v for k, v in node.items() if k != "_target_"})


def _spec(name: str, node: dict[str, Any], recipe: str, changes: Mapping[str, Any]) -> MethodSpec:
    parameters = {key: value for key, value in node.items() if key != "_target_"}
    changed = {key: value for key, value in changes.items() if key not in parameters or parameters[key] != value}
    if changed:
        recipe += " " + " ".join(f"{key}={value}" for key, value in sorted(changed.items()))
    return MethodSpec(name, recipe, node["_target_"], parameters | changed)


def _yaml(*parts: str) -> dict[str, Any] | None:
    file = files("harness.conf").joinpath(*parts)
    if not file.is_file():
        return None
    return OmegaConf.to_container(OmegaConf.create(file.read_text()), resolve=True)  # type: ignore[return-value]


# --- targets --------------------------------------------------------------------------------------------------------


def resolve(target: str) -> Any:
    """The object behind ``package.module.name`` or ``path/file.py:name``. The current directory is importable, last."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    module = _module(target)
    name = _attribute(target)
    if not hasattr(module, name):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise unknown_name(f"name in {module.__name__}", name, known)
    found = getattr(module, name)
    if not callable(found):
        raise UserError(f"method._target_={target} is a {type(found).__name__}; expected a class or a function")
    return found


def source_hash(target: str) -> str:
    """SHA-256 of the code behind the target, so that an edited method is never served from the store.

    That is the file that defines it and what it imports of the author's own, theirs included: modules of its package, of
    its file's folder, and of the current directory. Comments, docstrings and layout do not count.
    """
    module = _module(target)
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        return "compiled"
    code: dict[str, str] = {}
    _Sources(Path(file), "" if ":" in target else module.__name__).collect(Path(file), module.__name__, code)
    return hashlib.sha256("".join(code.values()).encode()).hexdigest()[:16]


class _Sources:
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
        found = _file_of([self.folders[0]], parts)
        if found is not None:
            return found
        package = next((n for n in range(len(parts) - 1, 0, -1) if ".".join(parts[:n]) in sys.modules), 0)
        if package:
            found = _file_of(getattr(sys.modules[".".join(parts[:package])], "__path__", ()), parts[package:])
        else:
            with suppress(ImportError, ValueError):
                spec = importlib.util.find_spec(parts[0])
                if spec is not None:
                    locations = spec.submodule_search_locations or ()
                    found = _file_of(locations, parts[1:]) if parts[1:] else Path(spec.origin or "")
        if found is None or found.suffix != ".py":
            return None
        installed = {"site-packages", "dist-packages"} & set(found.resolve().parts)
        beside = not installed and any(folder in found.resolve().parents for folder in self.folders)
        return found if beside or parts[0] == self.package else None


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
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parents = module.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
        base = ".".join([*parents, *([base] if base else [])])
    return [name for name in (base, *(f"{base}.{alias.name}" for alias in node.names)) if name.strip(".")]


def _module(target: str) -> Any:
    if ":" in target:
        return _module_of_file(target.rpartition(":")[0])
    package = target.rpartition(".")[0]
    if not package:
        raise UserError(f"method._target_={target}: expected package.module.name or path/file.py:name")
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name and (package == error.name or package.startswith(f"{error.name}.")):
            raise UserError(
                f"method._target_={target}: no module named '{error.name}' (looked in {os.getcwd()} too)"
            ) from None
        raise UserError(f"method._target_={target}: importing {package} failed: {error}") from error


def _module_of_file(path: str) -> Any:
    file = Path(path).expanduser().resolve()
    name = f"unlearn_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if not file.is_file():
        raise UserError(f"method._target_={path}:...: no such file")
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"method._target_={path}:...: not a Python file")
    if str(file.parent) not in sys.path:  # what it imports may lie beside it
        sys.path.append(str(file.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _attribute(target: str) -> str:
    return target.rpartition(":")[2] if ":" in target else target.rpartition(".")[2]


def _is_ensemble_function(function: Any) -> bool:
    return list(inspect.signature(function).parameters)[:3] == ["models", "data", "rng"]


def _check_parameters(spec: MethodSpec, target: Any) -> None:
    signature = inspect.signature(target)
    if any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values()):
        return
    skip = 0 if inspect.isclass(target) else 3 if _is_ensemble_function(target) else 4
    known = list(signature.parameters)[skip:]
    for key in spec.parameters:
        if key not in known:
            raise unknown_name(f"hyper-parameter of {spec.name}", key, known)
    required = [n for n in known if signature.parameters[n].default is inspect.Parameter.empty]
    if missing := [name for name in required if name not in spec.parameters]:
        raise UserError(f"{spec.name} needs a value for {', '.join(missing)}: add +method.{missing[0]}=...")
