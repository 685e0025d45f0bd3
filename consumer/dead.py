"""Dead letters: tasks given up, with all that is needed to understand them and to try again."""

from typing import Final

import msgspec

from schemas import Result, Subjects

from .connection import Connection
from .jetstream import publish
from .request import ATTEMPT, REDELIVERIES, TASK_ID, TaskRequest
from .telemetry import SILENT, Publication, Telemetry
from .trace import Carrier
from .wire import message_size

REASON: Final = "Jetrunner-Reason"
ERROR_CODE: Final = "Jetrunner-Error-Code"
SUBJECT: Final = "Jetrunner-Subject"
HEADERS: Final = "Jetrunner-Headers"
TRACE_ID: Final = "Jetrunner-Trace-Id"
TRUNCATED: Final = "Jetrunner-Truncated"
"""Bytes that the original had, where a message that must also say why it is dead could not hold them all."""

_MAX_REASON: Final = 1024
_MAX_HEADERS: Final = 16 * 1024
_MARGIN: Final = 512
"""Bytes of a message's allowance that are kept for the header that makes it one."""


class DeadLetters:
    """Keeps tasks that were given up."""

    def __init__(self, connection: Connection, subjects: Subjects, telemetry: Telemetry = SILENT) -> None:
        self._connection = connection
        self._subjects = subjects
        self._telemetry = telemetry

    async def keep(self, request: TaskRequest, result: Result) -> None:
        """Store a task's original message, and why it is dead, once.

        Raises:
            JetStreamError: the server refuses it for good.
        """
        subject = self._subjects.dead(request.category)
        publication = Publication(template=subject, task_id=request.task_id, trace=request.trace)
        with self._telemetry.publishing(publication) as carrier:
            payload, headers = self._letter(request, result, carrier)
            await publish(self._connection, subject, payload, message_id=f"dead-{request.task_id}", headers=headers)

    def _letter(self, request: TaskRequest, result: Result, carrier: Carrier) -> tuple[bytes, dict[str, str]]:
        """Return the payload and headers, cut to what a message holds."""
        headers = {
            **carrier,
            TASK_ID: request.task_id,
            REASON: _one_line(result.error)[:_MAX_REASON],
            ERROR_CODE: result.error_code or "",
            ATTEMPT: str(request.attempt),
            REDELIVERIES: str(request.redeliveries),
            SUBJECT: request.subject,
            HEADERS: _as_json(request),
            **({TRACE_ID: trace_id} if (trace_id := request.trace.trace_id) is not None else {}),
        }
        payload, room = request.payload, self._connection.max_payload - _MARGIN
        if message_size(payload, headers) > room:
            headers[HEADERS] = "{}"
        if message_size(payload, headers) > room:
            headers[TRUNCATED] = str(len(payload))
            payload = payload[: room - message_size(b"", headers)]
        return payload, headers


def _as_json(request: TaskRequest) -> str:
    text = msgspec.json.encode(dict(request.headers)).decode()
    return text if len(text) <= _MAX_HEADERS else "{}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
