"""Tests of limits with real processes: what a confined one is given, how it starts, and how it ends."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

import anyio
import anyio.lowlevel
import pytest

from runners.command import CommandParams, CommandRunner
from runners.context import Context, Policy
from runners.errors import InvalidTaskError, Outcome, SpawnFailedError
from runners.process import ProcessSpec
from runners.process.cgroup import Cgroup, division
from runners.process.limits import Plan, is_over, members
from runners.process.spawn import spawn
from runners.process.spec import Confinement
from runners.process.supervise import _Supervision
from schemas import AppliedLimit, Cause, Limits, Result, Size, Status, Task, Termination

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]

PATIENCE: Final = 20.0
"""Seconds that no wait in these tests takes."""
LONG: Final = 600.0
"""Seconds that no run in these tests takes."""
SLEEP: Final = "sleep 600"
MIB: Final = 2**20
NOFILE: Final = Limits(nofile=64)
"""Limits that do nothing but have a process confined."""
CONTROLLERS: Final = division().controllers if division() is not None else frozenset()  # type: ignore[union-attr]


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


class Recorder:
    """Keeps a runner's reports, and lets a test wait for them."""

    def __init__(self) -> None:
        self.pid = 0
        self.stops: list[dict[str, Any]] = []
        self.stdout = bytearray()
        self.on_stop: Callable[[], object] = lambda: None
        self._news = anyio.Event()

    def started(self, data: Mapping[str, Any]) -> None:
        """Keep the pid."""
        self.pid = data["pid"]

    def progress(self, data: Mapping[str, Any]) -> None:
        """Refuse what a command never reports."""
        raise AssertionError(data)

    def stopping(self, data: Mapping[str, Any]) -> None:
        """Keep the beginning of the end."""
        self.stops.append(dict(data))
        self.on_stop()

    def output(self, stream: str, offset: int, chunk: bytes) -> None:
        """Keep the standard output."""
        if stream == "stdout":
            self.stdout += chunk
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
    """One command within limits, its runner and what it reports."""

    def __init__(
        self,
        command: str,
        args: Sequence[str] = (),
        limits: Limits = NOFILE,
        *,
        timeout: float = LONG,
        grace: float = LONG,
        resource_limits: Limits = Limits(),  # noqa: B008 - frozen
        **task: Any,
    ) -> None:
        self.recorder = Recorder()
        self.runner = CommandRunner()
        self.runner.context = Context(
            task=Task(id="t-1", category="command", limits=limits, **task),
            resource_limits=resource_limits,
            policy=Policy(profile="open"),  # the others allow no loader variables
            worker="w-1",
            grace=grace,
            reporter=self.recorder,
        )
        self.runner.timeout = timeout
        self.runner.parse_args(command, {"args": [*args]})

    async def to_its_end(self) -> Result:
        """Execute."""
        with anyio.fail_after(PATIENCE):
            return await self.runner.execute()

    async def ready_then(self, end: Callable[[CommandRunner], object]) -> Result:
        """Execute, and end the run once the command has printed "ready"."""
        return await self._meanwhile(self._is_ready, end)

    async def begun_then(self, end: Callable[[int, CommandRunner], object]) -> Result:
        """Execute, and end the run while it is being confined: it has a process, but no command yet."""
        before = children()
        return await self._meanwhile(
            lambda: self._is_begun(before), lambda runner: end((children() - before).pop(), runner)
        )

    async def _meanwhile(self, moment: Callable[[], Any], end: Callable[[CommandRunner], object]) -> Result:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(self.runner.execute)
                await moment()
                end(self.runner)
        assert self.runner.result is not None
        return self.runner.result

    async def _is_ready(self) -> None:
        await self.recorder.until(lambda: b"ready" in self.recorder.stdout)

    async def _is_begun(self, before: set[int]) -> None:
        while not children() - before:
            await anyio.lowlevel.checkpoint()
        assert self.recorder.pid == 0


def shell(script: str, limits: Limits = NOFILE, **options: Any) -> Run:
    """Return a run of a shell script."""
    return Run("/bin/sh", ["-c", script], limits, **options)


def python(program: str, limits: Limits, **options: Any) -> Run:
    """Return a run of a Python program."""
    return Run(sys.executable, ["-I", "-S", "-c", program], limits, **options)


def termination(result: Result) -> Termination:
    """Return the receipt of a run that had begun."""
    assert result.termination is not None
    return result.termination


def facts(result: Result) -> dict[str, Any]:
    """Return all that does not depend on time or on limits."""
    names = ("status", "error", "error_class", "error_code", "retryable", "exit_code", "signal", "start_time", "output")
    return {name: getattr(result, name) for name in (*names, "stderr", "usage", "termination", "output_complete")}


def children() -> set[int]:
    """Return our children, zombies included."""
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def descriptors() -> set[str]:
    """Return our open descriptors."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}


def is_alive(pid: int) -> bool:
    """Tell whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what nothing reports."""
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - /proc sends no event
            await anyio.sleep(0.005)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Check that a test leaves no descriptor and no child, dead or alive."""
    before = descriptors(), children()
    yield
    assert (descriptors(), children()) == before


# What a confined process is given


async def test_a_limit_is_seen_by_the_process() -> None:
    """The process has the limit, soft and hard, and the Result says by what it is enforced."""
    result = await shell("ulimit -Sn; ulimit -Hn").to_its_end()
    assert (result.status, result.output) == (Status.SUCCESS, "64\n64\n")
    assert result.limits == {"nofile": AppliedLimit(requested=64, enforced_by="rlimit")}
    assert result.start_time is not None
    assert result.usage is not None


async def test_a_limit_of_the_category() -> None:
    """A task that asks for nothing has its category's limits."""
    result = await shell("ulimit -n", Limits(), resource_limits=NOFILE).to_its_end()
    assert (result.output, [*result.limits]) == ("64\n", ["nofile"])


async def test_a_limit_is_kept() -> None:
    """A process that opens more than it may gets the kernel's error, and its own exit code."""
    program = "import posix\nwhile True: posix.open('/', 0)"
    result = await python(program, Limits(nofile=20)).to_its_end()
    assert (result.error_code, result.exit_code) == ("exit_nonzero", 1)
    assert "Too many open files" in result.stderr


async def test_no_limits_no_wrapper() -> None:
    """A task without limits has none in its Result, and keeps ours."""
    result = await shell("ulimit -n", Limits()).to_its_end()
    assert (result.limits, result.output) == ({}, f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]}\n")


async def test_a_limit_above_our_own() -> None:
    """A limit is never raised above what this process may have itself."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if not 8 <= hard < 2**20:
        pytest.skip("there is no room above ours")
    assert (await shell("ulimit -n", Limits(nofile=hard + 1)).to_its_end()).output == f"{hard}\n"


async def test_no_core_is_dumped() -> None:
    """A confined process leaves no core file."""
    assert (await shell("ulimit -c; ulimit -Hc").to_its_end()).output == "0\n0\n"


GIVEN: Final[dict[str, dict[str, Any]]] = {
    "environment": {
        "command": "env",
        "env": {"LANG": "C", "PYTHONHOME": "/x", "LD_LIBRARY_PATH": "/x", "E": ""},
    },
    "locale": {"command": "env", "env": {"LANG": "", "A": "ünï=\n€"}},
    "signals": {"command": "grep", "args": ["Sig[BI]", "/proc/self/status"]},
    "descriptors": {"command": "/bin/sh", "args": ["-c", "ls /proc/$$/fd; exit"]},
    "session": {
        "command": "/bin/sh",
        "args": ["-c", "read pid _ _ _ group session _ </proc/$$/stat; test $pid = $group && test $pid = $session"],
    },
    "stdin": {"command": "cat", "stdin": "x" * 100_000},
    "directory": {"command": "pwd", "cwd": "/usr"},
    "name": {"command": "cat", "args": ["/proc/self/cmdline"]},
    "arguments": {"command": "/usr/bin/printf", "args": ["%s|", "$(id)", "", "ünï", "-I", "--", "a  b", "\n"]},
    "exit code": {"command": "/bin/sh", "args": ["-c", "echo out; echo oops >&2; exit 127"]},
}


@pytest.mark.parametrize("kind", GIVEN)
async def test_all_else_is_as_without_limits(kind: str) -> None:
    """The wrapper leaves no trace: environment, arguments, signals and descriptors are those of a direct start."""
    options = GIVEN[kind]
    direct = await Run(**options, limits=Limits()).to_its_end()
    confined = await Run(**options).to_its_end()
    assert (confined.output, confined.stderr, confined.exit_code) == (direct.output, direct.stderr, direct.exit_code)
    assert direct.exit_code in {0, 127}


async def test_the_tasks_loader_variables_do_not_reach_the_wrapper() -> None:
    """LD_PRELOAD would bring the task's code in before it is confined: only the command itself gets it."""
    env = {"LD_PRELOAD": "/no/such/library.so"}
    direct = await Run("true", limits=Limits(), env=env).to_its_end()
    confined = await Run("true", env=env).to_its_end()
    assert "library.so" in direct.stderr
    assert confined.stderr == direct.stderr


# A confined process that cannot be started


def write(path: Path, content: bytes, mode: int = 0o755) -> str:
    """Write an executable file, and return its path."""
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


UNSTARTED: Final[dict[str, Callable[[Path], dict[str, Any]]]] = {
    "not found": lambda _: {"command": "no-such-command"},
    "not found, by path": lambda _: {"command": "/no/such/command"},
    "not found, below a file": lambda _: {"command": "/etc/passwd/command"},
    "not found, on no path": lambda _: {"command": "true", "env": {"PATH": ""}},
    "too long a name": lambda _: {"command": "x" * 300},
    "not executable": lambda path: {"command": write(path, b"#!/bin/sh\n", 0o644)},
    "not executable, on the path": lambda path: {
        "command": Path(write(path, b"#!/bin/sh\n", 0o644)).name,
        "env": {"PATH": f"{path.parent}:/no/such/directory:/etc/passwd"},
    },
    "a directory": lambda path: {"command": str(path.parent)},
    "empty": lambda path: {"command": write(path, b"")},
    "no shebang": lambda path: {"command": write(path, b"echo no shebang\n")},
    "missing interpreter": lambda path: {"command": write(path, b"#!/no/such/interpreter\n")},
    "missing interpreter, on the path": lambda path: {
        "command": Path(write(path, b"#!/bin/sh\r\n")).name,
        "env": {"PATH": str(path.parent)},
    },
    "bad cwd": lambda _: {"command": "pwd", "cwd": "/no/such/directory"},
    "cwd is a file": lambda _: {"command": "pwd", "cwd": "/etc/passwd"},
    "cwd is the command": lambda _: {"command": "/no/such/command", "cwd": "/no/such/command"},
    "long argument": lambda _: {"command": "true", "args": ["x" * 200_000]},
    "long arguments": lambda _: {"command": "true", "args": ["x" * 100_000] * 70},
    "long environment": lambda _: {"command": "true", "env": {"X": "x" * 200_000}},
    "surrogate in the command": lambda _: {"command": "\ud800"},
    "surrogate in an argument": lambda _: {"command": "true", "args": ["\ud800"]},
    "surrogate in the directory": lambda _: {"command": "true", "cwd": "/\ud800"},
}


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("kind", UNSTARTED)
async def test_a_failed_start_is_as_without_limits(kind: str, tmp_path: Path) -> None:
    """Class, code, exit code and sentence are the same through the wrapper, and nothing has started."""
    options = UNSTARTED[kind](tmp_path / "file")
    direct = await Run(**options, limits=Limits()).to_its_end()
    run = Run(**options)
    confined = await run.to_its_end()
    assert facts(confined) == facts(direct)
    assert (direct.start_time, confined.duration, run.recorder.pid) == (None, 0, 0)


async def test_an_environment_that_no_process_can_have() -> None:
    """A lone surrogate in the environment makes the task invalid, too."""
    result = await Run("true", env={"A": "\ud800"}).to_its_end()
    assert (result.status, result.error_code) == (Status.ERROR, InvalidTaskError.code)


async def test_the_next_on_the_path_is_tried(tmp_path: Path) -> None:
    """A file that cannot be executed does not hide one of the same name later on the PATH."""
    (tmp_path / "first").mkdir()
    write(tmp_path / "first" / "file", b"#!/bin/sh\n", 0o644)
    write(tmp_path / "file", b"#!/bin/sh\necho second\n")
    path = f"{tmp_path}/first::{tmp_path}"
    assert (await Run("file", env={"PATH": path}).to_its_end()).output == "second\n"


@pytest.mark.usefixtures("nothing_left")
async def test_a_wrapper_that_dies() -> None:
    """A wrapper that ends without a word is the machine's fault: the task may be tried again."""
    result = await shell("echo hi").begun_then(lambda pid, _: os.kill(pid, signal.SIGKILL))
    assert (result.status, result.error_code, result.retryable) == (Status.ERROR, "spawn_failed", True)
    assert (result.start_time, result.output, result.error) == (None, "", "the process could not be confined")


@pytest.mark.parametrize(
    ("confinement", "why"),
    [
        (Confinement(cgroup=Path("/no/such/group")), "cgroup: No such file or directory"),
        (Confinement(rlimits={"NOFILE": (64, 63)}), "rlimit: "),
        (Confinement(rlimits={"NO_SUCH": (1, 1)}), ""),
    ],
)
async def test_what_cannot_be_confined(confinement: Confinement, why: str) -> None:
    """A stage that fails is named, and the command does not run."""
    process = spawn(ProcessSpec(argv=["echo"], env={"PATH": os.defpath}), confinement)
    assert process.start is not None
    try:
        with anyio.fail_after(PATIENCE):
            while not process.start.decided():
                await anyio.wait_readable(process.start.descriptor)
        error = process.start.failure()
    finally:
        process.abandon()
    assert isinstance(error, SpawnFailedError)
    assert why in str(error)


@contextmanager
def spare_descriptors(count: int) -> Iterator[None]:
    """Leave this process a number of descriptors that it may still open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, descriptors())) + 20, hard))
    try:
        with suppress(OSError):  # EMFILE
            while True:
                held.append(os.dup(0))
        for _ in range(count):
            os.close(held.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)


@pytest.mark.parametrize("count", range(9))
def test_no_descriptor_to_spare(count: int) -> None:
    """Wherever the descriptors run out, the task may be tried again, and none is lost over it."""
    spawn(ProcessSpec(argv=["true"], env={})).abandon()  # opens what all processes share
    before = descriptors()
    with spare_descriptors(count), pytest.raises(SpawnFailedError, match="Too many open files"):
        spawn(ProcessSpec(argv=["true"], env={}), Confinement())
    assert descriptors() == before


# A confined process that is ended


@pytest.mark.parametrize(
    ("end", "code", "name"),
    [
        (lambda runner: runner.stop(), "stopped", "SIGTERM"),
        (lambda runner: runner.kill(), "killed", "SIGKILL"),
    ],
    ids=["stop", "kill"],
)
async def test_an_end_from_outside(end: Callable[[CommandRunner], None], code: str, name: str) -> None:
    """A confined process is ended as any other."""
    run = shell(f"echo ready; {SLEEP}")
    result = await run.ready_then(end)
    assert (result.status, result.error_code, result.signal) == (Status.CANCELED, code, name)
    assert termination(result).signals == (name,)
    assert run.recorder.stops == [{"by": None, "reason": None, "signal": name}]


async def test_a_time_out() -> None:
    """The time-out counts from the command's start, and ends it."""
    result = await shell(f"trap 'echo bye; exit 0' TERM; echo ready; {SLEEP}", timeout=0.3).to_its_end()
    assert (result.status, result.exit_code, result.output) == (Status.TIMEOUT, 0, "ready\nbye\n")
    assert result.duration >= 300


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("verb", ["stop", "kill"])
async def test_an_end_while_it_is_confined(verb: str) -> None:
    """A run that is ended before its command runs ends at once, and has never started."""
    run = shell("trap '' TERM; echo started; sleep 600")
    result = await run.begun_then(lambda _, runner: getattr(runner, verb)(by="ann"))
    assert (result.status, result.start_time, result.exit_code) == (Status.CANCELED, None, None)
    assert (result.output, result.usage, run.recorder.pid) == ("", None, 0)
    assert termination(result).by == "ann"
    assert result.error.endswith("before it started by ann")


async def test_what_a_confined_process_leaves() -> None:
    """A child that outlives its leader is killed and counted."""
    result = await shell(f"{SLEEP} >/dev/null 2>&1 & echo $!").to_its_end()
    assert (result.status, termination(result).leaked_processes) == (Status.SUCCESS, 1)
    await eventually(lambda: not is_alive(int(result.output)))


# Memory

BY_POLL: Final = pytest.mark.skipif("memory" in CONTROLLERS, reason="the kernel limits memory itself here")
HOLD: Final = """
import mmap, os, signal
def hold(size):
    held = mmap.mmap(-1, size << 20)
    for _ in range(size):
        held.write(b'x' * (1 << 20))
    return held
"""
"""Holds some MiB of shared memory, which no rlimit sees."""


@BY_POLL
@pytest.mark.usefixtures("nothing_left")
async def test_too_much_memory() -> None:
    """A process that holds more than it may is killed; memory is the cause, even if the task is stopped afterwards."""
    run = python(HOLD + "held = hold(100); signal.pause()", Limits(memory=Size(64 * MIB)))
    run.recorder.on_stop = run.runner.stop
    result = await run.to_its_end()
    assert (result.status, result.error_code, result.error_class) == (Status.FAILED, "oom_killed", "execution")
    assert (result.exit_code, result.signal) == (137, "SIGKILL")
    assert result.error == f"the task used more than its {64 * MIB} bytes of memory"
    assert termination(result) == Termination(cause=Cause.OOM, signals=("SIGKILL",))
    assert run.recorder.stops == [
        {"by": None, "reason": "the task used more memory than its limit", "signal": "SIGKILL"}
    ]
    assert result.limits == {"memory": AppliedLimit(requested=64 * MIB, enforced_by="poll")}


@BY_POLL
async def test_too_much_memory_in_all() -> None:
    """The processes of a task share its limit: together they are too many, and none of them is left."""
    program = HOLD + "held = hold(30); print(os.getpid(), flush=True); signal.pause()"
    hold = f'{sys.executable} -I -S -c "{program}"'
    result = await shell(f"{hold} & {hold} & setsid {hold} & wait", Limits(memory=Size(64 * MIB))).to_its_end()
    assert (result.error_code, result.exit_code) == ("oom_killed", 137)
    pids = [*map(int, result.output.split())]
    assert len(pids) == 3
    await eventually(lambda: not any(map(is_alive, pids)))


async def test_shared_memory_counts_once() -> None:
    """Processes that share what one of them holds do not hold it many times over."""
    fork = "pids = [os.fork() or signal.pause() for _ in range(3)]; print('ready', flush=True); signal.pause()"
    run = python(HOLD + "held = hold(40); " + fork, NOFILE)
    found = []

    def look(runner: CommandRunner) -> None:
        pids = members(run.recorder.pid)
        found.extend([len(pids), is_over(pids, 64 * MIB), is_over(pids, 32 * MIB)])
        runner.kill()

    await run.ready_then(look)
    assert found == [4, False, True]


@BY_POLL
async def test_an_allocation_that_is_refused() -> None:
    """A program that meets its limit while it allocates ends as it sees fit; its exit code is what counts."""
    result = await python("b'x' * (200 << 20)", Limits(memory=Size(64 * MIB))).to_its_end()
    assert (result.status, result.error_code, result.exit_code) == (Status.FAILED, "exit_nonzero", 1)
    assert "MemoryError" in result.stderr
    assert termination(result).cause is Cause.EXIT


@BY_POLL
async def test_too_much_memory_while_it_is_stopped() -> None:
    """A stop that came first stays the cause; the memory limit only ends the grace."""
    program = HOLD + "signal.signal(15, lambda *_: held.append(hold(100))); held = []; print('ready', flush=True)\n"
    program += "while True: signal.pause()"
    result = await python(program, Limits(memory=Size(64 * MIB))).ready_then(lambda runner: runner.stop())
    assert (result.status, result.error_code, result.exit_code) == (Status.CANCELED, "stopped", 137)
    assert termination(result).cause is Cause.STOP
    assert termination(result).signals == ("SIGTERM", "SIGKILL")


# CPU time


async def test_too_much_cpu_time() -> None:
    """A process that uses up its CPU time has failed by that."""
    result = await shell("while :; do :; done", Limits(cpu_seconds=1)).to_its_end()
    assert (result.status, result.error_code) == (Status.FAILED, "cpu_limit")
    assert (result.exit_code, result.signal) == (128 + signal.SIGXCPU, "SIGXCPU")
    assert result.error == "the process used more than its 1 s of CPU time"
    assert termination(result) == Termination(cause=Cause.EXIT)


async def test_cpu_time_that_is_not_minded() -> None:
    """One that ignores the first signal is killed a second later, for the same reason."""
    result = await shell("trap '' XCPU; while :; do :; done", Limits(cpu_seconds=1)).to_its_end()
    assert (result.error_code, result.signal) == ("cpu_limit", "SIGKILL")


def test_cpu_time_before_the_command() -> None:
    """What a slow machine needs to confine a process is not charged to the task."""
    program = """
import resource, time
from runners.process.confine import _limit
while time.process_time() < 1.6: pass
_limit(["CPU=5:6"])
print(*resource.getrlimit(resource.RLIMIT_CPU))
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert told.stdout in {"7 8\n", "8 9\n"}


async def test_a_signal_that_has_another_cause() -> None:
    """SIGKILL from elsewhere is just a signal, CPU limit or not."""
    result = await shell("kill -9 $$", Limits(cpu_seconds=1)).to_its_end()
    assert (result.error_code, result.signal) == ("signalled", "SIGKILL")


# What cannot be enforced or is not allowed


@pytest.mark.skipif("cpu" in CONTROLLERS, reason="the kernel limits CPUs here")
async def test_a_required_limit_that_cannot_be_enforced() -> None:
    """With `require` nothing starts; without it, the Result says that nothing enforces the limit."""
    run = shell("echo hi", Limits(cpus=0.5), limits_policy="require")
    result = await run.to_its_end()
    assert (result.status, result.error_code, result.error_class) == (Status.ERROR, "limit_unsupported", "parameter")
    assert (result.start_time, result.output, result.exit_code) == (None, "", None)
    assert result.error == "`limits.cpus` cannot be enforced on this worker"
    lenient = await shell("echo hi", Limits(cpus=0.5)).to_its_end()
    assert (lenient.output, lenient.limits) == ("hi\n", {"cpus": AppliedLimit(requested=0.5, enforced_by="none")})


async def test_a_limit_above_its_categorys() -> None:
    """A task that asks for more than its category may have is refused."""
    result = await shell("echo hi", NOFILE, resource_limits=Limits(nofile=32)).to_its_end()
    assert (result.status, result.error_code, result.output) == (Status.ERROR, "policy_denied", "")


# Cgroups


@pytest.mark.skipif("pids" not in CONTROLLERS, reason="needs the pids controller of cgroup v2")
@pytest.mark.usefixtures("nothing_left")
async def test_a_cgroup() -> None:
    """A task whose limits need a cgroup runs in one of its own, which is gone after it with all in it."""
    divided = division()
    assert divided is not None
    script = f"cat /proc/self/cgroup; for i in 1 2 3 4; do {SLEEP} & done; echo unreached"
    result = await shell(script, Limits(pids=4)).to_its_end()
    assert f"/jetrunner-{os.getpid()}-" in result.output
    assert "unreached" not in result.output
    assert (result.error_code, termination(result).leaked_processes) == ("exit_nonzero", 3)
    assert result.limits == {"pids": AppliedLimit(requested=4, enforced_by="cgroup2")}
    assert list(divided.path.glob(f"jetrunner-{os.getpid()}-*")) == []


@pytest.mark.skipif("memory" not in CONTROLLERS, reason="needs the memory controller of cgroup v2")
@pytest.mark.parametrize("by", ["leader", "child"])
async def test_too_much_memory_for_a_cgroup(by: str) -> None:
    """The kernel kills the whole task: a leader's memory and a child's are one."""
    hold = f'{sys.executable} -I -S -c "{HOLD}hold(100)"'
    script = f"exec {hold}" if by == "leader" else f"{hold}; exit 0"
    result = await shell(script, Limits(memory=Size(64 * MIB))).to_its_end()
    assert (result.error_code, result.exit_code, termination(result).cause) == ("oom_killed", 137, Cause.OOM)
    assert result.limits == {"memory": AppliedLimit(requested=64 * MIB, enforced_by="cgroup2")}


BUSY: Final = """
import subprocess
from runners.process.cgroup import Division, _move_out, own_group
input()
path, program = own_group(), ["sh", "-c", "sleep 600 & wait"]
children = [subprocess.Popen(program, stdout=subprocess.DEVNULL) for _ in range(3)]
_move_out(path)
print((path / "cgroup.procs").read_text().split(), len((path / "worker/cgroup.procs").read_text().split()) >= 4)
print(sorted(Division.of(path).controllers))
"""
"""Divides its group while there are other processes in it, which it has started."""


@pytest.mark.skipif(division() is None, reason="needs a cgroup of version 2 that we may divide")
def test_a_group_that_is_busy_already() -> None:
    """What runs when the first task needs a group, such as tasks without limits, does not keep it from having one."""
    divided = division()
    assert divided is not None
    group = divided.make({})
    try:
        with subprocess.Popen([sys.executable, "-c", BUSY], stdin=PIPE, stdout=PIPE, text=True) as process:
            (group.path / "cgroup.procs").write_text(str(process.pid))
            told, _ = process.communicate("go\n", timeout=PATIENCE)
    finally:
        assert anyio.run(group.end)
        assert anyio.run(group.remove)
    assert told.splitlines() == ["[] True", str(sorted(CONTROLLERS))]


@pytest.mark.skipif("cpu" not in CONTROLLERS, reason="needs the cpu controller of cgroup v2")
async def test_a_share_of_the_cpus() -> None:
    """A task that may use a tenth of a CPU is held back by the kernel when it wants more."""
    divided = division()
    assert divided is not None
    group = f"{divided.path}/$(basename $(cut -d: -f3 /proc/self/cgroup))"
    script = f"cat {group}/cpu.max; until grep -q 'nr_throttled [1-9]' {group}/cpu.stat; do :; done; echo held back"
    result = await shell(script, Limits(cpus=0.1)).to_its_end()
    assert result.output == "10000 100000\nheld back\n"
    assert result.limits == {"cpus": AppliedLimit(requested=0.1, enforced_by="cgroup2")}


class GroupedRunner(CommandRunner):
    """Runs a command in what looks like a cgroup, in which the kernel has killed a process for its memory."""

    group = Path()

    async def run(self, params: CommandParams) -> Outcome:
        """Run it there."""
        spec = ProcessSpec(argv=[params.command, *params.args], env={"PATH": os.defpath})
        applied = {"memory": AppliedLimit(requested=MIB, enforced_by="cgroup2")}
        return await _Supervision(self, spec, Plan(applied=applied), Cgroup(self.group)).run()


@pytest.mark.parametrize(
    ("script", "code", "cause", "warnings"),
    [
        ("kill -9 $$", "oom_killed", Cause.OOM, 0),
        ("exit 0", None, Cause.EXIT, 1),
        ("exit 3", "exit_nonzero", Cause.EXIT, 1),
        ("kill -15 $$", "signalled", Cause.EXIT, 1),
    ],
)
async def test_whom_the_kernel_killed(
    *, script: str, code: str | None, cause: Cause, warnings: int, tmp_path: Path
) -> None:
    """A leader that was killed is the task's end; if it was only a child, the leader's word counts, with a warning."""
    for name in ("cgroup.procs", "cgroup.kill"):
        (tmp_path / name).touch()
    (tmp_path / "cgroup.events").write_text("populated 0\n")
    (tmp_path / "memory.events").write_text("oom 1\noom_kill 1\n")
    run = shell(script)
    grouped = GroupedRunner()
    grouped.group, grouped.context = tmp_path, run.runner.context
    grouped.parse_args("/bin/sh", ["-c", script])
    result = await grouped.execute()
    assert (result.error_code, termination(result).cause) == (code, cause)
    assert [warning.partition(":")[0] for warning in result.warnings] == ["oom_kill_in_task"] * warnings
    assert (tmp_path / "cgroup.procs").read_text() == "0"


# Many


@pytest.mark.usefixtures("nothing_left")
async def test_many_runs_leave_nothing() -> None:
    """After 200 confined runs there is no descriptor and no zombie left, whatever their end."""
    kinds: list[Callable[[], Run]] = [
        lambda: Run("true", stdin="x"),
        lambda: shell("exit 3"),
        lambda: Run("/no/such/command"),
        lambda: Run("true", cwd="/no/such/directory"),
        lambda: shell(SLEEP, timeout=0.01),
        lambda: Run("true", limits=Limits(memory=Size(64 * MIB), cpus=1, pids=100, cpu_seconds=1)),
    ]
    runs = [kinds[number % len(kinds)]() for number in range(200)]
    left = iter(runs)

    async def work() -> None:
        for run in left:
            await run.runner.execute()

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(work)
    assert [run.runner.result.error_code for run in runs[:6] if run.runner.result is not None] == [
        *(None, "exit_nonzero", "command_not_found", "bad_cwd", "timeout", None)
    ]
