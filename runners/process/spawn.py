"""Starts one process: directly, by vfork, in a session of its own, with its own pipes and a pidfd.

The seam under the runners is narrow: a `ProcessSpec` goes in, a `Process` or a RunnerError comes out.
"""

import errno
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final, Literal

from msgspec import Struct

from runners.errors import (
    ArgumentTooLongError,
    BadCwdError,
    CommandNotFoundError,
    ExecFormatError,
    InterpreterNotFoundError,
    InvalidTaskError,
    NotExecutableError,
    RunnerError,
    SpawnFailedError,
)


class ProcessSpec(Struct, frozen=True, kw_only=True):
    """What to run. `stop_scope` says who gets the polite signal; the rude one always goes to all."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str | None = None
    stdin: bytes = b""
    stop_scope: Literal["group", "leader"] = "group"


class Exit(Struct, frozen=True, kw_only=True):
    """How the leader ended: its wait status, and what it and its reaped children used (getrusage(2))."""

    code: int
    signal: str | None
    cpu_user: float
    cpu_system: float
    max_rss: int


class Process:
    """A started leader of its own session and group, its output pipes' reading ends, and nothing else.

    The pid stays ours until `reap`: until then it names the leader, or its zombie, and no other process.
    """

    def __init__(self, popen: "subprocess.Popen[bytes]", stdout: int, stderr: int) -> None:
        self._popen = popen
        self.pid = popen.pid
        self.stdout = stdout
        self.stderr = stderr

    def signal(self, number: int, *, leader_only: bool = False) -> bool:
        """Send a signal to the group or its leader; tell whether anyone was there to get it."""
        try:
            if leader_only:
                os.kill(self.pid, number)
            else:
                os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # macOS: the group holds only zombies; elsewhere: a set-user-id program
            return False
        return True

    def reap(self) -> Exit:
        """Collect the leader, which has ended; its pid is free from here on."""
        _, status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._popen.returncode = code
        return Exit(
            code=code if code >= 0 else 128 - code,
            signal=_signal_name(-code) if code < 0 else None,
            cpu_user=usage.ru_utime,
            cpu_system=usage.ru_stime,
            max_rss=usage.ru_maxrss * _RSS_UNIT,
        )

    def survivors(self) -> int:
        """Kill what is left of the group after `reap`, and count it.

        The kernel keeps a group's number from being given out again while anyone is in the group.
        """
        if not self.signal(_NO_SIGNAL):
            return 0
        count = _count_group(self.pid)
        self.signal(signal.SIGKILL)
        return count


def spawn(spec: ProcessSpec) -> Process:
    """Start a process; blocks for about 0.6 ms, whatever the worker's size.

    Raises:
        RunnerError: it could not be started; each errno has its class.
    """
    stdout = stderr = (-1, -1)
    stdin: IO[bytes] | int = subprocess.DEVNULL
    try:
        stdout, stderr = os.pipe(), os.pipe()
        stdin = _readable(spec.stdin) if spec.stdin else subprocess.DEVNULL
        popen = subprocess.Popen(
            spec.argv,
            stdin=stdin,
            stdout=stdout[1],
            stderr=stderr[1],
            cwd=spec.cwd,
            env=spec.env,
            start_new_session=True,
        )
    except OSError as error:
        _close(stdout[0], stderr[0])
        raise _explain(error, spec) from None
    except ValueError as error:  # what argv, cwd or environment cannot hold, such as a lone surrogate
        _close(stdout[0], stderr[0])
        raise InvalidTaskError(f"the command cannot be passed to a process: {error}") from None
    finally:
        _close(stdout[1], stderr[1])
        if not isinstance(stdin, int):
            stdin.close()
    os.set_blocking(stdout[0], False)
    os.set_blocking(stderr[0], False)
    return Process(popen, stdout[0], stderr[0])


def _readable(data: bytes) -> IO[bytes]:
    """Return a file to read `data` from: unlike a pipe it needs no writer, and nobody to mind a reader's end."""
    file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the caller closes it
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    file.seek(0)
    return file


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)


def _explain(error: OSError, spec: ProcessSpec) -> RunnerError:
    """Say which of the task's own faults, or the machine's, kept the process from starting."""
    command = spec.argv[0]
    if spec.cwd is not None and error.filename == spec.cwd and command != spec.cwd:
        return BadCwdError(f"the working directory {spec.cwd!r} cannot be entered: {error.strerror}")
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.ENAMETOOLONG | errno.ELOOP:
            return _explain_missing(command, spec)
        case errno.EACCES | errno.EPERM | errno.EISDIR | errno.ETXTBSY:
            return NotExecutableError(f"the command {command!r} cannot be executed: {error.strerror}")
        case errno.ENOEXEC:
            return ExecFormatError(
                f"the command {command!r} is no program for this machine, nor a script with a #! line"
            )
        case errno.E2BIG:
            return ArgumentTooLongError(f"the arguments and environment of {command!r} are too long: {error.strerror}")
    return SpawnFailedError(f"no process could be started: {error.strerror}")


def _explain_missing(command: str, spec: ProcessSpec) -> RunnerError:
    """Tell a missing command from one whose interpreter is missing: for both, exec says ENOENT."""
    path = spec.env.get("PATH", os.defpath)
    found = Path(spec.cwd or ".", command) if "/" in command else Path(shutil.which(command, path=path) or "/")
    if found.is_file():
        return InterpreterNotFoundError(f"the command {str(found)!r} is there, but the interpreter it names is not")
    where = "" if "/" in command else f" on the PATH {path}"
    return CommandNotFoundError(f"the command {command!r} was not found{where}")


def _count_group(group: int) -> int:
    """Count the live processes of a group, by procfs; where there is none, tell only that there are some."""
    if not _PROC.is_dir():
        return 1
    return sum(_is_alive_in(entry, group) for entry in _PROC.iterdir() if entry.name.isdigit())


def _is_alive_in(entry: Path, group: int) -> bool:
    try:
        state, _, pgrp = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:3]
    except OSError:
        return False
    return int(pgrp) == group and state not in {b"Z", b"X"}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal between the two that have names
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


_PROC: Final = Path("/proc")
_NO_SIGNAL: Final = 0
"""Sent to learn whether there is anyone to signal (kill(2))."""
_RSS_UNIT: Final = 1 if os.uname().sysname == "Darwin" else 1024
"""Bytes: getrusage(2) counts the resident set in KiB, except on macOS."""
