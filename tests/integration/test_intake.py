"""When a worker takes tasks and when it leaves them to others: what they cannot run without, and how many at once."""

import subprocess
import sys

import anyio
import pytest

from consumer.workers import find_workers
from runners.registry import Registry
from schemas import Status
from tests.integration.conftest import Probe, Site, eventually

pytestmark = pytest.mark.anyio

HOLD = {"args": {"hold": True}}


class Power:
    """What the category `probe` cannot run without, to be switched on and off."""

    def __init__(self, *, on: bool) -> None:
        self.obstacle: str | None = None if on else "there is no power"
        self._changed = anyio.Event()

    def switch(self, *, on: bool) -> None:
        """Let there be power, or none."""
        self.obstacle = None if on else "there is no power"
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_ready(self) -> None:
        """Wait for power."""
        while self.obstacle is not None:
            await self._changed.wait()

    async def wait_obstacle(self) -> str:
        """Wait for its end."""
        while self.obstacle is None:
            await self._changed.wait()
        return self.obstacle

    async def serve(self) -> None:
        """Do nothing."""


def powered(probe: Probe, power: Power) -> Registry:
    """Return a registry whose category `probe` needs power."""
    registry = Registry()
    registry.register("probe", lambda: probe.registry.create("probe"), power)
    return registry


async def test_a_category_that_lacks_something(site: Site) -> None:
    """Its tasks are left to others; those at work go on, and the worker says what is missing, and resumes by itself."""
    here, there, power = Probe(), Probe(), Power(on=True)
    async with site.worker(powered(here, power)) as worker:
        await site.submit("probe", "first", **HOLD)
        await here.until("first")
        power.switch(on=False)
        await eventually(lambda: _lacks(site, worker.name, "there is no power"))
        async with site.worker(there.registry):
            await site.submit("probe", "second")
            assert (await site.result("second")).status is Status.SUCCESS
        await site.submit("probe", "third")
        power.switch(on=True)
        assert (await site.result("third")).status is Status.SUCCESS
        here.release()
        assert (await site.result("first")).status is Status.SUCCESS
        await site.settled()
    assert (here.begun, there.begun) == (["first", "third"], ["second"])


async def _lacks(site: Site, name: str, what: str | None) -> bool:
    found = await find_workers(site.connection, site.subjects)
    return any(each.worker == name and each.categories[0].obstacle == what for each in found)


async def test_a_category_that_nobody_can_run(site: Site, probe: Probe) -> None:
    """What nobody has ever been able to serve is answered like any unknown category."""
    async with site.worker(powered(probe, Power(on=False)), unknown_category_after=0.2):
        await site.submit("probe", "a")
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.error_code) == (Status.ERROR, "unknown_category")


async def test_all_categories_together(site: Site) -> None:
    """`worker.max_concurrency` bounds the tasks of all categories at once."""
    probe = Probe()
    registry = Registry()
    for category in ("one", "two", "three"):
        registry.register(category, lambda: probe.registry.create("probe"))
    async with site.worker(registry, worker={"max_concurrency": 2}):
        ids = [f"{category}-{number}" for category in registry for number in range(3)]
        received = await site.listen(site.subjects.event("*", "started"))
        for task_id in ids:
            await site.submit(task_id.partition("-")[0], task_id, **HOLD)
        await received.count(2)
        await site.fence()
        assert len(probe.begun) == 2
        probe.release()
        for task_id in ids:
            await site.result(task_id)
        await site.settled()
    assert sorted(probe.begun) == sorted(ids)


SHORTAGE = """
import resource
from consumer.pressure import shortage
assert shortage() is None, shortage()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
print(shortage())
"""


def test_a_shortage() -> None:
    """A process that is near its limit of descriptors says so; otherwise there is room."""
    told = subprocess.run([sys.executable, "-c", SHORTAGE], capture_output=True, text=True, check=True).stdout
    assert told.endswith(" of 64 descriptors are in use\n")
