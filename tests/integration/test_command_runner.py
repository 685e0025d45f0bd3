"""Tests of CommandRunner with real processes: each situation of a process's life, and the Result it ends in."""

import base64
import errno
import os
import re
import resource
import shutil
import signal
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from runners.command import CommandRunner
from runners.context import DEFAULT_DRAIN_WINDOW as DRAIN_WINDOW
from runners.context import Context
from schemas import Base64, Cause, Result, Status, Task, Termination

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]

PATIENCE = 20.0
"""Seconds that no wait in these tests takes."""
LONG = 600.0
"""Seconds that no run in these tests takes: a grace or time-out of this length is not used up."""
SLEEP = "sleep 600"
TRUE = shutil.which("true") or ""


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


class Recorder:
    """Keeps a runner's reports, and lets a test wait for them."""

    def __init__(self) -> None:
        self.pid = 0
        self.signals: list[str] = []
        self.stops: list[dict[str, Any]] = []
        self.stdout = bytearray()
        self._news = anyio.Event()

    def started(self, data: Mapping[str, Any]) -> None:
        """Keep the pid."""
        self.pid = data["pid"]
        self._tell()

    def progress(self, data: Mapping[str, Any]) -> None:
        """Refuse what a command never reports."""
        raise AssertionError(data)

    def stopping(self, data: Mapping[str, Any]) -> None:
        """Keep the beginning of the end."""
        self.stops.append(dict(data))
        self.signals.append(data["signal"])
        self._tell()

    def output(self, stream: str, offset: int, chunk: bytes) -> None:
        """Keep the beginning of the standard output."""
        if stream == "stdout" and len(self.stdout) < 1000:
            self.stdout += chunk[:1000]
            self._tell()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for reports that make a condition true."""
        with anyio.fail_after(PATIENCE):
            while not condition():
                await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()


class Run:
    """One command, its runner and what it reports."""

    def __init__(
        self,
        command: str,
        args: Sequence[str] = (),
        *,
        timeout: float = LONG,
        grace: float = LONG,
        stop_scope: str = "group",
        **task: Any,
    ) -> None:
        self.recorder = Recorder()
        self.runner = CommandRunner()
        self.runner.context = Context(
            task=Task(id="t-1", category="command", **task), worker="w-1", grace=grace, reporter=self.recorder
        )
        self.runner.timeout = timeout
        self.runner.parse_args(command, {"args": [*args], "stop_scope": stop_scope})

    async def to_its_end(self) -> Result:
        """Execute."""
        with anyio.fail_after(PATIENCE):
            return await self.runner.execute()

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Execute; the body begins once the command has printed "ready", and the run ends within its own end."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(self.runner.execute)
                await self.recorder.until(lambda: b"ready" in self.recorder.stdout)
                yield

    async def ready_then(self, end: Callable[[CommandRunner], object]) -> Result:
        """Execute, and end the run once the command has printed "ready"."""
        async with self.ready():
            end(self.runner)
        return self.result

    @property
    def result(self) -> Result:
        """The Result of a run that has ended."""
        assert self.runner.result is not None
        return self.runner.result


def shell(script: str, **options: Any) -> Run:
    """Return a run of a shell script."""
    return Run("/bin/sh", ["-c", script], **options)


def termination(result: Result) -> Termination:
    """Return the receipt of a run that had begun."""
    assert result.termination is not None
    return result.termination


def states(group: int | None = None, parent: int | None = None) -> dict[int, str]:
    """Return the states of the processes of a group or a parent, by pid (proc_pid_stat(5))."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, ppid, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(pgrp) == group or int(ppid) == parent:
                found[int(entry.name)] = state
    return found


def descriptors() -> set[str]:
    """Return our open descriptors."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what nothing reports."""
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - /proc sends no event
            await anyio.sleep(0.005)


async def no_survivors(group: int) -> None:
    """Wait until all that was killed of a group is dead."""
    await eventually(lambda: not set(states(group=group).values()) - {"Z", "X"})


def write(path: Path, content: bytes, mode: int = 0o755) -> Path:
    """Write an executable file."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the place for a file of the test's own."""
    return tmp_path / "file"


# The process ends by itself


async def test_success() -> None:
    """Exit code 0 is success, without an error."""
    run = Run("echo", ["hi"])
    result = await run.to_its_end()
    assert (result.status, result.exit_code, result.signal) == (Status.SUCCESS, 0, None)
    assert (result.error, result.error_class, result.error_code) == ("", None, None)
    assert (result.output, result.stderr, result.output_complete) == ("hi\n", "", True)
    assert termination(result) == Termination(cause=Cause.EXIT)
    assert result.start_time is not None
    assert result.start_time <= result.end_time


@pytest.mark.parametrize("code", [1, 7, 126, 127, 137, 255])
async def test_another_exit_code(code: int) -> None:
    """Any other exit code is a failure; one that looks like a signal's, or like a failed exec, is still just a code."""
    result = await shell(f"exit {code}").to_its_end()
    assert (result.status, result.exit_code, result.signal) == (Status.FAILED, code, None)
    assert (result.error_class, result.error_code, result.retryable) == ("execution", "exit_nonzero", False)
    assert result.error == f"the process ended with exit code {code}"
    assert termination(result) == Termination(cause=Cause.EXIT)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGKILL, "SIGKILL"),
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGUSR1, "SIGUSR1"),
        (signal.SIGPIPE, "SIGPIPE"),
        (signal.SIGRTMIN, "SIGRTMIN"),
        (signal.SIGRTMIN + 1, "SIGRTMIN+1"),
        (signal.SIGRTMAX, "SIGRTMAX"),
    ],
)
async def test_a_signal_of_its_own(number: int, name: str) -> None:
    """A process that dies by a signal we did not send has failed with 128+n and the signal's name."""
    result = await shell(f"kill -{int(number)} $$").to_its_end()
    assert (result.status, result.exit_code, result.signal) == (Status.FAILED, 128 + number, name)
    assert (result.error_class, result.error_code) == ("execution", "signalled")
    assert result.error == f"the process was ended by {name}"
    assert termination(result) == Termination(cause=Cause.EXIT)


async def test_usage() -> None:
    """What the process and its reaped children used is in the Result: CPU in seconds, memory in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 50_000_000
    result = await shell(f"{sys.executable} -c 'import array; array.array(\"b\", [1]) * {most}'").to_its_end()
    assert result.usage is not None
    assert 0 < result.usage.cpu_user + result.usage.cpu_system < PATIENCE
    assert result.usage.max_rss is not None
    assert most < result.usage.max_rss < most + 100_000_000


async def test_the_memory_of_a_process_that_is_smaller_than_its_worker() -> None:
    """What the process took itself cannot be told from what was its worker's before the exec, so nothing is said."""
    for _ in range(20):
        result = await shell("exit 0").to_its_end()
        assert result.usage is not None
        assert result.usage.max_rss is None


async def test_the_kernel_takes_the_task_before_its_worker() -> None:
    """When memory runs out, a task is offered first, and all that it starts."""
    until_offered = "until read score < /proc/$$/oom_score_adj && [ $score = 500 ]; do :; done"
    result = await shell(f"{until_offered}; sh -c 'cat /proc/self/oom_score_adj'").to_its_end()
    assert result.output == "500\n"


async def test_the_leader_has_a_session_of_its_own() -> None:
    """The process leads its own session and group, away from the worker's terminal and signals."""
    run = shell(f"echo ready; {SLEEP}")
    async with run.ready():
        pid = run.recorder.pid
        assert os.getsid(pid) == os.getpgid(pid) == pid != os.getpgrp()
        run.runner.kill()


# The process cannot be started


def unstarted(result: Result) -> tuple[str, str | None, int | None]:
    """Return how a run ended that began no process."""
    assert (result.start_time, result.termination, result.duration, result.usage) == (None, None, 0, None)
    return result.status.value, result.error_code, result.exit_code


@pytest.mark.parametrize(
    ("command", "where"),
    [
        ("no-such-command", " on the PATH "),
        ("x" * 300, " on the PATH "),
        ("/no/such/command", ""),
        ("./no-such-command", ""),
        ("/etc/passwd/command", ""),
        pytest.param("/" + "x" * 5000, "", id="a path that is too long"),
        pytest.param("/tmp/" + "x" * 300, "", id="a name that is too long"),
    ],
)
async def test_command_not_found(command: str, where: str) -> None:
    """A command that is not there is 127, as in a shell."""
    result = await Run(command).to_its_end()
    assert unstarted(result) == ("failed", "command_not_found", 127)
    assert result.error.startswith(f"the command {command!r} was not found{where}")


@pytest.fixture
def dangling_link(tmp_path: Path) -> str:
    """Return a link to nothing."""
    link = tmp_path / "link"
    link.symlink_to("nothing")
    return str(link)


async def test_a_dangling_link_is_not_found(dangling_link: str) -> None:
    """A link to nothing is no interpreter's fault."""
    assert unstarted(await Run(dangling_link).to_its_end()) == ("failed", "command_not_found", 127)


async def test_the_path_is_the_tasks(file: Path) -> None:
    """A bare name is looked up on the task's PATH, and nowhere else."""
    write(file, b"#!/bin/sh\necho mine\n")
    found = await Run("file", env={"PATH": f"/nowhere:{file.parent}"}).to_its_end()
    assert (found.status, found.output) == (Status.SUCCESS, "mine\n")
    lost = await Run("echo", env={"PATH": str(file.parent)}).to_its_end()
    assert unstarted(lost) == ("failed", "command_not_found", 127)
    assert lost.error == f"the command 'echo' was not found on the PATH {file.parent}"


async def test_a_relative_command_is_in_the_working_directory(file: Path) -> None:
    """A command with a slash is found from the task's working directory."""
    write(file, b"#!/bin/sh\npwd\n")
    result = await Run("./file", cwd=str(file.parent)).to_its_end()
    assert (result.status, result.output) == (Status.SUCCESS, f"{file.parent}\n")


async def test_a_file_without_permission(file: Path) -> None:
    """A file that may not be executed is 126, and no permission is changed."""
    write(file, b"#!/bin/sh\n", mode=0o644)
    result = await Run(str(file)).to_its_end()
    assert unstarted(result) == ("failed", "not_executable", 126)
    assert result.error == f"the command {str(file)!r} cannot be executed: Permission denied"
    assert not os.access(file, os.X_OK)


async def test_a_directory(tmp_path: Path) -> None:
    """A directory is 126."""
    assert unstarted(await Run(str(tmp_path)).to_its_end()) == ("failed", "not_executable", 126)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"echo no shebang\n", id="no shebang"),
        pytest.param(b"\x7fELF" + bytes(range(200)), id="garbage ELF"),
        pytest.param(b"\x7fELF", id="cut ELF"),
        pytest.param(b"#!\n", id="empty shebang"),
    ],
)
async def test_no_program(content: bytes, file: Path) -> None:
    """What the kernel cannot execute is 126; it is never handed to a shell."""
    result = await Run(str(write(file, content))).to_its_end()
    assert unstarted(result) == ("failed", "exec_format_error", 126)
    assert result.error.endswith("is no program for this machine, nor a script with a #! line")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"#!/no/such/interpreter\n", id="missing"),
        pytest.param(b"#!/bin/sh\r\necho hi\r\n", id="CRLF"),
        pytest.param(b"#!/etc/passwd/sh\n", id="through a file"),
        pytest.param(
            re.sub(rb"/lib\w*/ld-", lambda found: found[0][:-3] + b"no-", Path(TRUE).read_bytes(), count=1),
            id="ELF",
        ),
    ],
)
@pytest.mark.parametrize("by_name", [True, False])
async def test_interpreter_not_found(*, content: bytes, by_name: bool, file: Path) -> None:
    """A file that is there but names a missing interpreter is 127, and the error says "interpreter"."""
    write(file, content)
    run = Run("file", env={"PATH": str(file.parent)}) if by_name else Run(str(file))
    result = await run.to_its_end()
    assert unstarted(result) == ("failed", "interpreter_not_found", 127)
    assert result.error == f"the command {str(file)!r} is there, but the interpreter it names is not"


@pytest.mark.parametrize(
    ("cwd", "why"),
    [
        ("/no/such/directory", "No such file or directory"),
        ("/etc/passwd", "Not a directory"),
        ("/etc/passwd/x", "Not a directory"),
        ("/" + "x" * 300, "File name too long"),
    ],
)
async def test_bad_cwd(cwd: str, why: str) -> None:
    """A working directory that cannot be entered is the task's failure, without an exit code."""
    result = await Run("pwd", cwd=cwd).to_its_end()
    assert unstarted(result) == ("failed", "bad_cwd", None)
    assert result.error == f"the working directory {cwd!r} cannot be entered: {why}"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"args": ["x" * 200_000]}, id="one argument"),
        pytest.param({"args": ["x" * 100_000] * 70}, id="all arguments"),
        pytest.param({"env": {"X": "x" * 200_000}}, id="environment"),
    ],
)
async def test_too_long_arguments(options: dict[str, Any]) -> None:
    """What is too much for exec is 126."""
    result = await Run(TRUE, **options).to_its_end()
    assert unstarted(result) == ("failed", "argument_too_long", 126)


@pytest.mark.parametrize(
    "options",
    [
        {"command": "\ud800"},
        {"command": TRUE, "args": ["a", "\ud800"]},
        {"command": TRUE, "env": {"A": "\ud800"}},
        {"command": TRUE, "env": {"\ud800": "a"}},
        {"command": TRUE, "cwd": "/\ud800"},
    ],
    ids="-".join,
)
async def test_what_no_process_can_be_given(options: dict[str, Any]) -> None:
    """A lone surrogate has no bytes: the task is invalid, and nothing is started."""
    result = await Run(**options).to_its_end()
    assert unstarted(result) == ("error", "invalid_task", None)
    assert result.error_class == "parameter"


async def test_a_process_that_cannot_be_watched_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no descriptor is left to see a process's end, it is ended at once, and the task may be tried again."""
    pids = []

    def no_descriptor(pid: int) -> int:
        pids.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", no_descriptor)
    before = descriptors()
    result = await shell(SLEEP).to_its_end()
    assert unstarted(result) == ("error", "spawn_failed", None)
    assert (result.error, result.retryable) == ("the process could not be watched: Too many open files", True)
    assert descriptors() == before
    assert pids[0] not in states(parent=os.getpid())
    await no_survivors(pids[0])


# What the process is given


async def test_arguments_are_passed_as_they_are() -> None:
    """No shell sees the arguments: what would mean something to one arrives literally."""
    args = ["$(id)", "`id`", "$HOME", ";", "*", "~", "a  b", "", "'\"\\", "\n", "ünï", "--", "-n", "{a,b}", "#"]
    result = await Run("/usr/bin/printf", ["%s|", *args]).to_its_end()
    assert result.output == "".join(f"{arg}|" for arg in args)


@pytest.mark.parametrize("stdin", [None, ""])
async def test_no_stdin(stdin: str | None) -> None:
    """Without `stdin` the process reads the end of the file at once."""
    result = await Run("cat", stdin=stdin).to_its_end()
    assert (result.status, result.output) == (Status.SUCCESS, "")


@pytest.mark.parametrize(
    ("stdin", "output"),
    [
        pytest.param("one\ntwo", "one\ntwo", id="text"),
        pytest.param("ünï", "ünï", id="UTF-8"),
        pytest.param(Base64(base64=base64.b64encode(b"bytes").decode()), "bytes", id="base64"),
    ],
)
async def test_stdin(stdin: str | Base64, output: str) -> None:
    """What the task gives is read to its end, and nothing is added."""
    result = await Run("cat", stdin=stdin).to_its_end()
    assert (result.status, result.output) == (Status.SUCCESS, output)


async def test_much_stdin_that_is_read() -> None:
    """A megabyte arrives whole."""
    result = await Run("wc", ["-c"], stdin="x" * 1_000_000).to_its_end()
    assert result.output.strip() == "1000000"


@pytest.mark.parametrize("script", ["exit 0", "exec <&-", "read line"])
async def test_much_stdin_that_is_not_read(script: str) -> None:
    """A process may leave a megabyte of its stdin unread."""
    result = await shell(script, stdin="line\n" + "x" * 1_000_000).to_its_end()
    assert (result.status, result.error) == (Status.SUCCESS, "")


async def test_the_environment_is_built_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process gets a baseline, what the task gives and who it is, never the worker's own variables (R7)."""
    monkeypatch.setenv("WORKERS_OWN", "secret")
    run = Run("env", env={"A": "a=b", "EMPTY": ""}, secret_env={"S": "s"})
    result = await run.to_its_end()
    given = dict(line.split("=", 1) for line in result.output.splitlines())
    baseline = {"PATH", "HOME", "LANG", "TMPDIR", "USER"}
    own = {"A": "a=b", "EMPTY": "", "S": "s", "TASK_ID": "t-1", "TASK_ATTEMPT": "1", "TASK_INSTANCE": "w-1"}
    assert given.keys() - {"TZ"} == baseline | own.keys()
    assert own.items() <= given.items()
    assert given["LANG"] == "C.UTF-8"


async def test_no_descriptor_is_inherited() -> None:
    """The process has its three streams and nothing of the worker's, inheritable or not."""
    reading, writing = os.pipe()
    try:
        os.set_inheritable(writing, True)  # noqa: FBT003 - it takes no keyword
        result = await shell("ls /proc/$$/fd; exit").to_its_end()
    finally:
        os.close(reading)
        os.close(writing)
    assert result.output.split() == ["0", "1", "2"]


# Output


@pytest.mark.parametrize("output", ["no newline", "one\n", "\n\n", "\r\n", "ünï€😀"])
async def test_output_is_kept_exactly(output: str) -> None:
    """Nothing is added to the output, and nothing taken."""
    result = await Run("/usr/bin/printf", ["%s", output]).to_its_end()
    assert (result.output, result.streams.stdout.bytes) == (output, len(output.encode()))


async def test_both_streams_are_kept_apart() -> None:
    """What goes to stderr is the Result's `stderr`."""
    result = await shell("printf out; printf oops >&2").to_its_end()
    assert (result.output, result.stderr) == ("out", "oops")


async def test_binary_output() -> None:
    """Bytes that are no text come back as base64."""
    result = await shell(r"printf '\377\000'").to_its_end()
    assert (result.output, result.streams.stdout.encoding) == (base64.b64encode(b"\xff\0").decode(), "base64")


async def test_closed_streams() -> None:
    """A process that closes its output runs on to its own end."""
    result = await shell("exec >&- 2>&-; exit 3").to_its_end()
    assert (result.exit_code, result.output_complete) == (3, True)


async def test_a_flood_of_output() -> None:
    """100 MB are drained and counted to the byte, both ends kept, in bounded memory."""
    script = "echo first; head -c 100000000 /dev/zero | tr '\\0' x; echo last"
    tracemalloc.start()
    try:
        result = await shell(script).to_its_end()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    stdout = result.streams.stdout
    assert (result.status, result.output_complete) == (Status.SUCCESS, True)
    assert (stdout.bytes, stdout.truncated) == (100_000_000 + len("first\nlast\n"), True)
    assert len(result.output) == stdout.bytes - stdout.dropped_bytes == 128 * 1024
    assert result.output.startswith("first\nxxx")
    assert result.output.endswith("xxxlast\n")
    assert peak < 4_000_000


async def test_floods_on_both_streams() -> None:
    """Neither stream waits for the other."""
    result = await shell("head -c 3000000 /dev/zero >&2 & head -c 3000000 /dev/zero; wait").to_its_end()
    assert (result.streams.stdout.bytes, result.streams.stderr.bytes) == (3_000_000, 3_000_000)


# Time-out, stop and kill


async def test_a_time_out_that_is_honoured() -> None:
    """A process that ends by SIGTERM at its time-out is 143, not 124."""
    run = shell(SLEEP, timeout=0.1)
    result = await run.to_its_end()
    assert (result.status, result.error_code) == (Status.TIMEOUT, "timeout")
    assert (result.exit_code, result.signal) == (143, "SIGTERM")
    assert result.error == "the task ran longer than its time-out of 0.1 s"
    assert termination(result) == Termination(cause=Cause.TIMEOUT, signals=("SIGTERM",))
    assert run.recorder.stops == [{"by": None, "reason": "time-out", "signal": "SIGTERM"}]
    assert result.duration >= 100


async def test_a_time_out_that_is_trapped() -> None:
    """The cause decides the status, even when the process then exits 0; the exit code is what really happened."""
    run = shell(f"trap 'echo bye; exit 0' TERM; echo ready; {SLEEP}", timeout=0.5)
    result = await run.to_its_end()
    assert (result.status, result.exit_code, result.signal) == (Status.TIMEOUT, 0, None)
    assert result.output == "ready\nbye\n"
    assert termination(result) == Termination(cause=Cause.TIMEOUT, signals=("SIGTERM",))


async def test_a_time_out_that_is_ignored() -> None:
    """A process that ignores SIGTERM is killed after the grace; both signals are listed."""
    run = shell(f"trap '' TERM; echo ready; {SLEEP}", timeout=0.5, grace=0.1)
    result = await run.to_its_end()
    assert (result.status, result.exit_code, result.signal) == (Status.TIMEOUT, 137, "SIGKILL")
    assert termination(result) == Termination(cause=Cause.TIMEOUT, signals=("SIGTERM", "SIGKILL"))
    assert run.recorder.signals == ["SIGTERM", "SIGKILL"]
    assert result.duration >= 600


@pytest.mark.parametrize(
    ("end", "cause", "status", "code", "name"),
    [
        (lambda runner: runner.stop(by="ann", reason="why"), Cause.STOP, Status.CANCELED, "stopped", "SIGTERM"),
        (lambda runner: runner.kill(by="ann", reason="why"), Cause.KILL, Status.CANCELED, "killed", "SIGKILL"),
        (
            lambda runner: runner.shut_down(Cause.SHUTDOWN, "why"),
            *(Cause.SHUTDOWN, Status.ERROR, "worker_shutdown", "SIGTERM"),
        ),
        (lambda runner: runner.shut_down(Cause.LOST, "why"), Cause.LOST, Status.ERROR, "worker_lost", "SIGTERM"),
    ],
    ids=["stop", "kill", "shut down", "lost"],
)
async def test_an_end_from_outside(
    *, end: Callable[[CommandRunner], None], cause: Cause, status: Status, code: str, name: str
) -> None:
    """A stop is SIGTERM, a kill SIGKILL at once; who and why are told."""
    run = shell(f"echo ready; {SLEEP}")
    result = await run.ready_then(end)
    assert (result.status, result.error_code, result.signal) == (status, code, name)
    assert result.exit_code == 128 + signal.Signals[name]
    receipt = termination(result)
    assert (receipt.cause, receipt.signals, receipt.reason) == (cause, (name,), "why")
    assert run.recorder.stops == [{"by": receipt.by, "reason": "why", "signal": name}]
    await no_survivors(run.recorder.pid)


async def test_a_stop_that_is_ignored() -> None:
    """A stop's own grace is used, and then SIGKILL."""
    result = await shell(f"trap '' TERM; echo ready; {SLEEP}").ready_then(lambda runner: runner.stop(grace=0.05))
    assert (result.status, result.error_code, result.exit_code) == (Status.CANCELED, "stopped", 137)
    assert termination(result).signals == ("SIGTERM", "SIGKILL")


async def test_a_kill_does_not_ask() -> None:
    """A process that ignores SIGTERM is killed at once."""
    result = await shell(f"trap '' TERM; echo ready; {SLEEP}").ready_then(lambda runner: runner.kill())
    assert (result.exit_code, termination(result).signals) == (137, ("SIGKILL",))


async def test_a_kill_after_a_stop_shortens_the_grace() -> None:
    """A kill ends the grace of a stop, which stays the cause."""
    run = shell(f"trap '' TERM; echo ready; {SLEEP}")
    async with run.ready():
        run.runner.stop(by="ann")
        await run.recorder.until(lambda: run.recorder.signals == ["SIGTERM"])
        run.runner.kill(by="bob")
    assert (run.result.status, run.result.error_code, run.result.exit_code) == (Status.CANCELED, "stopped", 137)
    receipt = termination(run.result)
    assert (receipt.cause, receipt.by, receipt.signals) == (Cause.STOP, "ann", ("SIGTERM", "SIGKILL"))


async def test_a_kill_after_a_time_out_shortens_the_grace() -> None:
    """A kill ends the grace of a time-out, too."""
    run = shell(f"trap '' TERM; echo ready; {SLEEP}", timeout=0.5)
    async with run.ready():
        await run.recorder.until(lambda: run.recorder.signals == ["SIGTERM"])
        run.runner.kill()
    assert (run.result.status, run.result.exit_code) == (Status.TIMEOUT, 137)


async def test_a_second_stop_changes_nothing() -> None:
    """A stop is sent once, however often it is asked for."""
    run = shell(f"trap '' TERM; echo ready; {SLEEP}")
    async with run.ready():
        run.runner.stop(by="ann")
        await run.recorder.until(lambda: run.recorder.signals == ["SIGTERM"])
        run.runner.stop(by="bob", grace=0)
        run.runner.kill()
    assert run.recorder.signals == ["SIGTERM", "SIGKILL"]
    assert termination(run.result).by == "ann"


async def test_a_stopped_process_is_continued() -> None:
    """A process that stands still (SIGSTOP) is continued, so that it acts on SIGTERM."""
    run = shell(f"trap 'exit 5' TERM; echo ready; kill -STOP $$; {SLEEP}")
    async with run.ready():
        await eventually(lambda: states(group=run.recorder.pid) == {run.recorder.pid: "T"})
        run.runner.stop()
    assert (run.result.exit_code, run.result.signal) == (5, None)
    assert termination(run.result).signals == ("SIGTERM",)


async def test_the_whole_group_is_stopped() -> None:
    """A shell that waits for a foreground child runs its trap at once, since the child is signalled as well."""
    run = shell(f"trap 'echo trapped; exit 7' TERM; echo ready; {SLEEP}; echo late")
    async with run.ready():
        await eventually(lambda: len(states(group=run.recorder.pid)) == 2)
        run.runner.stop()
    assert (run.result.exit_code, run.result.output) == (7, "ready\ntrapped\n")
    await no_survivors(run.recorder.pid)


async def test_only_the_leader_is_stopped() -> None:
    """With `stop_scope: leader` the children live on until their leader ends; then they are killed."""
    script = f"{SLEEP} >/dev/null 2>&1 & trap 'kill -0 $! && echo alive; exit 7' TERM; echo ready; wait"
    run = shell(script, stop_scope="leader")
    result = await run.ready_then(lambda runner: runner.stop())
    assert (result.exit_code, result.output) == (7, "ready\nalive\n")
    assert termination(result) == Termination(cause=Cause.STOP, signals=("SIGTERM",), leaked_processes=1)
    await no_survivors(run.recorder.pid)


async def test_a_kill_ends_the_whole_group() -> None:
    """SIGKILL always goes to all, with `stop_scope: leader` too."""
    run = shell(f"{SLEEP} & trap '' TERM; echo ready; wait", stop_scope="leader")
    result = await run.ready_then(lambda runner: runner.kill())
    assert (result.exit_code, result.output_complete) == (137, True)
    await no_survivors(run.recorder.pid)


@pytest.mark.parametrize("late", ["stop", "kill"])
async def test_a_control_after_the_exit_changes_nothing(late: str) -> None:
    """Once the leader's exit was seen, its code decides, though a child still holds the pipe."""
    run = shell(f"{SLEEP} & echo $! ready; exit 3")
    async with run.ready():
        await eventually(lambda: run.runner._ended)
        assert run.runner.result is None
        getattr(run.runner, late)()
        os.kill(int(run.recorder.stdout.split()[0]), signal.SIGKILL)
    assert (run.result.status, run.result.error_code, run.result.exit_code) == (Status.FAILED, "exit_nonzero", 3)
    assert (termination(run.result).cause, run.recorder.signals) == (Cause.EXIT, [])


async def test_a_cancellation_from_outside_leaves_no_process() -> None:
    """A cancelled caller waits until the process is gone; the cancellation goes on."""
    run = shell(f"{SLEEP} & trap 'echo bye; exit 0' TERM; echo ready; wait")
    with anyio.CancelScope() as scope:
        async with run.ready():
            scope.cancel()
    assert scope.cancelled_caught
    assert (run.result.error_code, run.result.exit_code) == ("worker_shutdown", 0)
    assert run.result.output == "ready\nbye\n"
    assert run.recorder.stops == [{"by": None, "reason": "the worker is shut down", "signal": "SIGTERM"}]
    assert run.recorder.pid not in states(parent=os.getpid())
    await no_survivors(run.recorder.pid)


async def test_an_end_before_the_start_starts_nothing() -> None:
    """A run that is stopped while pending begins no process."""
    run = shell("echo started")
    run.runner.stop()
    result = await run.to_its_end()
    assert (result.status, result.start_time, result.exit_code) == (Status.CANCELED, None, None)
    assert (run.recorder.pid, result.output) == (0, "")


# What the process leaves behind


async def test_a_child_that_keeps_the_pipe() -> None:
    """The leader's exit ends the task: what holds the pipe past the drain window is killed and counted (R3)."""
    run = shell(f"{SLEEP} & echo hi")
    result = await run.to_its_end()
    assert (result.status, result.exit_code, result.output) == (Status.SUCCESS, 0, "hi\n")
    assert not result.output_complete
    assert termination(result) == Termination(cause=Cause.EXIT, leaked_processes=1)
    assert DRAIN_WINDOW * 1000 <= result.duration < (DRAIN_WINDOW + 2) * 1000
    await no_survivors(run.recorder.pid)


async def test_a_child_that_closed_its_streams() -> None:
    """A child that holds no pipe is killed and counted without a wait."""
    run = shell(f"{SLEEP} >/dev/null 2>&1 & {SLEEP} >/dev/null 2>&1 & echo hi")
    result = await run.to_its_end()
    assert (result.status, result.output, result.output_complete) == (Status.SUCCESS, "hi\n", True)
    assert termination(result).leaked_processes == 2
    assert result.duration < DRAIN_WINDOW * 1000
    await no_survivors(run.recorder.pid)


async def test_a_child_that_ends_within_the_drain_window(tmp_path: Path) -> None:
    """What a child writes soon after its leader's exit is still taken."""
    script = "mkfifo alive; (read line; echo late) <alive & exec 3>alive; echo early"
    result = await shell(script, cwd=str(tmp_path)).to_its_end()
    assert (result.output, result.output_complete) == ("early\nlate\n", True)


async def test_a_child_that_ignores_the_stop() -> None:
    """A child that outlives a stopped leader is killed with the task."""
    run = shell(f"(trap '' TERM; echo ready; exec >/dev/null 2>&1; {SLEEP}) & {SLEEP}")
    result = await run.ready_then(lambda runner: runner.stop())
    assert (result.status, result.exit_code) == (Status.CANCELED, 143)
    assert termination(result).leaked_processes >= 1
    await no_survivors(run.recorder.pid)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Check that a test leaves no descriptor and no child, dead or alive."""
    before = descriptors(), states(parent=os.getpid()).keys()
    yield
    assert (descriptors(), states(parent=os.getpid()).keys()) == before


RUNS: dict[str, Callable[[], Run]] = {
    "success": lambda: Run("true", stdin="x"),
    "failure": lambda: shell("exit 3"),
    "leak": lambda: shell(f"{SLEEP} >/dev/null 2>&1 &"),
    "time-out": lambda: shell(SLEEP, timeout=0.01),
    "not found": lambda: Run("/no/such/command", stdin="x"),
    "invalid": lambda: Run("true", ["\ud800"], stdin="x"),
    "bad cwd": lambda: Run("true", cwd="/no/such/directory", stdin="x"),
}


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("kind", RUNS)
async def test_many_runs_leave_nothing(kind: str) -> None:
    """After many runs there is no descriptor and no zombie left, whatever their end."""
    for _ in range(5):
        await RUNS[kind]().to_its_end()


@pytest.mark.usefixtures("nothing_left")
async def test_runs_at_once_do_not_mix() -> None:
    """Tasks that run at the same time get their own output and exit code, and nothing is left."""
    runs = [shell(f"echo {number}; exit {number}") for number in range(20)]
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for run in runs:
                group.start_soon(run.runner.execute)
    for number, run in enumerate(runs):
        assert (run.result.output, run.result.exit_code, run.result.output_complete) == (f"{number}\n", number, True)
        assert termination(run.result).leaked_processes == 0
