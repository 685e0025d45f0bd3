"""Reads a stream from its end, by batched direct get (ADR-31)."""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from .connection import Connection
from .jetstream import StoredMessage, api, read_batch

_MAX_BYTES: Final = 16 * 2**20

T = TypeVar("T")


class Backwards(Generic[T]):
    """Reads a stream's messages from its end, in windows that double.

    Each message is read at once, so that a window takes no more room than what `read` makes of it.

    Args:
        pattern: the subjects of interest.
        read: what to make of a message.
        window: sequence numbers that are looked at first.
        widest: those that are looked at at once, at most.
        most: those that are looked at altogether; None: all.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        pattern: str,
        read: Callable[[StoredMessage], T],
        *,
        window: int,
        widest: int | None = None,
        most: int | None = None,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._pattern = pattern
        self._read = read
        self._window = window
        self._widest = widest
        self._left = most
        self._first = 1
        self._next: int | None = None

    @property
    def at_start(self) -> bool:
        """Whether all of the stream was read."""
        return self._next is not None and self._next < self._first

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing more will be read."""
        return self.at_start or (self._left is not None and self._left <= 0)

    async def count(self) -> int:
        """Return how many messages there are.

        Raises:
            JetStreamError: the server does not answer.
        """
        state = (await api(self._connection, f"STREAM.INFO.{self._stream}"))["state"]
        self._first, self._next = max(int(state["first_seq"]), 1), int(state["last_seq"])
        return int(state["messages"])

    async def earlier(self) -> list[T]:
        """Return what was made of the next window's messages, in the stream's order.

        Raises:
            JetStreamError: the server does not answer.
        """
        if self._next is None:
            await self.count()
        end = self._next or 0
        size = self._window
        if self._left is not None:
            size = min(size, self._left)
            self._left -= size
        start = max(end - size + 1, self._first)
        self._window = min(2 * self._window, self._widest or 2 * self._window)
        self._next = start - 1
        return await self._between(start, end)

    async def _between(self, start: int, end: int) -> list[T]:
        found: list[T] = []
        while start <= end:
            start = await self._take(start, end, found)
        return found

    async def _take(self, start: int, end: int, found: list[T]) -> int:
        """Read one batch, which is let go of before the next one comes; return where that begins."""
        request = {"seq": start, "next_by_subj": self._pattern, "batch": end - start + 1, "max_bytes": _MAX_BYTES}
        batch = await read_batch(self._connection, self._stream, request)
        found += [self._read(message) for message in batch if message.seq <= end]
        return batch[-1].seq + 1 if batch else end + 1
