"""Look at the command line before Hydra does: refuse what it would accept in silence, and suggest near-miss names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from harness.errors import UserError, unknown_name
from harness.registry import methods
from harness.registry.catalogue import listed_as, names, own_groups, plugins


def out_of(arguments: Sequence[str]) -> str | None:
    """The value of ``out=`` on the command line."""
    return next((a.partition("=")[2] for a in reversed(arguments) if a.startswith("out=")), None)


def offer_plugins(arguments: Sequence[str]) -> None:
    """Let Hydra find the installed methods that ``method=`` names: their signature is their configuration."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        for name in value.split(",") if key == "method" else ():
            if name in plugins() and not methods.is_built_in(name):
                ConfigStore.instance().store(group="method", name=name, node=methods.defaults(name))


def check(arguments: Sequence[str]) -> None:
    """Raises UserError for unknown keys and names, and for choices of method that contradict each other."""
    offer_plugins(arguments)
    overrides = _parse(arguments)
    by_key = {override.key_or_group: override for override in overrides}
    _check_method(by_key)
    for override in overrides:
        if override.key_or_group in own_groups():
            _check_choice(override)
        elif override.key_or_group == "out" and (override.value() is None or isinstance(override.value(), list | dict)):
            raise UserError(f"{override.input_line}: expected the name of a folder")
        elif isinstance(override.value(), dict) and not override.value():
            raise UserError(
                f"{override.key_or_group}={{}}: an empty mapping changes nothing; expected keys with values"
            )
    base = _compose([o.input_line or "" for o in _first_of_sweeps(overrides) if o.key_or_group in own_groups()])
    for override in overrides:
        if override.key_or_group not in own_groups() and not override.is_add() and not override.is_force_add():
            _check_key(override.key_or_group, base)
    _compose([override.input_line or "" for override in _first_of_sweeps(overrides)])


def configurations(arguments: Sequence[str]) -> Iterator[tuple[DictConfig, str | None]]:
    """The composed configuration of every job a command would run, with the chosen method."""
    from itertools import product

    offer_plugins(arguments)
    overrides = _parse(arguments)
    choices = [_alternatives(override) for override in overrides]
    for chosen in product(*choices):
        cfg = _compose([*chosen, *([] if out_of(arguments) else ["out=runs/plan"])])
        yield cfg, cfg.hydra.runtime.choices.get("method")


def configured_sweep(arguments: Sequence[str]) -> list[str]:
    """The sweep that an experiment's own configuration asks for, as arguments; what the user gave wins."""
    given = {argument.partition("=")[0] for argument in arguments}
    sweeper = next(configurations(arguments))[0].hydra.sweeper
    swept = {str(key): value for key, value in (sweeper.get("params") or {}).items() if str(key) not in given}
    return ["-m", *(f"{key}={value}" for key, value in swept.items())] if swept else []


def _parse(arguments: Sequence[str]) -> list[Override]:
    given = [a for a in arguments if a not in ("-m", "--multirun")]
    for argument in given:
        if argument.startswith("-"):
            raise UserError(f"unknown option {argument}; see unlearn --help")
        if "=" not in argument and not argument.startswith("~"):
            raise UserError(f"'{argument}': expected KEY=VALUE")
    try:
        overrides = OverridesParser.create().parse_overrides(list(given))
    except HydraException as error:
        raise UserError(str(error)) from error
    if not any(a in ("-m", "--multirun") for a in arguments):
        for override in overrides:
            if override.is_sweep_override():
                key, value = override.key_or_group, override.input_line.partition("=")[2] if override.input_line else ""
                hint = f"methods=[{value}]" if key == "method" else f"-m {key}={value}"
                raise UserError(f"{key}={value} names several values: add -m to sweep over them ({hint})")
    return overrides


def _check_method(by_key: dict[str, Override]) -> None:
    method = by_key.get("method")
    if method is not None and isinstance(method.value(), list):
        inside = ",".join(map(str, method.value()))  # type: ignore[arg-type]
        raise UserError(
            f"method=[{inside}]: one method only; for several use methods=[{inside}], or sweep -m method={inside}"
        )
    chosen = method is not None and method.value() is not None
    if chosen and "methods" in by_key:
        raise UserError(
            "method= and methods= exclude each other: method=NAME for one method, methods=[a,b] for several"
        )
    if chosen and "method._target_" in by_key:
        raise UserError("method=NAME and method._target_= exclude each other: give method._target_= without method=")
    if "method._target_" in by_key and "methods" in by_key:
        raise UserError("method._target_= and methods= exclude each other")


def _check_choice(override: Override) -> None:
    group = override.key_or_group
    if isinstance(override.value(), list):
        raise UserError(f"{override.input_line}: expected one name")
    if override.value() is None and not override.is_delete():
        raise UserError(f"{override.input_line}: expected a name (unlearn list {listed_as(group)})")
    for value in _alternatives(override):
        name = value.partition("=")[2]
        if name not in ("null", "") and name not in names(group):
            raise unknown_name(group, name, names(group))


def _check_key(key: str, base: DictConfig) -> None:
    node: Any = base
    parts = key.split(".")
    if parts[0].split("/")[0] == "hydra":
        return
    for depth, part in enumerate(parts):
        if part.startswith("@") or not OmegaConf.is_dict(node):
            return
        where = ".".join(parts[:depth])
        if part not in node:
            known = [str(name) for name in node]
            if where == "" and part != "hydra":
                known += own_groups()
            if where == "method" and not node.get("_target_"):
                raise UserError(f"{key}: choose the method first, method=NAME {key}=..., or add a key with +{key}=...")
            raise unknown_name("key", part, [name for name in known if name != "_target_"], within=where)
        node = node[part] if part in node and not OmegaConf.is_missing(node, part) else None


def _alternatives(override: Override) -> list[str]:
    """``key=value`` for every value a sweep over this override takes; itself where it is none."""
    line = override.input_line or ""
    if not override.is_sweep_override():
        return [line]
    head = line.partition("=")[0]
    return [f"{head}={value}" for value in override.sweep_string_iterator()]


def _first_of_sweeps(overrides: Sequence[Override]) -> list[Override]:
    return OverridesParser.create().parse_overrides([_alternatives(override)[0] for override in overrides])


def _compose(lines: list[str]) -> DictConfig:
    try:
        with initialize_config_module("harness.conf", version_base="1.3"):
            return compose("unlearn", overrides=lines, return_hydra_config=True)
    except (HydraException, ValueError) as error:  # ValueError: a group set to null
        raise UserError(" ".join(str(error).split("\n")[:2]).strip()) from error
