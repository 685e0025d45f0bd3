"""The newest tasks: those in the queue, and those that have ended, by their events or else by their Results."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from msgspec import Struct

from consumer.client import read_event
from consumer.connection import Connection
from consumer.jetstream import StoredMessage, api, read_batch
from schemas import Event, EventType, Result, SchemaError, Status, decode

from .session import Session
from .states import LIVE, TaskState

MAX_EVENTS: Final = 50_000
MAX_RESULTS: Final = 2000
"""Messages of a stream that a list is made of at most, the newest."""

_EVENTS_WINDOW: Final = 500
_RESULTS_WINDOW: Final = 100
_MAX_BYTES: Final = 32 * 2**20
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
        self._ends = self._backwards(
            session.subjects.events_stream,
            session.subjects.event("*", EventType.FINISHED),
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
            for event in _events(await read_batch(self._session.connection, subjects.events_stream, request)):
                if (state := self._states.get(event.task_id)) is not None:
                    self._states[event.task_id] = state.after(event)

    async def _read_ends(self) -> None:
        """Read how tasks ended, until those are known that started last."""
        while not self._ends.is_exhausted:
            events = _events(await self._ends.earlier())
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
        results = self._backwards(
            subjects.results_stream, subjects.result("*"), window=_RESULTS_WINDOW, most=MAX_RESULTS
        )
        missing = await results.count() - sum(state.has_ended for state in self._states.values())
        while missing > 0 and not results.is_exhausted and len(self._chosen()) < self._wanted.limit:
            for state in _results(await results.earlier()):
                if not (known := self._states.get(state.task_id)) or not known.has_ended:
                    self._states[state.task_id] = state
                    missing -= 1

    def _chosen(self) -> list[TaskState]:
        chosen = filter(self._wanted.includes, self._states.values())
        return sorted(chosen, key=lambda state: state.begun, reverse=True)[: self._wanted.limit]

    def _backwards(self, stream: str, pattern: str, *, window: int, most: int) -> "_Backwards":
        return _Backwards(self._session.connection, stream, pattern, window=window, most=most)


class _Backwards:
    """Reads a stream from its end, in windows that double, up to `most` messages."""

    def __init__(self, connection: Connection, stream: str, pattern: str, *, window: int, most: int) -> None:
        self._connection = connection
        self._stream = stream
        self._pattern = pattern
        self._window = window
        self._left = most
        self._first = 1
        self._next: int | None = None

    @property
    def at_start(self) -> bool:
        """Whether all of the stream was read."""
        return self._next is not None and self._next < self._first

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing more will be read."""
        return self.at_start or self._left <= 0

    async def count(self) -> int:
        """Return how many messages there are."""
        state = (await api(self._connection, f"STREAM.INFO.{self._stream}"))["state"]
        self._first, self._next = max(int(state["first_seq"]), 1), int(state["last_seq"])
        return int(state["messages"])

    async def earlier(self) -> list[StoredMessage]:
        """Return the next window's messages, in the stream's order."""
        if self._next is None:
            await self.count()
        end = self._next or 0
        size = min(self._window, self._left)
        start = max(end - size + 1, self._first)
        self._window *= 2
        self._left -= size
        self._next = start - 1
        return await self._between(start, end)

    async def _between(self, start: int, end: int) -> list[StoredMessage]:
        messages: list[StoredMessage] = []
        while start <= end:
            request = {"seq": start, "next_by_subj": self._pattern, "batch": end - start + 1, "max_bytes": _MAX_BYTES}
            batch = await read_batch(self._connection, self._stream, request)
            if not batch:
                break
            messages += [message for message in batch if message.seq <= end]
            start = batch[-1].seq + 1
        return messages


def _events(messages: Iterable[StoredMessage]) -> list[Event]:
    return [event for message in messages if (event := read_event(message)) is not None]


def _results(messages: Iterable[StoredMessage]) -> Iterable[TaskState]:
    for message in messages:
        try:
            yield TaskState.of_result(decode(Result, message.data))
        except SchemaError:  # of a newer version than ours
            continue
