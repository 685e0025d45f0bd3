"""A cluster of three servers: where things are kept, what a lost leader costs, and how a worker begins there."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from consumer.config import NatsConfig
from consumer.errors import TopologyError
from consumer.nats_context import resolve
from consumer.topology import Topology, ensure_streams
from consumer.worker import Worker
from schemas import Status
from tests.integration.cluster import Cluster, running_cluster
from tests.integration.conftest import Probe, Site, clear, eventually, open_site

pytestmark = pytest.mark.anyio

REPLICAS: dict[str, Any] = {"nats": {"replicas": 3, "ack_wait": 5}}
"""What a worker is told; its leases are short, so that what an election loses is soon found."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Have a cluster; each test leaves it whole."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
async def site(cluster: Cluster) -> AsyncIterator[Site]:
    """Have a site whose users are on the first server, and whose workers are on the second, which may be lost."""
    async with open_site(cluster.urls[0]) as opened:
        opened.urls = cluster.urls[1:2]
        yield opened
        await clear(opened)


async def in_thread(function: Any, *args: Any) -> Any:
    """Wait for a cluster while the worker goes on."""
    return await anyio.to_thread.run_sync(function, *args)


async def lead(site: Site, stream: str, name: str) -> None:
    """Let a server lead a stream."""

    async def asked() -> bool:
        cluster = (await site.api(f"STREAM.INFO.{stream}")).get("cluster", {})
        if cluster.get("leader") != name:
            await site.api(f"STREAM.LEADER.STEPDOWN.{stream}", {"placement": {"preferred": name}})
        return bool(cluster.get("leader") == name)

    await eventually(asked)


async def test_everything_is_kept_by_three_servers(site: Site, probe: Probe) -> None:
    """Streams, the object store and the consumers have two followers."""
    async with site.worker(probe.registry, **REPLICAS):
        await site.submit("probe", "a")
        await site.result("a")
        names = (await site.api("STREAM.NAMES"))["streams"]
        for name in names:
            cluster = (await site.api(f"STREAM.INFO.{name}"))["cluster"]
            assert (name, len(cluster["replicas"])) == (name, 2)
        consumer = await site.api(f"CONSUMER.INFO.{site.subjects.tasks_stream}.probe")
        assert len(consumer["cluster"]["replicas"]) == 2
    assert f"OBJ_{site.subjects.outputs_bucket}" in names
    assert len(names) == 8


@pytest.mark.parametrize("loss", ["kill", "freeze"])
async def test_the_leader_of_the_tasks_is_lost_at_work(cluster: Cluster, site: Site, probe: Probe, loss: str) -> None:
    """And with it the worker's own server. Tasks that run go on; every task has its one Result, and none is left."""
    tasks = site.subjects.tasks_stream
    held, brief = [f"held{number}" for number in range(4)], [f"t{number}" for number in range(60)]
    async with site.worker(probe.registry, **REPLICAS):
        for task_id in held:
            await site.submit("probe", task_id, args={"hold": True})
        await probe.until(*held)
        await lead(site, tasks, "n2")
        async with anyio.create_task_group() as sending:
            sending.start_soon(_submit_all, site, brief)
            await probe.until_begun(len(held) + 20)
            getattr(cluster, loss)("n2")
            assert await in_thread(cluster.leader_of, tasks) != "n2"
        cluster.wake("n2") if loss == "freeze" else cluster.restart("n2")
        await in_thread(cluster.wait_ready)
        probe.release()
        for task_id in (*held, *brief):
            assert (await site.result(task_id)).status is Status.SUCCESS
        await site.settled()
    assert await site.results() == len(held) + len(brief)
    assert {*probe.begun} == {*held, *brief}
    assert [probe.begun.count(task_id) for task_id in held] == [1] * len(held)


async def _submit_all(site: Site, task_ids: list[str]) -> None:
    for task_id in task_ids:
        await site.submit("probe", task_id)


async def test_a_worker_whose_first_server_is_away(cluster: Cluster, site: Site, probe: Probe) -> None:
    """It finds one of the others in its list."""
    await ensure_streams(site.connection, Topology.of(site.config(**REPLICAS)))
    cluster.kill("n2")
    urls = (*site.urls, *cluster.urls)
    options = resolve(NatsConfig(url=",".join(urls)), {})
    assert options is not None
    assert options.servers == urls
    worker = Worker(site.config(**REPLICAS), options, probe.registry)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.serve)
        await site.submit("probe", "a")
        assert (await site.result("a")).worker == worker.name
        worker.drain()
    cluster.restart("n2")
    await in_thread(cluster.wait_ready)


async def test_a_worker_that_begins_without_a_leader(
    cluster: Cluster, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits until the servers agree on one."""
    for name in ("n2", "n3"):
        cluster.kill(name)
    async with open_site(cluster.urls[0]) as site:
        worker = Worker(site.config(**REPLICAS), site.options, probe.registry)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.serve)

            async def is_asking() -> bool:
                return "the cluster has no leader just now" in caplog.text

            await eventually(is_asking)
            for name in ("n2", "n3"):
                cluster.restart(name)
            await in_thread(cluster.wait_ready)
            await site.submit("probe", "a")
            assert (await site.result("a")).status is Status.SUCCESS
            worker.drain()
        await clear(site)


async def test_more_replicas_than_servers(cluster: Cluster, site: Site, probe: Probe) -> None:
    """One sentence says what is asked for and what is there; nothing is made."""
    worker = Worker(site.config(nats={"replicas": 5}), site.options, probe.registry)
    server = cluster.urls[1].removeprefix("nats://")
    with pytest.raises(TopologyError) as refusal:
        await worker.serve()
    assert str(refusal.value) == (
        f"`nats.replicas` is 5, but {server} is not in a cluster with so many servers up: "
        "no suitable peers for placement"
    )
    assert not (await site.api("STREAM.NAMES"))["streams"]
