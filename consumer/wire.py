"""Messages as the server reads them: PUB and HPUB of the NATS client protocol, made in one go."""

from collections.abc import Mapping
from typing import Final

Headers = Mapping[str, str]

_VERSION: Final = "NATS/1.0"
_FRAME_LINES: Final = 2
"""The version's line, and the empty one at the end."""


def publication(subject: str, payload: bytes, reply: str = "", headers: Headers | None = None) -> bytes:
    """Return what publishes a message.

    Raises:
        ValueError: a subject is empty or has a space in it, or a header cannot be encoded.
    """
    if len(subject.split()) != 1 or (reply and len(reply.split()) != 1):
        raise ValueError(f"{subject!r} or {reply!r} is no subject")
    to = f"{subject} {reply}" if reply else subject
    if not headers:
        return f"PUB {to} {len(payload)}\r\n".encode() + payload + b"\r\n"
    block = header_block(headers)
    return f"HPUB {to} {len(block)} {len(block) + len(payload)}\r\n".encode() + block + payload + b"\r\n"


def message_size(payload: bytes, headers: Headers | None) -> int:
    """Return the bytes that count towards `max_payload`: the payload, and the headers as they are sent."""
    return len(payload) + (len(header_block(headers)) if headers else 0)


def header_block(headers: Headers) -> bytes:
    """Return headers as they are sent; a line break in a value becomes a space, so that no value can add a header."""
    text = _join(headers)
    if text.count("\n") != len(headers) + _FRAME_LINES or text.count("\r") != len(headers) + _FRAME_LINES:
        text = _join({name: " ".join(value.splitlines()) for name, value in headers.items()})
    return text.encode()


def _join(headers: Headers) -> str:
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return f"{_VERSION}\r\n{''.join(lines)}\r\n"
