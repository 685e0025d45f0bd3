"""What passes between a Runner and those around it: its context, its reports, its interruption."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Any, Final, Literal, Protocol

import anyio
from msgspec import Meta, Struct, field

from schemas import AppliedLimit, Cause, DockerContainer, HttpResponse, Limits, ScriptSource, Size, Task, Usage

DEFAULT_GRACE: Final = 10.0
"""Seconds between SIGTERM and SIGKILL where nothing else is said."""


DEFAULT_DRAIN_WINDOW: Final = 2.0
"""Seconds that a task's pipes may stay open after its leader's exit where nothing else is said."""

DEFAULT_OUTPUT_LIMIT: Final = 64 * 2**20
"""Bytes of a stream that are kept where nothing else is said."""


class Reporter(Protocol):
    """What a runner tells while it runs. No call may block, raise, or keep a buffer it is given."""

    def started(self, data: Mapping[str, Any]) -> None:
        """Take the start: pid, container or url."""

    def progress(self, data: Mapping[str, Any]) -> None:
        """Take a step of the work."""

    def stopping(self, data: Mapping[str, Any]) -> None:
        """Take the beginning of the end: by, reason, signal."""

    def output(self, stream: str, offset: int, chunk: bytes | memoryview) -> None:
        """Take some output, at its byte offset in the stream."""


class SilentReporter:
    """Takes every report and does nothing with it."""

    def started(self, data: Mapping[str, Any]) -> None:
        """Take the start."""

    def progress(self, data: Mapping[str, Any]) -> None:
        """Take a step of the work."""

    def stopping(self, data: Mapping[str, Any]) -> None:
        """Take the beginning of the end."""

    def output(self, stream: str, offset: int, chunk: bytes | memoryview) -> None:
        """Take some output."""


class Watcher(Protocol):
    """Sees to it that a process ends in time, even if we cannot."""

    def watching(self, pid: int, seconds: float) -> AbstractContextManager[None]:
        """Return a scope within which the process may run for so many seconds."""

    def keep_containers(self, socket: str, label: str) -> None:
        """Stop the containers with a label, through their engine's socket, when we are gone; said once is enough."""


class Facility(Protocol):
    """What all runners of a category share and cannot run without: a Docker engine. It lives on the event loop."""

    @property
    def obstacle(self) -> str | None:
        """Why no task can run now, as a sentence; None: as far as we know, it can."""

    async def wait_ready(self) -> None:
        """Return as soon as tasks can run, looking for it as long as they cannot."""

    async def wait_obstacle(self) -> str:
        """Return as soon as no task can run, with the reason."""

    async def serve(self) -> None:
        """Keep house until cancelled: what dead workers have left is removed."""


class Policy(Struct, frozen=True, kw_only=True):
    """What the worker lets the tasks of a category do, whatever they ask for; each runner enforces its own part."""

    profile: Literal["open", "standard", "strict"] = "standard"
    allow: tuple[str, ...] = ()
    script_roots: tuple[str, ...] = ()
    volume_roots: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    allow_cidrs: tuple[str, ...] = ()
    own_endpoints: tuple[str, ...] = ()
    """`host:port` of what the worker itself depends on; no task has any business there."""
    protected: tuple[str, ...] = ()
    """Paths of the worker's own that no container may see, whatever the profile but `open` says."""


class PoolSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The processes of a plain function: how many at most, and when one is replaced by a fresh one.

    `size` is by default the category's concurrency. A process is replaced after `max_tasks`, or when it holds more than
    `max_memory` bytes at a task's end; by default neither.
    """

    size: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    max_tasks: Annotated[int, Meta(ge=1)] | None = None
    max_memory: Size | None = None


class Context(Struct, frozen=True, kw_only=True):
    """What a runner knows of the task beyond its parameters, and whom it tells.

    `resource_limits` are the category's: the most that a task may ask for, and what it gets where it does not ask.
    """

    task: Task = field(default_factory=Task)
    resource_limits: Limits = Limits()
    attempt: int = 1
    redeliveries: int = 0
    worker: str = ""
    grace: float = DEFAULT_GRACE
    drain_window: float = DEFAULT_DRAIN_WINDOW
    output_limit: int | None = None
    """Bytes of a stream that are spooled for whoever stores what does not fit a Result; None: nobody does."""
    keeper: Watcher | None = None
    policy: Policy = Policy()
    concurrency: int = 1
    """How many tasks of the category run at once at most."""
    pool: PoolSettings = PoolSettings()
    reporter: Reporter = field(default_factory=SilentReporter)
    trace: Mapping[str, str] = {}
    """The headers `traceparent`, `tracestate` and `baggage` (W3C) of this run, as far as there are any."""


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

    @property
    def why(self) -> str | None:
        """The reason that was given, or what the cause itself tells."""
        return self.reason or _REASONS.get(self.cause)

    async def allow(self, end: Callable[[], Awaitable[object]]) -> bool:
        """Wait for an end within the grace, or until a kill; tell whether it has come."""
        failure: Exception | None = None
        came = False

        async def grow_impatient() -> None:
            await self.impatient.wait()
            waiting.cancel_scope.cancel()

        with anyio.move_on_after(self.grace):
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(grow_impatient)
                try:
                    await end()
                    came = True
                except Exception as error:  # noqa: BLE001 - raised below, without the group
                    failure = error
                waiting.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return came


_REASONS: Final = {
    Cause.TIMEOUT: "time-out",
    Cause.OUTPUT_LIMIT: "the output limit",
    Cause.SHUTDOWN: "the worker is shut down",
    Cause.LOST: "the task was lost to another worker",
}


class Report(Struct, kw_only=True):
    """What a runner found out about the work; it goes into the Result as it stands."""

    cause: Cause = Cause.EXIT
    exit_code: int | None = None
    signal: str | None = None
    stage: str = ""
    """What the work was at when it was interrupted, to follow "while it"."""
    signals_sent: list[str] = []
    leaked_processes: int = 0
    unkillable: bool = False
    output_complete: bool = True
    limits: dict[str, AppliedLimit] = {}
    usage: Usage | None = None
    http: HttpResponse | None = None
    docker: DockerContainer | None = None
    script: ScriptSource | None = None
    warnings: list[str] = []
    side_effect: Literal["unknown"] | None = None
    cleanup: Literal["pending"] | None = None
