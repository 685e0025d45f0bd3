"""Decides what becomes of a task: done with, begun again, or left to others. Pure.

Three budgets are kept apart. An attempt is used up when the task itself fails, and `retry` says how many it has. A
redelivery is counted when its worker was lost with it, a return when something it needs was not there;
`max_redeliveries` bounds each of these. A worker that drains gives its tasks back at no cost.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct, structs

from schemas import Cause, ErrorClass, Result, Retry, Status

from .request import Counts, TaskRequest

GIVEN_BACK: Final = frozenset(
    {"spawn_failed", "keeper_lost", "docker_unavailable", "docker_unresponsive", "container_lost"}
)
"""Error codes of a place that could not run the task: another, or the same one later, may."""
LONGEST_RETURN: Final = 30.0
"""Seconds that a task given back waits at most: 1, 2, 4 ... from one return to the next."""

_FINAL: Final = frozenset({Status.SUCCESS, Status.CANCELED})
_NEVER_RUN: Final = frozenset({"expired", "worker_lost"})
_IF_SAFE: Final = frozenset({ErrorClass.SYSTEM.value, ErrorClass.NETWORK.value})


class Reason(StrEnum):
    """Why a task begins again."""

    RETRY = "retry"
    """It failed, and has attempts left."""
    LOSS = "loss"
    """Its worker was lost."""
    RETURN = "return"
    """What it needs was not there."""
    DRAIN = "drain"
    """Its worker ends."""
    FALLBACK = "fallback"
    """It has finally failed, and something else runs in its place."""


class Finish(Struct, frozen=True):
    """Store the Result: the task is done with. If it is `buried`, keep it as a dead letter too."""

    buried: bool = False


class Again(Struct, frozen=True, kw_only=True):
    """Put the task back into the queue, under new counts, in `delay` seconds."""

    counts: Counts
    reason: Reason
    delay: float = 0.0


class StandIn(Struct, frozen=True):
    """Let the task's fallback run in its place, and tell it of the Result."""


class Forget(Struct, frozen=True):
    """Do nothing: someone else has the task."""


Settlement = Finish | Again | StandIn | Forget


def settle(result: Result, request: TaskRequest, *, spread: float = 0.0) -> Settlement:
    """Decide by how a run has ended. `spread`, of -1 to 1, is this decision's share of the jitter."""
    counts, cause = request.counts, result.termination.cause if result.termination is not None else None
    if cause is Cause.LOST:
        return Forget()
    if cause is Cause.SHUTDOWN:
        return Again(counts=counts, reason=Reason.DRAIN)
    if result.error_code in GIVEN_BACK and counts.returns < request.task.max_redeliveries:
        returned = structs.replace(counts, returns=counts.returns + 1)
        return Again(counts=returned, reason=Reason.RETURN, delay=min(2.0**counts.returns, LONGEST_RETURN))
    return _settle_end(result, request, spread)


def settle_loss(request: TaskRequest) -> Again | Finish | StandIn:
    """Decide about a task whose worker was lost."""
    if request.task.on_worker_lost == "fail" or request.redeliveries >= request.task.max_redeliveries:
        return Finish(buried=True) if request.task.fallback is None else StandIn()
    counts = structs.replace(request.counts, redeliveries=request.redeliveries + 1)
    return Again(counts=counts, reason=Reason.LOSS)


def _settle_end(result: Result, request: TaskRequest, spread: float) -> Settlement:
    """Decide about a run that came to its own end: another attempt, if the task asks for one and has one left."""
    retry, attempt = request.task.retry, request.attempt
    wanted = _may_retry(result, retry)
    delay = _delay(retry, attempt, spread, result.retry_after)
    if wanted and attempt < retry.max_attempts and not _expires_within(delay, request, result):
        return Again(counts=structs.replace(request.counts, attempt=attempt + 1), reason=Reason.RETRY, delay=delay)
    if request.task.fallback is not None and result.status not in _FINAL and result.error_code not in _NEVER_RUN:
        return StandIn()
    used_up = wanted and retry.max_attempts > 1
    return Finish(buried=used_up or result.status is Status.ERROR)


def _may_retry(result: Result, retry: Retry) -> bool:
    """Tell whether the task asks for another attempt after such an end.

    The classes `system` and `network` cover much, and are in the default: of them only what is safe and sensible to
    repeat. Whoever names a code or status means it. What is malformed or refused stays so.
    """
    if result.status in _FINAL or result.error_class is ErrorClass.PARAMETER or result.error_code in _NEVER_RUN:
        return False
    return any(_matches(condition, result) for condition in retry.on)


def _matches(condition: str, result: Result) -> bool:
    kind, _, value = condition.partition(":")
    if kind == "exit" and value:
        return result.exit_code is not None and result.exit_code == int(value)
    if kind == "http" and value:
        return result.http is not None and _is_status(result.http.status_code, value)
    if condition in _IF_SAFE and condition == result.error_class:
        return result.retryable
    return condition in {result.status, result.error_class, result.error_code}


def _is_status(code: int, wanted: str) -> bool:
    return code // 100 == int(wanted[0]) if wanted.endswith("xx") else code == int(wanted)


def _delay(retry: Retry, attempt: int, spread: float, retry_after: float | None) -> float:
    """Return the seconds until the next attempt; never sooner than a server has asked for."""
    try:
        delay = min(retry.delay * retry.factor ** (attempt - 1), retry.max_delay)
    except OverflowError:
        delay = float(retry.max_delay)
    return max(delay * (1 + retry.jitter * spread), retry_after or 0.0)


def _expires_within(delay: float, request: TaskRequest, result: Result) -> bool:
    expires = request.task.expires
    if expires is None:
        return False
    return (expires.moment(request.submitted) - result.end_time).total_seconds() <= delay
