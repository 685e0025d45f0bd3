"""The NATS micro service: discovery, statistics, and a task as a request."""

import os
import socket
from importlib.metadata import version
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from consumer.workers import find_workers
from schemas import Result, Status, Subjects, decode
from tests.integration.conftest import Probe, Site, eventually

pytestmark = pytest.mark.anyio


async def discover(site: Site, verb: str) -> list[dict[str, Any]]:
    """Ask all services of our name, as `nats micro` does, and return the answers of this site's workers."""
    inbox = site.raw.new_inbox()
    answers = await site.listen(inbox)
    await site.raw.publish(f"$SRV.{verb}.jetrunner", reply=inbox)
    await answers.count(1)
    await site.fence()
    return [msgspec.json.decode(message.data) for message in answers.messages]


async def ask(site: Site, category: str, task: object, headers: dict[str, str] | None = None) -> Msg:
    """Send a task as a request, as `nats req` does."""
    payload = task if isinstance(task, bytes) else msgspec.json.encode(task)
    return await site.raw.request(f"{site.subjects.prefix}.run.{category}", payload, timeout=20, headers=headers)


async def test_discovery(site: Site, probe: Probe) -> None:
    """A worker is found as the service `jetrunner`, with an endpoint for each of its categories."""
    async with site.worker(probe.registry) as worker:
        (ping,) = await discover(site, "PING")
        (info,) = await discover(site, "INFO")
    assert (ping["name"], ping["type"]) == ("jetrunner", "io.nats.micro.v1.ping_response")
    assert info["metadata"]["worker"] == worker.name
    assert info["metadata"]["prefix"] == site.subjects.prefix
    assert {endpoint["subject"]: endpoint["queue_group"] for endpoint in info["endpoints"]} == {
        f"{site.subjects.prefix}.run.command": "run",
        f"{site.subjects.prefix}.run.probe": "run",
    }


async def test_statistics(site: Site, probe: Probe) -> None:
    """The service counts its requests."""
    async with site.worker(probe.registry):
        for number in range(3):
            await ask(site, "probe", {"id": f"t{number}"})
        (stats,) = await discover(site, "STATS")
    counts = {endpoint["name"]: endpoint["num_requests"] for endpoint in stats["endpoints"]}
    assert counts == {"run-command": 0, "run-probe": 3}


async def test_what_workers_have_at_work(site: Site, probe: Probe) -> None:
    """Everyone is told which tasks run, since when and on how many slots; the longest at work come first."""
    settings = {"runners": {"probe": {"max_concurrency": 3}}}
    async with site.worker(probe.registry, **settings) as worker:
        for task_id in ("a", "b"):
            await site.submit("probe", task_id, args={"hold": True})
            await probe.until(task_id)
        (state,) = await find_workers(site.connection, site.subjects)
        command, busy = state.categories
        assert (state.worker, state.pid, state.draining) == (worker.name, os.getpid(), False)
        assert (state.host, state.version) == (socket.gethostname(), version("jetrunner"))
        assert (state.server, state.busy) == (site.connection.server, 2)
        assert (command.category, command.slots, command.busy, command.running) == ("command", 8, 0, ())
        assert (busy.category, busy.slots, busy.busy) == ("probe", 3, 2)
        assert [task.task_id for task in busy.running] == ["a", "b"]
        assert state.started < busy.running[0].since < busy.running[1].since
        probe.release()
        await site.settled()

        async def idle() -> bool:
            (now,) = await find_workers(site.connection, site.subjects)
            return now.busy == 0

        await eventually(idle)


async def test_very_many_tasks_at_work(site: Site, probe: Probe) -> None:
    """All are counted, and a hundred are named: an answer must fit a message."""
    async with site.worker(probe.registry, runners={"probe": {"max_concurrency": 150}}):
        for number in range(130):
            await site.publish("probe", {"id": f"t{number}", "args": {"hold": True}})
        await probe.until_begun(130)
        (state,) = await find_workers(site.connection, site.subjects)
        probe.release()
        await site.settled()
    assert state.busy == 130
    assert len(state.categories[1].running) == 100


async def test_the_workers_of_one_prefix(site: Site, probe: Probe) -> None:
    """By name; those of others on the same server are theirs, and none is none at once."""
    assert await find_workers(site.connection, site.subjects) == []
    async with site.worker(probe.registry) as one, site.worker(probe.registry) as other:
        found = await find_workers(site.connection, site.subjects)
        assert [state.worker for state in found] == sorted([one.name, other.name])
        assert await find_workers(site.connection, Subjects("another")) == []


@pytest.mark.parametrize("answer", [b"", b"{", b'{"version":"1"}', b"\xff"])
async def test_a_service_that_is_no_worker_of_ours(site: Site, answer: bytes) -> None:
    """Whatever it says, it is not listed."""

    async def respond(message: Msg) -> None:
        await message.respond(answer)

    subscription = await site.raw.subscribe("$SRV.STATS.jetrunner", cb=respond)
    await site.fence()
    assert await find_workers(site.connection, site.subjects) == []
    await subscription.unsubscribe()


async def test_a_request(site: Site) -> None:
    """A task as a request is answered with its Result, which is stored like any other."""
    async with site.worker():
        reply = await ask(site, "command", b'{"command":"echo","args":["hi"]}')
        result = decode(Result, reply.data)
        assert (result.status, result.output) == (Status.SUCCESS, "hi\n")
        assert await site.result(result.task_id) == result
        await site.settled()
    assert await site.results() == 1


async def test_a_request_among_several_workers(site: Site, probe: Probe) -> None:
    """Of several workers one takes a request, and the task runs once."""
    async with site.worker(probe.registry), site.worker(probe.registry), site.worker(probe.registry):
        for number in range(10):
            assert decode(Result, (await ask(site, "probe", {"id": f"t{number}"})).data).task_id == f"t{number}"
        await site.settled()
    assert sorted(probe.begun) == sorted(f"t{number}" for number in range(10))


async def test_requests_that_are_no_task(site: Site) -> None:
    """A malformed request is answered with the Result that says what is wrong."""
    async with site.worker():
        result = decode(Result, (await ask(site, "command", {"comand": "ls"})).data)
        await site.settled()
    assert (result.status, result.error_code, result.error) == ("error", "invalid_task", "unknown field `comand`")
    assert len(await site.dead("command")) == 1


async def test_a_request_in_msgpack(site: Site, probe: Probe) -> None:
    """A request is answered in its own form."""
    async with site.worker(probe.registry):
        headers = {"Content-Type": "application/msgpack"}
        reply = await ask(site, "probe", msgspec.msgpack.encode({"id": "a"}), headers)
    assert msgspec.msgpack.decode(reply.data)["task_id"] == "a"


async def test_what_a_request_hands_on(site: Site, probe: Probe) -> None:
    """A request's own reply subject, identity and trace context go the task's way with it."""
    tasks = await site.listen(site.subjects.task("probe"))
    answers = await site.listen("replies.me")
    async with site.worker(probe.registry):
        headers = {"Reply-To": "replies.me", "TraceParent": "00-a-b-01", "Nats-Msg-Id": "mine", "X-Other": "dropped"}
        reply = await ask(site, "probe", {}, headers)
        (answer,) = await answers.count(1)
        (task,) = await tasks.count(1)
    assert decode(Result, reply.data).task_id == "mine"
    assert answer.data == reply.data
    assert task.headers is not None
    assert (task.headers["traceparent"], task.headers["Nats-Msg-Id"]) == ("00-a-b-01", "mine")
    assert "X-Other" not in task.headers


@pytest.mark.parametrize("reply", ["elsewhere", "$JS.API.STREAM.NAMES", "{prefix}.control.other.kill"])
async def test_a_request_from_where_no_answer_may_go(site: Site, probe: Probe, reply: str) -> None:
    """The address where a request waits is checked like any other reply subject."""
    address = reply.format(prefix=site.subjects.prefix)
    heard = await site.listen(address)
    async with site.worker(probe.registry):
        await site.raw.publish(f"{site.subjects.prefix}.run.probe", b'{"id":"a"}', reply=address)
        result = await site.result("a")
        await site.settled()
        await site.fence()
    assert (result.status, result.error_class, result.error_code) == ("error", "parameter", "invalid_task")
    assert "`reply_to`: the reply subject" in result.error
    assert (heard.messages, probe.begun) == ([], [])


async def test_a_request_that_waits_nowhere(site: Site, probe: Probe) -> None:
    """A publication on the service's subject, without a reply address, is a submission."""
    async with site.worker(probe.registry):
        await site.raw.publish(f"{site.subjects.prefix}.run.probe", b'{"id":"a"}')
        assert (await site.result("a")).status is Status.SUCCESS


async def test_a_request_that_cannot_be_stored(site: Site) -> None:
    """A request that fills a message leaves no room for what the worker must add: it is refused at once."""
    async with site.worker():
        reply = await ask(site, "command", bytes(2**20))
    assert reply.headers is not None
    assert reply.headers["Nats-Service-Error-Code"] == "500"
    assert "the task was not taken" in reply.headers["Nats-Service-Error"]


async def test_a_client_that_is_replaced(site: Site, probe: Probe) -> None:
    """The service outlives the connection's client."""
    async with site.worker(probe.registry):
        (info,) = await discover(site, "INFO")
        assert len(info["endpoints"]) == 2
        await ask(site, "probe", {"id": "a"})


async def test_a_worker_that_drains(site: Site, probe: Probe) -> None:
    """A draining worker takes no more requests, and still answers those it has taken."""
    async with site.worker(probe.registry) as worker:
        inbox = site.raw.new_inbox()
        answers = await site.listen(inbox)
        await site.raw.publish(f"{site.subjects.prefix}.run.probe", b'{"id":"a","args":{"hold":true}}', reply=inbox)
        await probe.until("a")
        worker.drain()

        async def draining() -> bool:
            (state,) = await find_workers(site.connection, site.subjects)
            return (state.draining, state.busy) == (True, 1)

        await eventually(draining)
        async with site.worker(probe.registry) as other:
            await ask(site, "probe", {"id": "b"})
            assert (await site.result("b")).worker == other.name
        probe.release()
        (answer,) = await answers.count(1)
        assert decode(Result, answer.data).status is Status.SUCCESS
