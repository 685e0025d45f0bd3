"""Many tasks at once: stored through thick and thin, and their Results gathered."""

import logging
from collections.abc import AsyncIterator, Sequence

import anyio
import pytest

from consumer.batch import Batch, Entry, known_tasks
from consumer.errors import ConfigError, TopologyError
from consumer.gathering import Gathering
from consumer.topology import Topology, ensure_streams
from schemas import Status, Task, encode
from tests.integration.conftest import PATIENCE, Probe, Site

pytestmark = pytest.mark.anyio


async def entries(payloads: Sequence[bytes]) -> AsyncIterator[Entry]:
    """Yield tasks of the category `probe`, named by their numbers."""
    for number, payload in enumerate(payloads):
        yield Entry(number, f"n{number}", "probe", payload)


async def test_large_tasks(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """No more of them are on their way than the connection takes: none is dropped, to be sent again."""
    await ensure_streams(site.connection, Topology(subjects=site.subjects))
    stored: list[Entry] = []
    batch = Batch(site.user, stored.append)
    large = encode(Task(stdin="x" * 900_000))
    with caplog.at_level(logging.DEBUG, "consumer"), anyio.fail_after(PATIENCE):
        await batch.submit(entries([large] * 40))
    assert caplog.messages == []
    assert (batch.stored, batch.repeated, len(stored), await site.tasks_left()) == (40, 0, 40, 40)


async def test_what_cannot_be_read(site: Site) -> None:
    """What came before it is stored, and then the error comes."""
    await ensure_streams(site.connection, Topology(subjects=site.subjects))

    async def broken() -> AsyncIterator[Entry]:
        async for entry in entries([b"{}"] * 300):
            yield entry
        raise ConfigError("the rest is missing")

    batch = Batch(site.user, lambda _: None)
    with pytest.raises(ConfigError, match="the rest is missing"), anyio.fail_after(PATIENCE):
        await batch.submit(broken())
    assert (batch.stored, await site.tasks_left()) == (300, 300)


async def test_no_stream(site: Site) -> None:
    """All tasks meet the same error; it is told once."""
    batch = Batch(site.user, lambda _: None)
    with pytest.raises(TopologyError, match="does not exist"), anyio.fail_after(PATIENCE):
        await batch.submit(entries([b"{}"] * 300))
    assert batch.stored == 0


async def test_results_are_gathered(site: Site, probe: Probe) -> None:
    """Those that were there before, those that come, and nobody else's."""
    counted: list[None] = []
    async with site.worker(probe.registry):
        for task_id in ("before", "other"):
            await site.submit("probe", task_id)
            await site.result(task_id)
        gathering = Gathering(site.connection, site.subjects, lambda: counted.append(None))
        for task_id in ("before", "bad", "n0", "n1"):
            gathering.expect(task_id)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                await tasks.start(gathering.attend)
                await site.submit("probe", "stranger")
                await site.submit("probe", "bad", command="what a probe has no use for", labels={"a": "b"}, delay=-1)
                await Batch(site.user, lambda _: None).submit(entries([b"{}"] * 2))
                await gathering.wait()
                tasks.cancel_scope.cancel()
        await site.settled()
    assert gathering.statuses == {Status.SUCCESS: 3, Status.ERROR: 1}
    assert (gathering.expected, len(counted)) == (4, 4)


async def test_known_tasks(site: Site, probe: Probe) -> None:
    """Those with a Result, those that wait for a worker, and those that wait for their time."""
    async with site.worker(probe.registry):
        await site.submit("probe", "ended")
        await site.result("ended")
        await site.submit("probe", "delayed", delay=3600)
    await site.submit("probe", "queued")
    assert await known_tasks(site.connection, site.subjects) == {"ended", "delayed", "queued"}
