"""Live output: small messages with sequence and byte offset, stored for followers, never waited for by the task.

A chunk is published until the server has it, under one identity, so that a follower gets every byte although the
connection breaks meanwhile. Chunks may then be stored out of order: their offsets tell. What the server is too slow or
too far away to take is dropped, which the next chunk's offset shows.
"""

import asyncio
import logging
from typing import Final

from anyio.abc import TaskGroup

from schemas import Subjects
from schemas.subjects import STREAMS

from .connection import Connection
from .errors import JetStreamError
from .jetstream import publish

SEQ: Final = "Jetrunner-Seq"
OFFSET: Final = "Jetrunner-Offset"
ATTEMPT: Final = "Jetrunner-Attempt"
INSTANCE: Final = "Jetrunner-Instance"
END: Final = "Jetrunner-End"

PIECE: Final = 16 * 1024
"""Bytes of a message at most."""
FLUSH_SIZE: Final = 32 * 1024
FLUSH_DELAY: Final = 0.1
"""Bytes and seconds after which what a task has written goes out."""
MAX_UNSTORED: Final = 8 * 2**20
"""Bytes of one task that may be under way to the server."""
MAX_UNDER_WAY: Final = 2048
"""Pieces of all tasks that may be under way to the server: tasks end, their output may wait for long."""

logger = logging.getLogger(__name__)


class OutputPublisher:
    """Publishes the live output of one worker's tasks; `tasks` owns what is under way."""

    def __init__(self, connection: Connection, subjects: Subjects, tasks: TaskGroup, worker: str) -> None:
        self._connection = connection
        self._subjects = subjects
        self._tasks = tasks
        self._worker = worker
        self._under_way = 0
        self._all_stored = asyncio.Event()

    @property
    def has_room(self) -> bool:
        """Whether another piece may go out."""
        return self._under_way < MAX_UNDER_WAY

    async def wait_stored(self) -> None:
        """Wait until the server has all that was sent."""
        while self._under_way:
            self._all_stored.clear()
            await self._all_stored.wait()

    def open(self, task_id: str, attempt: int) -> "OutputLog":
        """Begin the live output of one run."""
        return OutputLog(self, task_id, attempt)

    def send(self, log: "OutputLog", stream: str, offset: int, piece: bytes) -> None:
        """Publish a piece of output in the background."""
        headers = self._headers(log, offset)
        identity = f"out-{log.task_id}-{self._worker}-{log.attempt}-{stream}-{offset}"
        self._under_way += 1
        self._tasks.start_soon(self._store, log, stream, piece, headers, identity)

    def send_end(self, log: "OutputLog", stream: str, offset: int) -> None:
        """Publish a stream's end."""
        headers = {**self._headers(log, offset), END: "1"}
        self._connection.send(self._subjects.output(log.task_id, stream), headers=headers)

    def _headers(self, log: "OutputLog", offset: int) -> dict[str, str]:
        return {
            SEQ: str(log.next_seq()),
            OFFSET: str(offset),
            ATTEMPT: str(log.attempt),
            INSTANCE: self._worker,
        }

    async def _store(self, log: "OutputLog", stream: str, piece: bytes, headers: dict[str, str], identity: str) -> None:
        try:
            subject = self._subjects.output(log.task_id, stream)
            await publish(self._connection, subject, piece, message_id=identity, headers=headers)
        except JetStreamError as error:
            logger.warning("output of task %s is lost to its followers: %s", log.task_id, error)
        finally:
            log.unstored -= len(piece)
            self._under_way -= 1
            if not self._under_way:
                self._all_stored.set()


class OutputLog:
    """The live output of one run: gathers what is written and hands it on in pieces."""

    def __init__(self, publisher: OutputPublisher, task_id: str, attempt: int) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.unstored = 0
        self._publisher = publisher
        self._seq = 0
        self._pending = {stream: bytearray() for stream in STREAMS}
        self._written = dict.fromkeys(STREAMS, 0)
        self._timer: asyncio.TimerHandle | None = None

    def feed(self, stream: str, offset: int, chunk: bytes | memoryview) -> None:
        """Take a stream's next bytes; they go out soon, or at once if there are many."""
        pending = self._pending[stream]
        pending += chunk
        self._written[stream] = offset + len(chunk)
        if len(pending) >= FLUSH_SIZE:
            self._flush(stream)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_DELAY, self._flush_all)

    def finish(self) -> None:
        """Let what is left go out, and the end of each stream after it."""
        self._flush_all()
        for stream in STREAMS:
            self._publisher.send_end(self, stream, self._written[stream])

    def next_seq(self) -> int:
        """Return the number of the run's next message, from 1."""
        self._seq += 1
        return self._seq

    def _flush_all(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for stream in STREAMS:
            self._flush(stream)

    def _flush(self, stream: str) -> None:
        data = bytes(self._pending[stream])
        self._pending[stream].clear()
        start = self._written[stream] - len(data)
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            if self.unstored + len(piece) <= MAX_UNSTORED and self._publisher.has_room:
                self.unstored += len(piece)
                self._publisher.send(self, stream, start + at, piece)
