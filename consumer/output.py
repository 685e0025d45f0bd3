"""Live output: small messages with sequence and byte offset, stored for followers, never waited for by the task.

A piece is published until the server has it, under one identity, so that a follower gets every byte although the
connection breaks meanwhile. Pieces may then be stored out of order: their offsets tell. The end of a stream is sent
once the server has all of them, and not waited for: the Result, which comes next, tells as much.

However far a task is ahead of the server, it waits for nothing and nothing is lost: of each stream only so much is
under way at a time, and what comes next is read back from its spool (backlog.py). Live output ends where the spool
does, at `limits.output`; the offset of a stream's end tells how much more there was.

A Result waits for its task's live output while the server takes it, but not for long (PATIENCE): it says what is true
already, someone may be waiting just for it, and a follower goes on after it as long as anything comes. What is left
then goes out in the background, from the spools, which are ours to close from here on: for LINGER seconds, after which
no follower expects more, and of the last MAX_LINGERING runs only, which bounds descriptors and disk if the server takes
Results faster than output.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

import anyio
from anyio.abc import TaskGroup

from runners.spool import Spool
from schemas import Subjects
from schemas.subjects import STREAMS

from .backlog import Backlog, Piece
from .connection import Connection
from .errors import JetStreamError
from .jetstream import publish

SEQ: Final = "Jetrunner-Seq"
OFFSET: Final = "Jetrunner-Offset"
ATTEMPT: Final = "Jetrunner-Attempt"
INSTANCE: Final = "Jetrunner-Instance"
END: Final = "Jetrunner-End"

FLUSH_DELAY: Final = 0.1
"""Seconds after which less than a piece goes out, too."""
MAX_UNDER_WAY: Final = 512
"""Pieces of all tasks that may be under way to the server: half of what may wait for the connection."""
PATIENCE: Final = 10.0
"""Seconds that a Result waits for its task's live output at most."""
STALL: Final = 2.0
"""Seconds that it waits for a server that takes none."""
LINGER: Final = 60.0
"""Seconds after a task's end in which its output may still go out."""
MAX_LINGERING: Final = 32
"""Ended runs whose output may still go out."""

logger = logging.getLogger(__name__)


class OutputPublisher:
    """Publishes the live output of one worker's tasks; `tasks` owns what is under way."""

    def __init__(self, connection: Connection, subjects: Subjects, tasks: TaskGroup, worker: str) -> None:
        self._connection = connection
        self._subjects = subjects
        self._tasks = tasks
        self._worker = worker
        self._ready: dict[tuple[OutputLog, str], None] = {}
        """The streams whose turn it is, one piece each."""
        self._under_way = 0
        self._all_stored = asyncio.Event()
        self._lingering: list[anyio.CancelScope] = []

    async def wait_stored(self) -> None:
        """Wait until the server has all that was to be sent."""
        while self._under_way:
            self._all_stored.clear()
            await self._all_stored.wait()

    def open(self, task_id: str, attempt: int, spools: Mapping[str, Spool]) -> "OutputLog":
        """Begin the live output of one run; its spools may come into being later."""
        return OutputLog(self, task_id, attempt, spools)

    def offer(self, log: "OutputLog", stream: str) -> None:
        """Send what a stream has, as soon as there is room."""
        self._ready[log, stream] = None
        while self._ready and self._under_way < MAX_UNDER_WAY:
            log, stream = first = next(iter(self._ready))
            del self._ready[first]
            if (piece := log.backlogs[stream].next_piece()) is not None:
                self._ready[first] = None
                self._send(log, stream, piece)

    def linger(self, log: "OutputLog", spools: Mapping[str, Spool]) -> None:
        """Go on with the output of a run that is over; close its spools in the end."""
        scope = anyio.CancelScope(deadline=anyio.current_time() + LINGER)
        self._lingering.append(scope)
        if len(self._lingering) > MAX_LINGERING:
            self._lingering.pop(0).cancel()
        self._tasks.start_soon(self._linger, log, spools, scope)

    async def _linger(self, log: "OutputLog", spools: Mapping[str, Spool], scope: anyio.CancelScope) -> None:
        try:
            with scope:
                await log.wait_stored()
        finally:
            if scope in self._lingering:
                self._lingering.remove(scope)
            log.give_up()
            close_all(spools)

    def _send(self, log: "OutputLog", stream: str, piece: Piece) -> None:
        headers = {
            SEQ: str(log.next_seq()),
            OFFSET: str(piece.offset),
            ATTEMPT: str(log.attempt),
            INSTANCE: self._worker,
        }
        if piece.is_end:
            self._connection.send(self._subjects.output(log.task_id, stream), headers={**headers, END: "1"})
            log.stored(stream, piece)
            return
        self._under_way += 1
        self._tasks.start_soon(self._store, log, stream, piece, headers)

    async def _store(self, log: "OutputLog", stream: str, piece: Piece, headers: dict[str, str]) -> None:
        subject = self._subjects.output(log.task_id, stream)
        identity = f"out-{log.task_id}-{self._worker}-{log.attempt}-{stream}-{piece.offset}"
        try:
            await publish(self._connection, subject, piece.data, message_id=identity, headers=headers)
        except (JetStreamError, ValueError) as error:
            logger.warning("output of task %s is lost to its followers: %s", log.task_id, error)
        self._under_way -= 1
        log.stored(stream, piece)
        self.offer(log, stream)
        if not self._under_way:
            self._all_stored.set()


class OutputLog:
    """The live output of one run."""

    def __init__(self, publisher: OutputPublisher, task_id: str, attempt: int, spools: Mapping[str, Spool]) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.backlogs = {stream: Backlog(f"the {stream} of task {task_id}") for stream in STREAMS}
        self._publisher = publisher
        self._spools = spools
        self._seq = 0
        self._timer: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()

    @property
    def is_stored(self) -> bool:
        """Whether the server has all that it will get, the ends included."""
        return all(backlog.is_stored for backlog in self.backlogs.values())

    def feed(self, stream: str, offset: int, chunk: bytes | memoryview) -> None:
        """Take a stream's next bytes; they go out soon, or at once if there are many."""
        if self.backlogs[stream].feed(offset, chunk, self._spools.get(stream)):
            self._publisher.offer(self, stream)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_DELAY, self._flush)

    def finish(self) -> None:
        """Let what is left go out, and the end of each stream after it."""
        for backlog in self.backlogs.values():
            backlog.finish()
        self._flush()

    def give_up(self) -> None:
        """Send no more but the ends."""
        for backlog in self.backlogs.values():
            backlog.give_up()
        self._flush()

    def close(self) -> None:
        """Take over the spools of a run that is over: they are closed once nothing is to be read from them."""
        if self.is_stored:
            close_all(self._spools)
        else:
            self._publisher.linger(self, self._spools)

    async def wait_stored(self) -> None:
        """Wait until the server has all that it will get."""
        while not self.is_stored:
            await self._progress()

    async def wait_patiently(self) -> None:
        """Wait for the same, but only while the server takes output, and for PATIENCE seconds at most."""
        with anyio.move_on_after(PATIENCE):
            while not self.is_stored:
                with anyio.move_on_after(STALL) as stall:
                    await self._progress()
                if stall.cancelled_caught:
                    return

    def next_seq(self) -> int:
        """Return the number of the run's next message, from 1."""
        self._seq += 1
        return self._seq

    def stored(self, stream: str, piece: Piece) -> None:
        """Take note of a piece that is with the server, or never will be."""
        self.backlogs[stream].stored(piece)
        self._news.set()

    async def _progress(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for stream, backlog in self.backlogs.items():
            backlog.flush()
            self._publisher.offer(self, stream)


def close_all(spools: Mapping[str, Spool]) -> None:
    """Let go of what was spooled."""
    for spool in spools.values():
        spool.close()
