"""Puts tasks back into the queue: a new message with the same task and new counts, now or when it is time.

The server's own scheduler keeps what has to wait (ADR-51), so no worker holds a timer or a place for it. One stored
message is put back once, for whatever reason: its successor's identity follows from its place in the stream.
"""

import logging
from datetime import timedelta
from typing import Final

from schemas import Subjects, utc_now

from .connection import Connection, Headers, message_size
from .errors import JetStreamError
from .jetstream import api, publish
from .request import SUBMITTED, TASK_ID, Counts, TaskRequest

SCHEDULE: Final = "Nats-Schedule"
TARGET: Final = "Nats-Schedule-Target"

_ROOM: Final = 512
"""Bytes that the headers of a message put back may have beyond those it came with."""

logger = logging.getLogger(__name__)


class Requeue:
    """The way back into the queue."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects

    def fits(self, request: TaskRequest) -> bool:
        """Tell whether the server would take the task again; one of the very largest it would not."""
        return message_size(request.payload, request.headers) + _ROOM <= self._connection.max_payload

    async def put(self, request: TaskRequest, counts: Counts, *, delay: float = 0.0) -> None:
        """Store the task anew, to begin in `delay` seconds; return once the server has it.

        Raises:
            JetStreamError: the server refuses it for good.
        """
        target = self._subjects.task(request.category)
        headers = {**_carried(request.headers), **counts.headers(), TASK_ID: request.task_id}
        headers[SUBMITTED] = request.submitted.isoformat()
        subject = target
        if delay > 0:
            subject = self._subjects.schedule(request.task_id)
            due = (utc_now() + timedelta(seconds=delay)).isoformat(timespec="milliseconds")
            headers |= {SCHEDULE: f"@at {due.replace('+00:00', 'Z')}", TARGET: target}
        place = request.position
        identity = f"again-{place.stream_seq}-{place.nanoseconds}"
        await publish(self._connection, subject, request.payload, message_id=identity, headers=headers)

    async def withdraw(self, task_id: str) -> None:
        """Take a task out of the schedule, if it waits there; it would end unrun anyway, as its Result is there."""
        body = {"filter": self._subjects.schedule(task_id)}
        try:
            await api(self._connection, f"STREAM.PURGE.{self._subjects.tasks_stream}", body)
        except JetStreamError as error:  # a worker need not have the right to
            logger.debug("the schedule of task %s stays: %s", task_id, error)


def _carried(headers: Headers) -> dict[str, str]:
    """Return the headers that a task keeps: all but those that told the server what to do with its last message."""
    return {name: value for name, value in headers.items() if not name.lower().startswith("nats-")}
