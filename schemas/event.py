"""Event: one step in a task's life, as published on `P.events.<task_id>.<type>`."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct


class EventType(StrEnum):
    """The steps of a task's life."""

    RECEIVED = "received"
    STARTED = "started"
    PROGRESS = "progress"
    STOPPING = "stopping"
    RETRYING = "retrying"
    FINISHED = "finished"
    DEAD = "dead"


class Event(Struct, frozen=True, kw_only=True):
    """One step; `data` depends on the type (contract: started has pid, container or url; stopping by and reason)."""

    id: str
    type: EventType
    task_id: str
    category: str
    time: datetime
    worker: str
    attempt: int = 1
    data: dict[str, Any] = {}
    trace_id: str | None = None
