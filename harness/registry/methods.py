"""Find methods, built-in or brought by the user, and turn their configuration into something that unlearns.

A method is either an *ensemble method*, an object with ``unlearn(models, data, rng)`` (or a function of that signature),
or a *plain function* ``unlearning(net, retain_loader, forget_loader, val_loader)``; see ``docs/adding-a-method.md``.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, Protocol, cast

from omegaconf import OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from harness.engine.batches import Data
from harness.engine.ensemble import Ensemble
from harness.engine.plain import PlainFunction
from harness.errors import UserError, unknown_name
from harness.registry.catalogue import names, plugins
from harness.registry.sources import source_hash
from harness.registry.targets import resolve
from harness.streams import Rng
from harness.validation import in_words

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
    _check_types(spec, target)
    required = [n for n in known if signature.parameters[n].default is inspect.Parameter.empty]
    if missing := [name for name in required if name not in spec.parameters]:
        raise UserError(f"{spec.name} needs a value for {', '.join(missing)}: add +method.{missing[0]}=...")


def _check_types(spec: MethodSpec, target: Any) -> None:
    """Raises UserError for a value that is not what the signature's annotation asks for; defaults are the author's business."""
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):  # annotations that only a type checker can read
        return
    defaults = {name: parameter.default for name, parameter in inspect.signature(target).parameters.items()}
    for key, value in spec.parameters.items():
        if key not in hints or repr(value) == repr(defaults.get(key)):
            continue
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True))
            adapter.validate_python(value, strict=not isinstance(value, list))  # a list may serve as a tuple
        except PydanticUserError:  # an annotation that is no type of values
            continue
        except ValidationError as error:
            raise in_words(error, hints[key], f"{spec.name}: {key}") from None
