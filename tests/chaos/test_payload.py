"""Tasks and Results at the limit of what the server takes in one message."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from consumer.topology import SMALLEST_PAYLOAD
from schemas import Status, encode
from tests.chaos.conftest import outcomes, submit
from tests.chaos.fleet import KILLED, Fleet
from tests.chaos.ledger import Ledger
from tests.integration.conftest import Server, Site, running

pytestmark = pytest.mark.anyio

PRINTED: Final = 300_000
_HEADERS: Final = 64
"""Bytes of a task's own headers, at least."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Have a server that takes the smallest messages we can do with."""
    with running(tmp_path, f"max_payload: {SMALLEST_PAYLOAD}\n") as own:
        yield own


def printing(task_id: str) -> dict[str, Any]:
    script = f"head -c {PRINTED} /dev/zero | tr '\\0' '\\033'; head -c {PRINTED} /dev/urandom >&2"
    return {"command": "/bin/sh", "args": ["-c", script], "labels": {"a" * 60: "b" * 200}}


async def test_a_result_at_the_payload_limit(fleet: Fleet, own_site: Site, within: float) -> None:
    """A Result that would be too long for a message is cut, says so, and is stored."""
    await fleet.start()
    await submit(own_site, ["a"], printing)
    result = (await outcomes(own_site, ["a"], within=within))["a"]
    assert (result.status, result.exit_code) == (Status.SUCCESS, 0)
    assert (result.streams.stdout.bytes, result.streams.stderr.bytes) == (PRINTED, PRINTED)
    assert result.streams.stdout.truncated
    assert result.streams.stderr.truncated
    assert len(encode(result)) < SMALLEST_PAYLOAD


async def test_a_task_at_the_payload_limit(
    fleet: Fleet, own_site: Site, ledger: Ledger, lease: float, within: float
) -> None:
    """A task that is too large to be put back runs where it is delivered again, its loss counted."""
    fleet.environ["JETRUNNER_NATS_ACK_WAIT"] = str(lease)
    task = ledger.task(hold=True)("a")
    room = SMALLEST_PAYLOAD - len(encode(task)) - _HEADERS
    padded = {**task, "args": [*task["args"], "x" * room]}
    worker = await fleet.start()
    await submit(own_site, ["a"], lambda _: padded)
    await ledger.until_started(1, within=within)
    worker.kill()
    assert await worker.ended() == KILLED
    await fleet.start()
    await ledger.until_started(2, within=within)
    ledger.release()
    result = (await outcomes(own_site, ["a"], within=within))["a"]
    assert (result.status, result.redeliveries) == (Status.SUCCESS, 1)
    assert (ledger.starts, ledger.ends) == ({"a": 2}, {"a": 1})
