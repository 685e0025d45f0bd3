"""What becomes of a task, by how its run ended."""

from datetime import UTC, datetime

import pytest

from consumer.settle import Settlement, settle
from schemas import Cause, Result, Status, Termination

ENDS = [Status.SUCCESS, Status.FAILED, Status.TIMEOUT, Status.CANCELED, Status.ERROR]


def result(status: Status, cause: Cause | None = None) -> Result:
    """Return a Result that says only how the run ended."""
    return Result(
        task_id="t-1",
        category="command",
        status=status,
        end_time=datetime(2030, 1, 1, tzinfo=UTC),
        termination=None if cause is None else Termination(cause=cause),
    )


@pytest.mark.parametrize("status", ENDS)
def test_a_task_that_its_worker_interrupted_goes_back(status: Status) -> None:
    """Shutdown and loss are the worker's doing: the task is nobody's but the queue's, whatever came of it."""
    assert settle(result(status, Cause.SHUTDOWN)) is Settlement.GIVE_BACK
    assert settle(result(status, Cause.LOST)) is Settlement.GIVE_BACK


@pytest.mark.parametrize("cause", [None, *sorted(set(Cause) - {Cause.SHUTDOWN, Cause.LOST})])
def test_only_errors_are_buried(cause: Cause | None) -> None:
    """An `error` makes a dead letter, a plain `failed` never does, and a canceled task is done with."""
    settled = {status: settle(result(status, cause)) for status in ENDS}
    assert settled == dict.fromkeys(ENDS, Settlement.FINISH) | {Status.ERROR: Settlement.BURY}
