"""Workers that are drained under load: every task ends once, and nobody's budget pays for it."""

import pytest

from schemas import Status
from tests.chaos.conftest import names, outcomes, submit
from tests.chaos.fleet import Fleet
from tests.chaos.ledger import Ledger
from tests.integration.conftest import Site

pytestmark = pytest.mark.anyio

UNHARMED = {(Status.SUCCESS, 1, 0)}
"""Status, attempt and redeliveries of tasks that were not interrupted, or at no cost."""


async def test_a_drain_under_load(fleet: Fleet, own_site: Site, ledger: Ledger, within: float, *, full: bool) -> None:
    """Two workers are drained one after the other, and a third finishes: each task runs once."""
    ids = names(300 if full else 150)
    fleet.environ["JETRUNNER_WORKER_DRAIN_TIMEOUT"] = str(within)
    first, second = await fleet.start_two()
    await submit(own_site, ids, ledger.task(seconds=0.1))
    for worker, started in ((first, 30), (second, 70)):
        await ledger.until_started(started, within=within)
        worker.drain()
        assert await worker.ended() == 0
    await fleet.start()
    results = await outcomes(own_site, ids, within=within)
    assert {(result.status, result.attempt, result.redeliveries) for result in results.values()} == UNHARMED
    assert ledger.starts == ledger.ends == dict.fromkeys(ids, 1)


async def test_a_second_signal(fleet: Fleet, own_site: Site, ledger: Ledger, within: float) -> None:
    """It ends the tasks that the first one would have waited for; they are given back at no cost, and run elsewhere."""
    ids = names(40)
    fleet.environ["JETRUNNER_WORKER_DRAIN_TIMEOUT"] = "600"
    first = await fleet.start()
    await submit(own_site, ids, ledger.task(hold=True), max_redeliveries=0)
    await ledger.until_started(8, within=within)
    first.drain()
    await first.says("draining: 8 at work")
    first.drain()
    assert await first.ended() == 0
    await fleet.start()
    await ledger.until_started(16, within=within)
    ledger.release()
    results = await outcomes(own_site, ids, within=within)
    assert {(result.status, result.attempt, result.redeliveries) for result in results.values()} == UNHARMED
    assert (ledger.starts.total(), ledger.ends) == (48, dict.fromkeys(ids, 1))
    assert ledger.overlaps() == []


async def test_drains_that_wait_for_nothing(fleet: Fleet, own_site: Site, ledger: Ledger, within: float) -> None:
    """Workers come and go while others run: what they interrupt runs again, at no cost."""
    ids = names(70)
    worker = await fleet.start()
    await submit(own_site, ids, ledger.task(seconds=0.2), max_redeliveries=0)
    for round_ in range(2):
        await ledger.until_started(20 * round_ + 10, within=within)
        successor = await fleet.start()
        worker.drain()
        assert await worker.ended() == 0
        worker = successor
    results = await outcomes(own_site, ids, within=within)
    assert {(result.status, result.attempt, result.redeliveries) for result in results.values()} == UNHARMED
    assert set(ledger.ends) == set(ids)
    assert ledger.overlaps() == []
