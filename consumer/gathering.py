"""Waits for the Results of many tasks, and keeps of each no more than how it ended."""

from collections import Counter
from collections.abc import Callable
from typing import Final

import anyio
from anyio.abc import TaskStatus
from msgspec import Struct
from nats.aio.msg import Msg

from schemas import Status, Subjects, decode

from .connection import Connection
from .jetstream import read_batch, stored_subjects
from .tail import Tail

_NAMED: Final = 500
"""Results asked for at once; the server takes 1024 subjects."""
_MAX_BYTES: Final = 16 * 2**20
_ALL: Final = 2**40


class _End(Struct):
    status: Status


class Gathering:
    """Waits for the Results of the tasks that are expected.

    Args:
        ended: called when one more has ended; must neither block nor raise.
    """

    def __init__(self, connection: Connection, subjects: Subjects, ended: Callable[[], None]) -> None:
        self._connection = connection
        self._subjects = subjects
        self._ended = ended
        self._left: set[str] = set()
        self._changed = anyio.Event()
        self.statuses: Counter[Status] = Counter()
        """How many tasks ended how."""

    @property
    def expected(self) -> int:
        """How many tasks are waited for, those that have ended included."""
        return len(self._left) + self.statuses.total()

    def expect(self, task_id: str) -> None:
        """Count one more task in, before it is submitted."""
        self._left.add(task_id)

    async def attend(self, *, task_status: TaskStatus[None]) -> None:
        """Take the Results that are stored from now on, until cancelled."""
        stream, subject = self._subjects.results_stream, self._subjects.result("*")
        tail = Tail(self._connection, stream, [subject], self._receive, start={"deliver_policy": "new"})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tail.run)
            await tail.caught_up.wait()
            task_status.started()

    async def wait(self) -> None:
        """Return once all have ended; those that had ended before are looked up.

        Raises:
            JetStreamError: the server does not answer.
        """
        await self._look_back()
        while self._left:
            self._changed = anyio.Event()
            await self._changed.wait()

    async def _look_back(self) -> None:
        subjects = self._subjects
        stored = await stored_subjects(self._connection, subjects.results_stream, subjects.result("*"), limit=_ALL)
        ended = [name for name in stored or () if subjects.last_token(name) in self._left]
        while ended:
            request = {"multi_last": ended[:_NAMED], "max_bytes": _MAX_BYTES}
            messages = await read_batch(self._connection, subjects.results_stream, request)
            for message in messages:
                self._take(message.subject, message.data)
            seen = {message.subject for message in messages} or {*ended[:_NAMED]}  # all of them have just gone
            ended = [name for name in ended if name not in seen]

    def _receive(self, message: Msg) -> None:
        self._take(message.subject, message.data)

    def _take(self, subject: str, data: bytes) -> None:
        task_id = self._subjects.last_token(subject)
        if task_id not in self._left:
            return
        self._left.remove(task_id)
        self.statuses[decode(_End, data).status] += 1
        self._ended()
        if not self._left:
            self._changed.set()
