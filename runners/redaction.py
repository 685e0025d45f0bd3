"""Keeps secrets out of what a task prints, also when they are split over writes, escaped or base64-encoded.

This limits damage; it is no boundary: a task that means to tell a secret can.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Final, Self
from urllib.parse import quote

from schemas import Task

REPLACEMENT: Final = b"[REDACTED]"

_SHORTEST: Final = 6
"""Bytes: anything shorter is too common to be replaced everywhere."""
_SHORTEST_LINE: Final = 8
_SECRET_NAME: Final = re.compile(
    r".*(_|\A)(PASSWORD|SECRET|TOKEN|PRIVATE_KEY|SSH_KEY|ACCESS_KEY|SECRET_KEY|CONNECTION_STRING|API_KEY)",
    re.IGNORECASE,
)
_LOST_TO_PREFIX: Final = (0, 2, 3)
"""Base64 characters that depend on the 0, 1 or 2 bytes before a value."""


class Secrets:
    """The byte strings that must not be printed, longest first; false if there are none."""

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values for form in _forms(value)}
        self._needles = sorted(forms, key=len, reverse=True)

    @classmethod
    def of(cls, task: Task, more: Iterable[str] = ()) -> Self:
        """Return a task's secrets: all of `secret_env`, what `env` names like one, and those known otherwise."""
        return cls([*task.secret_env.values(), *named_like_secrets(task.env).values(), *more])

    def __bool__(self) -> bool:
        return bool(self._needles)

    def redact(self, data: bytes) -> bytes:
        """Return `data` without the secrets that are whole in it."""
        for needle in self._needles:
            data = data.replace(needle, REPLACEMENT)
        return data

    def redact_text(self, text: str) -> str:
        """Return text without the secrets in it."""
        return self.redact(text.encode(errors="replace")).decode(errors="replace") if self else text

    def held_back(self, data: bytes) -> int:
        """Return how many of the last bytes might be the beginning of a secret."""
        return max((_overlap(data, needle) for needle in self._needles), default=0)


def named_like_secrets(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables whose names say that their values are secret."""
    return {name: value for name, value in env.items() if is_secret_name(name)}


def is_secret_name(name: str) -> bool:
    """Tell whether what has this name is likely to be a secret."""
    return _SECRET_NAME.fullmatch(name.replace("-", "_")) is not None


class Redactor:
    """Redacts one stream; what may become a secret waits for the bytes that decide."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._held = b""

    def feed(self, chunk: bytes | memoryview) -> bytes:
        """Take the next bytes; return those that may be shown."""
        data = self._secrets.redact(b"".join((self._held, chunk)))
        held = self._secrets.held_back(data)
        self._held = data[len(data) - held :]
        return data[: len(data) - held]

    def finish(self) -> bytes:
        """Return what was held back, now that nothing follows."""
        held, self._held = self._held, b""
        return held


def _overlap(data: bytes, needle: bytes) -> int:
    longest = min(len(needle) - 1, len(data))
    return next((size for size in range(longest, 0, -1) if data.endswith(needle[:size])), 0)


def _forms(value: str) -> Iterable[bytes]:
    """Yield the ways a secret is likely to be printed, those that are long enough to tell from other text."""
    lines = [line.strip() for line in value.splitlines()] if "\n" in value else []
    for secret in (value, value.strip(), *(line for line in lines if len(line) >= _SHORTEST_LINE)):
        raw = secret.encode()
        for form in (raw, json.dumps(secret)[1:-1].encode(), quote(secret, safe="").encode(), *_base64_forms(raw)):
            if len(form) >= _SHORTEST:
                yield form


def _base64_forms(raw: bytes) -> Iterable[bytes]:
    """Yield what base64 makes of a value wherever in the encoded text it begins, in both alphabets."""
    if len(raw) < _SHORTEST:
        return
    for shift, lost in enumerate(_LOST_TO_PREFIX):
        encoded = base64.b64encode(b"\0" * shift + raw)
        certain = encoded[lost : (shift + len(raw)) * 8 // 6]
        yield certain
        yield certain.translate(_URL_SAFE)


_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
