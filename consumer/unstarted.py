"""The Results of tasks that did not start: refused, canceled, too late, or given up. Pure."""

from msgspec import structs

from runners.errors import RunnerError, interrupted
from schemas import Cause, Control, ErrorClass, Result, Status, Termination, Verb, utc_now

from .request import TaskRequest


def refused(request: TaskRequest, worker: str, error: RunnerError) -> Result:
    """Return the Result of a task that no runner would take."""
    return structs.replace(
        _unstarted(request, worker),
        status=error.status,
        error=str(error),
        error_class=error.error_class,
        error_code=error.code,
        retryable=error.retryable,
    )


def expired(request: TaskRequest, worker: str) -> Result | None:
    """Return the Result of a task that is past its `expires`; None if it is not."""
    expires = request.task.expires
    if expires is None or request.error is not None or utc_now() < expires.moment(request.submitted):
        return None
    return structs.replace(
        _unstarted(request, worker),
        status=Status.TIMEOUT,
        error_class=ErrorClass.TIMEOUT,
        error_code="expired",
        error=f"the task expired before it started: `expires` was {expires.to_wire()}",
    )


def lost(request: TaskRequest, worker: str) -> Result:
    """Return the Result of a task that was given up because its worker was lost."""
    if request.task.on_worker_lost == "fail":
        why = "the task's worker was lost, and `on_worker_lost` is `fail`"
    else:
        times, most = request.redeliveries + 1, request.task.max_redeliveries
        why = f"the task's worker was lost{f' {times} times' if times > 1 else ''}; `max_redeliveries` is {most}"
    return structs.replace(_unstarted(request, worker), error_code="worker_lost", error=why)


def undelivered(request: TaskRequest, worker: str) -> Result:
    """Return the Result of a task that the server delivers no more."""
    why = "the server has delivered the task too often without an end of it, and delivers it no more"
    return structs.replace(_unstarted(request, worker), error_code="worker_lost", error=why)


def shut_down(request: TaskRequest, worker: str) -> Result:
    """Return what a worker that ends has to say of a task it has not begun."""
    outcome = interrupted(Cause.SHUTDOWN, "the worker was shut down before the task started")
    return structs.replace(
        _unstarted(request, worker),
        error_code=outcome.code,
        error=outcome.message,
        retryable=outcome.retryable,
        termination=Termination(cause=Cause.SHUTDOWN),
    )


def canceled_before_start(request: TaskRequest, worker: str, verb: Verb, control: Control) -> Result:
    """Return the Result of a task that was stopped or killed before it started."""
    return canceled(_unstarted(request, worker), verb, control)


def canceled_unseen(task_id: str, worker: str, verb: Verb, control: Control) -> Result:
    """Return the Result of a task that was stopped or killed, though no message of it is at hand."""
    unseen = Result(task_id=task_id, category="", status=Status.CANCELED, end_time=utc_now(), worker=worker)
    return canceled(unseen, verb, control)


def canceled(result: Result, verb: Verb, control: Control) -> Result:
    """Return a Result as that of a task stopped or killed before it started, or before it started again."""
    cause = Cause.KILL if verb is Verb.KILL else Cause.STOP
    by = f" by {control.by}" if control.by else ""
    because = f": {control.reason}" if control.reason else ""
    what = "killed" if verb is Verb.KILL else "stopped"
    again = " again" if result.start_time is not None else ""
    outcome = interrupted(cause, f"the task was {what} before it started{again}{by}{because}")
    return structs.replace(
        result,
        status=outcome.status,
        error_class=outcome.error_class,
        error_code=outcome.code,
        error=outcome.message,
        retryable=outcome.retryable,
        termination=Termination(cause=cause, by=control.by, reason=control.reason),
    )


def _unstarted(request: TaskRequest, worker: str) -> Result:
    return Result(
        task_id=request.task_id,
        category=request.category,
        status=Status.ERROR,
        error_class=ErrorClass.SYSTEM,
        end_time=utc_now(),
        attempt=request.attempt,
        redeliveries=request.redeliveries,
        worker=worker,
        labels=request.task.labels,
    )
