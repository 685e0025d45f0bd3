"""Many small tasks through two workers: as many Results, an even share, and memory that does not grow."""

from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from schemas import Status
from tests.chaos.conftest import names, outcomes, submit
from tests.chaos.fleet import Fleet
from tests.chaos.ledger import Ledger
from tests.integration.conftest import Site

pytestmark = pytest.mark.anyio

SCRIPT: Final = Path(__file__).with_name("noop_worker.py")
MIB: Final = 2**20


def noop(task_id: str) -> dict[str, Any]:
    return {}


async def test_no_ops(fleet: Fleet, own_site: Site, ledger: Ledger, within: float, *, full: bool) -> None:
    """Each of 10,000 tasks runs once and has one Result; two workers share them; neither grows on the way."""
    count = 10_000 if full else 1_000
    workers = [await fleet.start_script(SCRIPT, str(ledger.path)) for _ in range(2)]
    warm_up, ids = names(count)[: count // 5], names(count)
    await submit(own_site, warm_up, noop, category="noop")
    await ledger.until_ended(len(warm_up), within=within)
    before = [worker.rss for worker in workers]
    await submit(own_site, ids[len(warm_up) :], noop, category="noop")
    results = await outcomes(own_site, ids, within=within)
    growth = [worker.rss - rss for worker, rss in zip(workers, before, strict=True)]
    assert {result.status for result in results.values()} == {Status.SUCCESS}
    assert ledger.starts == ledger.ends == dict.fromkeys(ids, 1)
    shares = Counter(result.worker for result in results.values())
    assert len(shares) == 2
    assert min(shares.values()) >= count / 4
    assert max(growth) < 8 * MIB
