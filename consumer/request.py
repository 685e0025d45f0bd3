"""Reads a task message: who and what it names, or what is wrong with it. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Self

from msgspec import Struct, structs
from nats.aio.msg import Msg

from runners.errors import InvalidTaskError, RunnerError
from schemas import ContentType, SchemaError, Subjects, Task, convert, decode, decode_loosely
from schemas.subjects import is_task_id

from .message import Position, header
from .schedule import firing_id, is_firing
from .trace import Trace

ATTEMPT: Final = "Jetrunner-Attempt"
REDELIVERIES: Final = "Jetrunner-Redeliveries"
RETURNS: Final = "Jetrunner-Returns"
SUBMITTED: Final = "Jetrunner-Submitted"
TASK_ID: Final = "Jetrunner-Task-Id"
FIRST_ERROR: Final = "Jetrunner-First-Error"
REQUEST_REPLY: Final = "Jetrunner-Reply-To"
"""Headers of ours: what a requeued task keeps of its story, and where a `P.run` request waits."""


class Counts(Struct, frozen=True, kw_only=True):
    """How often a task has begun, and why it had to begin again."""

    attempt: int = 1
    """Which attempt this is: an attempt ends when the task itself does."""
    redeliveries: int = 0
    """How often its worker was lost with it."""
    returns: int = 0
    """How often it was given back because what it needs was not there."""

    @classmethod
    def read(cls, headers: Mapping[str, str]) -> Self:
        """Read the counters that a requeued task brings; a new one brings none."""
        return cls(
            attempt=max(_count(headers, ATTEMPT, 1), 1),
            redeliveries=_count(headers, REDELIVERIES, 0),
            returns=_count(headers, RETURNS, 0),
        )

    def headers(self) -> dict[str, str]:
        """Return what `read` reads."""
        return {ATTEMPT: str(self.attempt), REDELIVERIES: str(self.redeliveries), RETURNS: str(self.returns)}


class TaskRequest(Struct, frozen=True, kw_only=True):
    """A task as it was asked for.

    `task` has its id and category filled in. If `error` is set, the task is invalid and `task` holds only what could
    be read of it. `named` tells an id that came with the message from one derived from its place in the stream.
    """

    task: Task
    task_id: str
    category: str
    named: bool
    subject: str
    delivery: str
    """The message's ack subject."""
    payload: bytes
    headers: Mapping[str, str]
    content_type: ContentType
    position: Position
    submitted: datetime
    counts: Counts
    reply_to: tuple[str, ...]
    error: RunnerError | None = None
    first_error: dict[str, Any] | None = None
    """What went wrong with the task that this one stands in for."""
    trace: Trace = Trace()

    @property
    def attempt(self) -> int:
        """Which attempt this is."""
        return self.counts.attempt

    @property
    def redeliveries(self) -> int:
        """How often the task was lost with its worker."""
        return self.counts.redeliveries

    def with_trace(self, trace: Trace) -> Self:
        """Return the request as part of a trace."""
        return structs.replace(self, trace=trace)


def read_request(message: Msg, subjects: Subjects, reply_prefixes: Sequence[str]) -> TaskRequest:
    """Read a message from a task subject; nothing that it holds makes this fail."""
    headers = message.headers or {}
    position = Position.of(message)
    category = subjects.last_token(message.subject)
    content_type, task, error = _read_task(message.data, headers, category)
    given = [header(headers, TASK_ID), task.id, header(headers, "Nats-Msg-Id")]
    task_id = next((name for name in given if name is not None and is_task_id(name)), None)
    reply_to, refused = _reply_subjects(task, headers, subjects, reply_prefixes)
    named_id, submitted = task_id or position.derived_id, submitted_first(headers) or position.stored
    if is_firing(headers):
        named_id, submitted = firing_id(named_id, position.nanoseconds), position.stored
    task, unnamable = _name(task, named_id, category)
    return TaskRequest(
        task=task,
        task_id=named_id,
        category=category,
        named=task_id is not None,
        subject=message.subject,
        delivery=message.reply,
        payload=message.data,
        headers=headers,
        content_type=content_type,
        position=position,
        submitted=submitted,
        counts=Counts.read(headers),
        reply_to=reply_to,
        error=error or unnamable or refused,
        first_error=_first_error(headers),
        trace=Trace.read(headers),
    )


def _read_task(
    payload: bytes, headers: Mapping[str, str], category: str
) -> tuple[ContentType, Task, InvalidTaskError | None]:
    content_type = ContentType.JSON
    try:
        content_type = ContentType.parse(header(headers, "Content-Type"))
        task = decode(Task, payload, content_type)
    except SchemaError as error:
        return content_type, _salvage(decode_loosely(payload, content_type)), InvalidTaskError(str(error))
    if task.category is not None and task.category != category:
        wrong = f"`category` is {task.category!r}, but the task was published on the subject of {category!r}"
        return content_type, task, InvalidTaskError(wrong)
    return content_type, task, None


def _name(task: Task, task_id: str, category: str) -> tuple[Task, InvalidTaskError | None]:
    """Fill in who a task is; not every task may have the id that came with its message."""
    try:
        return structs.replace(task, id=task_id, category=category), None
    except ValueError as error:
        named = Task(id=task_id, category=category, reply_to=task.reply_to, labels=task.labels)
        return named, InvalidTaskError(str(error))


def _salvage(fields: dict[str, Any]) -> Task:
    """Keep of an invalid task what its Result needs: who it is and where to answer."""
    kept = {}
    for name in ("id", "reply_to", "labels"):
        try:
            kept[name] = getattr(convert({name: fields[name]}, Task), name)
        except (KeyError, SchemaError):
            continue
    return Task(**kept)


def _reply_subjects(
    task: Task, headers: Mapping[str, str], subjects: Subjects, prefixes: Sequence[str]
) -> tuple[tuple[str, ...], InvalidTaskError | None]:
    wanted = [task.reply_to or header(headers, "Reply-To", "reply_to"), header(headers, REQUEST_REPLY)]
    allowed: list[str] = []
    refused = None
    for subject in wanted:
        if not subject:
            continue
        try:
            subjects.check_reply(subject, prefixes)
            allowed.append(subject)
        except ValueError as error:
            refused = InvalidTaskError(f"`reply_to`: {error}")
    return tuple(allowed), refused


def submitted_first(headers: Mapping[str, str]) -> datetime | None:
    """Read when a requeued task was first stored; a new one brings no word of it."""
    try:
        moment = datetime.fromisoformat(header(headers, SUBMITTED) or "")
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _first_error(headers: Mapping[str, str]) -> dict[str, Any] | None:
    text = header(headers, FIRST_ERROR)
    return decode_loosely(text.encode()) or None if text is not None else None


def _count(headers: Mapping[str, str], name: str, default: int) -> int:
    """Read a counter of ours; what is no small number was not written by us."""
    text = header(headers, name)
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < _MANY_DIGITS else default


_MANY_DIGITS: Final = 7
