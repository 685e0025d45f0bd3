"""The Events of a task: which, in what order, with what in them, and where."""

import re
from typing import Any

import msgspec
import pytest

from consumer.events import Events
from consumer.request import read_request
from runners.base import Runner
from schemas import Event, EventType, decode
from tests.integration.conftest import Listener, Probe, ProbeParams, Site

pytestmark = pytest.mark.anyio


async def story(site: Site, task_id: str) -> list[Event]:
    """Return the stored events of a task."""
    messages = await site.stored(f"{site.subjects.prefix.upper()}_EVENTS", f"{site.subjects.prefix}.events.{task_id}.*")
    return [decode(Event, message.data) for message in messages]


def types(events: list[Event]) -> list[str]:
    """Return what happened."""
    return [event.type for event in events]


async def told(events: Listener, type_: str) -> None:
    """Wait for an event."""
    await events.until(lambda: type_ in types(events.events()))


async def test_the_story_of_a_task(site: Site) -> None:
    """A task is received, started and finished; the events are stored, in that order, with what the contract says."""
    events = await site.listen(f"{site.subjects.prefix}.events.a.*")
    async with site.worker() as worker:
        await site.submit("command", "a", command="/bin/sh", args=["-c", "echo $$; exit 3"])
        result = await site.result("a")
        await told(events, "finished")
        received, started, finished = await story(site, "a")
    assert types([received, started, finished]) == ["received", "started", "finished"]
    assert started.data == {"pid": int(result.output)}
    assert finished.data == {
        "status": "failed",
        "exit_code": 3,
        "duration": result.duration,
        "error_code": "exit_nonzero",
        "started": True,
    }
    for event in (received, started, finished):
        assert (event.task_id, event.category, event.worker, event.attempt) == ("a", "command", worker.name, 1)
    assert received.time <= started.time <= finished.time
    assert len({event.id for event in (received, started, finished)}) == 3
    assert [message.subject.rpartition(".")[2] for message in events.messages] == ["received", "started", "finished"]


async def test_an_event_is_json_and_a_cloud_event(site: Site, probe: Probe) -> None:
    """An event's payload is plain JSON; its headers are those of CloudEvents 1.0 in binary mode."""
    events = await site.listen(f"{site.subjects.prefix}.events.a.started")
    async with site.worker(probe.registry) as worker:
        await site.submit("probe", "a")
        (message,) = await events.count(1)
    event = msgspec.json.decode(message.data)
    assert {"id", "type", "task_id", "category", "time", "worker", "attempt", "data"} <= event.keys()
    assert message.headers is not None
    headers = dict(message.headers)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", headers.pop("ce-time"))
    assert headers == {
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": event["id"],
        "ce-type": "jetrunner.task.started",
        "ce-source": f"/{site.subjects.prefix}/workers/{worker.name}",
        "ce-subject": "a",
    }


async def test_a_task_that_is_given_up(site: Site, probe: Probe) -> None:
    """A refused task was never started; it is finished, and dead for a reason."""
    events = await site.listen(f"{site.subjects.prefix}.events.a.*")
    async with site.worker(probe.registry):
        await site.submit("probe", "a", oops=1)
        await told(events, "dead")
    assert types(events.events()) == ["received", "finished", "dead"]
    assert events.events()[1].data["status"] == "error"
    assert events.events()[2].data == {"reason": "unknown field `oops`"}


async def test_a_task_that_is_done_with_already(site: Site, probe: Probe) -> None:
    """A task that is delivered after its end does not end again."""
    events = await site.listen(f"{site.subjects.prefix}.events.a.finished", f"{site.subjects.prefix}.events.b.finished")
    async with site.worker(probe.registry):
        await site.submit("probe", "a")
        await site.result("a")
        await site.publish("probe", {"id": "a"})
        await site.settled()
        await site.submit("probe", "b")
        await told(events, "finished")
        await events.until(lambda: events.on(f"{site.subjects.prefix}.events.b.finished"))
    assert len(events.messages) == 2


class _Busy(Runner[ProbeParams]):
    params_type = ProbeParams

    async def run(self, params: ProbeParams) -> None:
        self.progress(step=1)
        self.progress(book="x" * 2**20)
        self.progress(step=2)


async def test_progress(site: Site, probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """A runner's steps are told; one that is too large for a message is lost, and its task goes on."""
    probe.registry.register("busy", _Busy)
    events = await site.listen(f"{site.subjects.prefix}.events.a.*")
    async with site.worker(probe.registry):
        await site.submit("busy", "a")
        assert (await site.result("a")).status == "success"
        await told(events, "finished")
    assert types(events.events()) == ["received", "started", "progress", "progress", "finished"]
    assert [event.data for event in events.events()[2:4]] == [{"step": 1}, {"step": 2}]
    assert "an event is lost" in caplog.text


async def test_nobody_waits_for_an_event(site: Site, probe: Probe) -> None:
    """Without a stream for them, events are lost and tasks are not."""
    async with site.worker(probe.registry):
        await site.api(f"STREAM.DELETE.{site.subjects.events_stream}")
        await site.submit("probe", "a")
        assert (await site.result("a")).status == "success"
        await site.settled()


async def test_where_events_go(site: Site) -> None:
    """Each event goes to its own subject, and to the `events` subjects of those who wait for the task."""
    heard = await site.listen(f"{site.subjects.prefix}.events.>", "replies.>")
    message: Any = type("Message", (), {})()
    message.subject, message.data, message.headers = (
        site.subjects.task("probe"),
        b'{"id":"a"}',
        {"Reply-To": "replies.me"},
    )
    message.reply = "$JS.ACK.S.C.1.1.1.1795514400123456789.0"
    request = read_request(message, site.subjects, ["replies"])
    Events(site.connection, site.subjects, "w").publish(EventType.PROGRESS, request, {"a": 1})
    messages = await heard.count(2)
    subjects = [f"{site.subjects.prefix}.events.a.progress", "replies.me.events.progress"]
    assert [message.subject for message in messages] == subjects
    assert messages[0].data == messages[1].data
