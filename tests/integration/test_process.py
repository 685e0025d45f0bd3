"""Tests of runners.process below the runners: starting, watching and reading a process, and its environment."""

import errno
import os
import pwd
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from runners.context import Context
from runners.errors import SpawnFailedError
from runners.process import ProcessSpec, environment, vfork
from runners.process.environment import _baseline
from runners.process.leader import Process
from runners.process.spawn import spawn
from runners.process.watch import ExitWatch, PipeReader, ThreadedExitWatch, watch_exit
from schemas import Task

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="looks for descriptors in /proc")]

PATIENCE = 20.0
"""Seconds that no wait in these tests takes."""


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


def specification(script: str, **options: Any) -> ProcessSpec:
    """Return a shell script to run."""
    return ProcessSpec(argv=["/bin/sh", "-c", script], env={"PATH": os.defpath}, **options)


@contextmanager
def spawned(script: str, **options: Any) -> Iterator[Process]:
    """Start a shell script, and end what is left of it."""
    process = spawn(specification(script, **options))
    try:
        yield process
    finally:
        process.signal(signal.SIGKILL)
        with suppress(ChildProcessError):  # the test has reaped it
            process.reap()
        for descriptor in (process.stdout, process.stderr):
            with suppress(OSError):  # a PipeReader has closed it
                os.close(descriptor)


def descriptors() -> set[str]:
    """Return our open descriptors."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}


async def wait_for(event: anyio.Event) -> None:
    """Wait for an event, but not for ever."""
    with anyio.fail_after(PATIENCE):
        await event.wait()


# Starting


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


@pytest.mark.parametrize(
    ("stdin", "count"), [*((b"", count) for count in range(6)), *((b"x", count) for count in range(7))]
)
def test_no_descriptor_to_spare(stdin: bytes, count: int) -> None:
    """Wherever the descriptors run out, the task may be tried again, and none is lost over it."""
    tempfile.gettempdir()
    with spawned("exit 0"):  # opens what all processes share
        pass
    before = descriptors()
    with spare_descriptors(count), pytest.raises(SpawnFailedError, match="Too many open files") as failure:
        spawn(specification("exit 0", stdin=stdin))
    assert failure.value.outcome.retryable
    assert descriptors() == before


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.ENFILE])
def test_no_process_to_spare(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine has no room for a process, the task may be tried again."""

    def no_room(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(vfork, "fork_exec", no_room)
    before = descriptors()
    with pytest.raises(SpawnFailedError, match=os.strerror(number)):
        spawn(specification("exit 0", stdin=b"x"))
    assert descriptors() == before


def test_no_room_for_the_stdin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A temporary directory that is gone is the worker's fault, not a missing command."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    before = descriptors()
    with pytest.raises(SpawnFailedError, match="No such file or directory"):
        spawn(specification("exit 0", stdin=b"x"))
    assert descriptors() == before


def output_of(process: Process) -> bytes:
    """Return what a process prints until it has closed its standard output."""
    os.set_blocking(process.stdout, True)
    with open(process.stdout, "rb", closefd=False) as pipe:
        return pipe.read()


def test_no_descriptor_of_ours_is_passed_on() -> None:
    """A process has its three standard descriptors, though others may be inherited."""
    with Path(os.devnull).open("rb") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - it takes no keyword
        with spawned(f"test -e /proc/$$/fd/{file.fileno()} || echo none") as process:
            assert output_of(process) == b"none\n"


def test_a_leader_of_its_own_session() -> None:
    """A process is the leader of a session, which nobody else is in."""
    with spawned("sleep 600") as process:
        assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid


def test_an_empty_folder_on_the_path(tmp_path: Path) -> None:
    """An empty entry of PATH means the working directory, as for a shell."""
    (tmp_path / "mine").write_text("#!/bin/sh\necho found")
    (tmp_path / "mine").chmod(0o755)
    process = spawn(ProcessSpec(argv=["mine"], env={"PATH": "/nowhere:"}, cwd=str(tmp_path)))
    assert output_of(process) == b"found\n"
    process.abandon()


def test_a_worker_without_standard_descriptors() -> None:
    """What went wrong in the child is told even if our own standard descriptors are closed."""
    script = (
        "import os; from runners.process import vfork; os.closerange(0, 2)\n"
        "try: vfork.start(['/nowhere'], {}, stdio=(2, 2, 2))\n"
        "except FileNotFoundError as error: os.write(2, error.filename.encode())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert done.stderr == b"/nowhere"


# Ending


@pytest.mark.parametrize("watch_type", [ExitWatch, ThreadedExitWatch])
async def test_an_exit_is_seen_before_the_process_is_reaped(
    watch_type: Callable[[int], ExitWatch | ThreadedExitWatch],
) -> None:
    """After the exit the pid is still ours, until it is reaped; then there is nobody to signal."""
    with spawned("exit 3") as process:
        watch = watch_type(process.pid)
        await wait_for(watch.exited)
        watch.close()
        os.kill(process.pid, 0)
        assert process.reap().code == 3
        assert not process.signal(signal.SIGTERM)
        assert not process.signal(signal.SIGTERM, leader_only=True)
        assert process.survivors() == 0


@pytest.mark.parametrize("watch_type", [ExitWatch, ThreadedExitWatch])
async def test_a_process_that_is_gone_is_seen_at_once(
    watch_type: Callable[[int], ExitWatch | ThreadedExitWatch],
) -> None:
    """A process that ended before it was watched is seen all the same."""
    with spawned("exit 0") as process:
        await wait_for((first := watch_exit(process.pid)).exited)
        first.close()
        watch = watch_type(process.pid)
        await wait_for(watch.exited)
        watch.close()


async def test_a_watch_is_closed_twice() -> None:
    """A watch may be closed before the exit, and again; then it sees nothing any more."""
    before = descriptors()
    with spawned("exec sleep 600") as process:
        watch = watch_exit(process.pid)
        watch.close()
        watch.close()
        assert not watch.exited.is_set()
    assert descriptors() == before


async def test_more_processes_than_threads() -> None:
    """Without pidfds, too, an exit is seen while any number of other processes run on."""
    with spawned("exec sleep 600") as first:
        others = [first.pid] * 60
        watches = [ThreadedExitWatch(pid) for pid in others]
        with spawned("exit 0") as process:
            await wait_for(ThreadedExitWatch(process.pid).exited)
        assert not any(watch.exited.is_set() for watch in watches)
        first.signal(signal.SIGKILL)
        for watch in watches:
            await wait_for(watch.exited)


async def test_survivors_are_counted_and_killed() -> None:
    """What is left of a group after its leader is counted without the dead, and killed."""
    with spawned("sleep 600 & sleep 600 & (exit 0) & wait $!") as process:
        await wait_for((watch := watch_exit(process.pid)).exited)
        watch.close()
        process.reap()
        assert process.survivors() == 2
        with anyio.fail_after(PATIENCE):
            while process.survivors():
                await anyio.lowlevel.checkpoint()


# Reading


async def test_a_pipe_is_read_to_its_end() -> None:
    """All bytes are handed on in their order, and the end is told."""
    taken = bytearray()
    with spawned("printf one; printf two") as process:
        reader = PipeReader(process.stdout, taken.extend)
        reader.listen()
        reader.listen()
        await wait_for(reader.closed)
        reader.listen()
        assert taken == b"onetwo"


async def test_a_pipe_that_is_closed_from_our_side() -> None:
    """What is there when a reader is closed is still taken, though the writer lives; it may be closed twice."""
    taken = bytearray()
    reading, writing = os.pipe()
    before = descriptors()
    os.set_blocking(reading, False)
    reader = PipeReader(reading, taken.extend)
    os.write(writing, b"last words")
    reader.close()
    reader.close()
    assert taken == b"last words"
    assert reader.closed.is_set()
    assert descriptors() == before - {str(reading)}
    os.close(writing)


async def test_an_empty_pipe_that_is_closed_from_our_side() -> None:
    """A reader that has nothing to read is closed without a wait."""
    taken = bytearray()
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    PipeReader(reading, taken.extend).close()
    assert taken == b""
    os.close(writing)


# The environment


@pytest.fixture
def fresh_baseline() -> Iterator[None]:
    """Forget the baseline that is worked out once per worker."""
    _baseline.cache_clear()
    yield
    _baseline.cache_clear()


def test_the_task_goes_over_the_baseline_and_its_identity_over_both() -> None:
    """A task may change its PATH and HOME, but not who it is."""
    task = Task(id="t-1", env={"PATH": "/mine", "TASK_ID": "t-2"}, secret_env={"HOME": "/h", "TASK_INSTANCE": "w-2"})
    given = environment(Context(task=task, attempt=3, worker="w-1"))
    assert (given["PATH"], given["HOME"]) == ("/mine", "/h")
    assert (given["TASK_ID"], given["TASK_ATTEMPT"], given["TASK_INSTANCE"]) == ("t-1", "3", "w-1")


@pytest.mark.usefixtures("fresh_baseline")
def test_the_baseline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PATH and TZ are the worker's, HOME and USER the account's, whatever the worker's variables say (R7)."""
    monkeypatch.setattr(os, "environ", {"PATH": "/p", "TZ": "Europe/Vienna", "HOME": "/x", "LANG": "C", "USER": "y"})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    account = pwd.getpwuid(os.getuid())
    given = environment(Context())
    baseline = {key: value for key, value in given.items() if not key.startswith("TASK_")}
    assert baseline == {
        "PATH": "/p",
        "TZ": "Europe/Vienna",
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LANG": "C.UTF-8",
        "TMPDIR": str(tmp_path),
    }


@pytest.mark.usefixtures("fresh_baseline")
def test_the_baseline_without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user id has no account, as in some containers, there is a HOME and a USER all the same."""

    def no_account(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", no_account)
    monkeypatch.setattr(os, "environ", {})
    given = environment(Context())
    assert (given["HOME"], given["USER"], given["PATH"]) == ("/", str(os.getuid()), os.defpath)
    assert "TZ" not in given
