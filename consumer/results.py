"""Stores Results, once and for good: the first one for a task wins, whoever stores it."""

import base64
import logging
from collections.abc import Sequence
from typing import Final
from uuid import uuid4

import anyio
from msgspec import structs

from runners.output import render
from schemas import ContentType, Encoding, Result, StreamOutput, Subjects, decode, encode

from .connection import Connection
from .errors import JetStreamError
from .jetstream import MESSAGES_PER_SUBJECT_EXCEEDED, TEMPORARY, last_message, last_message_for_sure, publish
from .telemetry import SILENT, Publication, Telemetry
from .trace import Carrier, Trace

MARGIN: Final = 16 * 1024
"""Bytes of a message's allowance that are kept for its headers."""
LARGEST: Final = 2**20
"""Bytes of a Result at most, however much the server would take."""
_MAX_ERROR: Final = 4096
_MAX_TEXT: Final = 256
"""Characters of any text in a Result that is too long without its output."""
_LONGEST_ESCAPE: Final = 6
"""Bytes of a character in JSON at most, such as those of a control character."""
_FULL_PAUSE: Final = 1.0
_LOAD_PAUSE: Final = 0.25

logger = logging.getLogger(__name__)


class Results:
    """The Results of all tasks."""

    def __init__(self, connection: Connection, subjects: Subjects, telemetry: Telemetry = SILENT) -> None:
        self._connection = connection
        self._subjects = subjects
        self._telemetry = telemetry

    async def save(self, result: Result, trace: Trace = Trace()) -> tuple[Result, bool]:  # noqa: B008 - frozen
        """Store a Result; return the one that is stored now, and whether it is this one.

        Tries until the server has it. A store that is full is told from one that has a Result already by reading it.
        """
        publication = Publication(template=self._subjects.result("*"), task_id=result.task_id, trace=trace)
        with self._telemetry.publishing(publication) as carrier:
            return await self._save(self.fit(result), carrier)

    async def _save(self, result: Result, carrier: Carrier) -> tuple[Result, bool]:
        subject = self._subjects.result(result.task_id)
        identity = f"result-{result.task_id}-{uuid4().hex}"
        while True:
            try:
                await publish(self._connection, subject, encode(result), message_id=identity, headers=carrier)
            except JetStreamError as error:
                if error.err_code != MESSAGES_PER_SUBJECT_EXCEEDED:
                    raise
                stored = await self.load(result.task_id)
                if stored is not None:
                    return stored, stored == result
                logger.warning("the Result of task %s finds no room: %s", result.task_id, error)
                await anyio.sleep(_FULL_PAUSE)
                continue
            return result, True

    async def load(self, task_id: str, *, surely: bool = False) -> Result | None:
        """Return the stored Result of a task, or None. Tries until the server answers.

        Of several servers any may be asked, and one may not have it yet; if that must not be, ask `surely`.
        """
        stream, subject = self._subjects.results_stream, self._subjects.result(task_id)
        look = last_message_for_sure if surely else last_message
        while True:
            await self._connection.wait_connected()
            try:
                stored = await look(self._connection, stream, subject)
            except JetStreamError as error:
                if error.status not in TEMPORARY:
                    raise
                logger.debug("looking for the Result of task %s again: %s", task_id, error)
                await anyio.sleep(_LOAD_PAUSE)
                continue
            return decode(Result, stored.data) if stored is not None else None

    def answer(self, result: Result, reply_to: Sequence[str], content_type: ContentType) -> None:
        """Publish a copy on the reply subjects, best effort."""
        for subject in reply_to:
            payload = encode(result, content_type)
            self._connection.send(subject, payload, headers={"Content-Type": content_type})

    def surely_fits(self, result: Result) -> bool:
        """Tell at little cost whether a Result has its output whole and would be stored as it is."""
        if result.streams.stdout.truncated or result.streams.stderr.truncated:
            return False
        return _LONGEST_ESCAPE * (len(result.output) + len(result.stderr)) + MARGIN < self._budget()

    def fit(self, result: Result) -> Result:
        """Return the Result as it would be stored."""
        return fit(result, self._budget())

    def _budget(self) -> int:
        return min(self._connection.max_payload, LARGEST) - MARGIN


def fit(result: Result, budget: int) -> Result:
    """Cut a Result until its encoded form has at most `budget` bytes: first the output, at last labels and texts."""
    result = structs.replace(result, error=_cut(result.error, _MAX_ERROR))
    while len(encode(result)) > budget:
        smaller = _halve_output(result)
        if smaller is None:
            return _bare(result)
        result = smaller
    return result


def _halve_output(result: Result) -> Result | None:
    """Halve what is kept of the longer stream, from its middle; None if nothing is kept."""
    if not result.output and not result.stderr:
        return None
    if len(result.output) >= len(result.stderr):
        output, stdout = _halve(result.output, result.streams.stdout)
        return structs.replace(result, output=output, streams=structs.replace(result.streams, stdout=stdout))
    stderr_text, stderr = _halve(result.stderr, result.streams.stderr)
    return structs.replace(result, stderr=stderr_text, streams=structs.replace(result.streams, stderr=stderr))


def _halve(text: str, facts: StreamOutput) -> tuple[str, StreamOutput]:
    encoding: Encoding = facts.encoding
    if encoding == "utf-8":
        quarter = len(text) // 4
        text = text[:quarter] + text[len(text) - quarter :]
        kept = len(text.encode())
    else:
        data = base64.b64decode(text)
        quarter = len(data) // 4
        data = data[:quarter] + data[len(data) - quarter :]
        text, encoding = render(data)
        kept = len(data)
    return text, structs.replace(facts, encoding=encoding, truncated=True, dropped_bytes=facts.bytes - kept)


def _bare(result: Result) -> Result:
    """Keep the facts of a Result whose labels, headers or other texts alone are too long."""
    http, end = result.http, result.termination
    if end is not None:
        end = structs.replace(end, by=end.by and _cut(end.by), reason=end.reason and _cut(end.reason))
    return structs.replace(
        result,
        error=_cut(result.error),
        labels={},
        http=None if http is None else structs.replace(http, headers={}, url=_cut(http.url)),
        termination=end,
        first_error=None,
        warnings=("labels and headers are left out: the Result would not fit a message",),
    )


def _cut(text: str, room: int = _MAX_TEXT) -> str:
    return f"{text[:room]}…" if len(text) > room else text
