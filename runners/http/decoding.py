"""Undoes one layer of gzip or deflate, piece by piece, and not a bomb. Pure."""

import zlib
from collections.abc import Iterator
from typing import Final, Protocol

PIECE: Final = 64 * 1024
"""Bytes of output at a time."""
MAX_RATIO: Final = 100
RATIO_APPLIES_FROM: Final = 2**20
"""Bytes of output from which on it may be at most so many times what it was made of."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_DEFLATE_METHOD: Final = 8


class BombError(Exception):
    """The body becomes far larger than it was."""


class CorruptError(Exception):
    """The body is not in the encoding that it claims; the text says in which."""


class Decoder(Protocol):
    """Takes a body's bytes as they come."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what a chunk becomes.

        Raises:
            BombError: it becomes too much.
            CorruptError: it cannot be decoded.
        """

    def finish(self) -> None:
        """Take note that nothing follows.

        Raises:
            CorruptError: something should.
        """


def decoder_for(content_encoding: str) -> Decoder | None:
    """Return what undoes a `Content-Encoding`; None if that is more than one layer, or none that we know."""
    layers = [layer for part in content_encoding.split(",") if (layer := part.strip().lower()) not in {"", "identity"}]
    match layers:
        case []:
            return Identity()
        case ["gzip" | "x-gzip"]:
            return Inflating("gzip")
        case ["deflate"]:
            return Inflating("deflate")
    return None


class Identity:
    """Leaves a body as it is."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the chunk."""
        yield chunk

    def finish(self) -> None:
        """Take note of the end."""


class Inflating:
    """Undoes gzip (RFC 1952, several members too), or deflate: zlib's format (RFC 1950), or bare (RFC 1951)."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._inflator: zlib._Decompress | None = zlib.decompressobj(_GZIP) if encoding == "gzip" else None
        self._beginning = b""
        self._taken = 0
        self._given = 0
        self._members = 0
        self._is_over = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what a chunk becomes, in pieces."""
        self._taken += len(chunk)
        if self._inflator is None:
            self._beginning += chunk
            if len(self._beginning) < 2:  # noqa: PLR2004 - the two bytes that tell both kinds of deflate apart
                return
            self._inflator, chunk = zlib.decompressobj(_window_of(self._beginning)), self._beginning
        while chunk and not self._is_over:
            if self._inflator.eof:
                self._begin_member()
            else:
                yield from self._inflate(self._inflator, chunk)
                chunk = self._inflator.unused_data

    def finish(self) -> None:
        """Take note of the end."""
        if self._taken and not self._is_over and (self._inflator is None or not self._inflator.eof):
            raise CorruptError(f"the body ends before its {self._encoding} does")

    def _begin_member(self) -> None:
        self._is_over = self._encoding != "gzip"
        self._members += 1
        self._inflator = zlib.decompressobj(_GZIP)

    def _inflate(self, inflator: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
        while True:
            try:
                piece = inflator.decompress(data, PIECE)
            except zlib.error:
                if self._members:  # what follows a whole member and is none itself is padding
                    self._is_over = True
                    return
                raise CorruptError(f"the body is not valid {self._encoding}") from None
            self._given += len(piece)
            if piece:
                yield piece
            if self._given > RATIO_APPLIES_FROM and self._given > MAX_RATIO * self._taken:
                raise BombError
            data = inflator.unconsumed_tail
            if not data and len(piece) < PIECE:
                return


def _window_of(beginning: bytes) -> int:
    """Return zlib's `wbits` for a deflated body: with zlib's header, or without, as some servers send it."""
    has_header = beginning[0] % 16 == _DEFLATE_METHOD and int.from_bytes(beginning[:2]) % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
