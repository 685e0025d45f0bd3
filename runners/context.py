"""What passes between a Runner and those around it: its context, its reports, its interruption."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import anyio
from msgspec import Struct, field

from schemas import AppliedLimit, Cause, DockerContainer, HttpResponse, Task, Usage


class Reporter(Protocol):
    """What a runner tells while it runs. No call may block, raise, or keep a buffer it is given."""

    def started(self, data: Mapping[str, Any]) -> None:
        """Take the start: pid, container or url."""

    def progress(self, data: Mapping[str, Any]) -> None:
        """Take a step of the work."""

    def stopping(self, data: Mapping[str, Any]) -> None:
        """Take the beginning of the end: by, reason, signal."""

    def output(self, stream: str, offset: int, chunk: bytes) -> None:
        """Take some output, at its byte offset in the stream."""


class SilentReporter:
    """Takes every report and does nothing with it."""

    def started(self, data: Mapping[str, Any]) -> None:
        """Take the start."""

    def progress(self, data: Mapping[str, Any]) -> None:
        """Take a step of the work."""

    def stopping(self, data: Mapping[str, Any]) -> None:
        """Take the beginning of the end."""

    def output(self, stream: str, offset: int, chunk: bytes) -> None:
        """Take some output."""


class Context(Struct, frozen=True, kw_only=True):
    """What a runner knows of the task beyond its parameters, and whom it tells."""

    task: Task = field(default_factory=Task)
    attempt: int = 1
    redeliveries: int = 0
    worker: str = ""
    reporter: Reporter = field(default_factory=SilentReporter)


class Interruption:
    """Why a run is being ended from outside, and how patiently."""

    def __init__(self, cause: Cause, grace: float, by: str | None = None, reason: str | None = None) -> None:
        self.cause = cause
        self.grace = grace
        self.by = by
        self.reason = reason
        self.impatient = anyio.Event()
        """Set when the grace is over before its time: a kill."""
        if cause is Cause.KILL:
            self.impatient.set()


class Report(Struct, kw_only=True):
    """What a runner found out about the work; it goes into the Result as it stands."""

    cause: Cause = Cause.EXIT
    exit_code: int | None = None
    signal: str | None = None
    signals_sent: list[str] = []
    leaked_processes: int = 0
    unkillable: bool = False
    output_complete: bool = True
    limits: dict[str, AppliedLimit] = {}
    usage: Usage | None = None
    http: HttpResponse | None = None
    docker: DockerContainer | None = None
    warnings: list[str] = []
    side_effect: Literal["unknown"] | None = None
    cleanup: Literal["pending"] | None = None
