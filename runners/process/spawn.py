"""Starts one process: directly, by vfork, in a session of its own, with its own pipes and a pidfd.

The seam under the runners is narrow: a `ProcessSpec` goes in, a `Process` or a RunnerError comes out. Only a process
with a `Confinement` starts as a wrapper (confine.py) that becomes the command: some 10 ms later it says so, or why not.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
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


class Confinement(Struct, frozen=True, kw_only=True):
    """What a process is confined by: rlimits (soft, hard), by their names without RLIMIT_, and a cgroup to join."""

    rlimits: Mapping[str, tuple[int, int]] = {}
    cgroup: Path | None = None


class Exit(Struct, frozen=True, kw_only=True):
    """How the leader ended: its wait status, and what it and its reaped children used (getrusage(2))."""

    code: int
    signal: str | None
    cpu_user: float
    cpu_system: float
    max_rss: int


class Start:
    """What a wrapper says, through a pipe of its own, before it becomes the command of a process."""

    def __init__(self, descriptor: int, spec: ProcessSpec) -> None:
        self.descriptor = descriptor
        self._spec = spec
        self._said = b""

    def decided(self) -> bool:
        """Take what is there; tell whether the command runs or cannot run any more."""
        try:
            while chunk := os.read(self.descriptor, _ENOUGH):
                self._said += chunk
        except BlockingIOError:
            return False
        return True

    def failure(self) -> RunnerError | None:
        """Return why the command does not run, once that is decided; None if it does."""
        if self._said == _BECOMES:
            return None
        number, _, stage = self._said.removeprefix(_BECOMES).decode().partition(" ")
        if stage == "exec":
            return _explain(OSError(int(number), os.strerror(int(number))), self._spec)
        why = f": {stage}: {os.strerror(int(number))}" if stage else ""
        return SpawnFailedError(f"the process could not be confined{why}")

    def close(self) -> None:
        """Listen no more."""
        os.close(self.descriptor)


class Process:
    """A started leader of its own session and group, its output pipes' reading ends, and nothing else.

    The pid stays ours until `reap`: until then it names the leader, or its zombie, and no other process. A confined
    one has a `start`, which tells when it has become its command.
    """

    def __init__(self, popen: "subprocess.Popen[bytes]", stdout: int, stderr: int, start: Start | None = None) -> None:
        self._popen = popen
        self.pid = popen.pid
        self.stdout = stdout
        self.stderr = stderr
        self.start = start

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

    def abandon(self) -> None:
        """End it at once, and close its pipes: for one that cannot be watched."""
        self.signal(signal.SIGKILL)
        self.reap()
        os.close(self.stdout)
        os.close(self.stderr)
        if self.start is not None:
            self.start.close()


def spawn(spec: ProcessSpec, confinement: Confinement | None = None) -> Process:
    """Start a process; blocks for about 0.6 ms, whatever the worker's size.

    Raises:
        RunnerError: it could not be started; each errno has its class.
    """
    with ExitStack() as ours, ExitStack() as its:
        try:
            stdout, stderr = _pipe(ours, its), _pipe(ours, its)
            stdin = _readable(its, spec.stdin) if spec.stdin else subprocess.DEVNULL
            confining = _pipe(ours, its) if confinement is not None else None
            launch = (
                _direct(spec)
                if confinement is None or confining is None
                else _confined(spec, confinement, confining[1], _environment_file(its, spec))
            )
        except OSError as error:
            raise SpawnFailedError(f"no pipe or file could be made for the process: {error.strerror}") from None
        popen = _start(spec, launch, stdin, stdout[1], stderr[1])
        ours.pop_all()
    _offer_first(popen.pid)
    for descriptor in (stdout[0], stderr[0], *(confining or ())[:1]):
        os.set_blocking(descriptor, False)
    return Process(popen, stdout[0], stderr[0], Start(confining[0], spec) if confining is not None else None)


def _offer_first(pid: int) -> None:
    """Let the kernel, when memory runs out, take the task before its worker; its children follow it."""
    with suppress(OSError):  # it has ended already, or there is no procfs
        (_PROC / str(pid) / "oom_score_adj").write_text(OOM_SCORE_ADJUSTMENT)


class _Launch(Struct, frozen=True):
    """What is executed first: the command, or the wrapper that becomes it, and the descriptors this one needs."""

    argv: Sequence[str]
    env: Mapping[str, str]
    descriptors: Sequence[int] = ()


def _direct(spec: ProcessSpec) -> _Launch:
    return _Launch(spec.argv, spec.env)


def _confined(spec: ProcessSpec, confinement: Confinement, errors: int, environment: int) -> _Launch:
    rlimits = {"CORE": (0, 0), **confinement.rlimits}
    arguments = [
        str(errors),
        str(environment),
        "-" if confinement.cgroup is None else str(confinement.cgroup),
        ",".join(f"{name}={soft}:{hard}" for name, (soft, hard) in rlimits.items()),
    ]
    env = {name: os.environ[name] for name in _LOADER_VARIABLES if name in os.environ}
    return _Launch([*_WRAPPER, *arguments, "--", *spec.argv], env, (errors, environment))


def _environment_file(stack: ExitStack, spec: ProcessSpec) -> int:
    """Return a file with the environment, in memory where there is such a thing: some of it may be secret."""
    try:
        content = b"\0".join(os.fsencode(f"{name}={value}") for name, value in spec.env.items())
    except ValueError as error:
        raise _unpassable(error) from None
    if not hasattr(os, "memfd_create"):
        return _readable(stack, content).fileno()
    descriptor = os.memfd_create("environment")
    stack.callback(os.close, descriptor)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _start(
    spec: ProcessSpec, launch: _Launch, stdin: IO[bytes] | int, stdout: int, stderr: int
) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            launch.argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=spec.cwd,
            env=launch.env,
            pass_fds=launch.descriptors,
            start_new_session=True,
        )
    except OSError as error:
        if launch.descriptors and error.filename == sys.executable and error.errno != errno.E2BIG:
            raise SpawnFailedError(f"the wrapper of the process could not be started: {error.strerror}") from None
        raise _explain(error, spec) from None
    except ValueError as error:  # what argv, cwd or environment cannot hold, such as a lone surrogate
        raise _unpassable(error) from None


def _unpassable(error: ValueError) -> InvalidTaskError:
    return InvalidTaskError(f"the command cannot be passed to a process: {error}")


def _pipe(reading: ExitStack, writing: ExitStack) -> tuple[int, int]:
    """Return a pipe's ends, each to be closed by its stack."""
    ends = os.pipe()
    reading.callback(os.close, ends[0])
    writing.callback(os.close, ends[1])
    return ends


def _readable(stack: ExitStack, data: bytes) -> IO[bytes]:
    """Return a file to read `data` from: unlike a pipe it needs no writer, and nobody to mind a reader's end."""
    file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - it does
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    file.seek(0)
    return file


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
    if _is_file(found):
        return InterpreterNotFoundError(f"the command {str(found)!r} is there, but the interpreter it names is not")
    where = "" if "/" in command else f" on the PATH {path}"
    return CommandNotFoundError(f"the command {command!r} was not found{where}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


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


OOM_SCORE_ADJUSTMENT: Final = "500"
"""Half of all memory more than it has, in the kernel's eyes (proc(5))."""
_PROC: Final = Path("/proc")
_BECOMES: Final = b"+"
"""What the wrapper says just before it executes the command."""
_ENOUGH: Final = 1024
_WRAPPER: Final = (
    *(sys.executable, "-I", "-S", "-E", "-X", "utf8"),
    str(Path(__file__).with_name("confine.py")),
)
_LOADER_VARIABLES: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""The worker's own, without which its interpreter may not start."""
_NO_SIGNAL: Final = 0
"""Sent to learn whether there is anyone to signal (kill(2))."""
_RSS_UNIT: Final = 1 if os.uname().sysname == "Darwin" else 1024
"""Bytes: getrusage(2) counts the resident set in KiB, except on macOS."""
