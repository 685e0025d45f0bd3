"""What a worker tells of itself: who it is, what it takes, and what it has at work."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

from msgspec import Struct

SERVICE: Final = "jetrunner"
"""The name of the micro service that every worker is."""


class RunningTask(Struct, frozen=True):
    """A task at work, and since when."""

    task_id: str
    category: str
    since: datetime


class WorkerOverview(Struct, frozen=True, kw_only=True):
    """Where a worker is: how many slots each of its categories has, what some of them lack, and all its tasks."""

    draining: bool
    slots: Mapping[str, int]
    obstacles: Mapping[str, str]
    running: Sequence[RunningTask]


class Overview(Protocol):
    """Tells where a worker is now; cheap, since anybody may ask as often as they like."""

    def __call__(self) -> WorkerOverview: ...


class CategoryOverview(Struct, frozen=True, kw_only=True):
    """What a worker says of one category, as `data` in the statistics of its endpoint (ADR-32).

    `running` is those that are at work longest; `busy` counts them all.
    """

    category: str
    slots: int
    busy: int
    running: tuple[RunningTask, ...] = ()
    obstacle: str | None = None
    """Why no tasks of it are taken."""
    draining: bool = False
    server: str = ""
