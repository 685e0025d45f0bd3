"""What `--edit KEY=VALUE` changes in a task, as a JSON merge patch does (RFC 7396): null takes a value out."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from consumer.errors import ConfigError
from schemas import SchemaError, Task, convert

from .values import pairs


def edited(fields: Mapping[str, Any], edits: Sequence[str]) -> dict[str, Any]:
    """Return a task's fields with some of them changed: `timeout=5m`, `args=["-la"]`, `env.LANG=C`, `cwd=null`.

    A value is JSON if a task may have that there, else text.

    Raises:
        ConfigError: an edit cannot be read, or names what no task has.
    """
    result = dict(fields)
    for key, text in pairs("--edit", edits).items():
        path = key.split(".")
        if path[0] == "id":
            raise ConfigError("--edit: a retried task gets a fresh `id`")
        _set(result, path, None if text == "null" else _value(path, text))
    return result


def _set(fields: dict[str, Any], path: Sequence[str], value: object) -> None:
    *above, last = path
    for name in above:
        inner = fields.get(name)
        fields[name] = dict(inner) if isinstance(inner, dict) else {}
        fields = fields[name]
    if value is None:
        fields.pop(last, None)
    else:
        fields[last] = value


def _value(path: Sequence[str], text: str) -> object:
    try:
        value = msgspec.json.decode(text)
        convert(_nested(path, value), Task)
    except (msgspec.DecodeError, UnicodeError, RecursionError, SchemaError):
        return _as_text(path, text)
    return value


def _as_text(path: Sequence[str], text: str) -> str:
    try:
        convert(_nested(path, text), Task)
    except SchemaError as error:
        raise ConfigError(f"--edit {'.'.join(path)}: {error}") from None
    return text


def _nested(path: Sequence[str], value: object) -> object:
    for name in reversed(path):
        value = {name: value}
    return value
