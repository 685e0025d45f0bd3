"""One stream's way to its followers: what was written, how far it was sent, and where the rest is kept meanwhile."""

import logging
from typing import Final

from msgspec import Struct

from runners.spool import Spool

PIECE: Final = 16 * 1024
"""Bytes of a message at most; as soon as there are so many, they go out."""
WINDOW: Final = 2 * 2**20
"""Bytes of a stream that may be under way to the server."""
MAX_HELD: Final = 128 * 1024
"""Bytes that memory holds: as many as a stream has before it is spooled."""

logger = logging.getLogger(__name__)


class Piece(Struct, frozen=True):
    """Some bytes of a stream, or its end."""

    offset: int
    data: bytes
    is_end: bool = False


class Backlog:
    """Hands out a stream in pieces, in order, only so many at a time; `what` names the stream in the log."""

    def __init__(self, what: str) -> None:
        self.is_stored = False
        """Whether the server has all that it will get, the end included."""
        self._what = what
        self._spool: Spool | None = None
        self._total = 0
        self._written = 0
        """Where the bytes end that are to be sent."""
        self._held = bytearray()
        """The last of them, unless the spool has them."""
        self._due = 0
        self._sent = 0
        self._under_way = 0
        self._finished = False
        self._ended = False

    def feed(self, offset: int, chunk: bytes | memoryview, spool: Spool | None) -> bool:
        """Take the next bytes, which the spool has already if it has any; tell whether there is a piece to send."""
        self._total = offset + len(chunk)
        self._spool = spool
        chunk = chunk if spool is None else chunk[: max(spool.limit - offset, 0)]
        self._written += len(chunk)
        if spool is not None and spool.size >= self._written:
            self._held.clear()
        else:
            self._held += chunk[-MAX_HELD:]
            del self._held[:-MAX_HELD]
        return self._written - self._sent >= PIECE

    def flush(self) -> None:
        """Let all that was written go out, although it be less than a piece."""
        self._due = self._written

    def finish(self) -> None:
        """Let all that was written go out, and the end after it."""
        self.flush()
        self._finished = True

    def give_up(self) -> None:
        """Forget what was not sent."""
        if (unsent := self._written - self._sent) > 0:
            logger.warning("%d bytes of %s are lost to its followers", unsent, self._what)
        self._held.clear()
        self._sent = self._written

    def next_piece(self) -> Piece | None:
        """Return what is to be sent now, if anything is."""
        if self._under_way + PIECE > WINDOW:
            return None
        if (self._written - self._sent >= PIECE or self._due > self._sent) and (data := self._read()):
            piece = Piece(self._sent, data)
            self._sent += len(data)
            self._under_way += len(data)
            return piece
        if self._ended or not self._finished or self._under_way or self._sent < self._written:
            return None
        self._ended = True
        return Piece(self._total, b"", is_end=True)

    def stored(self, piece: Piece) -> None:
        """Take note of a piece that is with the server, or never will be."""
        self._under_way -= len(piece.data)
        self.is_stored = self.is_stored or piece.is_end

    def _read(self) -> bytes:
        """Return the next piece from the spool, else from memory; skip what neither has."""
        held_from = self._written - len(self._held)
        if self._sent < held_from:
            if data := self._spooled(min(PIECE, held_from - self._sent)):
                return data
            logger.warning("%d bytes of %s are lost to its followers", held_from - self._sent, self._what)
            self._sent = held_from
        data = bytes(self._held[:PIECE])
        del self._held[:PIECE]
        return data

    def _spooled(self, size: int) -> bytes:
        try:
            return b"" if self._spool is None else self._spool.read(self._sent, size)
        except OSError as error:
            logger.warning("the spool of %s cannot be read: %s", self._what, error.strerror)
            return b""
