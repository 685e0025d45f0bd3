"""Result: how a task ended, and its parts."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct

Encoding = Literal["utf-8", "base64"]
"""How a stream is written as text."""


class Status(StrEnum):
    """Where a task is; the last five are ends."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELED = "canceled"
    ERROR = "error"


class ErrorClass(StrEnum):
    """Whose fault it was; `error_code` says exactly what."""

    PARAMETER = "parameter"
    EXECUTION = "execution"
    TIMEOUT = "timeout"
    SYSTEM = "system"
    NETWORK = "network"


class Cause(StrEnum):
    """What ended a run; the first cause wins."""

    EXIT = "exit"
    TIMEOUT = "timeout"
    STOP = "stop"
    KILL = "kill"
    SHUTDOWN = "shutdown"
    OUTPUT_LIMIT = "output_limit"
    OOM = "oom"
    LOST = "lost"


class StreamOutput(Struct, frozen=True, kw_only=True):
    """One output stream of a task.

    `bytes` counts all that was written; `sha256` is over the same bytes, None if there are more than may be kept.
    `ref` names the object that holds the whole stream when it did not fit the Result.
    """

    bytes: int = 0
    encoding: Encoding = "utf-8"
    truncated: bool = False
    dropped_bytes: int = 0
    ref: str | None = None
    sha256: str | None = None


class Streams(Struct, frozen=True, kw_only=True):
    """Both output streams."""

    stdout: StreamOutput = StreamOutput()
    stderr: StreamOutput = StreamOutput()


class Termination(Struct, frozen=True, kw_only=True):
    """The receipt of how a run was ended: by what, with which signals, by whom and why."""

    cause: Cause
    signals: tuple[str, ...] = ()
    leaked_processes: int = 0
    unkillable: bool = False
    by: str | None = None
    reason: str | None = None


class AppliedLimit(Struct, frozen=True, kw_only=True):
    """A limit as the task asked for it, and what enforced it."""

    requested: int | float
    enforced_by: Literal["cgroup2", "docker", "rlimit", "poll", "worker", "none"]


class Usage(Struct, frozen=True, kw_only=True):
    """What a run used: CPU in seconds, the largest resident set in bytes.

    `max_rss` is None where it is not known: that of a process which took no more than its worker cannot be told from
    the worker's own, which the kernel counts as the process's until its exec.
    """

    cpu_user: float
    cpu_system: float
    max_rss: int | None = None


class HttpResponse(Struct, frozen=True, kw_only=True):
    """The response of an HTTP task; its body is the Result's `output`. `elapsed` is seconds per phase.

    `decoded` is false if the body is kept as it came: in an encoding, or a pile of them, that is not undone.
    """

    status_code: int
    headers: dict[str, str]
    url: str
    elapsed: dict[str, float]
    decoded: bool = True


class DockerContainer(Struct, frozen=True, kw_only=True):
    """The container of a Docker task."""

    container_id: str
    image: str
    image_id: str | None = None


class ScriptSource(Struct, frozen=True, kw_only=True):
    """What a script task ran: `path` is its file, links resolved, None for an inline script; `sha256` is its bytes'."""

    path: str | None = None
    sha256: str


class Result(Struct, frozen=True, kw_only=True):
    """The one end of a task, as stored on `P.results.<task_id>`.

    `duration` is milliseconds. `exit_code` is what really happened (128+n for signal n, 127 or 126 when exec failed),
    None where there was no process. `start_time` is None if nothing started. `retry_after` is how many seconds the
    other end asked us to wait before another try. `first_error` is the error that a `fallback` stood in for.
    """

    task_id: str
    category: str
    status: Status
    output: str = ""
    stderr: str = ""
    error: str = ""
    start_time: datetime | None = None
    end_time: datetime
    duration: int = 0
    exit_code: int | None = None
    error_class: ErrorClass | None = None
    error_code: str | None = None
    retryable: bool = False
    retry_after: float | None = None
    signal: str | None = None
    attempt: int = 1
    redeliveries: int = 0
    worker: str = ""
    streams: Streams = Streams()
    output_complete: bool = True
    termination: Termination | None = None
    limits: dict[str, AppliedLimit] = {}
    usage: Usage | None = None
    http: HttpResponse | None = None
    docker: DockerContainer | None = None
    script: ScriptSource | None = None
    cached: bool = False
    degraded: bool = False
    first_error: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    side_effect: Literal["unknown"] | None = None
    cleanup: Literal["pending"] | None = None
    labels: dict[str, str] = {}
    trace_id: str | None = None
