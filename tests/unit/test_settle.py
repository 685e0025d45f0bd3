"""What becomes of a task, by how its run ended and what it asks for."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from nats.aio.msg import Msg

from consumer.request import Counts, TaskRequest, read_request
from consumer.settle import GIVEN_BACK, LONGEST_RETURN, Again, Finish, Forget, Reason, StandIn, settle, settle_loss
from schemas import Cause, ErrorClass, HttpResponse, Result, Status, Subjects, Termination, encode

ENDS = [Status.SUCCESS, Status.FAILED, Status.TIMEOUT, Status.CANCELED, Status.ERROR]
NOW = datetime(2030, 1, 1, tzinfo=UTC)
DONE, BURIED = Finish(), Finish(buried=True)


def request(counts: Counts | None = None, **task: Any) -> TaskRequest:
    """Return a task as its worker reads it, submitted a minute ago."""
    stored = int((NOW - timedelta(minutes=1)).timestamp() * 1e9)
    message = Msg(
        _client=None,  # type: ignore[arg-type] # nobody answers by it
        subject="jetrunner.tasks.command",
        reply=f"$JS.ACK.S.C.1.7.7.{stored}.0",
        data=encode({"id": "t-1", **task}),
    )
    read = read_request(message, Subjects(), ())
    assert read.error is None
    return structs.replace(read, counts=counts or Counts())


def result(status: Status = Status.FAILED, cause: Cause | None = None, **fields: Any) -> Result:
    """Return a Result that says only how the run ended."""
    termination = None if cause is None else Termination(cause=cause)
    return Result(task_id="t-1", category="command", status=status, end_time=NOW, termination=termination, **fields)


NETWORK = result(error_class=ErrorClass.NETWORK, error_code="connect_error", retryable=True)


# Without a wish to be tried again


@pytest.mark.parametrize("status", ENDS)
def test_a_task_that_its_worker_interrupted_goes_back_at_no_cost(status: Status) -> None:
    """Shutdown is the worker's doing: the task goes back at once, whatever came of it, and no count rises."""
    counts = Counts(attempt=2, redeliveries=3, returns=1)
    settled = settle(result(status, Cause.SHUTDOWN), request(counts))
    assert settled == Again(counts=counts, reason=Reason.DRAIN, delay=0)


@pytest.mark.parametrize("status", ENDS)
def test_a_task_that_another_worker_has_is_forgotten(status: Status) -> None:
    """A run whose place was taken says nothing any more."""
    assert settle(result(status, Cause.LOST), request()) == Forget()


@pytest.mark.parametrize("cause", [None, *sorted(set(Cause) - {Cause.SHUTDOWN, Cause.LOST})])
def test_only_errors_are_buried(cause: Cause | None) -> None:
    """An `error` makes a dead letter, a plain `failed` never does, and a canceled task is done with."""
    settled = {status: settle(result(status, cause), request()) for status in ENDS}
    assert settled == dict.fromkeys(ENDS, DONE) | {Status.ERROR: BURIED}


# Retry


def test_the_default_is_one_attempt() -> None:
    """What could be tried again is not, unless the task asks for it."""
    assert settle(NETWORK, request()) == DONE


def test_attempts() -> None:
    """A task fails as often as it has attempts, then it is given up."""
    task = {"retry": {"max_attempts": 3, "jitter": 0}}
    settled = [settle(NETWORK, request(Counts(attempt=attempt), **task)) for attempt in (1, 2, 3)]
    assert settled == [
        Again(counts=Counts(attempt=2), reason=Reason.RETRY, delay=1),
        Again(counts=Counts(attempt=3), reason=Reason.RETRY, delay=2),
        BURIED,
    ]


def test_attempts_leave_the_other_counts_alone() -> None:
    """A failure is no loss: crash budgets are kept apart."""
    counts = Counts(attempt=1, redeliveries=2, returns=1)
    settled = settle(NETWORK, request(counts, retry={"max_attempts": 2}))
    assert isinstance(settled, Again)
    assert settled.counts == structs.replace(counts, attempt=2)


EXIT_3 = result(exit_code=3, error_class=ErrorClass.EXECUTION, error_code="exit_nonzero")
HTTP_503 = result(
    error_class=ErrorClass.EXECUTION,
    error_code="http_status",
    http=HttpResponse(status_code=503, headers={}, url="http://a", elapsed={}),
)
TIMEOUT = result(Status.TIMEOUT, Cause.TIMEOUT, error_class=ErrorClass.TIMEOUT, error_code="timeout")
INTERNAL = result(Status.ERROR, error_class=ErrorClass.SYSTEM, error_code="internal", retryable=True)
UNSAFE = structs.replace(NETWORK, error_code="read_error", retryable=False)


@pytest.mark.parametrize(
    ("end", "on", "again"),
    [
        (EXIT_3, "exit:3", True),
        (EXIT_3, "exit:4", False),
        (EXIT_3, "exit", False),
        (EXIT_3, "exit_nonzero", True),
        (EXIT_3, "execution", True),
        (EXIT_3, "failed", True),
        (EXIT_3, "timeout", False),
        (HTTP_503, "http:503", True),
        (HTTP_503, "http:5xx", True),
        (HTTP_503, "http:4xx", False),
        (HTTP_503, "http:500", False),
        (EXIT_3, "http:5xx", False),
        (TIMEOUT, "timeout", True),
        (INTERNAL, "system", True),
        (INTERNAL, "error", True),
        (NETWORK, "network", True),
        (UNSAFE, "network", False),
        (UNSAFE, "read_error", True),
    ],
)
def test_conditions(end: Result, on: str, *, again: bool) -> None:
    """`on` names statuses, classes, codes, exits and HTTP statuses; broad classes cover only what is safe to repeat."""
    settled = settle(end, request(retry={"max_attempts": 2, "on": [on]}))
    assert isinstance(settled, Again) is again


@pytest.mark.parametrize(
    "end",
    [
        result(Status.SUCCESS),
        result(Status.CANCELED, Cause.STOP, error_class=ErrorClass.EXECUTION, error_code="stopped"),
        result(Status.CANCELED, Cause.KILL, error_class=ErrorClass.EXECUTION, error_code="killed"),
        result(Status.ERROR, error_class=ErrorClass.PARAMETER, error_code="invalid_task"),
        result(Status.ERROR, error_class=ErrorClass.PARAMETER, error_code="policy_denied"),
        result(Status.TIMEOUT, error_class=ErrorClass.TIMEOUT, error_code="expired"),
        result(Status.ERROR, error_class=ErrorClass.SYSTEM, error_code="worker_lost", retryable=True),
    ],
    ids=lambda end: end.error_code or end.status,
)
def test_what_is_final(end: Result) -> None:
    """No condition brings back what succeeded, was canceled, is malformed, refused or late, or was given up."""
    conditions = [*Status, *ErrorClass, *(code for code in [end.error_code] if code)]
    settled = settle(end, request(retry={"max_attempts": 9, "on": conditions}))
    assert isinstance(settled, Finish)


@pytest.mark.parametrize(
    ("retry", "attempt", "spread", "delay"),
    [
        ({"delay": 10, "jitter": 0}, 1, 1, 10),
        ({"delay": 10, "jitter": 0}, 4, 1, 80),
        ({"delay": 10, "factor": 1, "jitter": 0}, 4, 0, 10),
        ({"delay": 10, "max_delay": 25, "jitter": 0}, 4, 0, 25),
        ({"delay": 10, "jitter": 0.5}, 1, 1, 15),
        ({"delay": 10, "jitter": 0.5}, 1, -1, 5),
        ({"delay": 0}, 4, 1, 0),
        ({"delay": 1, "factor": 100, "jitter": 0}, 900, 0, 300),
    ],
)
def test_delays(retry: dict[str, Any], attempt: int, spread: float, delay: float) -> None:
    """The pause grows by `factor` up to `max_delay`, give or take the jitter."""
    settled = settle(NETWORK, request(Counts(attempt=attempt), retry={"max_attempts": 1000, **retry}), spread=spread)
    assert isinstance(settled, Again)
    assert settled.delay == pytest.approx(delay)


RETRIES = st.fixed_dictionaries(
    {
        "delay": st.floats(0, 1e6),
        "factor": st.floats(1, 100),
        "max_delay": st.floats(0, 1e6),
        "jitter": st.floats(0, 1),
    }
)


@given(attempt=st.integers(1, 999), wanted=RETRIES, spread=st.floats(-1, 1))
def test_no_delay_is_out_of_bounds(attempt: int, wanted: dict[str, float], spread: float) -> None:
    """Whatever a task asks for, the pause is a number between nothing and twice `max_delay`."""
    retry = {"max_attempts": 1000, **wanted}
    settled = settle(NETWORK, request(Counts(attempt=attempt), retry=retry), spread=spread)
    assert isinstance(settled, Again)
    assert 0 <= settled.delay <= 2 * wanted["max_delay"]


def test_a_server_that_asks_for_time_gets_it() -> None:
    """`Retry-After` makes a pause longer, never shorter."""
    task = request(retry={"max_attempts": 2, "delay": 5, "jitter": 0})
    delays = [settle(structs.replace(NETWORK, retry_after=after), task) for after in (60.0, 1.0)]
    assert [each.delay for each in delays if isinstance(each, Again)] == [60, 5]


def test_no_attempt_after_the_task_expires() -> None:
    """An attempt that would come too late is none: the Result says what really went wrong."""
    retry = {"max_attempts": 5, "delay": 5, "jitter": 0}
    assert settle(NETWORK, request(retry=retry, expires="66s")) == Again(
        counts=Counts(attempt=2), reason=Reason.RETRY, delay=5
    )
    assert isinstance(settle(NETWORK, request(retry=retry, expires="64s")), Finish)


# What is not there


@pytest.mark.parametrize("code", sorted(GIVEN_BACK))
def test_a_place_that_cannot_run_a_task_gives_it_back(code: str) -> None:
    """It costs no attempt, pauses grow, and after `max_redeliveries` returns the error is the Result."""
    end = result(Status.ERROR, error_class=ErrorClass.SYSTEM, error_code=code, retryable=True)
    settled = [settle(end, request(Counts(returns=returns), max_redeliveries=2)) for returns in (0, 1, 2)]
    assert settled == [
        Again(counts=Counts(returns=1), reason=Reason.RETURN, delay=1),
        Again(counts=Counts(returns=2), reason=Reason.RETURN, delay=2),
        BURIED,
    ]


def test_returns_come_no_later_than_they_need() -> None:
    """The pause between two returns is bounded."""
    end = result(Status.ERROR, error_class=ErrorClass.SYSTEM, error_code="spawn_failed", retryable=True)
    settled = settle(end, request(Counts(returns=900), max_redeliveries=1000))
    assert isinstance(settled, Again)
    assert settled.delay == LONGEST_RETURN


def test_attempts_follow_returns() -> None:
    """A task whose returns are used up, and that asks for attempts, has those yet."""
    end = result(Status.ERROR, error_class=ErrorClass.SYSTEM, error_code="spawn_failed", retryable=True)
    settled = settle(end, request(Counts(returns=1), max_redeliveries=1, retry={"max_attempts": 2, "jitter": 0}))
    assert settled == Again(counts=Counts(attempt=2, returns=1), reason=Reason.RETRY, delay=1)


# Loss


def test_losses_are_counted() -> None:
    """A task may be lost with its worker `max_redeliveries` times."""
    counts = Counts(attempt=2, returns=1)
    settled = [
        settle_loss(request(structs.replace(counts, redeliveries=redeliveries), max_redeliveries=2))
        for redeliveries in (0, 1, 2)
    ]
    assert settled == [
        Again(counts=structs.replace(counts, redeliveries=1), reason=Reason.LOSS),
        Again(counts=structs.replace(counts, redeliveries=2), reason=Reason.LOSS),
        BURIED,
    ]


def test_a_task_that_must_not_run_twice() -> None:
    """With `on_worker_lost: fail` the first loss is the last."""
    assert settle_loss(request(on_worker_lost="fail")) == BURIED


# Fallback

FALLBACK = {"fallback": {"command": "true"}}


def test_a_fallback_comes_after_the_last_attempt() -> None:
    """Attempts come first; what has finally failed is stood in for."""
    task = {**FALLBACK, "retry": {"max_attempts": 2}}
    assert isinstance(settle(NETWORK, request(**task)), Again)
    assert settle(NETWORK, request(Counts(attempt=2), **task)) == StandIn()
    assert settle(EXIT_3, request(**FALLBACK)) == StandIn()
    assert settle(INTERNAL, request(**FALLBACK)) == StandIn()
    assert settle_loss(request(**FALLBACK, max_redeliveries=0)) == StandIn()


@pytest.mark.parametrize(
    "end", [result(Status.SUCCESS), result(Status.CANCELED), result(Status.TIMEOUT, error_code="expired")]
)
def test_what_nothing_stands_in_for(end: Result) -> None:
    """What succeeded, was canceled or came too late is done with."""
    assert settle(end, request(**FALLBACK)) == DONE
