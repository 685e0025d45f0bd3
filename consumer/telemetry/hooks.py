"""What the way of a task tells whoever watches it: frozen data in, no answer but the context to hand on.

No call may block or raise; who watches must cost a task nothing.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

from msgspec import Struct

from consumer.request import TaskRequest
from consumer.settle import Settlement
from consumer.trace import Carrier, Trace
from schemas import EventType, Result, Verb


class Publication(Struct, frozen=True, kw_only=True):
    """A message about to be published on `subject`; `template` is that subject with `*` for what is the task's own.

    `trace` is what it belongs to where no task is in our hands, and `cause` a context that it follows from.
    """

    template: str
    task_id: str
    trace: Trace = Trace()
    cause: Trace = Trace()


class Run(Protocol):
    """The run of a task."""

    @property
    def carrier(self) -> Carrier:
        """The context that the task's process, container or request is to have."""

    def ended(self, result: Result, /) -> None:
        """Take how it ended."""


class Telemetry(Protocol):
    """Watches the tasks of one worker, or the publications of one client."""

    @property
    def measures(self) -> bool:
        """Whether it is of use to ask the server for what `waiting` takes."""

    def delivering(self, request: TaskRequest, /) -> AbstractContextManager[TaskRequest]:
        """Return a scope for the time that a task is in our hands; it yields the request with its trace."""

    def running(self, request: TaskRequest, /) -> AbstractContextManager[Run]:
        """Return a scope for the time that a task runs."""

    def publishing(self, publication: Publication, /) -> AbstractContextManager[Carrier]:
        """Return a scope for the time that a message takes to the server; it yields the context to go with it."""

    def settling(self, task_id: str, operation: str, /) -> AbstractContextManager[None]:
        """Return a scope for the `ack` or `nak` of a task's deliveries."""

    def told(self, type_: EventType, request: TaskRequest, data: Mapping[str, Any], /) -> None:
        """Take a step of a task."""

    def controlled(self, task_id: str, verb: Verb, trace: Trace, /) -> None:
        """Take a stop or kill, whether its task is here or not."""

    def decided(self, request: TaskRequest, result: Result, settlement: Settlement, /) -> None:
        """Take how an attempt has ended, and what becomes of the task."""

    def lease_lost(self, task_id: str, /) -> None:
        """Take note that the server may have given a task of ours to someone else."""

    def waiting(self, category: str, pending: int, ack_pending: int, /) -> None:
        """Take how many tasks of a category wait, and how many are at work anywhere."""

    def exposition(self) -> tuple[str, bytes] | None:
        """Return the content type and the text of the metrics for Prometheus; None if they are not to be scraped."""


class Unrecorded(Struct, frozen=True):
    """A run that is not recorded."""

    carrier: Carrier

    def ended(self, result: Result, /) -> None:
        """Take how it ended."""


class Silent:
    """Records nothing, and hands on the context that came; `ambient` is the context of this process."""

    measures = False

    def __init__(self, ambient: Trace = Trace()) -> None:  # noqa: B008 - frozen
        self._ambient = ambient

    def delivering(self, request: TaskRequest, /) -> AbstractContextManager[TaskRequest]:
        """Yield the request as it is."""
        return nullcontext(request)

    def running(self, request: TaskRequest, /) -> AbstractContextManager[Run]:
        """Yield the context that came with the task."""
        return nullcontext(Unrecorded(request.trace.carrier))

    def publishing(self, publication: Publication, /) -> AbstractContextManager[Carrier]:
        """Yield the first context that there is."""
        return nullcontext(publication.trace.carrier or publication.cause.carrier or self._ambient.carrier)

    def settling(self, _task_id: str, _operation: str, /) -> AbstractContextManager[None]:
        """Do nothing."""
        return _NOTHING

    def told(self, type_: EventType, request: TaskRequest, data: Mapping[str, Any], /) -> None:
        """Do nothing."""

    def controlled(self, task_id: str, verb: Verb, trace: Trace, /) -> None:
        """Do nothing."""

    def decided(self, request: TaskRequest, result: Result, settlement: Settlement, /) -> None:
        """Do nothing."""

    def lease_lost(self, task_id: str, /) -> None:
        """Do nothing."""

    def waiting(self, category: str, pending: int, ack_pending: int, /) -> None:
        """Do nothing."""

    def exposition(self) -> tuple[str, bytes] | None:
        """Return nothing."""
        return None


_NOTHING: Final = nullcontext()
SILENT: Final = Silent()
