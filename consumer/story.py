"""Which task the code that runs just now is about: for log lines, which are written far from where that is known."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from msgspec import Struct

from .request import TaskRequest


class Story(Struct, frozen=True, kw_only=True):
    """What a log line says of its task."""

    task_id: str
    category: str
    attempt: int
    trace_id: str | None = None
    span_id: str | None = None


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
        )
    )
    try:
        yield
    finally:
        _STORY.reset(token)
