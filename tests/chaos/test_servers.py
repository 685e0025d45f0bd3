"""Servers that are killed, stopped, frozen or away for long, and consumers that vanish: workers keep what they have."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from consumer.topology import Topology
from schemas import Status
from tests.chaos.conftest import names, outcomes, submit
from tests.chaos.fleet import KILLED, Fleet
from tests.chaos.ledger import Ledger
from tests.integration.conftest import POLL, Server, Site

pytestmark = pytest.mark.anyio

FROZEN = 2.5
"""Seconds that a server stands still."""


async def disturb_while_frozen(server: Server) -> None:
    server.freeze()
    await anyio.sleep(FROZEN)  # what happens meanwhile is that nothing happens
    server.wake()


async def disturb_by_kill(server: Server) -> None:
    server.kill()
    server.start()


async def disturb_by_stop(server: Server) -> None:
    server.stop()
    server.start()


@pytest.mark.parametrize(
    "disturb", [disturb_by_kill, disturb_by_stop, disturb_while_frozen], ids=["kill", "stop", "freeze"]
)
async def test_a_server_that_is_disturbed(
    fleet: Fleet,
    own_site: Site,
    server: Server,
    ledger: Ledger,
    *,
    long_lease: float,
    within: float,
    full: bool,
    disturb: Callable[[Server], Awaitable[None]],
) -> None:
    """Of many tasks none is lost, and none runs again: their workers are there, and keep them."""
    ids = names(500 if full else 200)
    fleet.environ["JETRUNNER_RUNNERS_COMMAND_MAX_CONCURRENCY"] = "16"
    fleet.environ["JETRUNNER_NATS_ACK_WAIT"] = str(long_lease)
    await fleet.start_two()
    await submit(own_site, ids, ledger.task(seconds=0.1))
    for round_ in range(3 if full else 1):
        await ledger.until_started(50 + 100 * round_, within=within)
        await disturb(server)
    results = await outcomes(own_site, ids, within=within)
    assert {(result.status, result.attempt, result.redeliveries) for result in results.values()} == {("success", 1, 0)}
    assert ledger.starts == ledger.ends == dict.fromkeys(ids, 1)


@pytest.mark.parametrize("recreate", [False, True], ids=["deleted", "recreated"])
async def test_a_consumer_that_is_deleted(
    fleet: Fleet, own_site: Site, ledger: Ledger, *, long_lease: float, within: float, full: bool, recreate: bool
) -> None:
    """The queue's place is lost with its consumer; the workers go on, whoever makes the next one."""
    ids = names(300 if full else 120)
    fleet.environ["JETRUNNER_NATS_ACK_WAIT"] = str(long_lease)
    await fleet.start_two()
    await submit(own_site, ids, ledger.task(seconds=0.1))
    stream = own_site.subjects.tasks_stream
    consumer = Topology(subjects=own_site.subjects, ack_wait=long_lease).consumer("command")
    for round_ in range(3 if full else 1):
        await ledger.until_started(30 + 70 * round_, within=within)
        await own_site.api(f"CONSUMER.DELETE.{stream}.command")
        if recreate:
            body = {"stream_name": stream, "config": consumer}
            await own_site.api(f"CONSUMER.CREATE.{stream}.command.{consumer['filter_subject']}", body)
    results = await outcomes(own_site, ids, within=within)
    assert {(result.status, result.attempt, result.redeliveries) for result in results.values()} == {("success", 1, 0)}
    assert ledger.starts == ledger.ends == dict.fromkeys(ids, 1)


async def test_a_server_that_is_away_for_long(
    fleet: Fleet, own_site: Site, server: Server, ledger: Ledger, *, lease: float, within: float, full: bool
) -> None:
    """Tasks that end while the server is away, longer than a lease, are done: their Results go out when it is back."""
    ids = names(20)
    fleet.environ["JETRUNNER_NATS_ACK_WAIT"] = str(lease)
    fleet.environ["JETRUNNER_RUNNERS_COMMAND_MAX_CONCURRENCY"] = "5"
    await fleet.start_two()
    await submit(own_site, ids, ledger.task(hold=True))
    await ledger.until_started(10, within=within)
    server.kill()
    ledger.release()
    await ledger.until_ended(10, within=within)
    await anyio.sleep(60 if full else 1.5 * lease)  # what happens meanwhile is that nothing happens
    server.start()
    results = await outcomes(own_site, ids, within=within)
    assert {(result.status, result.attempt, result.redeliveries) for result in results.values()} == {("success", 1, 0)}
    assert ledger.starts == ledger.ends == dict.fromkeys(ids, 1)


async def test_a_worker_killed_while_its_results_wait(
    fleet: Fleet, own_site: Site, server: Server, ledger: Ledger, *, data_home: Path, within: float
) -> None:
    """Results that a killed worker has left on disk are stored by the next one, and their tasks do not run again."""
    ids = names(8)
    worker = await fleet.start()
    await submit(own_site, ids, ledger.task(hold=True))
    await ledger.until_started(len(ids), within=within)
    server.kill()
    ledger.release()
    await ledger.until_ended(len(ids), within=within)
    outbox = data_home / "jetrunner" / "outbox"
    with anyio.fail_after(within):
        while {path.name for path in outbox.glob("*/worker-*/*")} != set(ids):  # noqa: ASYNC110 - a directory sends no event
            await anyio.sleep(POLL)
    worker.kill()
    assert await worker.ended() == KILLED
    server.start()
    await fleet.start()
    results = await outcomes(own_site, ids, within=within)
    assert {result.status for result in results.values()} == {Status.SUCCESS}
    assert all(worker.has_run(result) for result in results.values())
    assert ledger.starts == ledger.ends == dict.fromkeys(ids, 1)
    assert [*outbox.glob("*/worker-*/*")] == []
