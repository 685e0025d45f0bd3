"""A real nats-server and real workers to be hard on, and the count of what came of their tasks.

`make chaos` runs everything at full size, with `--full`; `make test` runs the same tests at a smaller one.
"""

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from consumer.jetstream import read_batch
from schemas import Event, EventType, Result, decode
from tests.chaos.fleet import Fleet
from tests.chaos.ledger import Ledger
from tests.integration.conftest import (
    POLL,
    Site,
    anyio_backend,
    data_home,
    own_site,
    server,
)

__all__ = ["anyio_backend", "data_home", "own_site", "server"]

WITHIN: Final = 50.0
"""Seconds in which a test of the small size has what it waits for, however busy the machine."""
ACK_WAIT: Final = 3.0
"""Seconds of a lease in the small size, where a test has to wait for its end."""
UNHURRIED: Final = 6.0
"""The same where an owner, on a busy machine too, has to have the time to say what it holds."""

_AT_ONCE: Final = 100
_BATCH: Final = 500

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]  # keepers are Linux's


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the full size."""
    parser.addoption("--full", action="store_true", help="run the chaos suite at full size")


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Tell whether the test is to have its full size."""
    return bool(request.config.getoption("--full", default=False))


@pytest.fixture
def lease(*, full: bool) -> float:
    """Return the seconds of a lease: those of every day at full size."""
    return 30.0 if full else ACK_WAIT


@pytest.fixture
def long_lease(*, full: bool) -> float:
    """Return the seconds of a lease that nobody should lose."""
    return 30.0 if full else UNHURRIED


@pytest.fixture
def within(*, full: bool) -> float:
    """Return the seconds in which the test has what it waits for."""
    return 600.0 if full else WITHIN


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Have a file that tasks tell of their runs in."""
    return Ledger(tmp_path / "ledger")


@pytest.fixture
async def fleet(own_site: Site, tmp_path: Path, data_home: Path) -> AsyncIterator[Fleet]:
    """Have workers of the test's own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "JETRUNNER_"))}
    ours = {"JETRUNNER_NATS_URL": own_site.url, "JETRUNNER_SUBJECT_PREFIX": own_site.subjects.prefix}
    own = Fleet(tmp_path, {**kept, **ours, "JETRUNNER_WORKER_DRAIN_TIMEOUT": "0"})
    yield own
    await own.end()


async def submit(
    site: Site, ids: Iterable[str], task: Callable[[str], dict[str, Any]], *, category: str = "command", **more: Any
) -> None:
    """Store the task that is made of each id, with `more` fields; the queue has nearly the order of the ids."""
    waiting = iter(ids)

    async def store() -> None:
        for task_id in waiting:
            await site.submit(category, task_id, **task(task_id), **more)

    async with anyio.create_task_group() as tasks:
        for _ in range(_AT_ONCE):
            tasks.start_soon(store)


def names(count: int) -> list[str]:
    """Return ids for so many tasks."""
    return [f"t{number}" for number in range(count)]


async def outcomes(site: Site, ids: Iterable[str], *, within: float) -> dict[str, Result]:
    """Wait until no task is left, and return all Results: one for each task, stored once, and told of once."""
    wanted = set(ids)
    with anyio.fail_after(within):
        while await site.tasks_left() or await site.results() < len(wanted):  # noqa: ASYNC110 - streams send no event
            await anyio.sleep(5 * POLL)
    results = {result.task_id: result for result in await _stored_results(site)}
    state = await site.stream(site.subjects.results_stream)
    assert set(results) == wanted
    assert (state["messages"], state["last_seq"]) == (len(wanted), len(wanted))
    finished = await _finished(site)
    assert len(finished) == len(set(finished))
    return results


async def _stored_results(site: Site) -> list[Result]:
    messages = await _stored(site, site.subjects.results_stream, site.subjects.result("*"))
    return [decode(Result, message) for message in messages]


async def _finished(site: Site) -> list[str]:
    """Return the task of each `finished` event."""
    subject = site.subjects.event("*", EventType.FINISHED)
    return [decode(Event, message).task_id for message in await _stored(site, site.subjects.events_stream, subject)]


async def _stored(site: Site, stream: str, subject: str) -> list[bytes]:
    """Return all that a stream holds on some subjects."""
    found: list[bytes] = []
    seq = 1
    while batch := await read_batch(site.connection, stream, {"seq": seq, "next_by_subj": subject, "batch": _BATCH}):
        found += [message.data for message in batch]
        seq = batch[-1].seq + 1
    return found
