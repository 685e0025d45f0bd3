"""A stream that does not fit a Result, on disk, up to its limit, in a file that no one else can see."""

import tempfile
from collections.abc import Iterator
from typing import IO, Final

READ_SIZE: Final = 128 * 1024
"""Bytes of a piece, when it is read again."""


class Spool:
    """The first `limit` bytes of a stream. The file has no name, so not even kill -9 leaves it behind."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._file: IO[bytes] | None = None
        self.size = 0
        self.error: str | None = None
        """Why the disk did not take it, if it did not."""

    def write(self, chunk: bytes | memoryview) -> None:
        """Append what the limit leaves of a chunk."""
        room = self._limit - self.size
        if room <= 0 or self.error is not None:
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
            self._file.write(chunk[:room])
        except OSError as failure:
            self.error = failure.strerror or str(failure)
            return
        self.size += min(room, len(chunk))

    def pieces(self) -> Iterator[bytes]:
        """Yield what was written, from the start.

        Raises:
            OSError: the disk does not give it back.
        """
        if self._file is None:
            return
        self._file.seek(0)
        while piece := self._file.read(READ_SIZE):
            yield piece

    def close(self) -> None:
        """Let go of it."""
        if self._file is not None:
            self._file.close()
            self._file = None
