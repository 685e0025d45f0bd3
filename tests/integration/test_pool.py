"""Tests of plain functions in a pool of real processes: each situation of a task's life, and what is left after it."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from runners.base import Runner
from runners.command import CommandRunner
from runners.context import Context, PoolSettings
from runners.declaration import factory_of
from runners.process import ORPHANS, keeper
from runners.testing.harness import Reports
from schemas import Cause, Limits, Result, Size, Status, Task
from tests.integration import broken_work, work
from tests.integration.test_keeper import UNDER_KEEPER, alive, eventually, tag

__all__ = ["tag"]

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]

PATIENCE = 20.0
"""Seconds that no wait in these tests takes."""
LONG = 600.0
"""Seconds that no run in these tests takes."""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


class Recorder(Reports):
    """Keeps the steps of the work, too, and lets a test wait for what is printed."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, Any]] = []
        self._news = anyio.Event()

    def progress(self, data: Mapping[str, Any]) -> None:
        super().progress(data)
        self.steps.append(dict(data))

    def output(self, stream: str, offset: int, chunk: bytes | memoryview) -> None:
        super().output(stream, offset, chunk)
        self._news.set()
        self._news = anyio.Event()

    async def until_printed(self, text: bytes) -> None:
        with anyio.fail_after(PATIENCE):
            while text not in self.output_of["stderr"]:
                await self._news.wait()


class Pooled:
    """One function and its pool, and the tasks that a test gives it."""

    def __init__(self, function: Callable[..., Any], **settings: Any) -> None:
        self._factory = factory_of(function)
        self._settings = {"worker": "host-1-a", "grace": LONG, "concurrency": 1, **settings}

    def runner(self, *, timeout: float = LONG, limits: Limits | None = None, **args: Any) -> Runner[Any]:
        runner = self._factory()
        task = Task(id="t-1", category="work", limits=limits or Limits(), labels={"a": "b"})
        runner.context = Context(task=task, reporter=Recorder(), **self._settings)
        runner.timeout = timeout
        runner.parse_args("", args)
        return runner

    async def run(self, **task: Any) -> Result:
        with anyio.fail_after(PATIENCE):
            return await self.runner(**task).execute()

    async def ended(self, end: Callable[[Runner[Any]], object], **task: Any) -> Result:
        """Run, and end the run once the function has printed something."""
        runner = self.runner(**task)
        recorder = heard(runner)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(runner.execute)
                await recorder.until_printed(b"ready")
                end(runner)
        assert runner.result is not None
        return runner.result


def heard(runner: Runner[Any]) -> Recorder:
    assert isinstance(runner.context.reporter, Recorder)
    return runner.context.reporter


@asynccontextmanager
async def pooled(function: Callable[..., Any], **settings: Any) -> AsyncIterator[Pooled]:
    """Have a pool for as long as the body lasts; nothing is left of it."""
    factory: Any = factory_of(function)
    before = left()
    try:
        yield Pooled(function, **settings)
    finally:
        await factory.aclose()
        assert left() == before


def left() -> tuple[int, list[int]]:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())), sorted(keeper.children(os.getpid()))


@pytest.fixture(autouse=True, scope="module")
def opened() -> None:
    """Let what all processes share be opened before anyone counts."""

    async def open_all() -> None:
        async with pooled_once() as pool:
            await pool.run()

    anyio.run(open_all)


@asynccontextmanager
async def pooled_once() -> AsyncIterator[Pooled]:
    try:
        yield Pooled(work.who)
    finally:
        factory: Any = factory_of(work.who)
        await factory.aclose()


@pytest.fixture
def adopting() -> Iterator[None]:
    """Make this process a sub-reaper for one test, as a worker is."""
    ORPHANS.adopt()
    yield
    ORPHANS.stop_adopting()


# What a function is given, and what it gives


async def test_what_a_function_returns_is_the_output_as_json() -> None:
    """Parameters have their defaults, and None is no output."""
    async with pooled(work.area) as area:
        result = await area.run(width=3)
        assert (result.status, result.output, result.exit_code) == (Status.SUCCESS, '{"area":15}', None)
        assert (await area.run(width=3, height=2)).output == '{"area":6}'
    async with pooled(work.fail) as fail:
        assert (await fail.run(how="not at all")).output == ""


async def test_what_a_function_prints_is_stderr_in_its_order() -> None:
    """Also what its children print, and what it says through its context; the output is its own."""
    async with pooled(work.talk) as talk:
        runner = talk.runner(lines=2)
        with anyio.fail_after(PATIENCE):
            result = await runner.execute()
    lines = [f"{how} {number}" for number in range(2) for how in ("printed", "logged", "complained")]
    assert result.stderr.splitlines() == [*lines, "raw", "by a child"]
    assert result.output == "written \"work t-1 1 host-1-a {'a': 'b'}\""
    assert heard(runner).steps == [{"done": 0}, {"done": 1}]


async def test_large_parameters_and_outputs_pass() -> None:
    """A megabyte and more in both directions, and the Result keeps what it can."""
    async with pooled(work.length) as long:
        assert (await long.run(text="x" * 2 * work.MIB)).output == str(2 * work.MIB)
    async with pooled(work.big) as big:
        result = await big.run(size=3 * work.MIB)
    assert result.streams.stdout.bytes == 3 * work.MIB + 2
    assert result.streams.stdout.truncated


async def test_the_environment_is_built_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function sees the baseline and the marks of its task, not what the worker was given."""
    monkeypatch.setenv("WORKER_SECRET", "x")
    async with pooled(work.environment) as environment:
        output = (await environment.run()).output
    assert "WORKER_SECRET" not in output
    assert '"TASK_ID":"t-1"' in output
    assert '"TASK_INSTANCE":"host-1-a"' in output


async def test_a_step_of_progress_has_a_limit() -> None:
    """A larger one is an exception in the function, and the end of nobody else."""
    async with pooled(work.boast) as boast:
        result = await boast.run()
        assert (result.error_code, result.error.split(":")[0]) == ("exception", "ValueError")


# The processes of a pool


async def test_a_process_is_kept_for_the_next_task() -> None:
    """A warm process runs one task after the other."""
    async with pooled(work.who) as who:
        assert len({(await who.run()).output for _ in range(5)}) == 1


async def test_a_pool_has_so_many_processes_and_no_more() -> None:
    """Its size is the category's concurrency, unless the pool has one of its own; tasks wait for a free one."""
    for settings in ({"concurrency": 2}, {"concurrency": 9, "pool": PoolSettings(size=2)}):
        async with pooled(work.who, **settings) as who:
            runners = [who.runner() for _ in range(8)]
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as group:
                    for runner in runners:
                        group.start_soon(runner.execute)
            assert len({runner.result.output for runner in runners if runner.result}) == 2


async def test_a_process_is_replaced_after_so_many_tasks() -> None:
    """The third task of two gets a fresh process."""
    async with pooled(work.who, pool=PoolSettings(max_tasks=2)) as who:
        pids = [(await who.run()).output for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


async def test_a_process_that_has_grown_is_replaced() -> None:
    """It is replaced once it holds more than it may at the end of a task."""
    async with pooled(work.grow, pool=PoolSettings(max_memory=Size(100 * work.MIB))) as grow:
        pids = [(await grow.run(size=size)).output for size in (1, 90 * work.MIB, 1)]
    assert pids[0] == pids[1] != pids[2]


async def test_an_idle_process_that_has_died_is_replaced() -> None:
    """The next task does not notice."""
    async with pooled(work.who) as who:
        pid = int((await who.run()).output)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - our loop must not see it yet
        result = await who.run()
    assert result.status is Status.SUCCESS
    assert result.output != str(pid)


async def test_a_function_that_cannot_be_imported_says_why() -> None:
    """The task's error names the exception, and nothing is left."""
    async with pooled(broken_work.broken) as broken:
        result = await broken.run()
    assert (result.status, result.error_code, result.start_time) == (Status.ERROR, "internal", None)
    assert result.error == "the function's process could not import it: RuntimeError: not without pytest"


def test_a_pool_begins_again_on_a_new_event_loop() -> None:
    """Processes of a loop that is closed are ended, not waited for."""

    async def run() -> int:
        return int((await Pooled(work.who).run()).output)

    async def last() -> int:
        async with pooled_once():
            return await run()

    assert anyio.run(run) != anyio.run(last)


async def test_a_thread_that_outlives_its_task_tells_nothing_of_the_next_one() -> None:
    """Its reports are refused once the task has ended."""
    async with pooled(work.linger) as linger:
        await linger.run(leave=True)
        runner = linger.runner(leave=False)
        with anyio.fail_after(PATIENCE):
            result = await runner.execute()
    assert (result.status, heard(runner).steps) == (Status.SUCCESS, [])
    assert "RuntimeError: the task has ended" in result.stderr


# How a function fails


async def test_an_exception_is_a_failure_with_its_traceback() -> None:
    """The error is one line, the traceback begins in the function, and the process is kept."""
    async with pooled(work.fail) as fail:
        result = await fail.run(how="raise")
        assert (result.status, result.error_code, result.retryable) == (Status.FAILED, "exception", False)
        assert result.error == "ValueError: no good: none at all"
        lines = result.stderr.splitlines()
        assert "work.py" in lines[1]
        assert lines[-2:] == ["ValueError: no good:", "none at all"]
        assert (await fail.run(how="exit")).error == "SystemExit: enough"
        assert (await fail.run(how="object")).error.startswith("TypeError: a object was returned that has no JSON form")
        assert (await fail.run(how="not")).status is Status.SUCCESS


@pytest.mark.parametrize(
    ("how", "code", "exit_code", "number"),
    [
        ("leave", "exit_nonzero", 3, None),
        ("leave in order", "exit_nonzero", 0, None),
        ("kill", "signalled", 137, "SIGKILL"),
        ("segfault", "signalled", 139, "SIGSEGV"),
    ],
)
async def test_a_crash_is_a_failure_and_the_process_is_replaced(
    how: str, code: str, exit_code: int, number: str | None
) -> None:
    """What really happened is in the Result, and the next task runs."""
    async with pooled(work.fail) as fail:
        result = await fail.run(how=how)
        assert (result.status, result.error_code) == (Status.FAILED, code)
        assert (result.exit_code, result.signal) == (exit_code, number)
        assert result.usage is not None
        assert result.termination is not None
        assert result.termination.cause is Cause.EXIT
        assert (await fail.run(how="not")).status is Status.SUCCESS


async def test_a_process_that_closes_its_socket_is_killed() -> None:
    """A function that breaks what connects it does not hold its task for ever."""
    async with pooled(work.fail) as fail:
        assert (await fail.run(how="close")).signal == "SIGKILL"


# How a function is ended


async def test_a_time_out_raises_task_stopped(tmp_path: Path) -> None:
    """The function can clean up; the process ends as SIGTERM ends one, and is replaced."""
    async with pooled(work.wait) as wait:
        told = tmp_path / "told"
        result = await wait.run(said="ready", tell=str(told), timeout=0.2)
        assert told.read_text() == "stopped"
        assert (result.status, result.error_code, result.exit_code) == (Status.TIMEOUT, "timeout", 143)
        assert result.termination is not None
        assert (result.termination.cause, result.termination.signals) == (Cause.TIMEOUT, ("SIGTERM",))
        result = await wait.ended(lambda runner: runner.stop(by="me", reason="enough"), said="ready")
        assert (result.status, result.error_code, result.signal) == (Status.CANCELED, "stopped", "SIGTERM")
        assert result.error == "the task was stopped by me: enough"


async def test_a_kill_is_at_once() -> None:
    """The function notices nothing."""
    async with pooled(work.wait) as wait:
        result = await wait.ended(lambda runner: runner.kill(), said="ready")
    assert (result.status, result.error_code, result.exit_code) == (Status.CANCELED, "killed", 137)
    assert result.termination is not None
    assert result.termination.signals == ("SIGKILL",)


async def test_a_function_that_does_not_end_is_killed_after_the_grace() -> None:
    """The time for a polite end is bounded."""
    async with pooled(work.wait, grace=0.1) as wait:
        result = await wait.ended(lambda runner: runner.stop(), said="ready", stubborn=True)
    assert result.termination is not None
    assert (result.exit_code, result.termination.signals) == (137, ("SIGTERM", "SIGKILL"))


async def test_a_function_that_looks_for_its_stop_ends_in_its_own_way() -> None:
    """What it returns is kept, though the status is that of the stop (R1)."""
    async with pooled(work.poll) as poll:
        result = await poll.ended(lambda runner: runner.stop())
    assert (result.status, result.output, result.exit_code) == (Status.CANCELED, '"as far as it came"', 0)


async def test_a_stop_while_waiting_for_a_process_means_that_the_task_never_starts() -> None:
    """It does not take the process that comes free, either."""
    async with pooled(work.wait) as wait:
        first, second = wait.runner(said="ready"), wait.runner(said="ready")
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(first.execute)
                await heard(first).until_printed(b"ready")
                async with anyio.create_task_group() as waiting:
                    waiting.start_soon(second.execute)
                    await anyio.wait_all_tasks_blocked()
                    second.stop()
                first.kill()
        assert second.result is not None
        assert (second.result.status, second.result.start_time) == (Status.CANCELED, None)


async def test_a_stop_while_a_process_starts_ends_the_process() -> None:
    """It is not waited for."""
    async with pooled(work.wait) as wait:
        runner = wait.runner(said="ready")
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(runner.execute)
                await anyio.wait_all_tasks_blocked()
                runner.stop()
        assert runner.result is not None
        assert (runner.result.status, runner.result.start_time) == (Status.CANCELED, None)


async def test_what_a_function_leaves_is_killed_and_counted(tag: str) -> None:
    """Also what has escaped from its session; the process itself is kept."""
    async with pooled(work.leave) as leave:
        results = [await leave.run(tag=tag) for _ in range(2)]
        assert alive(tag) == []
        assert results[0].output == results[1].output
    for result in results:
        assert result.termination is not None
        assert result.termination.leaked_processes == 3


@pytest.mark.usefixtures("adopting")
async def test_what_a_killed_function_leaves_is_killed(tag: str) -> None:
    """A kill ends the whole task, wherever its processes have gone."""
    async with pooled(work.leave) as leave:
        result = await leave.ended(lambda runner: runner.kill(), tag=tag, then_wait=True)
        assert result.exit_code == 137
        assert alive(tag) == []


# Limits


async def test_limits_are_those_of_one_task() -> None:
    """The next task of the same process has none."""
    async with pooled(work.nofile) as limit:
        before = (await limit.run()).output
        result = await limit.run(limits=Limits(nofile=32, cpus=1.0))
        assert (result.output, result.limits["nofile"].enforced_by) == ("32", "rlimit")
        assert result.limits["cpus"].enforced_by == "none"
        assert (await limit.run()).output == before


async def test_cpu_time_is_limited_for_each_task() -> None:
    """SIGXCPU ends the process of a task that has used too much."""
    async with pooled(work.burn) as burn:
        result = await burn.run(limits=Limits(cpu_seconds=1))
    assert (result.status, result.error_code, result.signal) == (Status.FAILED, "cpu_limit", "SIGXCPU")


async def test_memory_is_limited() -> None:
    """What is allocated raises MemoryError; what only the poll sees ends the process."""
    limits = Limits(memory=Size(200 * work.MIB))
    async with pooled(work.grow) as grow:
        assert (await grow.run(size=400 * work.MIB, limits=limits)).error == "MemoryError"
    async with pooled(work.shared) as shared:
        result = await shared.run(size=400 * work.MIB, limits=limits)
    assert (result.error_code, result.exit_code, result.limits["memory"].enforced_by) == ("oom_killed", 137, "poll")


# The end of the worker


WORKER = """
import os, sys
sys.path.insert(0, {root!r})
import anyio
from runners.context import Context, SilentReporter
from runners.declaration import factory_of
from runners.process import ORPHANS
from schemas import Task
from tests.integration import work

class Reporter(SilentReporter):
    def output(self, stream, offset, chunk):
        print(os.getpid(), flush=True)

async def run(args):
    runner = factory_of(work.leave)()
    runner.context = Context(task=Task(id="t"), concurrency=2, reporter=Reporter())
    runner.parse_args("", args)
    await runner.execute()

async def main():
    await run({{"tag": {tag!r}}})
    await run({{"tag": {tag!r}, "then_wait": True}})

if {adopt}:
    ORPHANS.adopt()
anyio.run(main)
"""


@pytest.mark.parametrize("kept", [True, False])
def test_nothing_outlives_a_killed_worker(tag: str, *, kept: bool) -> None:
    """The processes of a pool end with their worker; with a keeper, all that they have started does, too."""
    script = WORKER.format(root=str(ROOT), tag=tag, adopt=kept)
    command = [*(UNDER_KEEPER if kept else []), sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        pool = [pid for pid in keeper.children(worker) if "child.py" in command_line(pid)]
        assert len(pool) == 1
        os.kill(worker, signal.SIGKILL)
        process.wait(PATIENCE)
    eventually(lambda: not any(map(command_line, pool)) and not (kept and alive(tag)))


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    except OSError:
        return ""


@pytest.mark.usefixtures("adopting")
async def test_a_resting_process_does_not_shield_what_others_leave(tag: str) -> None:
    """An orphan without marks belongs to a task that runs, not to a process that waits for one."""
    async with pooled(work.who) as who:
        await who.run()
        runner = CommandRunner()
        runner.context = Context(task=Task(id="t-2"), worker="host-1-a", concurrency=1)
        runner.parse_args("sh", ["-c", f"setsid env -i sleep {tag} >/dev/null 2>&1 & sleep 0.1"])
        with anyio.fail_after(PATIENCE):
            result = await runner.execute()
        assert result.status is Status.SUCCESS
        assert alive(tag) == []
