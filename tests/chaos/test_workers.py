"""Workers that are killed, frozen or cut short: their tasks end all the same, each in one Result."""

import pytest

from schemas import Status
from tests.chaos.conftest import names, outcomes, submit
from tests.chaos.fleet import KILLED, Fleet
from tests.chaos.ledger import Ledger
from tests.integration.conftest import Site

pytestmark = pytest.mark.anyio

KILLS = 3
SLOTS = 8


async def test_workers_killed_one_after_another(
    fleet: Fleet, own_site: Site, ledger: Ledger, *, lease: float, within: float
) -> None:
    """Of 200 tasks, those that a killed worker had begun run again, and no other."""
    ids = names(200)
    fleet.environ["JETRUNNER_NATS_ACK_WAIT"] = str(lease)
    worker = await fleet.start()
    await submit(own_site, ids, ledger.task(seconds=0.05))
    for kill in range(KILLS):
        await ledger.until_started(50 * kill + 25, within=within)
        worker.kill()
        assert await worker.ended() == KILLED
        worker = await fleet.start()
    results = await outcomes(own_site, ids, within=within)
    starts = ledger.starts
    assert {result.status for result in results.values()} == {Status.SUCCESS}
    assert all(1 <= starts[task_id] <= 1 + results[task_id].redeliveries for task_id in ids)
    assert 0 < sum(result.redeliveries for result in results.values()) <= KILLS * SLOTS
    assert set(ledger.ends) == set(ids)
    assert ledger.overlaps() == []


async def test_a_keeper_is_killed(fleet: Fleet, own_site: Site, ledger: Ledger, within: float) -> None:
    """A worker without its keeper ends its tasks, gives them back at no cost, and ends; another finishes them."""
    ids = names(30)
    first = await fleet.start()
    await submit(own_site, ids, ledger.task(hold=True))
    await ledger.until_started(SLOTS, within=within)
    first.kill_keeper()
    await fleet.start()
    await ledger.until_started(2 * SLOTS, within=within)
    ledger.release()
    results = await outcomes(own_site, ids, within=within)
    assert {(result.status, result.attempt, result.redeliveries) for result in results.values()} == {("success", 1, 0)}
    assert ledger.starts.total() == len(ids) + SLOTS
    assert ledger.ends.total() == len(ids)
    assert ledger.overlaps() == []


@pytest.mark.parametrize("keeper", [False, True], ids=["worker", "worker-and-keeper"])
async def test_a_frozen_worker(
    fleet: Fleet, own_site: Site, ledger: Ledger, *, lease: float, within: float, keeper: bool
) -> None:
    """A worker that wakes up after its lease has lost its tasks to another, and ends its copies without a word.

    What the server had given to it meanwhile it leaves to the other, too.
    """
    ids, unread = names(4), ["unread1", "unread2"]
    fleet.environ["JETRUNNER_NATS_ACK_WAIT"] = str(lease)
    frozen = await fleet.start()
    await submit(own_site, ids, ledger.task(hold=True))
    await ledger.until_started(len(ids), within=within)
    first = ledger.read()
    await frozen.freeze(keeper=keeper)
    await submit(own_site, unread, ledger.task(hold=True))
    other = await fleet.start()
    await ledger.until_started(2 * len(ids) + len(unread), within=within)
    frozen.wake()
    await ledger.until_gone({entry.pid for entry in first}, within=within)
    ledger.release()
    results = await outcomes(own_site, [*ids, *unread], within=within)
    assert {(result.status, result.redeliveries) for result in results.values()} == {("success", 1)}
    assert all(other.has_run(result) for result in results.values())
    assert ledger.starts == {**dict.fromkeys(ids, 2), **dict.fromkeys(unread, 1)}
    assert ledger.ends == dict.fromkeys([*ids, *unread], 1)


async def test_an_exclusive_task_of_a_frozen_worker(
    fleet: Fleet, own_site: Site, ledger: Ledger, *, lease: float, within: float
) -> None:
    """Its keeper kills a worker that shows no life, before the lease of its exclusive task ends."""
    fleet.environ["JETRUNNER_NATS_ACK_WAIT"] = str(lease)
    frozen = await fleet.start()
    await submit(own_site, ["a"], ledger.task(hold=True), exclusive=True)
    await ledger.until_started(1, within=within)
    await fleet.start()
    await frozen.freeze()
    assert await frozen.ended() == KILLED
    assert ledger.starts == {"a": 1}
    await ledger.until_started(2, within=within)
    ledger.release()
    results = await outcomes(own_site, ["a"], within=within)
    assert (results["a"].status, results["a"].redeliveries) == (Status.SUCCESS, 1)
    assert (ledger.starts, ledger.ends) == ({"a": 2}, {"a": 1})
    assert ledger.overlaps() == []


async def test_a_task_that_kills_its_workers(fleet: Fleet, own_site: Site, ledger: Ledger, within: float) -> None:
    """Four workers are lost with it, then it is given up: one Result, one dead letter, and the next worker lives."""
    fleet.environ["JETRUNNER_NATS_ACK_WAIT"] = "1"
    for lost in range(4):
        worker = await fleet.start()
        if not lost:
            await submit(own_site, ["deadly"], ledger.deadly_task)
        assert await worker.ended() == KILLED
    await fleet.start()
    await submit(own_site, ["harmless"], ledger.task())
    results = await outcomes(own_site, ["deadly", "harmless"], within=within)
    deadly = results["deadly"]
    assert (deadly.status, deadly.error_code, deadly.redeliveries) == (Status.ERROR, "worker_lost", 3)
    assert results["harmless"].status is Status.SUCCESS
    assert ledger.starts == {"deadly": 4, "harmless": 1}
    (letter,) = await own_site.dead("command")
    assert (letter.headers or {})["Jetrunner-Error-Code"] == "worker_lost"
