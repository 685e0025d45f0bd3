"""What becomes of tasks when workers, connections, consumers and servers are lost: none is lost, none runs twice."""

from pathlib import Path

import anyio
import msgspec
import pytest
from nats.aio.msg import Msg

from consumer.topology import Topology, ensure_consumer, ensure_streams
from runners.base import Runner
from runners.errors import SpawnFailedError
from runners.registry import Registry
from schemas import Event, EventType, Result, Status, Verb, decode
from tests.integration.cable import cable
from tests.integration.conftest import PATIENCE, Probe, RunningWorker, Server, Site, eventually

pytestmark = pytest.mark.anyio

ACK_WAIT = 1.2
SHORT = {"nats": {"ack_wait": ACK_WAIT}}
HOLD = {"args": {"hold": True}}
ONE_SLOT = {"runners": {"probe": {"max_concurrency": 1}}}


async def prepare(site: Site, *categories: str, ack_wait: float = ACK_WAIT, max_deliver: int | None = None) -> None:
    """Make streams and consumers before there is any worker."""
    topology = Topology(subjects=site.subjects, ack_wait=ack_wait)
    await ensure_streams(site.connection, topology)
    for category in categories:
        await ensure_consumer(site.connection, topology, category)
        if max_deliver is not None:
            stream = site.subjects.tasks_stream
            config = {**topology.consumer(category), "max_deliver": max_deliver}
            await site.api(f"CONSUMER.CREATE.{stream}.{category}", {"stream_name": stream, "config": config})


async def take(site: Site, category: str) -> Msg:
    """Take a task from the queue as a worker does, and do nothing with it: that worker is dead."""
    inbox = site.raw.new_inbox()
    taken = await site.listen(inbox)
    pull = f"$JS.API.CONSUMER.MSG.NEXT.{site.subjects.tasks_stream}.{category}"
    await site.raw.publish(pull, b'{"batch":1}', reply=inbox)
    return (await taken.count(1))[0]


async def consumer(site: Site, category: str = "probe") -> dict[str, int]:
    """Return the state of a category's consumer."""
    return await site.api(f"CONSUMER.INFO.{site.subjects.tasks_stream}.{category}")


async def events(site: Site, task_id: str, type_: EventType) -> list[Event]:
    """Return the events of one type that a task has had."""
    subjects = site.subjects
    return [
        decode(Event, each.data) for each in await site.stored(subjects.events_stream, subjects.event(task_id, type_))
    ]


async def left(worker: RunningWorker) -> None:
    """Wait until a worker has ended."""
    with anyio.fail_after(PATIENCE):
        await worker.ended.wait()


# Delivered again


async def test_a_task_that_another_worker_has(site: Site) -> None:
    """Whoever is given a task that someone else runs, asks; its owner adopts the delivery and acks it in the end."""
    first, second = Probe(), Probe()
    async with site.worker(first.registry, **ONE_SLOT):
        await site.submit("probe", "a", **HOLD)
        await first.until("a")
        async with site.worker(second.registry, **ONE_SLOT):
            await site.api(f"CONSUMER.DELETE.{site.subjects.tasks_stream}.probe")

            async def delivered_again() -> bool:
                info = await consumer(site)
                return "error" not in info and info["num_ack_pending"] == 1

            await eventually(delivered_again)
            await site.submit("probe", "b")
            await site.result("b")  # so the second worker has dealt with what came before
            first.release()
            await site.settled()
    assert (first.begun, second.begun) == (["a"], ["b"])
    assert await site.results() == 2


async def test_a_loss_is_counted(site: Site, probe: Probe) -> None:
    """A task whose worker died is stored anew with its count raised, runs again, and its Result says so."""
    await prepare(site, "probe")
    await site.submit("probe", "a")
    await take(site, "probe")
    async with site.worker(probe.registry, **SHORT):
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.attempt, result.redeliveries) == (Status.SUCCESS, 1, 1)
    (again,) = await events(site, "a", EventType.RETRYING)
    assert (again.data["reason"], again.data["error_code"]) == ("loss", "worker_lost")
    assert probe.begun == ["a"]


async def test_a_task_without_an_id_keeps_the_one_it_was_given(site: Site, probe: Probe) -> None:
    """The id derived from the first stored message stays, whatever message the task is in."""
    await prepare(site, "probe")
    seq = await site.publish("probe", {})
    taken = await take(site, "probe")
    task_id = f"s{seq}-{int(taken.reply.split('.')[7]) // 1_000_000}"
    async with site.worker(probe.registry, **SHORT):
        assert (await site.result(task_id)).redeliveries == 1
        await site.settled()
    assert probe.begun == [task_id]


@pytest.mark.parametrize("task", [{"max_redeliveries": 0}, {"on_worker_lost": "fail"}], ids=["budget", "fail"])
async def test_a_task_that_is_lost_for_good(site: Site, probe: Probe, task: dict[str, object]) -> None:
    """A task that may not be lost again is given up: an `error` Result, a dead letter, and no second run."""
    await prepare(site, "probe")
    await site.submit("probe", "a", **task)
    await take(site, "probe")
    async with site.worker(probe.registry, **SHORT):
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.error_code) == (Status.ERROR, "worker_lost")
    assert result.error.startswith("the task's worker was lost")
    (letter,) = await site.dead("probe")
    assert (letter.headers or {})["Jetrunner-Error-Code"] == "worker_lost"
    assert probe.begun == []


async def test_losses_add_up(site: Site, probe: Probe) -> None:
    """What earlier messages of the task have counted is in this one's headers."""
    await prepare(site, "probe")
    counted = {"Jetrunner-Redeliveries": "2", "Jetrunner-Attempt": "4"}
    await site.publish("probe", {"id": "a", "max_redeliveries": 2}, counted)
    await take(site, "probe")
    async with site.worker(probe.registry, **SHORT):
        result = await site.result("a")
        await site.settled()
    assert (result.error_code, result.redeliveries, result.attempt) == ("worker_lost", 2, 4)
    assert result.error == "the task's worker was lost 3 times; `max_redeliveries` is 2"
    assert probe.begun == []


# Cut off


async def test_a_worker_that_was_cut_off_for_long(site: Site) -> None:
    """It keeps its task; back again, it ends the copy that someone else has taken over, and says nothing of it."""
    first, second = Probe(), Probe()
    async with cable(site.url) as line, site.worker(first.registry, via=line.url, **SHORT):
        await site.submit("probe", "a", **HOLD)
        await first.until("a")
        async with site.worker(second.registry, **SHORT):
            line.cut()
            await second.until("a")
            assert first.cancelled == []
            await line.mend()
            await first.until_cancelled("a")
            second.release()
            result = await site.result("a")
            await site.settled()
    assert (result.status, result.redeliveries) == (Status.SUCCESS, 1)
    assert (first.begun, second.begun) == (["a"], ["a"])
    assert await site.results() == 1


async def test_a_worker_that_was_cut_off_for_a_moment(site: Site) -> None:
    """A worker that is back before anyone has begun its task keeps it, though its lease had run out."""
    probe = Probe()
    async with cable(site.url) as line, site.worker(probe.registry, via=line.url, **SHORT, **ONE_SLOT):
        await site.submit("probe", "a", **HOLD)
        await probe.until("a")
        line.cut()
        await anyio.sleep(1.5 * ACK_WAIT)  # until the lease has run out
        renewals = await site.listen(f"$JS.ACK.{site.subjects.tasks_stream}.>")
        await line.mend()
        await renewals.count(1)
        async with site.worker(Probe().registry, **SHORT) as other:
            await site.submit("probe", "b")
            await site.result("b")
            probe.release()
            await site.settled()
            assert (await site.result("a")).worker != other.name
    assert probe.begun == ["a"]
    assert await site.results() == 2


async def test_an_exclusive_task(site: Site) -> None:
    """It is killed before its unconfirmed lease ends: it never overlaps its successor."""
    first, second = Probe(), Probe()
    async with cable(site.url) as line, site.worker(first.registry, via=line.url, **SHORT):
        await site.submit("probe", "a", **HOLD, exclusive=True)
        await first.until("a")
        async with site.worker(second.registry, **SHORT):
            line.cut()
            await first.until_cancelled("a")
            assert second.begun == []
            await second.until("a")
            await line.mend()
            second.release()
            result = await site.result("a")
            await site.settled()
    assert (result.status, result.redeliveries) == (Status.SUCCESS, 1)
    assert await site.results() == 1


# The server away


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_a_result_waits_on_disk(server: Server, own_site: Site, probe: Probe, how: str) -> None:
    """A worker that has to end while the server is away leaves its Result to the next one."""
    async with own_site.worker(probe.registry, **SHORT, worker={"drain_timeout": 0.1}) as worker:
        await own_site.submit("probe", "a", args={"hold": True, "say": "done"}, reply_to="replies.me")
        await probe.until("a")
        getattr(server, how)()
        probe.release()
        await probe.until_ended("a")
        worker.drain()
        await left(worker)
        server.start()
        answers = await own_site.listen("replies.me")
    async with own_site.worker(probe.registry, **SHORT):
        result = await own_site.result("a")
        await answers.count(1)
        await own_site.settled()
    assert (result.status, result.output, result.worker) == (Status.SUCCESS, "done", worker.name)
    assert decode(Result, answers.messages[0].data) == result
    assert probe.begun == ["a"]
    assert await own_site.results() == 1


async def test_a_result_waits_in_memory(server: Server, own_site: Site, probe: Probe) -> None:
    """A Result goes out when the server is back."""
    async with own_site.worker(probe.registry, **SHORT) as worker:
        await own_site.submit("probe", "a", **HOLD)
        await probe.until("a")
        server.kill()
        probe.release()
        await probe.until_ended("a")
        await anyio.sleep(2 * ACK_WAIT)
        server.start()
        assert (await own_site.result("a")).worker == worker.name
        await own_site.settled()
    assert probe.begun == ["a"]
    assert await own_site.results() == 1


# Retry


async def test_a_task_that_is_tried_again(site: Site, tmp_path: Path) -> None:
    """Attempts follow one another until one succeeds; the server keeps the task in between."""
    script = f"echo x >>{tmp_path}/log; test $(wc -l <{tmp_path}/log) -ge 3"
    async with site.worker():
        retry = {"max_attempts": 5, "delay": 0.2, "jitter": 0, "on": ["exit:1"]}
        task = {"command": "/bin/sh", "args": ["-c", script], "retry": retry, "labels": {"team": "a"}}
        await site.submit("command", "a", **task)
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.attempt, result.redeliveries, result.labels) == ("success", 3, 0, {"team": "a"})
    retries = await events(site, "a", EventType.RETRYING)
    assert [each.data["delay"] for each in retries] == [0.2, 0.4]
    assert {each.data["error_code"] for each in retries} == {"exit_nonzero"}
    assert len(await events(site, "a", EventType.FINISHED)) == 1
    assert len(await events(site, "a", EventType.STARTED)) == 3
    assert await site.dead("command") == []


async def test_a_task_that_has_used_up_its_attempts(site: Site) -> None:
    """The last failure is the Result, and the task a dead letter with all its counts."""
    async with site.worker():
        retry = {"max_attempts": 2, "delay": 0, "on": ["failed"]}
        await site.submit("command", "a", command="false", retry=retry)
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.attempt) == (Status.FAILED, 2)
    (letter,) = await site.dead("command")
    assert (letter.headers or {})["Jetrunner-Attempt"] == "2"
    assert msgspec.json.decode(letter.data)["id"] == "a"


async def test_a_stop_between_two_attempts(site: Site) -> None:
    """A task that waits for its next attempt is canceled at once, and does not come back."""
    async with site.worker():
        retrying = await site.listen(site.subjects.event("a", EventType.RETRYING))
        retry = {"max_attempts": 2, "delay": 3600, "on": ["failed"]}
        await site.submit("command", "a", command="false", retry=retry)
        await retrying.count(1)
        await site.control("a", reason="enough")
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.error_code) == (Status.CANCELED, "stopped")
    assert result.termination is not None
    assert result.termination.reason == "enough"
    assert len(await events(site, "a", EventType.STARTED)) == 1


async def test_a_stop_while_a_task_is_put_back(site: Site) -> None:
    """A stop that comes when an attempt is over and the next is not yet stored ends the task, too."""
    name = site.subjects.tasks_stream
    async with site.worker():
        settings = (await site.api(f"STREAM.INFO.{name}"))["config"]
        output = await site.listen(site.subjects.output("a", "stdout"))
        tries = await site.listen(site.subjects.schedule("a"))
        task = {"command": "/bin/sh", "args": ["-c", "echo go; sleep 0.3; false"]}
        await site.submit("command", "a", **task, retry={"max_attempts": 2, "delay": 3600, "on": ["failed"]})
        await output.count(1)
        await site.api(f"STREAM.DELETE.{name}")
        await tries.count(2)
        await site.control("a", Verb.KILL)
        await site.api(f"STREAM.CREATE.{name}", settings)
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.error_code) == (Status.CANCELED, "killed")
    assert await site.results() == 1


# What is not there


class _Unable(Runner[dict[str, str]]):
    params_type = dict[str, str]

    async def run(self, params: dict[str, str]) -> None:
        raise SpawnFailedError("no process to spare")


async def test_what_a_task_needs_is_not_there(site: Site) -> None:
    """A task that its worker cannot start goes back as often as it may, at no cost of attempts."""
    registry = Registry()
    registry.register("unable", _Unable)
    async with site.worker(registry):
        await site.submit("unable", "a", max_redeliveries=1)
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.error_code, result.attempt) == (Status.ERROR, "spawn_failed", 1)
    (back,) = await events(site, "a", EventType.RETRYING)
    assert (back.data["reason"], back.data["delay"]) == ("return", 1)
    assert len(await site.dead("unable")) == 1


async def test_a_drain_costs_nothing(site: Site) -> None:
    """A task that was given back because its worker ended begins at once elsewhere, with all its budgets."""
    first, second = Probe(), Probe()
    async with site.worker(first.registry, worker={"drain_timeout": 0}) as worker:
        await site.submit("probe", "a", **HOLD, max_redeliveries=0)
        await first.until("a")
        worker.drain()
        await left(worker)
    second.release()
    async with site.worker(second.registry):
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.attempt, result.redeliveries) == (Status.SUCCESS, 1, 0)
    assert (first.begun, second.begun) == (["a"], ["a"])


# The net


async def test_a_task_that_the_server_has_given_up(site: Site, probe: Probe) -> None:
    """A task that the server delivers no more has its end as soon as a worker hears of it."""
    await prepare(site, "probe", ack_wait=0.3, max_deliver=1)
    async with site.worker():
        await site.submit("probe", "a")
        await take(site, "probe")
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.error_code, result.category) == (Status.ERROR, "worker_lost", "probe")
    assert len(await site.dead("probe")) == 1


async def test_a_task_that_the_server_gave_up_long_ago(site: Site, probe: Probe) -> None:
    """A worker finds at its start what no worker heard of, and leaves alone what is only waiting."""
    await prepare(site, "probe", ack_wait=0.3, max_deliver=1)
    given_up = await site.listen("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>")
    await site.submit("probe", "a")
    await take(site, "probe")
    await given_up.until(lambda: site.subjects.tasks_stream in str(given_up.messages))
    await site.submit("probe", "b")
    async with site.worker(probe.registry):
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.error_code) == (Status.ERROR, "worker_lost")
    assert len(await site.dead("probe")) == 1
    assert probe.begun == ["b"]
