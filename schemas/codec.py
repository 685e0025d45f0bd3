"""JSON and msgpack for the wire: decoders and encoders made once, errors that say what is wrong and where."""

import re
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec

from .quantity import Duration, Expiry, Size
from .task import PATTERNS, Cache, Limits, Retry, Task

T = TypeVar("T")

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError)
_UNWRITABLE: Final = (UnicodeError, RecursionError, OverflowError)
_LOCATED: Final = re.compile(r"(?P<text>.*) - at `(?:key` in `)?\$\.?(?P<where>[^`]*)`", re.DOTALL)
_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MAX_PATH: Final = 200
_MAX_TEXT: Final = 500


class SchemaError(ValueError):
    """A message is not what it should be; the text is one sentence that says what and where."""


class ContentType(StrEnum):
    """The forms a message may have."""

    JSON = "application/json"
    MSGPACK = "application/msgpack"

    @classmethod
    def parse(cls, header: str | None) -> "ContentType":
        """Read a `Content-Type` header; none means JSON, and its parameters do not matter.

        Raises:
            SchemaError: it names another form.
        """
        if header is None:
            return cls.JSON
        media_type = header.partition(";")[0].strip().lower()
        try:
            return cls(media_type)
        except ValueError:
            raise SchemaError(
                f"the Content-Type {header[:100]!r} is not supported: use application/json or application/msgpack"
            ) from None


def decode(type_: type[T], payload: bytes, content_type: ContentType = ContentType.JSON) -> T:
    """Decode one message.

    Raises:
        SchemaError: it cannot be read, or is not a `type_`.
    """
    if not payload:
        raise SchemaError("the payload is empty")
    try:
        message: T = _decoder(type_, content_type).decode(payload)
    except msgspec.ValidationError as error:
        raise SchemaError(explain(error, type_)) from None
    except _UNREADABLE as error:
        raise SchemaError(f"the payload is not valid {content_type.name}: {error}") from None
    return message


def decode_loosely(payload: bytes, content_type: ContentType = ContentType.JSON) -> dict[str, Any]:
    """Return what can be read of a message that is not valid: its fields, or none."""
    try:
        return decode(dict[str, Any], payload, content_type)
    except SchemaError:
        return {}


def convert(value: object, type_: type[T]) -> T:
    """Make a `type_` of plain values: dicts, lists, strings, numbers.

    Raises:
        SchemaError: it is not a `type_`.
    """
    try:
        return msgspec.convert(value, type_, dec_hook=_from_wire)
    except msgspec.ValidationError as error:
        raise SchemaError(explain(error, type_)) from None
    except _UNREADABLE as error:
        raise SchemaError(str(error)) from None


def encode(value: object, content_type: ContentType = ContentType.JSON) -> bytes:
    """Encode one message; times are RFC 3339 in both forms.

    Raises:
        SchemaError: it holds what cannot be sent, such as a lone surrogate.
    """
    try:
        if content_type is ContentType.JSON:
            return _JSON_ENCODER.encode(value)
        return _MSGPACK_ENCODER.encode(msgspec.to_builtins(value, enc_hook=_to_wire))
    except _UNWRITABLE as error:
        raise SchemaError(f"the message cannot be written as {content_type.name}: {error}") from None


def explain(error: msgspec.ValidationError, type_: object = None) -> str:
    """Return a validation error of a `type_` as one sentence that says what is wrong and where."""
    text, where = str(error), ""
    if located := _LOCATED.fullmatch(text):
        text, where = located["text"], located["where"][:_MAX_PATH]
    if unknown := _UNKNOWN_FIELD.fullmatch(text):
        return _one_line(_explain_unknown(unknown["field"][:_MAX_PATH], where, type_))
    for pattern, words in PATTERNS.items():
        text = text.replace(f"`str` matching regex {pattern!r}", words)
    text = text[0].lower() + (text[1:] if len(text) <= _MAX_TEXT else f"{text[1:_MAX_TEXT]}…")
    return _one_line(f"`{where}`: {text}" if where else text)


def json_schema(type_: type) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a message."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **msgspec.json.schema(type_, schema_hook=_schema_of),
    }


def _one_line(text: str) -> str:
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], text)


def _explain_unknown(field: str, where: str, type_: object) -> str:
    message = f"unknown field `{field}`" + (f" in `{where}`" if where else "")
    home = _home_of(field, where) if type_ is Task else None
    return f"{message}; it belongs in {home}" if home else message


def _home_of(field: str, where: str) -> str | None:
    """Name the place an unknown field of a task, or of the part of it at `where`, was meant for, if one is known."""
    if field in Task.__struct_fields__:
        return "the task itself"
    for name, part in (("retry", Retry), ("limits", Limits), ("cache", Cache)):
        if field in part.__struct_fields__:
            return f"`{name}`"
    in_task = where.rpartition(".")[2] in {"", "fallback"}
    return "`args`" if in_task and field in _PARAMETERS else None


_PARAMETERS: Final = frozenset({
    "image", "volumes", "pull", "script", "script_path", "interpreter", "stop_scope", "on_output_limit",
    "url", "method", "headers", "body", "body_base64", "expected_status", "follow_redirects", "verify", "on_body_limit",
    "connect_timeout", "read_timeout",
})  # fmt: skip
"""Keys of the built-in runners' parameter objects, which people put beside `args` instead of into it."""


def _from_wire(type_: type, value: object) -> object:
    if issubclass(type_, (Duration, Size, Expiry)):
        return type_.parse(value)
    raise NotImplementedError(type_)


def _to_wire(value: object) -> object:
    match value:
        case Duration():
            return float(value)
        case Size():
            return int(value)
        case Expiry():
            return value.to_wire()
    raise NotImplementedError(type(value))


def _schema_of(type_: type) -> dict[str, Any]:
    number = {"type": "integer" if type_ is Size else "number", "minimum": 0}
    examples = {Duration: ["1m30s"], Size: ["64MiB"], Expiry: ["2030-01-01T00:00:00Z"]}
    return {"anyOf": [number, {"type": "string", "examples": examples[type_]}]}


def _decoder(type_: object, content_type: ContentType) -> Any:
    key = (type_, content_type)
    if key not in _DECODERS:
        module: Any = msgspec.json if content_type is ContentType.JSON else msgspec.msgpack
        _DECODERS[key] = module.Decoder(type_, dec_hook=_from_wire)
    return _DECODERS[key]


_DECODERS: Final[dict[tuple[object, ContentType], Any]] = {}
_JSON_ENCODER: Final = msgspec.json.Encoder(enc_hook=_to_wire)
_MSGPACK_ENCODER: Final = msgspec.msgpack.Encoder()
