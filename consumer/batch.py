"""Many tasks at once: a bounded number of them on their way to the server, each stored once."""

import asyncio
from collections.abc import AsyncIterable, Callable
from typing import Final

import anyio
from msgspec import Struct

from schemas import Subjects

from .client import Client
from .connection import Connection
from .errors import JetrunnerError
from .jetstream import stored_subjects

AT_ONCE: Final = 256
"""Tasks that are on their way at the same time."""
MAX_BYTES: Final = 4 * 2**20
"""Bytes that they have altogether, which is far below what a connection queues; a larger task goes alone."""

_ALL: Final = 2**40


class Entry(Struct, frozen=True):
    """A task that is ready to be stored: `payload` is its JSON, which holds its id or none."""

    line: int
    task_id: str
    category: str
    payload: bytes
    recurring: bool = False


class Batch:
    """Stores tasks, and counts those that are stored.

    Args:
        stored: called with each task as soon as the server has it; must neither block nor raise.
    """

    def __init__(self, client: Client, stored: Callable[[Entry], None]) -> None:
        self._client = client
        self._stored = stored
        self._waiting: asyncio.Queue[Entry | None] = asyncio.Queue()
        self._room = _Room()
        self._error: JetrunnerError | None = None
        self.stored = 0
        """Tasks that the server has."""
        self.repeated = 0
        """Those among them that it had before, by its own memory of the last minutes."""

    async def submit(self, entries: AsyncIterable[Entry]) -> None:
        """Store all tasks, about in their order.

        Raises:
            JetrunnerError: of `entries`, once those before it are stored.
            TopologyError: there is no stream for tasks.
            ConnectError: the server has not stored one of them in time; it still may.
            JetStreamError: the server refuses one of them for good.
        """
        async with anyio.create_task_group() as senders:
            for _ in range(AT_ONCE):
                senders.start_soon(self._send, senders.cancel_scope)
            try:
                async for entry in entries:
                    await self._room.take(len(entry.payload))
                    self._waiting.put_nowait(entry)
            except JetrunnerError as error:  # the next one cannot be read; those that are on their way arrive
                self._error = error
            for _ in range(AT_ONCE):
                self._waiting.put_nowait(None)
        if self._error is not None:
            raise self._error

    async def _send(self, all_senders: anyio.CancelScope) -> None:
        while (entry := await self._waiting.get()) is not None:
            try:
                is_new = await self._client.store(entry.category, entry.task_id, entry.payload)
            except JetrunnerError as error:  # which the others would meet, too
                self._error = self._error or error
                all_senders.cancel()
                return
            self._room.give_back(len(entry.payload))
            self.stored += 1
            self.repeated += not is_new
            self._stored(entry)


class _Room:
    """Bounds what is on its way; one task always has room."""

    def __init__(self) -> None:
        self._tasks = 0
        self._bytes = 0
        self._freed = asyncio.Event()

    async def take(self, size: int) -> None:
        while self._tasks and (self._tasks >= AT_ONCE or self._bytes + size > MAX_BYTES):
            self._freed.clear()
            await self._freed.wait()
        self._tasks += 1
        self._bytes += size

    def give_back(self, size: int) -> None:
        self._tasks -= 1
        self._bytes -= size
        self._freed.set()


async def known_tasks(connection: Connection, subjects: Subjects) -> set[str]:
    """Return the ids of all tasks that have a Result, or are in the queue: waiting, or being run.

    Raises:
        JetStreamError: the server does not answer.
    """
    queue = await Client(connection, subjects).queue(most=_ALL)
    ended = await stored_subjects(connection, subjects.results_stream, subjects.result("*"), limit=_ALL)
    return {task.task_id for task in queue}.union(map(subjects.last_token, ended or ()))
