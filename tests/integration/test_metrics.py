"""Metrics of a worker, as a collector gets them."""

from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.collector import SOON, Collector, collecting

from .conftest import Probe, Site

pytestmark = pytest.mark.anyio

CPU_TIME = "jetrunner.task.cpu.time"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Have a collector that is told at once."""
    for name, value in SOON.items():
        monkeypatch.setenv(name, value)
    with collecting() as own:
        yield own


async def points(collector: Collector, name: str, count: int) -> list[dict[str, Any]]:
    """Wait for so many points of a metric."""
    return await anyio.to_thread.run_sync(collector.metric, name, lambda found: len(found) >= count)


async def sums(collector: Collector, name: str, total: float) -> dict[tuple[str, ...], float]:
    """Wait until the points of a metric add up, and return them by the values of their attributes."""

    def by_attributes(found: list[dict[str, Any]]) -> dict[tuple[str, ...], float]:
        return {tuple(each["attributes"].values()): float(each.get("asInt", each.get("asDouble", 0))) for each in found}

    found = await anyio.to_thread.run_sync(
        collector.metric, name, lambda found: sum(by_attributes(found).values()) == total
    )
    return by_attributes(found)


async def test_a_worker_s_tasks_are_counted(site: Site, collector: Collector) -> None:
    """Outcomes, messages, durations, waits, output and CPU: rates of success and use of resources follow from them."""
    subjects = site.subjects
    async with site.worker(
        worker={"categories": ["command", "script"]},
        metrics={"endpoint": collector.sink},
        runners={"command": {"max_concurrency": 3}},
    ):
        for number in range(3):
            await site.submit("command", f"good{number}", command="echo", args=["hello"])
        retry = {"max_attempts": 2, "delay": 0.05, "on": ["failed"]}
        await site.submit("command", "bad", command="false", retry=retry)
        await site.publish("command", {"id": "wrong", "nonsense": 1})
        for task_id in ("good0", "good1", "good2", "bad", "wrong"):
            await site.result(task_id)
        completed = await sums(collector, "jetrunner.task.completed", 5)
        assert completed == {("command", "success"): 3, ("command", "failed"): 1, ("command", "error"): 1}
        sent = await sums(collector, "messaging.client.sent.messages", 7)
        assert sent[("nats", "publish", subjects.result("*"))] == 5
        assert sent[("nats", "publish", subjects.dead("command"))] == 2
        consumed = await sums(collector, "messaging.client.consumed.messages", 6)
        about = ("nats", "process", subjects.task("command"))
        assert consumed == {about: 3, (*about, "exit_nonzero"): 2, (*about, "invalid_task"): 1}
        assert (await sums(collector, "jetrunner.task.output.size", 18))[("command", "stdout")] == 18
        assert (await sums(collector, "jetrunner.worker.slots", 11))[("command",)] == 3
        assert await sums(collector, "jetrunner.task.lease.lost", 0) == {(): 0}
        used = {each["attributes"]["cpu.mode"]: each["asDouble"] for each in await points(collector, CPU_TIME, 2)}
        assert used.keys() == {"user", "system"}
        assert sum(used.values()) > 0
        for name, count in (("messaging.process.duration", 6), ("jetrunner.task.queue.wait", 6)):
            found = await anyio.to_thread.run_sync(
                collector.metric, name, lambda found, count=count: sum(int(each["count"]) for each in found) == count
            )
            assert all(0 < each["sum"] < 60 for each in found)


async def test_what_is_at_work_and_what_waits_is_measured(site: Site, probe: Probe, collector: Collector) -> None:
    """A queue that outgrows its worker can be seen."""
    settings = {"metrics": {"endpoint": collector.sink}, "runners": {"probe": {"max_concurrency": 1}}}
    async with site.worker(probe.registry):
        await site.fence()  # the streams are there
    for number in range(3):
        await site.submit("probe", f"task{number}", args={"hold": True})
    async with site.worker(probe.registry, **settings):
        await probe.until("task0")
        assert (await sums(collector, "jetrunner.task.active", 1))[("probe",)] == 1
        waiting = {
            point["attributes"]["category"]: int(point["asInt"])
            for name in ("jetrunner.consumer.ack_pending", "jetrunner.consumer.pending")
            for point in await points(collector, name, 2)
        }
        assert waiting["command"] == 0
        assert waiting["probe"] in {2, 3}  # as it was, at some moment since the start
        probe.release()
        assert await sums(collector, "jetrunner.task.active", 0) == {("command",): 0, ("probe",): 0}


async def test_no_task_s_id_is_a_label(site: Site, collector: Collector) -> None:
    """Each value of a label costs whoever stores the metrics."""
    async with site.worker(metrics={"endpoint": collector.sink}, tracing={"endpoint": collector.otlp}):
        await site.submit("command", "a-task-s-id", command="true")
        await site.result("a-task-s-id")
        await sums(collector, "jetrunner.task.completed", 1)
    assert "a-task-s-id" not in str(collector.metrics_so_far())
