"""Reads a task message: who and what it names, or what is wrong with it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct, structs
from nats.aio.msg import Msg

from runners.errors import InvalidTaskError, RunnerError
from schemas import ContentType, SchemaError, Subjects, Task, convert, decode, decode_loosely
from schemas.subjects import is_task_id

from .message import Position, header

ATTEMPT: Final = "Jetrunner-Attempt"
REDELIVERIES: Final = "Jetrunner-Redeliveries"
TASK_ID: Final = "Jetrunner-Task-Id"
REQUEST_REPLY: Final = "Jetrunner-Reply-To"
"""Headers of ours: counters and names that a re-published task keeps, and where a `P.run` request waits."""


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
    payload: bytes
    headers: Mapping[str, str]
    content_type: ContentType
    position: Position
    attempt: int
    redeliveries: int
    reply_to: tuple[str, ...]
    error: RunnerError | None = None

    @property
    def is_redelivery(self) -> bool:
        """Whether someone may have had this task before us."""
        return self.position.deliveries > 1 or self.redeliveries > 0


def read_request(message: Msg, subjects: Subjects, reply_prefixes: Sequence[str]) -> TaskRequest:
    """Read a message from a task subject; nothing that it holds makes this fail."""
    headers = message.headers or {}
    position = Position.of(message)
    category = subjects.last_token(message.subject)
    content_type, task, error = _read_task(message.data, headers, category)
    given = [header(headers, TASK_ID), task.id, header(headers, "Nats-Msg-Id")]
    task_id = next((name for name in given if name is not None and is_task_id(name)), None)
    reply_to, refused = _reply_subjects(task, headers, subjects, reply_prefixes)
    named_id = task_id or position.derived_id
    return TaskRequest(
        task=structs.replace(task, id=named_id, category=category),
        task_id=named_id,
        category=category,
        named=task_id is not None,
        subject=message.subject,
        payload=message.data,
        headers=headers,
        content_type=content_type,
        position=position,
        attempt=_count(headers, ATTEMPT, 1),
        redeliveries=_count(headers, REDELIVERIES, 0),
        reply_to=reply_to,
        error=error or refused,
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


def _count(headers: Mapping[str, str], name: str, default: int) -> int:
    """Read a counter of ours; what is no small number was not written by us."""
    text = header(headers, name)
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < _MANY_DIGITS else default


_MANY_DIGITS: Final = 7
