"""Reads from a function's signature what parameters its task must have."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, Final, get_type_hints

import msgspec
from msgspec import Struct

from schemas import json_schema

from .context import TaskContext

_BY_NAME: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_PLAIN: Final = frozenset({type(None), bool, int, float, str})


class Signature(Struct, frozen=True, kw_only=True):
    """A function's parameters as a Struct, and how they and the context are handed over.

    `whole` is the name of the parameter that takes the Struct itself, `context` that of the one for the context.
    """

    params_type: type[Any]
    whole: str | None = None
    context: str | None = None

    def arguments(self, params: Any, context: Callable[[], TaskContext]) -> dict[str, Any]:
        """Return the keyword arguments of a call."""
        given = {self.whole: params} if self.whole is not None else msgspec.structs.asdict(params)
        if self.context is not None:
            given[self.context] = context()
        return given


def read_signature(function: Callable[..., Any]) -> Signature:
    """Return a function's parameters.

    Raises:
        TypeError: one of them cannot be given by a task; the text says which and why.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"an annotation of {function.__qualname__} means nothing: {error}") from None
    parameters = [*inspect.signature(function).parameters.values()]
    for parameter in parameters:
        _check(function, parameter, hints)
    context = next((each.name for each in parameters if hints[each.name] is TaskContext), None)
    given = [each for each in parameters if each.name != context]
    if len(given) == 1 and _is_struct(hints[given[0].name]):
        return Signature(params_type=hints[given[0].name], whole=given[0].name, context=context)
    return Signature(params_type=_struct(function, given, hints), context=context)


def _check(function: Callable[..., Any], parameter: inspect.Parameter, hints: dict[str, Any]) -> None:
    if parameter.kind not in _BY_NAME:
        raise TypeError(f"{parameter} of {function.__qualname__} cannot be given by name, as a task gives parameters")
    if parameter.name not in hints:
        raise TypeError(f"the parameter {parameter.name!r} of {function.__qualname__} has no annotation")


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Struct)


def _struct(function: Callable[..., Any], parameters: list[inspect.Parameter], hints: dict[str, Any]) -> type[Any]:
    fields = [_field(parameter, hints[parameter.name]) for parameter in parameters]
    name = f"{function.__name__.title().replace('_', '')}Params"
    struct = msgspec.defstruct(name, fields, frozen=True, kw_only=True, forbid_unknown_fields=True)
    try:
        json_schema(struct)
    except Exception as error:  # noqa: BLE001 - whatever a hook makes of a type that it does not know
        raise TypeError(f"a parameter of {function.__qualname__} has no JSON form: {error}") from None
    return struct


def _field(parameter: inspect.Parameter, hint: Any) -> tuple[str, Any] | tuple[str, Any, Any]:
    if parameter.default is inspect.Parameter.empty:
        return parameter.name, hint
    if type(parameter.default) in _PLAIN or parameter.default in ([], {}):
        return parameter.name, hint, parameter.default
    fresh = functools.partial(copy.deepcopy, parameter.default)  # and no default that a JSON Schema could not show
    return parameter.name, hint, msgspec.field(default_factory=fresh)
