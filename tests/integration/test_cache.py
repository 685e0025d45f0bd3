"""Equal work: done once, and its Result reused."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from schemas import EventType, Status
from tests.integration.conftest import Probe, Site, eventually

pytestmark = pytest.mark.anyio

CACHE = {"cache": {"ttl": "1h"}}


def counting(log: Path, then: str = "true") -> dict[str, Any]:
    """Return a task that leaves a line in a file."""
    return {"command": "sh", "args": ["-c", f"echo x >>{log}; echo out; {then}"]}


async def test_a_result_is_reused(site: Site, tmp_path: Path) -> None:
    """The same work again is not done: the Result is another task's, and says so."""
    log = tmp_path / "log"
    async with site.worker() as worker:
        await site.submit("command", "a", **counting(log), **CACHE)
        first = await site.result("a")
        await site.submit("command", "b", **counting(log), **CACHE, labels={"x": "y"})
        second = await site.result("b")
        await site.submit("command", "c", **counting(log))
        third = await site.result("c")
        await site.settled()
    assert log.read_text() == "x\nx\n"
    assert (first.cached, second.cached, third.cached) == (False, True, False)
    assert (second.status, second.output, second.exit_code) == (Status.SUCCESS, "out\n", 0)
    assert (second.task_id, second.labels, second.start_time, second.worker) == ("b", {"x": "y"}, None, worker.name)


async def test_only_success_is_kept(site: Site, tmp_path: Path) -> None:
    """What failed is done again."""
    log = tmp_path / "log"
    async with site.worker():
        for task_id in ("a", "b"):
            await site.submit("command", task_id, **counting(log, "exit 1"), **CACHE)
            assert (await site.result(task_id)).status is Status.FAILED
        await site.settled()
    assert log.read_text() == "x\nx\n"


async def test_a_result_grows_old(site: Site, tmp_path: Path) -> None:
    """Each task says how old a Result may be."""
    log = tmp_path / "log"
    async with site.worker():
        await site.submit("command", "a", **counting(log), **CACHE)
        await site.result("a")
        await site.submit("command", "b", **counting(log), cache={"ttl": 0})
        assert not (await site.result("b")).cached
        await site.settled()
    assert log.read_text() == "x\nx\n"


async def test_equal_tasks_at_the_same_time(site: Site) -> None:
    """Of equal tasks in flight, on whatever workers, one runs, and all have its Result."""
    first, second = Probe(), Probe()
    ids = [f"t{number}" for number in range(10)]
    async with site.worker(first.registry), site.worker(second.registry):
        received = await site.listen(site.subjects.event("*", EventType.RECEIVED))
        for task_id in ids:
            await site.submit("probe", task_id, args={"hold": True, "say": "out"}, **CACHE)
        await received.count(len(ids))
        await eventually(lambda: _has_begun(first, second))
        first.release()
        second.release()
        results = [await site.result(task_id) for task_id in ids]
        await site.settled()
    assert len(first.begun + second.begun) == 1
    assert sorted(result.cached for result in results) == [False] + [True] * 9
    assert {(result.status, result.output) for result in results} == {(Status.SUCCESS, "out")}


async def _has_begun(*probes: Probe) -> bool:
    return any(probe.begun for probe in probes)


async def test_the_one_who_does_the_work_fails(site: Site, tmp_path: Path) -> None:
    """Whoever waits for work that fails does it itself."""
    log = tmp_path / "log"
    task = counting(log, "while ! test -e go; do sleep 0.05; done; test $(wc -l <log) -ge 2")
    async with site.worker():
        started = await site.listen(site.subjects.event("*", EventType.STARTED))
        for task_id in ("a", "b"):
            await site.submit("command", task_id, **task, **CACHE, cwd=str(tmp_path))
        await started.count(1)
        (tmp_path / "go").touch()
        results = [await site.result(task_id) for task_id in ("a", "b")]
        await site.settled()
    assert sorted(result.status for result in results) == [Status.FAILED, Status.SUCCESS]
    assert not any(result.cached for result in results)


async def test_the_one_who_does_the_work_is_stopped(site: Site, probe: Probe) -> None:
    """A stop hits the task that it names, whether it works or waits for another."""
    async with site.worker(probe.registry):
        for task_id in ("a", "b", "c"):
            await site.submit("probe", task_id, args={"hold": True}, **CACHE)
        await probe.until_begun(1)
        (worker,) = probe.begun
        waiting = sorted({"a", "b", "c"} - {worker})
        await site.control(waiting[0])
        assert (await site.result(waiting[0])).status is Status.CANCELED
        await site.control(worker)
        assert (await site.result(worker)).status is Status.CANCELED
        await probe.until(waiting[1])
        probe.release()
        assert (await site.result(waiting[1])).status is Status.SUCCESS
        await site.settled()
    assert sorted(probe.begun) == sorted([worker, waiting[1]])


async def test_a_worker_with_waiting_tasks_drains(site: Site) -> None:
    """A task that waits for another's Result goes back like any that has not begun."""
    first, second = Probe(), Probe()
    async with site.worker(first.registry):
        await site.submit("probe", "a", args={"hold": True}, **CACHE)
        await first.until("a")
        async with site.worker(second.registry) as leaving:
            received = await site.listen(site.subjects.event("b", EventType.RECEIVED))
            await site.submit("probe", "b", args={"hold": True}, **CACHE)
            await received.count(1)
            leaving.drain()
            with anyio.fail_after(10):
                await leaving.ended.wait()
        first.release()
        assert (await site.result("b")).cached
        await site.settled()
    assert (first.begun, second.begun) == (["a"], [])
