"""When a task is to start, in the server's words."""

from datetime import UTC, datetime, timedelta

import pytest
from nats.aio.msg import Msg

from consumer.request import TaskRequest, read_request
from consumer.schedule import next_firing, schedule_of
from schemas import Duration, Subjects, Task, convert

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def task(**fields: object) -> Task:
    """Return a task as it is read."""
    return convert({"id": "t-1", **fields}, Task)


@pytest.mark.parametrize(
    ("asked", "schedule"),
    [
        ("@hourly", "@hourly"),
        ("@every 5s", "@every 5s"),
        ("@every 1m30s", "@every 90s"),
        ("@every 1500ms", "@every 1.5s"),
        ("@every 10d", "@every 864000s"),
        ("*/5 * * * *", "0 */5 * * * *"),
        ("30 0 4 * * *", "30 0 4 * * *"),
    ],
)
def test_recurring(asked: str, schedule: str) -> None:
    """The server's cron has six fields and its intervals are Go's; ours may be as people write them."""
    assert schedule_of(task(schedule=asked), NOW, NOW) == schedule


def test_once() -> None:
    """A moment stays itself in UTC; a delay counts from the submission."""
    moment = NOW + timedelta(hours=1)
    assert schedule_of(task(not_before="2030-01-01T15:00:00+02:00"), NOW, NOW) == "@at 2030-01-01T13:00:00.000Z"
    assert schedule_of(task(delay=3600), NOW - timedelta(minutes=1), NOW) == "@at 2030-01-01T12:59:00.000Z"
    assert schedule_of(task(not_before=moment), NOW, moment) is None
    assert schedule_of(task(delay=3600), NOW, moment) is None
    assert schedule_of(task(), NOW, NOW) is None


def test_an_id_that_is_too_long_to_recur() -> None:
    """An id that did not come with the task must leave room for a firing's time, too."""
    assert read("x" * 50).error is None
    refused = read("x" * 51)
    assert refused.task_id == "x" * 51
    assert str(refused.error) == "the `id` of a recurring task has at most 50 characters"


def read(message_id: str) -> TaskRequest:
    """Return a recurring task that is named by its `Nats-Msg-Id`."""
    message = Msg(
        _client=None,  # type: ignore[arg-type] # nobody answers by it
        subject="p.tasks.command",
        reply="$JS.ACK.S.C.1.7.7.1.0",
        data=b'{"schedule": "@hourly"}',
        headers={"Nats-Msg-Id": message_id},
    )
    return read_request(message, Subjects("p"), ())


def firing(following: str) -> tuple[str, datetime]:
    """Return the id and submission of a task that the server's scheduler has published."""
    stored = int(NOW.timestamp() * 1e9)
    headers = {
        "Nats-Scheduler": "p.schedule.t-1",
        "Nats-Schedule-Next": following,
        "Jetrunner-Task-Id": "t-1",
        "Jetrunner-Submitted": "2029-01-01T00:00:00+00:00",
    }
    message = Msg(
        _client=None,  # type: ignore[arg-type] # nobody answers by it
        subject="p.tasks.command",
        reply=f"$JS.ACK.S.C.1.7.7.{stored}.0",
        data=b"{}",
        headers=headers,
    )
    request = read_request(message, Subjects("p"), ())
    return request.task_id, request.submitted


def test_firings() -> None:
    """Each firing of a recurring task is a task of its own; the only one of a delayed task is that task."""
    assert firing("2030-01-01T12:00:05Z") == (f"t-1-{int(NOW.timestamp() * 1000)}", NOW)
    assert firing("purge") == ("t-1", datetime(2029, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("schedule", "seconds"),
    [
        ("@at 2030-01-01T12:05:00.000Z", 300),
        ("@every 60s", 51),
        ("@every 1.5s", 1.5),
        ("@hourly", None),
        ("0 */5 * * * *", None),
        ("@at noon", None),
        ("@every now and then", None),
        ("", None),
    ],
)
def test_the_next_firing(schedule: str, seconds: float | None) -> None:
    """An interval is counted from the second nearest to when the server stored it; of a cron only the server knows."""
    stored = NOW - timedelta(seconds=9.4)
    expected = None if seconds is None else NOW + timedelta(seconds=seconds)
    assert next_firing(schedule, stored, NOW) == expected


def test_durations_as_go_reads_them() -> None:
    """No interval is written in a form that Go does not know."""
    for text in ("1h30m", "2d", "1s500ms", "3650d"):
        seconds = Duration.parse(text)
        assert schedule_of(task(schedule=f"@every {text}"), NOW, NOW) == f"@every {seconds:.9g}s"
        assert "e" not in f"{seconds:.9g}"
