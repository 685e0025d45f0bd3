"""What an engine's answers mean: its refusals as our errors, a container's end as an outcome. Pure."""

import re
import signal
from typing import Any, Final, Literal, Self

from msgspec import Struct

from runners.errors import (
    SUCCESS,
    ArgumentTooLongError,
    CommandNotFoundError,
    ContainerConfigError,
    DockerUnavailableError,
    ExecFormatError,
    ImageNotFoundError,
    ImagePullFailedError,
    NotExecutableError,
    Outcome,
    RunnerError,
    failed,
)
from schemas import Cause

NOT_FOUND: Final = 404
CONFLICT: Final = 409
COMMAND_NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
LONGEST_INIT_COMPLAINT: Final = 4096
"""Bytes of the standard error in which the init's complaint is looked for."""

_SIGNALLED: Final = 128
_MOST_CLASSIC_SIGNALS: Final = 31
_SCARCE: Final = (
    "no space left",
    "cannot allocate memory",
    "resource temporarily unavailable",
    "too many open files",
    "deadline exceeded",
    "containerd.sock",
    "shutting down",
)
_NO_IMAGE: Final = ("manifest unknown", "not found", "access denied", "denied:", "does not exist", "unauthorized")
_INIT_COMPLAINT: Final = re.compile(rb"\[FATAL tini \(\d+\)\] (exec .+ failed: .+)")


class RefusedError(Exception):
    """The engine answered a request with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class ContainerState(Struct, frozen=True, kw_only=True):
    """What an engine knows of a container (GET /containers/{id}/json)."""

    running: bool = False
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    image_id: str | None = None
    stop_signal: str = signal.SIGTERM.name

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Self:
        """Read an engine's answer."""
        state = answer["State"]
        return cls(
            running=bool(state["Running"]),
            exit_code=state["ExitCode"],
            oom_killed=state["OOMKilled"],
            error=state["Error"],
            image_id=answer.get("Image"),
            stop_signal=answer["Config"].get("StopSignal") or signal.SIGTERM.name,
        )


class Verdict(Struct, frozen=True, kw_only=True):
    """How a container ended."""

    outcome: Outcome
    cause: Cause = Cause.EXIT
    signal: str | None = None
    warning: str | None = None


def judge(state: ContainerState, *, killed: bool, memory: float | None = None, complaint: bytes = b"") -> Verdict:
    """Say how a container ended: whether we killed it, its memory limit, and the beginning of its standard error."""
    code, name = state.exit_code, signal_of(state.exit_code)
    if state.oom_killed and name == signal.SIGKILL.name and not killed:
        limit = "its memory limit" if memory is None else f"its {memory:.0f} bytes of memory"
        return Verdict(outcome=failed("oom_killed", f"the task used more than {limit}"), cause=Cause.OOM, signal=name)
    warning = None
    if state.oom_killed:
        warning = "oom_kill_in_task: the kernel killed a process for the task's memory limit"
    if code == 0:
        return Verdict(outcome=SUCCESS, warning=warning)
    if (error := _init_failure(code, complaint)) is not None:
        return Verdict(outcome=error.outcome, warning=warning)
    if name is None:
        return Verdict(outcome=failed("exit_nonzero", f"the container ended with exit code {code}"), warning=warning)
    hint = ", possibly for want of memory" if name == signal.SIGKILL.name and not killed else ""
    return Verdict(
        outcome=failed("signalled", f"the container was ended by {name}{hint}"), signal=name, warning=warning
    )


def signal_of(code: int) -> str | None:
    """Return the signal that an exit code stands for: an engine tells 128+n from a signal as little as a shell."""
    if not _SIGNALLED < code <= _SIGNALLED + _MOST_CLASSIC_SIGNALS:
        return None
    return signal.Signals(code - _SIGNALLED).name


def refusal(stage: Literal["create", "attach", "start"], error: RefusedError) -> RunnerError:
    """Return what an engine's refusal means for the task."""
    text = error.text.lower()
    if any(words in text for words in _SCARCE):
        return DockerUnavailableError(f"the Docker engine could not {stage} the container: {error.text}")
    if stage == "create" and error.status == NOT_FOUND and "no such image" in text:
        return ImageNotFoundError(f"the image is not there: {error.text}")
    if stage == "start" and (failure := exec_failure(error.text)) is not None:
        return failure
    return ContainerConfigError(f"the Docker engine refused to {stage} the container: {error.text}")


def pull_refusal(image: str, text: str, status: int | None = None) -> RunnerError:
    """Return what the failure of a pull means: there is no such image, or its registry could not be asked."""
    lowered = text.lower()
    if "invalid reference" in lowered:
        return ContainerConfigError(f"the image {image!r} cannot be: {text}")
    if status == NOT_FOUND or ("dial tcp" not in lowered and any(words in lowered for words in _NO_IMAGE)):
        return ImageNotFoundError(f"the image {image!r} is nowhere to be had: {text}")
    return ImagePullFailedError(f"the image {image!r} could not be pulled: {text}")


def exec_failure(text: str) -> RunnerError | None:
    """Return why a container's command could not be executed, if that is what a text says."""
    lowered = text.lower()
    if "exec" not in lowered:
        return None
    for words, error in _EXEC_FAILURES.items():
        if words in lowered:
            return error(f"the command could not be executed in the image: {text}")
    return None


_EXEC_FAILURES: Final[dict[str, type[RunnerError]]] = {
    "executable file not found": CommandNotFoundError,
    "no such file or directory": CommandNotFoundError,
    "permission denied": NotExecutableError,
    "exec format error": ExecFormatError,
    "argument list too long": ArgumentTooLongError,
}


def _init_failure(code: int, complaint: bytes) -> RunnerError | None:
    """Return why the engine's init could not execute the command, as it says itself."""
    if code not in (COMMAND_NOT_FOUND, NOT_EXECUTABLE):
        return None
    found = _INIT_COMPLAINT.match(complaint)
    return exec_failure(found[1].decode(errors="replace")) if found else None
