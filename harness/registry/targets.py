"""From a target, ``package.module.name`` or ``path/file.py:name``, to the object it names."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import UserError, unknown_name


def resolve(target: str) -> Any:
    """The object behind ``package.module.name`` or ``path/file.py:name``. The current directory is importable, last."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    if target.endswith(".py"):
        raise UserError(f"method._target_={target}: which function or class of the file? Add its name: {target}:NAME")
    module = module_of(target)
    name = _attribute(target)
    if not hasattr(module, name):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise unknown_name(f"name in {module.__name__}", name, known)
    target_object = getattr(module, name)
    if not callable(target_object):
        raise UserError(f"method._target_={target} is a {type(target_object).__name__}; expected a class or a function")
    return target_object


def module_of(target: str) -> ModuleType:
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


def _module_of_file(path: str) -> ModuleType:
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
