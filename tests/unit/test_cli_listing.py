"""Where a task is after its events, and which tasks are listed."""

from datetime import UTC, datetime, timedelta
from typing import Any

from consumer.cli.listing import Wanted
from consumer.cli.states import TaskState, fold
from schemas import Event, EventType, Status

BEGIN = datetime(2026, 11, 23, 10, tzinfo=UTC)


def events(*types: str, worker: str = "w1", begin: int = 0, **data: Any) -> list[Event]:
    """Return events of one task, a second apart; the last one has the data."""
    return [
        Event(
            id=str(number),
            type=EventType(type_),
            task_id="t1",
            category="command",
            time=BEGIN + timedelta(seconds=begin + number),
            worker=worker,
            data=data if number == len(types) - 1 else {},
        )
        for number, type_ in enumerate(types)
    ]


def state(*told: Event) -> TaskState:
    return fold(told)["t1"]


def test_a_task_waits_until_it_has_started() -> None:
    """A worker may have it before; it has not begun."""
    received = state(*events("received"))
    assert (received.status, received.submitted, received.started) == (Status.PENDING, BEGIN, None)


def test_a_task_runs_from_its_start_to_its_end() -> None:
    """Whatever is said in between."""
    running = state(*events("received", "started", "progress", "stopping"))
    assert (running.status, running.started, running.worker) == (Status.RUNNING, BEGIN + timedelta(seconds=1), "w1")
    assert not running.has_ended


def test_a_task_that_is_tried_again_waits_again() -> None:
    """Until it starts on some worker."""
    tried = events("received", "started", "retrying")
    assert state(*tried).status is Status.PENDING
    again = state(*tried, *events("received", "started", worker="w2", begin=9))
    assert (again.status, again.worker, again.submitted) == (Status.RUNNING, "w2", BEGIN)


def test_an_end_tells_how_it_was() -> None:
    """Status, code, duration and moment."""
    ended = state(*events("received", "started", "finished", status="failed", exit_code=3, duration=990))
    assert (ended.status, ended.exit_code, ended.duration) == (Status.FAILED, 3, 990)
    assert ended.ended == BEGIN + timedelta(seconds=2)


def test_the_first_end_is_the_end() -> None:
    """A message that is delivered once more says nothing new."""
    ended = events("started", "finished", status="success")
    assert state(*ended, *events("dead", "received", begin=5)).status is Status.SUCCESS


def test_an_end_alone_tells_when_it_began() -> None:
    """Its duration does."""
    ended = state(*events("finished", status="success", duration=500, started=True))
    assert ended.started == BEGIN - timedelta(milliseconds=500)
    short = state(*events("finished", status="success", duration=0, started=True))
    assert short.started == BEGIN
    canceled = state(*events("finished", status="canceled", duration=0, started=False))
    assert canceled.started is None
    assert canceled.begun == BEGIN


def test_an_end_that_nobody_understands_is_an_error() -> None:
    """Anyone may publish events."""
    assert state(*events("finished", status="splendid")).status is Status.ERROR


def test_only_tasks_that_are_wanted_are_included() -> None:
    """A task that has not ended is recent, however long ago it began."""
    ended = state(*events("started", "finished", status="success"))
    running = state(*events("started"))
    later = BEGIN + timedelta(minutes=1)
    assert Wanted(limit=1).includes(ended)
    assert not Wanted(limit=1, statuses=frozenset({Status.FAILED})).includes(ended)
    assert not Wanted(limit=1, category="docker").includes(ended)
    assert not Wanted(limit=1, since=later).includes(ended)
    assert Wanted(limit=1, since=later).includes(running)
