"""What a message in the task stream says of its task, without taking it."""

from datetime import datetime

from msgspec import Struct

from schemas import ContentType, SchemaError, Subjects, decode_loosely, utc_now
from schemas.subjects import is_task_id

from .jetstream import StoredMessage
from .message import header
from .request import TASK_ID, Counts, submitted_first
from .schedule import SCHEDULE, TARGET, firing_id, is_firing, next_firing


class QueuedTask(Struct, frozen=True, kw_only=True):
    """A task that is not done with: it waits, for its time or for a worker, or is being run.

    `schedule` is what it waits for, in the server's words; `next` when that is, as far as it is known.
    """

    task_id: str
    category: str
    submitted: datetime
    attempt: int = 1
    schedule: str | None = None
    next: datetime | None = None


def read_queued(message: StoredMessage, subjects: Subjects) -> QueuedTask:
    """Read a message of the task stream as its worker will; one that waits for its time has a schedule."""
    headers = message.headers
    *_, place, last = message.subject.split(".")
    if place != "schedule":
        return QueuedTask(
            task_id=_task_id(message), category=last, submitted=message.stored, attempt=Counts.read(headers).attempt
        )
    schedule = header(headers, SCHEDULE) or ""
    return QueuedTask(
        task_id=last,
        category=subjects.last_token(header(headers, TARGET) or ""),
        submitted=submitted_first(headers) or message.stored,
        attempt=Counts.read(headers).attempt,
        schedule=schedule,
        next=next_firing(schedule, message.stored, utc_now()),
    )


def derived_id(message: StoredMessage) -> str:
    """Return the id of a task that brought none (contract section 2)."""
    return f"s{message.seq}-{message.nanoseconds // 1_000_000}"


def _task_id(message: StoredMessage) -> str:
    """Return a queued task's id, as its worker will read it (contract section 2)."""
    headers = message.headers
    try:
        fields = decode_loosely(message.data, ContentType.parse(header(headers, "Content-Type")))
    except SchemaError:
        fields = {}
    given = (header(headers, TASK_ID), fields.get("id"), header(headers, "Nats-Msg-Id"))
    named = next((name for name in given if isinstance(name, str) and is_task_id(name)), derived_id(message))
    return firing_id(named, message.nanoseconds) if is_firing(headers) else named
