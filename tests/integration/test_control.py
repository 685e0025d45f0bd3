"""Stop and kill, given by any client: to a task that runs, one that waits, one that is over, and one yet to come."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumer.topology import Topology, ensure_consumer, ensure_streams
from schemas import Cause, Result, Status, Verb, decode
from tests.integration.conftest import Listener, Probe, Site, eventually

pytestmark = pytest.mark.anyio

READY = "echo ready; sleep 600"
STUBBORN = f"trap '' TERM; {READY}"


async def say(site: Site, task_id: str, verb: str, payload: bytes = b"") -> None:
    """Stop or kill as anyone may, with the plain `nats` command."""
    await site.raw.request(f"{site.subjects.prefix}.control.{task_id}.{verb}", payload, timeout=5)


@asynccontextmanager
async def process(site: Site, task_id: str, script: str, **task: Any) -> AsyncIterator[Listener]:
    """Submit a script, begin the body once it says that it is ready, and return what is told of it."""
    output = await site.listen(site.subjects.output(task_id, "stdout"))
    events = await site.listen(site.subjects.event(task_id, "*"))
    await site.submit("command", task_id, command="/bin/sh", args=["-c", script], **task)
    await output.until(lambda: any(b"ready" in message.data for message in output.messages))
    yield events


def stopping(events: Listener) -> list[dict[str, Any]]:
    """Return the beginnings of an end."""
    return [event.data for event in events.events() if event.type == "stopping"]


# A task that runs


async def test_a_stop(site: Site) -> None:
    """An empty message stops: SIGTERM to the whole task, which ends as `canceled`."""
    async with site.worker(), process(site, "a", f"sleep 600 & {READY}") as events:
        await say(site, "a", "stop")
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.error_code, result.exit_code, result.signal) == (
        Status.CANCELED,
        "stopped",
        143,
        "SIGTERM",
    )
    assert result.termination is not None
    assert (result.termination.cause, result.termination.signals) == (Cause.STOP, ("SIGTERM",))
    assert stopping(events) == [{"by": None, "reason": None, "signal": "SIGTERM"}]
    assert await site.results() == 1
    assert await site.dead("command") == []


async def test_a_stop_with_words(site: Site) -> None:
    """Who stops a task, why, and how patiently, are told in its events and its Result."""
    async with site.worker(), process(site, "a", STUBBORN) as events:
        await say(site, "a", "stop", msgspec.json.encode({"by": "ann", "reason": "too slow", "grace": "50ms"}))
        result = await site.result("a")
        await events.until(lambda: len(stopping(events)) == 2)
    assert (result.status, result.error_code, result.exit_code) == (Status.CANCELED, "stopped", 137)
    assert result.error == "the task was stopped by ann: too slow"
    assert result.termination is not None
    assert (result.termination.by, result.termination.reason) == ("ann", "too slow")
    assert result.termination.signals == ("SIGTERM", "SIGKILL")
    told = {"by": "ann", "reason": "too slow"}
    assert stopping(events) == [{**told, "signal": "SIGTERM"}, {**told, "signal": "SIGKILL"}]


async def test_the_grace(site: Site) -> None:
    """Without a grace in the control, the task's own counts, else the worker's."""
    async with site.worker(worker={"grace": 0.05}), process(site, "a", STUBBORN), process(site, "b", STUBBORN, grace=0):
        await say(site, "a", "stop")
        await say(site, "b", "stop")
        results = [await site.result("a"), await site.result("b")]
    assert [result.exit_code for result in results] == [137, 137]


async def test_a_kill(site: Site) -> None:
    """A kill is SIGKILL at once."""
    async with site.worker(), process(site, "a", STUBBORN) as events:
        await say(site, "a", "kill", b'{"by":"ann"}')
        result = await site.result("a")
    assert (result.status, result.error_code, result.exit_code) == (Status.CANCELED, "killed", 137)
    assert result.termination is not None
    assert (result.termination.cause, result.termination.signals) == (Cause.KILL, ("SIGKILL",))
    assert stopping(events) == [{"by": "ann", "reason": None, "signal": "SIGKILL"}]


async def test_a_kill_after_a_stop(site: Site) -> None:
    """A kill shortens the grace of a stop."""
    async with site.worker(), process(site, "a", STUBBORN, grace=30) as events:
        await say(site, "a", "stop")
        await events.until(lambda: stopping(events))
        await say(site, "a", "kill")
        result = await site.result("a")
    assert (result.error_code, result.exit_code) == ("stopped", 137)
    assert result.termination is not None
    assert result.termination.signals == ("SIGTERM", "SIGKILL")


async def test_a_stop_said_twice(site: Site) -> None:
    """A stop is obeyed once, however often it is said."""
    async with site.worker(), process(site, "a", f"trap 'echo bye; sleep 0.2; exit 5' TERM; {READY}") as events:
        for _ in range(3):
            await say(site, "a", "stop")
        result = await site.result("a")
    assert (result.status, result.exit_code, result.output) == (Status.CANCELED, 5, "ready\nbye\n")
    assert len(stopping(events)) == 1


@pytest.mark.parametrize(
    "payload",
    [b"{", b'{"oops":1}', b"null", b"\xff", b'{"grace":"soon"}'],
    ids=["cut", "unknown", "null", "binary", "grace"],
)
async def test_a_stop_that_cannot_be_read(site: Site, probe: Probe, payload: bytes) -> None:
    """What cannot be read in a control is no reason not to stop."""
    async with site.worker(probe.registry):
        await site.submit("probe", "a", args={"hold": True})
        await probe.until("a")
        await say(site, "a", "stop", payload)
        assert (await site.result("a")).error_code == "stopped"


async def test_a_stop_with_a_book(site: Site) -> None:
    """A reason as long as a message may be is cut; the task is stopped, and its Result stored, all the same."""
    control = msgspec.json.encode({"by": "ä" * 1000, "reason": "x" * (2**20 - 2100)})
    async with site.worker(), process(site, "running", READY) as events:
        await say(site, "running", "stop", control)
        await say(site, "waiting", "stop", control)
        for task_id in ("running", "waiting"):
            result = await site.result(task_id)
            assert (result.status, result.error_code) == (Status.CANCELED, "stopped")
            assert result.termination is not None
            assert (result.termination.reason or "").startswith("xxx")
        (told,) = await events.until(lambda: stopping(events))
        assert told["reason"].startswith("xxx")
        await site.settled()


async def test_other_tasks(site: Site, probe: Probe) -> None:
    """Only the task that is named is stopped."""
    async with site.worker(probe.registry):
        for task_id in ("a", "b", "ab"):
            await site.submit("probe", task_id, args={"hold": True})
        await probe.until("a", "b", "ab")
        await say(site, "a", "stop")
        assert (await site.result("a")).status is Status.CANCELED
        probe.release()
        assert [(await site.result(task_id)).status for task_id in ("b", "ab")] == [Status.SUCCESS, Status.SUCCESS]


async def test_controls_that_name_no_task(site: Site, probe: Probe) -> None:
    """A control on a subject that is none of ours does no harm."""
    async with site.worker(probe.registry):
        for subject in ("control.a.pause", f"control.{'x' * 65}.stop", "control.a/b.kill"):
            await site.raw.request(f"{site.subjects.prefix}.{subject}", b"", timeout=5)
        await site.submit("probe", "a", args={"hold": True})
        await probe.until("a")
        await say(site, "a", "stop")
        assert (await site.result("a")).status is Status.CANCELED
    assert await site.results() == 1


async def test_the_worker_that_has_the_task(site: Site, probe: Probe) -> None:
    """With several workers, the one that runs the task ends it, and no other answers in its place."""
    others = Probe()
    async with site.worker(probe.registry), site.worker(others.registry), site.worker(others.registry):
        ids = [f"t{number}" for number in range(12)]
        for task_id in ids:
            await site.submit("probe", task_id, args={"hold": True})

        async def all_begun() -> bool:
            return len(probe.begun) + len(others.begun) == len(ids)

        await eventually(all_begun)
        for task_id in ids:
            await say(site, task_id, "stop")
        results = [await site.result(task_id) for task_id in ids]
        await site.settled()
    assert [result.start_time is None for result in results] == [False] * len(ids)
    assert {result.error for result in results} == {"the task was stopped"}
    assert await site.results() == len(ids)


async def test_a_task_that_takes_its_time_to_stop(site: Site, tmp_path: Path) -> None:
    """The other workers are asked first: none cancels a task that its owner is still ending."""
    script = f"trap 'until test -e {tmp_path}/go; do sleep 0.01; done; exit 5' TERM; {READY}"
    questions = await site.listen(site.subjects.ask("a"))
    async with site.worker(), site.worker(), process(site, "a", script, grace=30):
        await say(site, "a", "stop")
        await questions.count(1)
        await say(site, "b", "stop")  # once its time for an answer is over, so is that of the first question
        await site.result("b")
        assert await site.user.result("a") is None
        (tmp_path / "go").touch()
        result = await site.result("a")
    assert (result.status, result.error_code, result.exit_code) == (Status.CANCELED, "stopped", 5)
    assert await site.results() == 2


# A task that waits


@pytest.mark.parametrize("verb", list(Verb))
async def test_a_task_that_waits(site: Site, probe: Probe, verb: Verb) -> None:
    """A task that has not started never starts; its Result is there within 2 s, however long the queue is."""
    async with site.worker(probe.registry, runners={"probe": {"max_concurrency": 1}}):
        for task_id in ("first", "second", "third"):
            await site.submit("probe", task_id, args={"hold": True})
        await probe.until("first")
        begun = time.monotonic()
        await say(site, "third", verb, b'{"by":"ann","reason":"not needed"}')
        result = await site.result("third")
        assert time.monotonic() - begun < 2
        assert probe.begun == ["first"]
        probe.release()
        await site.settled()
    assert probe.begun == ["first", "second"]
    assert (result.status, result.start_time, result.exit_code) == (Status.CANCELED, None, None)
    what = {Verb.STOP: "stopped", Verb.KILL: "killed"}[verb]
    assert (result.error_code, result.error) == (what, f"the task was {what} before it started by ann: not needed")
    assert result.termination is not None
    assert (result.termination.cause, result.termination.by) == (Cause(verb), "ann")
    assert await site.results() == 3


async def test_what_is_told_of_a_task_that_waits(site: Site, probe: Probe) -> None:
    """A task that was canceled before its start has its `finished` event, and its answer as soon as its turn comes."""
    events = await site.listen(site.subjects.event("second", "finished"))
    answers = await site.listen("replies.me")
    async with site.worker(probe.registry, runners={"probe": {"max_concurrency": 1}}):
        await site.submit("probe", "first", args={"hold": True})
        await site.submit("probe", "second", reply_to="replies.me")
        await probe.until("first")
        await say(site, "second", "stop")
        await events.count(1)
        probe.release()
        (answer,) = await answers.count(1)
        await site.settled()
    (finished,) = events.events()
    assert finished.data["status"] == "canceled"
    assert decode(Result, answer.data).status is Status.CANCELED
    assert len(events.messages) == 1


async def test_a_task_without_a_worker(site: Site, probe: Probe) -> None:
    """Any worker cancels a task that waits, whatever categories it serves itself."""
    await ensure_streams(site.connection, Topology(subjects=site.subjects))
    await ensure_consumer(site.connection, Topology(subjects=site.subjects), "other")
    await site.submit("other", "a")
    async with site.worker(probe.registry):
        await say(site, "a", "stop")
        assert (await site.result("a")).status is Status.CANCELED


async def test_a_task_with_a_derived_id(site: Site, probe: Probe) -> None:
    """A task that brought no id is canceled by the one that it was given."""
    async with site.worker(probe.registry, runners={"probe": {"max_concurrency": 1}}):
        await site.submit("probe", "first", args={"hold": True})
        seq = await site.publish("probe", {})
        stored = await site.raw.jetstream().get_msg(site.subjects.tasks_stream, seq)
        assert stored.time is not None
        await probe.until("first")
        task_id = f"s{seq}-{int(stored.time.timestamp() * 1_000_000) // 1000}"
        await say(site, task_id, "stop")
        assert (await site.result(task_id)).status is Status.CANCELED
        probe.release()
        await site.settled()
    assert probe.begun == ["first"]
    assert await site.results() == 2


# A task that is yet to come


async def test_controls_given_before_the_worker_started(site: Site, probe: Probe) -> None:
    """A worker that starts later obeys the controls given before, and runs the rest."""
    await ensure_streams(site.connection, Topology(subjects=site.subjects))
    ids = [f"t{number}" for number in range(40)]
    for task_id in ids:
        await site.submit("probe", task_id)
    for task_id in ids[::2]:
        await site.control(task_id)
    async with site.worker(probe.registry):
        await site.settled()
        results = [await site.result(task_id) for task_id in ids]
    assert sorted(probe.begun) == sorted(ids[1::2])
    assert [result.status for result in results] == [Status.CANCELED, Status.SUCCESS] * 20
    assert await site.results() == len(ids)


async def test_a_control_before_its_task(site: Site, probe: Probe) -> None:
    """A task that is stopped before it is submitted never starts."""
    async with site.worker(probe.registry):
        await say(site, "a", "stop")
        await say(site, "b", "stop")
        await site.submit("probe", "a")
        assert (await site.result("a")).status is Status.CANCELED
        assert (await site.result("b")).status is Status.CANCELED
        await site.submit("probe", "b")
        await site.settled()
    assert probe.begun == []
    assert await site.results() == 2


# A task that is over


async def test_a_task_that_is_over(site: Site, probe: Probe) -> None:
    """A control for a finished task changes nothing: neither its Result nor its events."""
    events = await site.listen(site.subjects.event("a", "*"))
    async with site.worker(probe.registry):
        await site.submit("probe", "a")
        result = await site.result("a")
        await say(site, "a", "stop")
        await say(site, "a", "kill")
        await say(site, "b", "stop")
        await site.result("b")
        await site.settled()
    assert await site.user.result("a") == result
    assert result.status is Status.SUCCESS
    assert [event.type for event in events.events()] == ["received", "started", "finished"]


async def test_controls_of_yesterday(site: Site, probe: Probe) -> None:
    """A worker that starts later does not take an old control for one of a task that has ended."""
    async with site.worker(probe.registry):
        await site.submit("probe", "a")
        result = await site.result("a")
        await say(site, "a", "stop")
    async with site.worker(probe.registry):
        await site.submit("probe", "b")
        await site.result("b")
        await say(site, "c", "stop")
        await site.result("c")
    assert await site.user.result("a") == result
    assert await site.results() == 3


# The worker's answer


async def test_who_has_a_task(site: Site, probe: Probe) -> None:
    """A worker says of a task that it runs that it does; of another, nobody says anything."""
    async with site.worker(probe.registry) as worker:
        await site.submit("probe", "a", args={"hold": True})
        await probe.until("a")
        owner = {"worker": worker.name, "category": "probe", "status": "running", "attempt": 1, "redeliveries": 0}
        assert await site.user.owner("a") == owner
        assert await site.user.owner("b") is None
        probe.release()
        await site.settled()
        assert await site.user.owner("a") is None
