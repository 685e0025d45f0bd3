"""Puts tasks back into the queue: a new message with the same task and new counts, now or when it is time.

The server's own scheduler keeps what has to wait (ADR-51), so no worker holds a timer or a place for it. One stored
message is put back once, for whatever reason: its successor's identity follows from its place in the stream.
"""

import logging
from datetime import timedelta
from typing import Final

from msgspec import structs

from schemas import Result, Subjects, encode, utc_now

from .connection import Connection
from .errors import JetStreamError
from .jetstream import api, publish
from .request import FIRST_ERROR, SUBMITTED, TASK_ID, Counts, TaskRequest
from .schedule import SCHEDULE, TARGET, at
from .trace import without_trace
from .wire import message_size

_TOLD: Final = ("category", "status", "error_class", "error_code", "exit_code", "attempt")
_MAX_ERROR: Final = 512
_ROOM: Final = 768
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
        headers = self._headers(request) | counts.headers()
        if delay > 0:
            await self._store_for(request, at(utc_now() + timedelta(seconds=delay)), request.payload, headers)
        else:
            await self._store(request, self._subjects.task(request.category), request.payload, headers)

    async def schedule(self, request: TaskRequest, schedule: str) -> None:
        """Store the task until its time comes, by its own wish, which it then has no more.

        Raises:
            JetStreamError: the server refuses it for good.
        """
        task = structs.replace(request.task, not_before=None, delay=None, schedule=None)
        await self._store_for(request, schedule, encode(task, request.content_type), self._headers(request))

    async def stand_in(self, request: TaskRequest, result: Result) -> None:
        """Store the task's fallback under the task's id, with what went wrong; labels and answers stay the task's.

        Raises:
            JetStreamError: the server refuses it for good.
        """
        task, fallback = request.task, request.task.fallback
        if fallback is None:
            raise ValueError("the task has no fallback")
        payload = encode(
            structs.replace(
                fallback, reply_to=fallback.reply_to or task.reply_to, labels={**task.labels, **fallback.labels}
            ),
            request.content_type,
        )
        wrong = {name: getattr(result, name) for name in _TOLD} | {"error": result.error[:_MAX_ERROR]}
        headers = {FIRST_ERROR: encode(wrong).decode()} | self._headers(request) | Counts().headers()
        await self._store(request, self._subjects.task(fallback.category or request.category), payload, headers)

    async def _store_for(self, request: TaskRequest, schedule: str, payload: bytes, headers: dict[str, str]) -> None:
        timing = {SCHEDULE: schedule, TARGET: self._subjects.task(request.category)}
        await self._store(request, self._subjects.schedule(request.task_id), payload, headers | timing)

    async def _store(self, request: TaskRequest, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        place = request.position
        identity = f"again-{place.stream_seq}-{place.nanoseconds}"
        await publish(self._connection, subject, payload, message_id=identity, headers=headers)

    def _headers(self, request: TaskRequest) -> dict[str, str]:
        """Return the headers that a task keeps: all but those that told the server what to do with its last message."""
        came_with = without_trace(request.headers)
        kept = {name: value for name, value in came_with.items() if not name.lower().startswith("nats-")}
        ours = {TASK_ID: request.task_id, SUBMITTED: request.submitted.isoformat()}
        return kept | ours | request.trace.headers()

    async def withdraw(self, task_id: str) -> None:
        """Take a task out of the schedule, if it waits there; it would end unrun anyway, as its Result is there."""
        body = {"filter": self._subjects.schedule(task_id)}
        try:
            await api(self._connection, f"STREAM.PURGE.{self._subjects.tasks_stream}", body)
        except JetStreamError as error:  # a worker need not have the right to
            logger.debug("the schedule of task %s stays: %s", task_id, error)
