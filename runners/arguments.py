"""A task's `args` in all the forms people write them, as one parameter object."""

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas import Args

from .errors import InvalidTaskError


def parameter_object(args: Args) -> dict[str, Any]:
    """Return the parameter object that `args` stands for; a bare list is its `args`.

    Raises:
        InvalidTaskError: a string is not JSON, or the value is neither a list nor an object.
    """
    value = _from_json(args, "args") if isinstance(args, str) else args
    match value:
        case None:
            return {}
        case list():
            return {"args": value}
        case dict():
            return _with_argv(value)
    raise InvalidTaskError(f"`args` must be a list or an object, or one of them as JSON, not {_kind(value)}")


def check_argv(command: str, argv: Sequence[str]) -> None:
    """Refuse what no process can be given.

    Raises:
        ValueError: the command is missing, or there is a NUL byte in it or in an argument.
    """
    if not command:
        raise ValueError("`command` is missing")
    if "\0" in command:
        raise ValueError("`command` contains a NUL byte")
    for index, argument in enumerate(argv):
        if "\0" in argument:
            raise ValueError(f"`args[{index}]` contains a NUL byte")


def _with_argv(parameters: dict[str, Any]) -> dict[str, Any]:
    argv = parameters.get("args")
    if not isinstance(argv, str):
        return parameters
    value = _from_json(argv, "args.args")
    if value is not None and not isinstance(value, list):
        raise InvalidTaskError(f"`args.args` must be a list, or one as JSON, not {_kind(value)}")
    return {**parameters, "args": value or []}


def _from_json(text: str, where: str) -> Any:
    if not text:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise InvalidTaskError(f"`{where}` is a string but not JSON: {error}") from None


def _kind(value: object) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", dict: "an object"}
    return names.get(type(value), "null" if value is None else type(value).__name__)
