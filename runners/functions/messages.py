"""What a pool and its processes say to each other over a socket: msgpack, each message after its length."""

import struct
from typing import Any, Final

import msgspec
from msgspec import Struct

from .context import Facts

LONGEST: Final = 2**20
"""Bytes of a message from a process; a longer one is a defect, and the end of it."""
PIECE: Final = 64 * 1024
"""Bytes of output in one message."""

_LENGTH: Final = struct.Struct("<I")


class Call(Struct, frozen=True, array_like=True):
    """One task: its parameters as JSON, and the most that it may use, by the names of rlimits."""

    params: bytes
    facts: Facts
    rlimits: dict[str, int] = {}


class Used(Struct, frozen=True, array_like=True):
    """What a process and its reaped children have used since its start: seconds of CPU, and the most bytes at once."""

    cpu_user: float
    cpu_system: float
    peak: int


class Ready(Struct, frozen=True, array_like=True, tag=0):
    """The function is imported."""

    used: Used


class Unable(Struct, frozen=True, array_like=True, tag=1):
    """The function cannot be imported."""

    why: str


class Progress(Struct, frozen=True, array_like=True, tag=2):
    """A step of the work."""

    data: dict[str, Any]


class Output(Struct, frozen=True, array_like=True, tag=3):
    """Some of the task's output."""

    data: bytes


class Done(Struct, frozen=True, array_like=True, tag=4):
    """The function has returned, or raised what `error` says; nothing of the task is left in the process.

    `leaked` are the processes that it left and that were killed; `resident` are the bytes that the process holds now.
    """

    error: str | None
    used: Used
    resident: int
    leaked: int = 0


Said = Ready | Unable | Progress | Output | Done
"""What a process says."""


def frame(message: Struct) -> bytes:
    """Return a message as it is sent."""
    payload = _ENCODER.encode(message)
    return _LENGTH.pack(len(payload)) + payload


class Unframer:
    """Takes bytes as they come and returns the messages in them."""

    def __init__(self, longest: int | None = None) -> None:
        self._longest = longest
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """Return the payloads that are whole with these bytes.

        Raises:
            ValueError: a message is too long.
        """
        self._buffer += data
        whole: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if self._longest is not None and length > self._longest:
                raise ValueError(f"a message of {length} bytes is too long")
            end = start + _LENGTH.size + length
            if end > len(self._buffer):
                break
            whole.append(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return whole


_ENCODER: Final = msgspec.msgpack.Encoder()
decode_said: Final = msgspec.msgpack.Decoder(Said).decode
decode_call: Final = msgspec.msgpack.Decoder(Call).decode
