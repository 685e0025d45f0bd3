"""The client: submitting, following, finding and asking, with a real server and workers."""

from contextlib import aclosing
from datetime import UTC, datetime
from unittest.mock import ANY

import anyio
import pytest
from msgspec import structs

from consumer.client import Client
from consumer.connection import connect
from consumer.errors import ConfigError, NotFoundError, TopologyError
from consumer.follow import Item, OutputChunk
from consumer.jetstream import publish
from consumer.queued import QueuedTask
from consumer.topology import Topology, ensure_streams
from schemas import Control, Event, Result, Status, Task, Verb, encode, utc_now
from tests.integration.conftest import PATIENCE, Probe, Server, Site, eventually

pytestmark = pytest.mark.anyio


async def told(site: Site, task_id: str) -> list[Item]:
    """Follow a task to its end."""
    items: list[Item] = []
    with anyio.fail_after(PATIENCE):
        async with aclosing(site.user.follow(task_id)) as following:
            async for item in following:
                items.append(item)  # noqa: PERF401 - a comprehension would hide the time-out's place
    return items


def text(items: list[Item], stream: str) -> bytes:
    """Put a stream together as it was told."""
    chunks = [item for item in items if isinstance(item, OutputChunk) and item.stream == stream]
    assert [chunk.lost for chunk in chunks] == [0] * len(chunks)
    return b"".join(chunk.data for chunk in chunks)


def events(items: list[Item]) -> list[str]:
    """Return the events, by type."""
    return [item.type for item in items if isinstance(item, Event)]


def shell(script: str) -> Task:
    """Return a task that runs a script."""
    return Task(command="/bin/sh", args=["-c", script])


# Submitting


async def test_submit(site: Site, probe: Probe) -> None:
    """A submitted task is stored under the id that the caller is told."""
    tasks = await site.listen(site.subjects.task("probe"))
    async with site.worker(probe.registry):
        task_id = await site.user.submit("probe", Task(labels={"a": "b"}))
        result = await site.user.wait(task_id)
    assert (result.task_id, result.status, result.labels) == (task_id, Status.SUCCESS, {"a": "b"})
    (message,) = tasks.messages
    assert (message.headers or {})["Nats-Msg-Id"] == task_id


async def test_submit_with_an_id(site: Site, probe: Probe) -> None:
    """An id of one's own is kept; submitted again, it is the same task."""
    async with site.worker(probe.registry):
        for _ in range(2):
            assert await site.user.submit("probe", Task(id="mine")) == "mine"
        await site.user.wait("mine")
        await site.settled()
    assert probe.begun == ["mine"]


async def test_submit_too_much(site: Site) -> None:
    """A task that the server would not take is refused in words; the connection lives on."""
    await ensure_streams(site.connection, Topology(subjects=site.subjects))
    with pytest.raises(ConfigError, match=r"the task has \d+ bytes, but the server takes 1048576 at most"):
        await site.user.submit("probe", Task(stdin="x" * 2**20))
    assert await site.user.submit("probe", Task())


async def test_submit_where_nothing_is_prepared(site: Site) -> None:
    """Without streams there is one clear error, with the remedy."""
    with pytest.raises(TopologyError, match="does not exist; make it with: jetrunner init"):
        await site.user.submit("probe", Task())
    with pytest.raises(TopologyError, match="does not exist; make it with: jetrunner init"):
        await site.user.control("a", Verb.STOP, Control())


async def test_submit_while_the_server_is_away(server: Server, own_site: Site, probe: Probe) -> None:
    """A submission waits for the server, and is stored once, in the form that was asked for."""
    await ensure_streams(own_site.connection, Topology(subjects=own_site.subjects))
    server.kill()
    async with anyio.create_task_group() as submitting:
        submitting.start_soon(own_site.user.submit, "probe", Task(id="a"), {"Content-Type": "application/msgpack"})
        await anyio.wait_all_tasks_blocked()
        server.start()
    assert await own_site.tasks_left() == 1
    async with own_site.worker(probe.registry):
        assert (await own_site.user.wait("a")).status is Status.SUCCESS


# Following


async def test_the_whole_story(site: Site) -> None:
    """A follower is told the events, the output of both streams in order, and at last the Result."""
    async with site.worker():
        task_id = await site.user.submit("command", shell("echo one; echo oops >&2; echo two; exit 3"))
        items = await told(site, task_id)
    assert events(items)[:2] == ["received", "started"]  # the Result may overtake the last one
    assert (text(items, "stdout"), text(items, "stderr")) == (b"one\ntwo\n", b"oops\n")
    result = items[-1]
    assert isinstance(result, Result)
    assert (result.status, result.exit_code) == (Status.FAILED, 3)
    assert sum(isinstance(item, Result) for item in items) == 1


async def test_a_story_that_is_over(site: Site) -> None:
    """Who follows after the end is told the same."""
    async with site.worker():
        task_id = await site.user.submit("command", shell("echo one; echo two"))
        await site.user.wait(task_id)
        await site.settled()
    items = await told(site, task_id)
    assert events(items) == ["received", "started", "finished"]
    assert text(items, "stdout") == b"one\ntwo\n"
    assert isinstance(items[-1], Result)


async def test_a_story_that_has_not_begun(site: Site, probe: Probe) -> None:
    """Who follows before the task is submitted misses nothing, and is told while it runs."""
    await ensure_streams(site.connection, Topology(subjects=site.subjects))
    items: list[Item] = []
    async with site.worker(probe.registry), anyio.create_task_group() as following:

        async def follow() -> None:
            async with aclosing(site.user.follow("a")) as story:
                async for item in story:
                    items.append(item)
                    if isinstance(item, OutputChunk):
                        assert await site.user.result("a") is None
                        probe.release()

        following.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        await site.submit("probe", "a", args={"hold": True, "say": "hello"})
    assert text(items, "stdout") == b"hello"
    assert isinstance(items[-1], Result)


async def test_a_long_story(site: Site) -> None:
    """Every byte of a long output is told, in order."""
    async with site.worker():
        task_id = await site.user.submit("command", shell("seq 1 60000"))
        items = await told(site, task_id)
    assert text(items, "stdout") == "".join(f"{number}\n" for number in range(1, 60_001)).encode()


async def test_a_story_without_output(site: Site, probe: Probe) -> None:
    """A task that is refused, or canceled before its start, has a story too: its Result."""
    ends = await site.listen(site.subjects.event("a", "dead"), site.subjects.event("b", "finished"))
    async with site.worker(probe.registry):
        await site.submit("probe", "a", oops=1)
        await site.user.control("b", Verb.STOP, Control(by="ann"))
        await ends.count(2)
        refused, canceled = await told(site, "a"), await told(site, "b")
    assert events(refused) == ["received", "finished", "dead"]
    assert events(canceled) == ["finished"]
    assert [item.status for item in (refused[-1], canceled[-1]) if isinstance(item, Result)] == ["error", "canceled"]


async def test_a_story_through_a_restart(server: Server, own_site: Site, probe: Probe) -> None:
    """A follower lives through a restart of the server, and is told nothing twice."""
    items: list[Item] = []
    async with own_site.worker(probe.registry), anyio.create_task_group() as following:

        async def follow() -> None:
            items.extend(await told(own_site, "a"))

        await own_site.submit("probe", "a", args={"hold": True, "say": "hello"})
        await probe.until("a")
        following.start_soon(follow)
        stored = own_site.subjects.output("a", "stdout")
        await eventually(lambda: own_site.stored(own_site.subjects.output_stream, stored))
        server.kill()
        server.start()
        probe.release()
    assert text(items, "stdout") == b"hello"
    assert events(items) in (["received", "started", "finished"], ["received", "started"])
    assert isinstance(items[-1], Result)


async def test_a_follower_that_stops_early(site: Site, probe: Probe) -> None:
    """Who stops following stops; the task does not."""
    async with site.worker(probe.registry):
        await site.submit("probe", "a", args={"hold": True})
        async with aclosing(site.user.follow("a")) as story:
            async for item in story:
                assert isinstance(item, Event)
                break
        probe.release()
        assert (await site.result("a")).status is Status.SUCCESS


async def test_many_followers(site: Site, probe: Probe) -> None:
    """Any number of people may follow a task."""
    stories: list[list[Item]] = []

    async def follow() -> None:
        async with (
            connect(site.options) as connection,
            aclosing(Client(connection, site.subjects).follow("a")) as story,
        ):
            stories.append([item async for item in story])

    async with site.worker(probe.registry), anyio.create_task_group() as following:
        for _ in range(3):
            following.start_soon(follow)
        await site.submit("probe", "a", args={"say": "hello"})
    assert [text(story, "stdout") for story in stories] == [b"hello"] * 3


# Finding and asking


async def test_result(site: Site, probe: Probe) -> None:
    """A Result is there when the task has ended, and not before."""
    async with site.worker(probe.registry):
        await site.submit("probe", "a", args={"hold": True})
        await probe.until("a")
        assert await site.user.result("a") is None
        probe.release()
        assert await site.user.wait("a") == await site.user.result("a")


async def test_history(site: Site, probe: Probe) -> None:
    """The events so far are read back in order."""
    async with site.worker(probe.registry):
        await site.submit("probe", "a")
        await told(site, "a")
        await site.settled()
    assert [event.type for event in await site.user.history("a")] == ["received", "started", "finished"]
    assert await site.user.history("b") == []


async def test_queue(site: Site, probe: Probe) -> None:
    """The tasks that are not done with are listed, in order, under the ids that their workers will give them."""
    await ensure_streams(site.connection, Topology(subjects=site.subjects))
    before = utc_now()
    await site.submit("probe", "a")
    seq = await site.publish("other", b"{")
    await site.publish("probe", {}, {"Nats-Msg-Id": "b"})
    queue = await site.user.queue()
    assert [task.category for task in queue] == ["probe", "other", "probe"]
    assert [task.task_id for task in (queue[0], queue[2])] == ["a", "b"]
    assert queue[1].task_id.startswith(f"s{seq}-")
    assert all(isinstance(task, QueuedTask) and abs((task.submitted - before).total_seconds()) < 60 for task in queue)
    async with site.worker(probe.registry, unknown_category_after=0.2):
        assert (await site.result(queue[1].task_id)).error_code == "unknown_category"
        await site.settled()
    assert await site.user.queue() == []


async def test_queue_of_what_has_its_time(site: Site, probe: Probe) -> None:
    """What waits says for when and since when; what a schedule has made has the id that its worker will give it."""
    subjects = site.subjects
    headers = {"Jetrunner-Task-Id": "tick", "Jetrunner-Submitted": "2030-01-01T00:00:00+00:00"}
    timing = {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": subjects.task("probe")}
    await ensure_streams(site.connection, Topology(subjects=subjects))
    payload = encode(Task())
    await publish(site.connection, subjects.schedule("tick"), payload, message_id="x", headers=headers | timing)
    queue = await eventually(lambda: _longer_queue(site))
    waiting, fired = queue[:2]
    assert await site.user.scheduled("tick") == structs.replace(waiting, next=ANY)
    assert (waiting.task_id, waiting.category, waiting.schedule) == ("tick", "probe", "@every 1s")
    assert waiting.submitted == datetime(2030, 1, 1, tzinfo=UTC)
    assert fired.schedule is None
    await site.api(f"STREAM.PURGE.{subjects.tasks_stream}", {"filter": subjects.schedule("tick")})
    async with site.worker(probe.registry):
        assert (await site.result(fired.task_id)).status is Status.SUCCESS
    assert fired.task_id.startswith("tick-")
    assert await site.user.scheduled("tick") is None


async def _longer_queue(site: Site) -> list[QueuedTask]:
    queue = await site.user.queue()
    return queue if len(queue) > 1 else []


async def test_find(site: Site, probe: Probe) -> None:
    """A task is found by the beginning of its id, whether it waits or has ended."""
    async with site.worker(probe.registry):
        for task_id in ("abc-1", "abc-2", "xyz"):
            await site.submit("probe", task_id)
            await site.result(task_id)
        await site.settled()
    await site.submit("probe", "waiting")
    assert await site.user.find("x") == "xyz"
    assert await site.user.find("abc-1") == "abc-1"
    assert await site.user.find("wait") == "waiting"
    with pytest.raises(ConfigError, match="2 tasks have an id that begins with abc: abc-1, abc-2"):
        await site.user.find("abc")
    with pytest.raises(NotFoundError, match="there is no task nothing"):
        await site.user.find("nothing")
    with pytest.raises(ConfigError, match="is not a task's id"):
        await site.user.find("a b")


async def test_may_have(site: Site, probe: Probe) -> None:
    """A task may exist if it waits or has left traces."""
    async with site.worker(probe.registry):
        await site.submit("probe", "done")
        await site.result("done")
        await site.settled()
    await site.submit("probe", "waiting")
    assert [await site.user.may_have(task_id) for task_id in ("done", "waiting", "never")] == [True, True, False]


@pytest.mark.parametrize("payload", [b"{", encode({"type": "unheard-of"})], ids=["no JSON", "unknown"])
async def test_what_is_no_event(site: Site, probe: Probe, payload: bytes) -> None:
    """What someone else publishes on a task's subjects does not end its story."""
    async with site.worker(probe.registry):
        await site.raw.request(site.subjects.event("a", "progress"), payload)
        await site.raw.request(site.subjects.output("a", "stdout"), b"unasked")
        await site.submit("probe", "a", args={"say": "hello"})
        items = await told(site, "a")
    assert events(items)[:2] == ["received", "started"]
    assert isinstance(items[-1], Result)
    assert items[-1].output == "hello"
