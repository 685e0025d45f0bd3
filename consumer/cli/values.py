"""Reads the values of options: pairs, numbers, durations, and text that comes from elsewhere."""

import os
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from consumer.errors import ConfigError
from schemas import Duration, SchemaError, encode, utc_now

T = TypeVar("T")


def number(text: str | None) -> int | float | str | None:
    """Return what is a number as one; anything else as it is, for whoever knows what it should be."""
    if text is None:
        return None
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def duration(option: str, text: str | None) -> Duration | None:
    """Read a duration, such as 30 or 1m30s.

    Raises:
        ConfigError: it is none.
    """
    if text is None:
        return None
    try:
        return Duration.parse(number(text))
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def moment_before(option: str, text: str | None) -> datetime | None:
    """Return the moment that was so long ago.

    Raises:
        ConfigError: it is no duration.
    """
    span = duration(option, text)
    return None if span is None else utc_now() - timedelta(seconds=span)


def pairs(option: str, given: Sequence[str], *, separator: str = "=") -> dict[str, str]:
    """Read what is given as KEY=VALUE.

    Raises:
        ConfigError: there is no separator or no key.
    """
    read: dict[str, str] = {}
    for text in given:
        key, found, value = text.partition(separator)
        if not key or not found:
            raise ConfigError(f"{option}: expected KEY{separator}VALUE, got {text!r}")
        read[key] = value
    return read


def variables(option: str, given: Sequence[str]) -> dict[str, str]:
    """Read environment variables given as K=V, or as K for the value that it has here.

    Raises:
        ConfigError: one has no name, or no value here.
    """
    missing = next((text for text in given if "=" not in text and text not in os.environ), None)
    if missing is not None:
        raise ConfigError(f"{option}: there is no variable {missing!r} here to take the value of")
    return pairs(option, [text if "=" in text else f"{text}={os.environ[text]}" for text in given])


def sendable(message: T) -> T:
    """Let a message pass, or not: what a shell hands us need not be text.

    Raises:
        ConfigError: it cannot be written down.
    """
    try:
        encode(message)
    except SchemaError as error:
        raise ConfigError(str(error)) from None
    return message


def content(option: str, text: str) -> bytes:
    """Return the bytes that are meant: `@FILE` stands for a file's, `-` for those on stdin, other text for itself.

    Raises:
        ConfigError: the file cannot be read.
    """
    if text == "-":
        return sys.stdin.buffer.read()
    return file(option, text[1:]) if text.startswith("@") else text.encode(errors="surrogateescape")


def file(option: str, path: str) -> bytes:
    """Return what is in a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{option}: {path} cannot be read: {reason}") from None


def text_of(option: str, data: bytes) -> str:
    """Return bytes as text.

    Raises:
        ConfigError: they are not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{option}: not UTF-8 text") from None
