"""The worker: how much it takes on, how it ends, and how it lives through what happens to its server."""

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from consumer.connection import Connection
from consumer.errors import ConfigError, ConnectError
from consumer.topology import Topology, ensure_consumer, ensure_streams
from consumer.worker import Worker, serve_until_signalled
from consumer.workers import find_workers
from runners.registry import default_registry
from schemas import Cause, Status, Verb
from tests.integration.conftest import PATIENCE, Probe, RunningWorker, Server, Site, eventually, open_site

pytestmark = pytest.mark.anyio

HOLD: dict[str, Any] = {"args": {"hold": True}}


async def prepare(site: Site, *categories: str) -> None:
    """Make streams and consumers before there is any worker."""
    topology = Topology(subjects=site.subjects)
    await ensure_streams(site.connection, topology)
    for category in categories:
        await ensure_consumer(site.connection, topology, category)


async def unacknowledged(site: Site, category: str = "probe") -> int:
    """Count the tasks of a category that some worker has."""
    return int((await site.api(f"CONSUMER.INFO.{site.subjects.tasks_stream}.{category}"))["num_ack_pending"])


def client_of(worker: RunningWorker) -> Connection:
    """Return a worker's connection, to do it harm."""
    assert worker._deliveries is not None
    return worker._deliveries._services.connection


# What it takes on


@pytest.mark.parametrize("slots", [1, 3])
async def test_no_more_at_once_than_allowed(site: Site, probe: Probe, slots: int) -> None:
    """A category's tasks run as many at once as it has slots; the others wait where any worker may have them."""
    async with site.worker(probe.registry, runners={"probe": {"max_concurrency": slots}}):
        for number in range(3 * slots):
            await site.submit("probe", f"t{number}", **HOLD)
        await probe.until_begun(slots)
        await site.submit("command", "marker", command="true")
        await site.result("marker")
        assert len(probe.begun) == await unacknowledged(site) == slots
        probe.release()
        await site.settled()
    assert sorted(probe.begun) == sorted(f"t{number}" for number in range(3 * slots))


async def test_the_worker_s_own_bound(site: Site, probe: Probe) -> None:
    """`worker.max_concurrency` bounds what its categories would allow."""
    async with site.worker(probe.registry, worker={"max_concurrency": 2}):
        for number in range(5):
            await site.submit("probe", f"t{number}", **HOLD)
        await probe.until_begun(2)
        await site.fence()
        assert len(probe.begun) == 2
        probe.release()
        await site.settled()


async def test_categories_do_not_wait_for_each_other(site: Site, probe: Probe) -> None:
    """A queue full of one category's tasks does not keep another's from running."""
    async with site.worker(probe.registry, runners={"probe": {"max_concurrency": 1}}):
        for number in range(50):
            await site.submit("probe", f"t{number}", **HOLD)
        await site.submit("command", "a", command="true")
        assert (await site.result("a")).status is Status.SUCCESS
        assert probe.begun == ["t0"]


async def test_only_its_categories(site: Site, probe: Probe) -> None:
    """A worker takes tasks of the categories that it is told to serve, and leaves the others."""
    async with site.worker(probe.registry, worker={"categories": ["command"]}) as worker:
        assert list(worker.categories) == ["command"]
        await site.submit("probe", "a")
        await site.submit("command", "b", command="true")
        await site.result("b")
        assert probe.begun == []
        async with site.worker(probe.registry):
            await site.result("a")


async def test_a_category_without_a_runner(site: Site) -> None:
    """A category that no runner is registered for is refused before anything happens."""
    config = site.config(worker={"categories": ["command", "comand"]})
    with pytest.raises(ConfigError, match=r"worker\.categories names 'comand', which no runner is registered for"):
        Worker(config, site.options, default_registry())


async def test_no_server(server: Server, probe: Probe) -> None:
    """Without a server, a worker ends with one clear error."""
    async with open_site(server.url) as site:
        worker = Worker(site.config(), site.options, probe.registry)
        server.stop()
        with pytest.raises(ConnectError, match="cannot connect to"):
            await worker.serve()
        server.start()


async def test_several_workers(site: Site, probe: Probe) -> None:
    """Workers share a queue: each task runs once, and has one Result."""
    others = [Probe(), Probe()]
    ids = [f"t{number}" for number in range(100)]
    async with site.worker(probe.registry), site.worker(others[0].registry), site.worker(others[1].registry):
        for task_id in ids:
            await site.submit("probe", task_id)
        await site.settled()
    begun = probe.begun + others[0].begun + others[1].begun
    assert sorted(begun) == sorted(ids)
    assert await site.results() == len(ids)


# How it ends


async def test_a_drain(site: Site, probe: Probe) -> None:
    """A draining worker takes nothing new, lets its tasks end, stores their Results and ends."""
    async with site.worker(probe.registry) as worker:
        await site.submit("probe", "a", **HOLD)
        await probe.until("a")
        worker.drain()
        async with site.worker(Probe().registry) as other:
            for number in range(20):
                await site.submit("probe", f"t{number}")
                assert (await site.result(f"t{number}")).worker == other.name
        assert not worker.ended.is_set()
        probe.release()
        with anyio.fail_after(PATIENCE):
            await worker.ended.wait()
        assert (await site.result("a")).worker == worker.name
        await site.settled()
    assert probe.begun == ["a"]
    assert await site.results() == 21


async def test_a_drain_without_tasks(site: Site, probe: Probe) -> None:
    """A worker that has nothing to do ends at once, whatever its time for draining."""
    async with site.worker(probe.registry, worker={"drain_timeout": 600}) as worker:
        worker.drain()
        with anyio.fail_after(PATIENCE):
            await worker.ended.wait()


@pytest.mark.parametrize("how", ["time-out", "second word"])
async def test_the_end_of_a_drain(site: Site, tmp_path: Path, how: str) -> None:
    """What still runs after `drain_timeout`, or when it is said again, is stopped and given back: another has it."""
    log = tmp_path / "log"
    script = (
        f"trap 'echo stopped >>{log}; exit 1' TERM; test -e {log} && exit 0; echo begun >{log}; echo ready; sleep 600"
    )
    output = await site.listen(site.subjects.output("a", "stdout"))
    timeout = 0.1 if how == "time-out" else 600
    async with site.worker(worker={"drain_timeout": timeout, "categories": ["command"]}) as worker:
        await site.submit("command", "a", command="/bin/sh", args=["-c", script], grace=30)
        await output.count(1)
        worker.drain()
        if how == "second word":
            worker.drain()
        with anyio.fail_after(PATIENCE):
            await worker.ended.wait()
        assert await site.user.result("a") is None
        assert await site.tasks_left() == 1
        async with site.worker(nats={"ack_wait": 30}) as other:
            result = await site.result("a")
            await site.settled()
    assert (result.status, result.worker) == (Status.SUCCESS, other.name)
    assert log.read_text().split() == ["begun", "stopped"]
    assert await site.results() == 1


async def test_a_third_word(site: Site) -> None:
    """Said a third time, what does not stop is killed, and goes back all the same."""
    output = await site.listen(site.subjects.output("a", "stdout"))
    events = await site.listen(site.subjects.event("a", "stopping"))
    async with site.worker() as worker:
        script = "trap '' TERM; echo ready; sleep 600"
        await site.submit("command", "a", command="/bin/sh", args=["-c", script], grace=30)
        await output.count(1)
        worker.drain()
        worker.drain()
        await events.count(1)
        worker.drain()
        with anyio.fail_after(PATIENCE):
            await worker.ended.wait()
    assert [event.data["signal"] for event in events.events()] == ["SIGTERM", "SIGKILL"]
    assert await site.user.result("a") is None
    assert await site.tasks_left() == 1
    started = await site.listen(site.subjects.event("a", "started"))
    async with site.worker():  # the task is there at once, not after `ack_wait`
        await started.count(1)
        await site.control("a", Verb.KILL)
        assert (await site.result("a")).status is Status.CANCELED


async def test_what_was_not_begun_goes_back_at_once(site: Site, probe: Probe) -> None:
    """Tasks that were on their way to a worker when it drained are there for the next one, long before `ack_wait`."""
    slots = {"probe": {"max_concurrency": 64}}
    await prepare(site, "probe")
    for _ in range(1000):
        await site.raw.publish(site.subjects.task("probe"), b"{}")
    for _ in range(4):
        async with site.worker(probe.registry, runners=slots) as worker:
            await probe.until_begun(len(probe.begun) + 50)
            worker.drain()
            with anyio.fail_after(PATIENCE):
                await worker.ended.wait()
    async with site.worker(probe.registry, runners=slots):
        await site.settled()
    assert len(probe.begun) == len(set(probe.begun)) == await site.results() == 1000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals(site: Site, probe: Probe, number: signal.Signals) -> None:
    """SIGTERM and SIGINT drain: tasks may end; a second signal ends them and gives them back; both end in order."""
    worker = RunningWorker(site.config(worker={"drain_timeout": 600}), site.options, probe.registry)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_until_signalled, worker)
        await eventually(lambda: _serves(site, worker))
        await site.submit("probe", "a", **HOLD)
        await probe.until("a")
        os.kill(os.getpid(), number)
        await eventually(lambda: _is_draining(site, worker))
        assert not worker.ended.is_set()
        os.kill(os.getpid(), number)
        with anyio.fail_after(PATIENCE):
            await worker.ended.wait()
    assert await site.user.result("a") is None
    assert await site.tasks_left() == 1


async def _is_draining(site: Site, worker: Worker) -> bool:
    found = await find_workers(site.connection, site.subjects)
    return any(state.worker == worker.name and state.draining for state in found)


async def _serves(site: Site, worker: Worker) -> bool:
    """Tell whether a worker takes tasks."""
    found = await find_workers(site.connection, site.subjects)
    return any(state.worker == worker.name and not state.draining for state in found)


# What happens to its server


@asynccontextmanager
async def busy(site: Site, log: Path, count: int) -> AsyncIterator[list[str]]:
    """Have a worker and many small tasks that keep a record of their own; each has run once at the end.

    An ack that is lost with its connection costs one `ack_wait` until the task is gone from the queue.
    """
    ids = [f"t{number}" for number in range(count)]
    async with site.worker(runners={"command": {"max_concurrency": 4}}, nats={"ack_wait": 3}):
        async with anyio.create_task_group() as submitting:

            async def submit() -> None:
                for task_id in ids:
                    script = f'echo "$TASK_ID" >> {log}; sleep 0.02'
                    await site.submit("command", task_id, command="/bin/sh", args=["-c", script])

            submitting.start_soon(submit)
            yield ids
        results = [await site.result(task_id) for task_id in ids]
        await site.settled()
    assert {result.status for result in results} == {Status.SUCCESS}
    assert sorted((await anyio.Path(log).read_text()).split()) == sorted(ids)
    assert await site.results() == len(ids)


async def progress(log: Path, lines: int) -> None:
    """Wait until so many tasks have run."""
    path = anyio.Path(log)
    with anyio.fail_after(PATIENCE):
        while not await path.exists() or len((await path.read_text()).split()) < lines:  # noqa: ASYNC110 - nor does a file
            await anyio.sleep(0.01)


@pytest.mark.parametrize("end", [Server.kill, Server.stop])
async def test_a_server_that_restarts(
    server: Server, own_site: Site, tmp_path: Path, end: Callable[[Server], None]
) -> None:
    """Through restarts in the middle of the work, each task runs once and has its one Result."""
    log = tmp_path / "log"
    async with busy(own_site, log, 60):
        for lines in (10, 30):
            await progress(log, lines)
            end(server)
            server.start()


async def test_a_server_that_freezes(server: Server, own_site: Site, tmp_path: Path) -> None:
    """Through a frozen server, too."""
    log = tmp_path / "log"
    async with busy(own_site, log, 30):
        await progress(log, 10)
        server.freeze()
        await anyio.sleep(1.5)
        server.wake()


async def test_consumers_that_are_deleted(site: Site, tmp_path: Path) -> None:
    """A consumer that is deleted under the worker is made again, and the work goes on."""
    log = tmp_path / "log"
    async with busy(site, log, 60):
        for lines in (10, 30):
            await progress(log, lines)
            await site.api(f"CONSUMER.DELETE.{site.subjects.tasks_stream}.command")


async def test_a_connection_that_is_closed_for_good(site: Site, tmp_path: Path) -> None:
    """A worker whose client was closed by an error of the server has a new one, and misses nothing."""
    probe = Probe()
    async with site.worker(probe.registry) as worker:
        connection = client_of(worker)
        await site.submit("probe", "a", **HOLD)
        await probe.until("a")
        old = connection._client
        await old.publish("any", bytes(connection.max_payload), headers={"one": "too many"})

        async def replaced() -> bool:
            return not old.is_connected or connection._client is not old

        await eventually(replaced)
        await site.submit("probe", "b")
        assert (await site.result("b")).status is Status.SUCCESS
        probe.release()
        assert (await site.result("a")).status is Status.SUCCESS
        await site.control("c")
        assert (await site.result("c")).status is Status.CANCELED
        reply = await site.raw.request(f"{site.subjects.prefix}.run.probe", b'{"id":"d"}', timeout=PATIENCE)
        assert b'"status":"success"' in reply.data
        await site.settled()
    assert sorted(probe.begun) == ["a", "b", "d"]


async def test_a_task_that_ends_while_the_server_is_away(server: Server, own_site: Site, probe: Probe) -> None:
    """An outage costs no work: what ends meanwhile has its Result when the server is back, and is not run again."""
    async with own_site.worker(probe.registry):
        for task_id in ("a", "b", "c"):
            await own_site.submit("probe", task_id, **HOLD)
        await probe.until("a", "b", "c")
        server.kill()
        probe.release()
        await probe.until_ended("a", "b", "c")
        server.start()
        results = [await own_site.result(task_id) for task_id in ("a", "b", "c")]
        await own_site.settled()
    assert {result.status for result in results} == {Status.SUCCESS}
    assert sorted(probe.begun) == ["a", "b", "c"]
    assert await own_site.results() == 3


async def test_a_task_without_a_name_that_is_done_with(server: Server, own_site: Site, probe: Probe) -> None:
    """A server that forgot what it had delivered, and an ack that was lost with it, do not make a task run twice."""
    async with own_site.worker(probe.registry) as worker:
        seqs = [await own_site.publish("probe", HOLD) for _ in range(3)]
        await probe.until_begun(3)
        connection = client_of(worker)
        acks: list[str] = []
        send = connection.send

        def lose_acks(subject: str, payload: bytes = b"", **more: Any) -> None:
            if payload == b"+ACK":
                acks.append(subject)
            else:
                send(subject, payload, **more)

        connection.send = lose_acks  # type: ignore[method-assign]
        probe.release()
        results = [await own_site.result_at(seq) for seq in seqs]
        with anyio.fail_after(PATIENCE):
            while len(acks) < 3:  # noqa: ASYNC110 - what is lost sends no event
                await anyio.sleep(0.01)
        connection.send = send  # type: ignore[method-assign]
        await own_site.api(f"CONSUMER.DELETE.{own_site.subjects.tasks_stream}.probe")
        await own_site.settled()
    assert {result.status for result in results} == {Status.SUCCESS}
    assert len(probe.begun) == 3
    assert await own_site.results() == 3
    assert results[0].termination is not None
    assert results[0].termination.cause is Cause.EXIT


@pytest.mark.parametrize("state", ["idle", "running", "ended"])
async def test_draining_while_the_server_is_away(server: Server, own_site: Site, probe: Probe, state: str) -> None:
    """A worker without a server ends when it is told to; the Result that it could not store is another's to make."""
    settings = {"worker": {"drain_timeout": 0.1}, "nats": {"ack_wait": 1}}
    async with own_site.worker(probe.registry, **settings) as worker:
        if state != "idle":
            await own_site.submit("probe", "a", **HOLD)
            await probe.until("a")
        server.kill()
        if state == "ended":
            probe.release()
            await probe.until_ended("a")
        worker.drain()
        with anyio.fail_after(PATIENCE):
            await worker.ended.wait()
        server.start()
    if state != "idle":
        probe.release()
        async with own_site.worker(probe.registry):
            assert (await own_site.result("a")).status is Status.SUCCESS
            await own_site.settled()
        assert await own_site.results() == 1
