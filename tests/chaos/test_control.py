"""Stops and kills for tasks that have not started, and while the server is away."""

import itertools
import time

import anyio
import pytest

from schemas import Status, Verb
from tests.chaos.conftest import names, outcomes, submit
from tests.chaos.fleet import Fleet
from tests.chaos.ledger import Ledger
from tests.integration.conftest import Server, Site

pytestmark = pytest.mark.anyio

AT_ONCE = 2.0
"""Seconds in which a task that has not started is canceled."""


async def test_controls_for_tasks_in_a_long_queue(
    fleet: Fleet, own_site: Site, ledger: Ledger, *, within: float, full: bool
) -> None:
    """100 tasks far back in the queue of a busy worker are canceled at once, each, and never start."""
    ids = names(5_000 if full else 500)
    chosen = ids[-100:]
    await fleet.start()
    await submit(own_site, ids, ledger.task(hold=True))
    await ledger.until_started(8, within=within)
    given: dict[str, float] = {}
    canceled = await own_site.listen(*map(own_site.subjects.result, chosen))
    took: dict[str, float] = {}

    async def cancel(task_id: str, verb: Verb) -> None:
        given[task_id] = time.monotonic()
        await own_site.control(task_id, verb)

    async with anyio.create_task_group() as tasks:
        for task_id, verb in zip(chosen, itertools.cycle(Verb)):
            tasks.start_soon(cancel, task_id, verb)
        for seen in range(len(chosen)):
            await canceled.count(seen + 1)
            task_id = own_site.subjects.last_token(canceled.messages[seen].subject)
            took[task_id] = time.monotonic() - given[task_id]
    assert set(took) == set(chosen)
    assert max(took.values()) < AT_ONCE
    assert set(ledger.starts) & set(chosen) == set()
    ledger.release()
    results = await outcomes(own_site, ids, within=within)
    assert {task_id for task_id, result in results.items() if result.status is Status.CANCELED} == set(chosen)
    assert ledger.starts == ledger.ends == dict.fromkeys(set(ids) - set(chosen), 1)


async def test_controls_while_the_server_restarts(
    fleet: Fleet, own_site: Site, server: Server, ledger: Ledger, *, long_lease: float, within: float
) -> None:
    """What is said while the server is away is obeyed when it is back, by running tasks and by those in the queue."""
    ids = names(40)
    fleet.environ["JETRUNNER_NATS_ACK_WAIT"] = str(long_lease)
    await fleet.start()
    await submit(own_site, ids, ledger.task(hold=True))
    await ledger.until_started(8, within=within)
    running = [*ledger.starts]
    chosen = [*running[::2], *[task_id for task_id in ids if task_id not in running][::2]]
    server.kill()
    async with anyio.create_task_group() as tasks:
        for task_id in chosen:
            tasks.start_soon(own_site.control, task_id)
        server.start()
    await ledger.until_gone({entry.pid for entry in ledger.read() if entry.task_id in chosen}, within=within)
    for task_id in chosen:
        assert (await own_site.result(task_id)).status is Status.CANCELED
    ledger.release()
    results = await outcomes(own_site, ids, within=within)
    assert {task_id for task_id, result in results.items() if result.status is Status.CANCELED} == set(chosen)
    assert set(ledger.starts.values()) == {1}
    assert ledger.ends == dict.fromkeys(set(ids) - set(chosen), 1)
