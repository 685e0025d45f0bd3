"""The newest tasks: those in the queue, and those that have ended, by their events or else by their Results."""

from datetime import datetime
from typing import Final

from msgspec import Struct

from consumer.backwards import Backwards
from consumer.client import read_event
from consumer.jetstream import StoredMessage, read_batch
from schemas import EventType, Result, SchemaError, Status, decode

from .session import Session
from .states import LIVE, TaskState

MAX_EVENTS: Final = 50_000
MAX_RESULTS: Final = 2000
"""Messages of a stream that a list is made of at most, the newest."""

_EVENTS_WINDOW: Final = 500
_RESULTS_WINDOW: Final = 100
_NAMED: Final = 500
"""Tasks asked for at once: two events of each are within the server's 1024."""
_TELLING: Final = (EventType.STARTED, EventType.RETRYING)
"""The events that tell of a task in the queue whether it runs."""


class Wanted(Struct, frozen=True, kw_only=True):
    """Which tasks to list: `limit` of them, without those that ended before `since`."""

    statuses: frozenset[Status] = frozenset(Status)
    category: str | None = None
    since: datetime | None = None
    limit: int

    def includes(self, state: TaskState) -> bool:
        """Tell whether a task is wanted."""
        return (
            state.status in self.statuses
            and self.category in {None, state.category}
            and not (self.since and state.ended and state.ended < self.since)
        )


class Listing:
    """The tasks that are wanted: those in the queue, and those that have ended."""

    def __init__(self, session: Session, wanted: Wanted) -> None:
        self._session = session
        self._wanted = wanted
        self._states: dict[str, TaskState] = {}
        self._ends = Backwards(
            session.connection,
            session.subjects.events_stream,
            session.subjects.event("*", EventType.FINISHED),
            read_event,
            window=_EVENTS_WINDOW,
            most=MAX_EVENTS,
        )

    @property
    def is_cut(self) -> bool:
        """Whether there may be more, further back than was looked."""
        return self._ends.is_exhausted and not self._ends.at_start

    async def read(self) -> list[TaskState]:
        """Return where the tasks are, the last to start first.

        Raises:
            JetStreamError: the server does not answer.
        """
        await self._read_queue()
        if not self._wanted.statuses <= LIVE:
            await self._read_ends()
            if self._ends.at_start:
                await self._read_results()
        return self._chosen()

    async def _read_queue(self) -> None:
        self._states = {task.task_id: TaskState.of_queued(task) for task in await self._session.client.queue()}
        subjects = self._session.subjects
        task_ids = [*self._states]
        for at in range(0, len(task_ids), _NAMED):
            named = [subjects.event(each, type_) for each in task_ids[at : at + _NAMED] for type_ in _TELLING]
            request = {"multi_last": named}
            for event in map(read_event, await read_batch(self._session.connection, subjects.events_stream, request)):
                if event is not None and (state := self._states.get(event.task_id)) is not None:
                    self._states[event.task_id] = state.after(event)

    async def _read_ends(self) -> None:
        """Read how tasks ended, until those are known that started last."""
        while not self._ends.is_exhausted:
            events = [event for event in await self._ends.earlier() if event is not None]
            for event in reversed(events):
                before = self._states.get(event.task_id) or TaskState(task_id=event.task_id, status=Status.PENDING)
                self._states[event.task_id] = before.after(event)
            if events and self._is_enough(events[0].time):
                return

    def _is_enough(self, oldest: datetime) -> bool:
        """Tell whether tasks that ended before `oldest` are of no interest."""
        if self._wanted.since is not None and oldest < self._wanted.since:
            return True
        chosen = self._chosen()
        return len(chosen) == self._wanted.limit and chosen[-1].begun >= oldest

    async def _read_results(self) -> None:
        """Read the Results of tasks whose events have gone, or never came."""
        subjects = self._session.subjects
        results = Backwards(
            self._session.connection,
            subjects.results_stream,
            subjects.result("*"),
            _read_result,
            window=_RESULTS_WINDOW,
            most=MAX_RESULTS,
        )
        missing = await results.count() - sum(state.has_ended for state in self._states.values())
        while missing > 0 and not results.is_exhausted and len(self._chosen()) < self._wanted.limit:
            for state in filter(None, await results.earlier()):
                if not (known := self._states.get(state.task_id)) or not known.has_ended:
                    self._states[state.task_id] = state
                    missing -= 1

    def _chosen(self) -> list[TaskState]:
        chosen = filter(self._wanted.includes, self._states.values())
        return sorted(chosen, key=lambda state: state.begun, reverse=True)[: self._wanted.limit]


def _read_result(message: StoredMessage) -> TaskState | None:
    try:
        return TaskState.of_result(decode(Result, message.data))
    except SchemaError:  # of a newer version than ours
        return None
