"""A stream that does not fit a Result, on disk, up to its limit, in a file that no one else can see."""

import os
import tempfile
from collections.abc import Iterator
from typing import IO, Final

READ_SIZE: Final = 128 * 1024
"""Bytes of a piece, when it is read again."""


class Spool:
    """The first `limit` bytes of a stream. The file has no name, so not even kill -9 leaves it behind."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._file: IO[bytes] | None = None
        self.size = 0
        self.error: str | None = None
        """Why the disk did not take it, if it did not."""

    def write(self, chunk: bytes | memoryview) -> None:
        """Append what the limit leaves of a chunk."""
        room = self.limit - self.size
        if room <= 0 or self.error is not None:
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - close() closes it
            rest = memoryview(chunk)[:room]
            while rest:
                written = self._file.write(rest)
                self.size += written
                rest = rest[written:]
        except OSError as failure:
            self.error = failure.strerror or str(failure)

    def read(self, offset: int, size: int) -> bytes:
        """Return what is there of `size` bytes at an offset, also while the stream grows; nothing after `close`.

        Raises:
            OSError: the disk does not give it back.
        """
        return b"" if self._file is None else os.pread(self._file.fileno(), size, offset)

    def pieces(self) -> Iterator[bytes]:
        """Yield what was written, from the start.

        Raises:
            OSError: the disk does not give it back.
        """
        offset = 0
        while piece := self.read(offset, READ_SIZE):
            yield piece
            offset += len(piece)

    def close(self) -> None:
        """Let go of it."""
        if self._file is not None:
            self._file.close()
            self._file = None
