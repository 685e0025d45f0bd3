"""Publishes Events: best effort, in order, never waited for. The Result is the durable end of the story."""

import itertools
import logging
from collections.abc import Mapping
from typing import Any

from schemas import Event, EventType, Subjects, encode, utc_now

from .connection import Connection
from .request import TaskRequest
from .telemetry import SILENT, Telemetry

logger = logging.getLogger(__name__)


class Events:
    """Publishes the Events of one worker, with CloudEvents 1.0 binary-mode headers."""

    def __init__(self, connection: Connection, subjects: Subjects, worker: str, telemetry: Telemetry = SILENT) -> None:
        self._connection = connection
        self._telemetry = telemetry
        self._subjects = subjects
        self._worker = worker
        self._numbers = itertools.count(1)
        self._source = f"/{subjects.prefix}/workers/{worker}"

    def publish(self, type_: EventType, request: TaskRequest, data: Mapping[str, Any] | None = None) -> None:
        """Publish one step of a task, on its own subject and on those it answers to."""
        self._telemetry.told(type_, request, data or {})
        subject = self._subjects.event(request.task_id, type_)
        self._send(
            [subject, *(f"{reply}.events.{type_}" for reply in request.reply_to)],
            self._event(
                type_, request.task_id, request.category, data, attempt=request.attempt, trace_id=request.trace.trace_id
            ),
        )

    def finished(self, task_id: str, category: str, data: Mapping[str, Any]) -> None:
        """Publish the end of a task whose message we do not hold."""
        event = self._event(EventType.FINISHED, task_id, category, data)
        self._send([self._subjects.event(task_id, EventType.FINISHED)], event)

    def _event(
        self,
        type_: EventType,
        task_id: str,
        category: str,
        data: Mapping[str, Any] | None,
        *,
        attempt: int = 1,
        trace_id: str | None = None,
    ) -> Event:
        return Event(
            id=f"{self._worker}-{next(self._numbers)}",
            type=type_,
            task_id=task_id,
            category=category,
            time=utc_now(),
            worker=self._worker,
            attempt=attempt,
            data=dict(data or {}),
            trace_id=trace_id,
        )

    def _send(self, to: list[str], event: Event) -> None:
        payload = encode(event)
        headers = {
            "Content-Type": "application/json",
            "ce-specversion": "1.0",
            "ce-id": event.id,
            "ce-type": f"jetrunner.task.{event.type}",
            "ce-source": self._source,
            "ce-subject": event.task_id,
            "ce-time": event.time.isoformat(),
        }
        for subject in to:
            try:
                self._connection.send(subject, payload, headers=headers)
            except ValueError as error:  # a runner's progress may be of any size; its task is worth more
                logger.warning("an event is lost: %s", error)
