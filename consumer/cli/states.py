"""Where a task is: what its events, its Result, its worker and the queue say, whichever tells most."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from msgspec import Struct, structs

from consumer.client import Client
from consumer.errors import NotFoundError
from consumer.queued import QueuedTask
from schemas import Event, EventType, Result, Status, utc_now

LIVE: Final = frozenset({Status.PENDING, Status.RUNNING})
"""Where a task is that has not ended."""

_NEVER: Final = datetime.fromtimestamp(0, UTC)
_ON_ITS_WAY: Final = timedelta(minutes=1)
"""How long another server of a cluster may not know yet what one has stored."""

_STATUS_AFTER: Final = {
    EventType.RECEIVED: Status.PENDING,
    EventType.STARTED: Status.RUNNING,
    EventType.PROGRESS: Status.RUNNING,
    EventType.STOPPING: Status.RUNNING,
    EventType.RETRYING: Status.PENDING,
}


class TaskState(Struct, frozen=True, kw_only=True):
    """Where a task is. `duration` is milliseconds; what is not known is None or empty."""

    task_id: str
    status: Status
    category: str = ""
    submitted: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    duration: int | None = None
    exit_code: int | None = None
    error_code: str | None = None
    worker: str = ""
    worker_answers: bool | None = None
    """Whether the worker says that the task runs; None: it was not asked."""
    attempt: int = 1
    schedule: str | None = None
    """What a task waits for that waits for its time, in the server's words."""
    next: datetime | None = None
    """When that is, as far as it is known."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will become of the task."""
        return self.status not in LIVE

    @property
    def begun(self) -> datetime:
        """When the task started, or what is known instead."""
        return self.started or self.ended or self.submitted or _NEVER

    @classmethod
    def of_result(cls, result: Result) -> "TaskState":
        """Return where a task that has ended is."""
        return cls(
            task_id=result.task_id,
            status=result.status,
            category=result.category,
            started=result.start_time,
            ended=result.end_time,
            duration=result.duration,
            exit_code=result.exit_code,
            error_code=result.error_code,
            worker=result.worker,
            attempt=result.attempt,
        )

    @property
    def waits_for(self) -> str:
        """What a task waits for that waits for its time; else nothing."""
        return self.schedule or "" if self.status is Status.PENDING else ""

    @classmethod
    def of_queued(cls, task: QueuedTask) -> "TaskState":
        """Return where a task is that nobody has said anything of."""
        return cls(
            task_id=task.task_id,
            status=Status.PENDING,
            category=task.category,
            submitted=task.submitted,
            attempt=task.attempt,
            schedule=task.schedule,
            next=task.next,
        )

    def after(self, event: Event) -> "TaskState":
        """Return where the task is after one more event; the first end is the end."""
        if self.has_ended:
            return self
        changes: dict[str, Any] = {
            "category": event.category or self.category,
            "worker": event.worker,
            "attempt": event.attempt,
            "status": _STATUS_AFTER.get(event.type, self.status),
        }
        if event.type is EventType.RECEIVED and self.submitted is None:
            changes["submitted"] = event.time
        if event.type is EventType.STARTED:
            changes["started"] = event.time
        if event.type is EventType.FINISHED:
            changes |= _end(event, self.started)
        return structs.replace(self, **changes)


def fold(events: Iterable[Event]) -> dict[str, TaskState]:
    """Return where each task is after some events, given in order."""
    states: dict[str, TaskState] = {}
    for event in events:
        before = states.get(event.task_id) or TaskState(task_id=event.task_id, status=Status.PENDING)
        states[event.task_id] = before.after(event)
    return states


async def state_of(client: Client, task_id: str) -> TaskState | None:
    """Return where one task is, or None if there is no such task."""
    state = fold(await client.history(task_id)).get(task_id)
    if (result := await client.result(task_id)) is not None:
        ended = TaskState.of_result(result)
        known = state or ended
        return structs.replace(ended, category=ended.category or known.category, submitted=known.submitted)
    if state is None:
        queued = next((task for task in await client.queue() if task.task_id == task_id), None)
        return TaskState.of_queued(queued) if queued else None
    if state.has_ended:
        return state
    if state.status is Status.PENDING and (waiting := await client.scheduled(task_id)) is not None:
        return structs.replace(state, schedule=waiting.schedule, next=waiting.next)
    if (owner := await client.owner(task_id)) is not None:
        return structs.replace(state, status=Status(owner["status"]), worker=str(owner["worker"]), worker_answers=True)
    return structs.replace(state, worker_answers=False) if state.status is Status.RUNNING else state


async def expect_result(client: Client, task_id: str) -> TaskState | None:
    """Return where a task is that has a Result, or will have one.

    Raises:
        NotFoundError: it has ended, but its Result has gone.
    """
    state = await state_of(client, task_id)
    if state is None or state.ended is None or utc_now() - state.ended < _ON_ITS_WAY:
        return state
    if await client.result(task_id) is None:
        raise NotFoundError(f"the task {task_id} has ended ({state.status}), but its Result has gone")
    return state


def _end(event: Event, started: datetime | None) -> dict[str, Any]:
    duration = event.data.get("duration")
    if started is None and event.data.get("started") and isinstance(duration, int):
        started = event.time - timedelta(milliseconds=duration)
    return {
        "status": _status(event.data.get("status")),
        "started": started,
        "ended": event.time,
        "duration": duration,
        "exit_code": event.data.get("exit_code"),
        "error_code": event.data.get("error_code"),
    }


def _status(value: object) -> Status:
    try:
        return Status(str(value))
    except ValueError:  # it has ended, and nobody can say how
        return Status.ERROR
