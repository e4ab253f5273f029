"""Configuration that validates itself: strict models, and the one place that says in words what is wrong with a value."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from harness.errors import UserError, unknown_name


class Options(BaseModel):
    """A part of the configuration: no unknown keys, no conversions, no changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def read(cls, node: Any, key: str = "") -> Self:
        """The options of a configuration node. key: where it stands, ``train`` say.

        Raises UserError: which key, what was given, what is expected, and the nearest names.
        """
        try:
            return cls.model_validate(node)
        except ValidationError as error:
            raise _explained(error.errors()[0], cls, key) from None


def in_words(error: ValidationError, annotation: Any, key: str) -> UserError:
    """What is wrong with one value that should be as ``annotation`` says. key: what it is called."""
    return _of_value(error.errors()[0], key, annotation)


def _explained(error: ErrorDetails, model: type[BaseModel], key: str) -> UserError:
    place = [str(part) for part in error["loc"]]
    where = ".".join([*([key] if key else []), *place])
    parent = _model_at(model, place[:-1])
    fields = parent.model_fields if parent else {}
    if error["type"] == "extra_forbidden":
        return unknown_name("key", place[-1], fields, within=where.rpartition(".")[0])
    field = fields.get(place[-1]) if place else None
    return _of_value(error, where, field.annotation, field.description) if field else _of_value(error, where)


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "keys with values",
    "mapping_type": "keys with values",
    "model_type": "keys with values",
    "too_short": "at least {min_length} of them",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}",
    "finite_number": "a finite number",
}


def _of_value(error: ErrorDetails, where: str, annotation: Any = None, expected: str | None = None) -> UserError:
    """expected: what the field itself says it expects, if it does."""
    given, kind = _spelled(error["input"]), error["type"]
    if kind == "literal_error":
        return unknown_name(where, given, _choices(annotation))
    if kind == "value_error":
        return UserError(f"{where}={given}: {error['ctx']['error']}")
    if kind == "missing":
        return UserError(f"{where} is missing: expected {expected or 'a value'}")
    return UserError(
        f"{where}={given}: expected {expected or _EXPECTED.get(kind, error['msg']).format(**error.get('ctx', {}))}"
    )


def _choices(annotation: Any) -> list[str]:
    """The values of a Literal, also of one that may be None."""
    parts = [inner for part in typing.get_args(annotation) for inner in typing.get_args(part) or [part]]
    return [str(part) for part in parts if part not in (None, type(None))]


def _model_at(model: type[BaseModel], place: Sequence[str]) -> type[BaseModel] | None:
    """The model that a path of field names leads to; None where it leads into something else."""
    at: type[BaseModel] | None = model
    for name in place:
        field = at.model_fields.get(name) if at else None
        kinds = [field.annotation, *typing.get_args(field.annotation)] if field else []
        at = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return at


def _spelled(value: Any) -> str:
    """As it would be typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}: {_spelled(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_spelled, value)) + "]"
    return str(value)
