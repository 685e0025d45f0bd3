"""Three servers, the leader of the task stream killed again and again while tasks run."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio.to_thread
import pytest

from tests.chaos.conftest import names, outcomes, submit
from tests.chaos.fleet import Fleet
from tests.chaos.ledger import Ledger
from tests.integration.cluster import Cluster, running_cluster
from tests.integration.conftest import Site, open_site

pytestmark = pytest.mark.anyio


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Have a cluster of the test's own."""
    directory = tmp_path / "cluster"
    directory.mkdir()
    with running_cluster(directory) as running:
        yield running


@pytest.fixture
async def own_site(cluster: Cluster) -> AsyncIterator[Site]:
    """Have a site on the cluster."""
    async with open_site(*cluster.urls) as opened:
        yield opened


async def test_leaders_that_are_killed(
    cluster: Cluster, fleet: Fleet, own_site: Site, ledger: Ledger, *, long_lease: float, within: float, full: bool
) -> None:
    """Every task has its one Result and none is left, whichever server leads; no two runs of one overlap."""
    ids, kills = names(1000 if full else 60), 4 if full else 1
    urls = ",".join(cluster.urls)
    fleet.environ |= {"JETRUNNER_NATS_URL": urls, "JETRUNNER_NATS_REPLICAS": "3"}
    fleet.environ["JETRUNNER_NATS_ACK_WAIT"] = str(long_lease)
    await fleet.start_two()
    await submit(own_site, ids, ledger.task(seconds=0.1))
    for kill in range(kills):
        await ledger.until_started((kill + 1) * len(ids) // (kills + 2), within=within)
        leader = await anyio.to_thread.run_sync(cluster.leader_of, own_site.subjects.tasks_stream)
        cluster.kill(leader)
        await ledger.until_started((kill + 1) * len(ids) // (kills + 2) + 10, within=within)
        await anyio.to_thread.run_sync(cluster.restart, leader)
        await anyio.to_thread.run_sync(cluster.wait_ready)
    results = await outcomes(own_site, ids, within=within)
    assert {result.status for result in results.values()} == {"success"}
    assert ledger.overlaps() == []
