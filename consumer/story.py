"""Which task the code that runs just now is about: for log lines, which are written far from where that is known.

What such a line says as data is said here, too: `extra` of a call of `logging` (its Logger.debug).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final

from msgspec import Struct, to_builtins

from runners.redaction import Secrets
from schemas import Result

from .request import TaskRequest

_NO_SECRETS: Final = Secrets(())
_OF_RESULT: Final = ("exit_code", "error_class", "error_code")


class Story(Struct, frozen=True, kw_only=True):
    """What a log line says of its task."""

    task_id: str
    category: str
    attempt: int
    trace_id: str | None = None
    span_id: str | None = None
    secrets: Secrets = _NO_SECRETS
    """What no line may say, though it is about this task."""


_STORY: Final[ContextVar[Story | None]] = ContextVar("story", default=None)


def current_story() -> Story | None:
    """Return the task in whose delivery we are, whichever asyncio task that has begun; None outside of any."""
    return _STORY.get()


@contextmanager
def telling(request: TaskRequest) -> Iterator[None]:
    """Be in a task's delivery for as long as the body lasts."""
    trace = request.trace
    token = _STORY.set(
        Story(
            task_id=request.task_id,
            category=request.category,
            attempt=request.attempt,
            trace_id=trace.trace_id,
            span_id=trace.span_id,
            secrets=Secrets.of(request.task),
        )
    )
    try:
        yield
    finally:
        _STORY.reset(token)


def ending(result: Result, queued: datetime | None = None) -> dict[str, Any]:
    """Return what a line about the end of an attempt says as data.

    `duration_ms`, and since the task was `queued`, `queue_wait_ms`; what does not apply is left out.
    """
    given = {name: value for name in _OF_RESULT if (value := getattr(result, name)) is not None}
    if result.start_time is not None and queued is not None:
        waited = (result.start_time - queued).total_seconds()
        given["queue_wait_ms"] = max(round(waited * 1000), 0)
    if result.cached:
        given["cached"] = True
    if result.usage is not None:
        given["usage"] = to_builtins(result.usage)
    return {"status": str(result.status), "duration_ms": result.duration, **given}
