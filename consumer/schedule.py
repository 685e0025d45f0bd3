"""When a task is to start, in the server's own words (ADR-51). Pure.

A recurring task's id names its schedule. Each firing is a task of its own, named after the schedule and the time at
which the server stored it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from schemas import Duration, Task
from schemas.task import MAX_RECURRING_ID

from .message import header

SCHEDULE: Final = "Nats-Schedule"
TARGET: Final = "Nats-Schedule-Target"

_NEXT: Final = "Nats-Schedule-Next"
_LAST_FIRING: Final = "purge"
_AT: Final = "@at "
_EVERY: Final = "@every "
_CRON_FIELDS: Final = 5


def schedule_of(task: Task, submitted: datetime, now: datetime) -> str | None:
    """Return the `Nats-Schedule` that a task asks for; None if it may start now."""
    if task.schedule is not None:
        return _recurring(task.schedule)
    due = task.not_before if task.delay is None else submitted + timedelta(seconds=task.delay)
    return at(due) if due is not None and due > now else None


def at(moment: datetime) -> str:
    """Return the schedule that fires once."""
    return f"{_AT}{moment.astimezone(UTC).isoformat(timespec='milliseconds').replace('+00:00', 'Z')}"


def is_firing(headers: Mapping[str, str]) -> bool:
    """Tell whether a recurring schedule has made a message: a task of its own, submitted just now."""
    following = header(headers, _NEXT)
    return following is not None and following != _LAST_FIRING


def firing_id(schedule_id: str, nanoseconds: int) -> str:
    """Return the id of the task that a schedule has made, given when it was stored, since the Unix epoch."""
    return f"{schedule_id[:MAX_RECURRING_ID]}-{nanoseconds // 1_000_000}"


def next_firing(schedule: str, stored: datetime, now: datetime) -> datetime | None:
    """Return when a schedule fires next; None if only the server can tell, which keeps the time of a cron to itself."""
    try:
        if schedule.startswith(_AT):
            return datetime.fromisoformat(schedule.removeprefix(_AT))
        if schedule.startswith(_EVERY):
            return _next_round(Duration.parse(schedule.removeprefix(_EVERY)), stored, now)
    except ValueError:  # whoever published it, it was not us
        return None
    return None


def _next_round(interval: float, stored: datetime, now: datetime) -> datetime:
    """Count as the server does: in intervals from the whole second nearest to when the schedule was stored."""
    begun = (stored + timedelta(seconds=0.5)).replace(microsecond=0)
    rounds = max((now - begun).total_seconds(), 0) // interval + 1
    return begun + timedelta(seconds=rounds * interval)


def _recurring(schedule: str) -> str:
    """Translate: the server's cron begins with seconds, and its intervals are Go's."""
    if schedule.startswith(_EVERY):
        return f"{_EVERY}{Duration.parse(schedule.removeprefix(_EVERY)):.9g}s"
    is_cron = not schedule.startswith("@") and len(schedule.split()) == _CRON_FIELDS
    return f"0 {schedule}" if is_cron else schedule
