"""The keeper and the orphans, with real processes: what a worker started does not outlive it, nor its task."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from runners.command import CommandRunner
from runners.context import Context
from runners.process import ORPHANS, keeper
from schemas import Result, Status, Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sub-reapers are Linux's")

PATIENCE = 15.0
UNDER_KEEPER = [sys.executable, "-I", "-S", "-E", keeper.__file__]

WORKER = """
import os, subprocess, sys, time
sys.path.insert(0, {root!r})
from runners.process.keeper import become_subreaper
become_subreaper()
for _ in range(10):
    subprocess.Popen(["sh", "-c", "setsid sleep {tag} & (setsid sh -c 'sleep {tag} & sleep {tag}' &) ; sleep {tag}"],
                     start_new_session=True)
print(os.getpid(), flush=True)
time.sleep(600)
"""


def eventually(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait for a condition, which nothing announces, within bounds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        select.select([], [], [], 0.01)


def alive(tag: str) -> list[int]:
    """Return the live processes that bear a tag as their argument."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if entry.name.isdigit() and tag.encode() in arguments and state != b"Z":
            found.append(int(entry.name))
    return found


@pytest.fixture
def tag() -> Iterator[str]:
    """A number of seconds that no one else sleeps; whoever still does at the end is killed."""
    seconds = f"600.{time.monotonic_ns()}"
    yield seconds
    for pid in alive(seconds):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def kept(*argv: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [*UNDER_KEEPER, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.terminate()  # through the keeper: killed, it would leave a worker that does not watch it
        process.wait(PATIENCE)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("whole_group", [False, True])
def test_nothing_outlives_a_killed_worker(tag: str, *, whole_group: bool) -> None:
    """Sixty processes, among them setsid and double-fork escapees, are gone soon after their worker's kill -9."""
    script = WORKER.format(root=str(Path(keeper.__file__).parents[2]), tag=tag)
    with kept(sys.executable, "-c", script) as process:
        worker = int(first_line(process))
        eventually(lambda: len(alive(tag)) >= 40)
        if whole_group:
            os.killpg(worker, signal.SIGKILL)
        else:
            os.kill(worker, signal.SIGKILL)
        assert process.wait(PATIENCE) == 137
        assert alive(tag) == []


def test_orphans_that_ignore_sigterm_are_killed(tag: str) -> None:
    """After its grace the keeper is rude."""
    script = (
        "import subprocess,os;"
        f"subprocess.Popen(['sh','-c','trap \"\" TERM; echo ready >&2; while :; do sleep {tag}; done'],"
        "stderr=subprocess.PIPE,start_new_session=True).stderr.readline();"
        "os.kill(os.getpid(), 9)"
    )
    begin = time.monotonic()
    with kept(sys.executable, "-c", script) as process:
        assert process.wait(keeper.GRACE + PATIENCE) == 137
        assert time.monotonic() - begin >= keeper.GRACE
        assert alive(tag) == []


@pytest.mark.parametrize("code", [0, 7])
def test_the_keeper_exits_with_the_workers_code(code: int) -> None:
    """Who watches the keeper sees the worker."""
    with kept(sys.executable, "-c", f"raise SystemExit({code})") as process:
        assert process.wait(PATIENCE) == code


@pytest.mark.parametrize(("sent", "received"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT"), ("SIGHUP", "SIGTERM")])
def test_signals_reach_the_worker(sent: str, received: str) -> None:
    """The keeper is the pid that people see, so what they send it is for the worker."""
    script = (
        "import os,signal,sys;"
        "[signal.signal(n, lambda n, _: (os.write(1, signal.Signals(n).name.encode()), sys.exit(3)))"
        " for n in (signal.SIGTERM, signal.SIGINT)];"
        "print('ready', flush=True);signal.pause()"
    )
    with kept(sys.executable, "-c", script) as process:
        assert first_line(process) == "ready"
        process.send_signal(signal.Signals[sent])
        assert first_line(process) == received
        assert process.wait(PATIENCE) == 3


def test_a_frozen_workers_task_is_ended_by_the_keeper(tag: str) -> None:
    """A task's deadline holds although its worker is stopped."""
    script = (
        "import os,subprocess,signal;"
        f"p=subprocess.Popen(['sh','-c','sleep {tag} & sleep {tag}'],start_new_session=True);"
        f"saying=int(os.environ['{keeper.PIPES_VARIABLE}'].split(',')[1]);"
        "print(os.getpid(),p.pid,flush=True);input();"
        "os.write(saying,b'run %d 0.2\\n' % p.pid);os.kill(os.getpid(),signal.SIGSTOP);p.wait()"
    )
    with kept(sys.executable, "-c", script) as process:
        worker = int(first_line(process).split()[0])
        eventually(lambda: len(alive(tag)) >= 2)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        eventually(lambda: alive(tag) == [])
        os.kill(worker, signal.SIGCONT)
        assert process.wait(PATIENCE) == 0


def test_the_keeper_is_small() -> None:
    """It stays below 15 MiB, however large its worker is."""
    with kept(sys.executable, "-c", "print('ready', flush=True); import signal; signal.pause()") as process:
        assert first_line(process) == "ready"
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert int(status.partition("VmRSS:")[2].split()[0]) < 15 * 1024


@pytest.fixture
def adopting() -> Iterator[None]:
    """Make this process a sub-reaper for one test, as a worker is."""
    ORPHANS.adopt()
    yield
    ORPHANS.stop_adopting()


async def run_command(script: str, task_id: str) -> Result:
    runner = CommandRunner()
    runner.context = Context(task=Task(id=task_id), worker="test-worker")
    runner.parse_args("sh", ["-c", script])
    return await runner.execute()


@pytest.mark.usefixtures("adopting")
@pytest.mark.parametrize(
    "escape",
    [
        "setsid sleep {0} >/dev/null 2>&1 &",
        "(setsid sh -c 'sleep {0} & sleep {0}' >/dev/null 2>&1 &)",
        "env -i setsid sleep {0} >/dev/null 2>&1 &",
        "sleep {0} >/dev/null 2>&1 &",
    ],
)
def test_what_escapes_from_a_task_ends_with_it(tag: str, escape: str) -> None:
    """Whatever a task does to get away - new session, double fork, empty environment - it is killed and counted."""
    script = f"{escape.format(tag)}\nwhile ! pgrep -f 'sleep {tag}' >/dev/null; do :; done; echo done"
    result = anyio.run(run_command, script, "escape")
    assert (result.status, result.output) == (Status.SUCCESS, "done\n")
    assert result.termination is not None
    assert result.termination.leaked_processes >= 1
    assert alive(tag) == []
    assert [child for child in keeper.children(os.getpid()) if child not in ORPHANS._own] == []


@pytest.mark.usefixtures("adopting")
def test_a_task_ends_only_its_own_orphans(tag: str, tmp_path: Path) -> None:
    """The end of one task leaves the escapees of another alone, until that one ends too."""
    release = tmp_path / "release"
    os.mkfifo(release)
    long = f"setsid sleep {tag} >/dev/null 2>&1 & read _ < {release}; echo long"

    async def main() -> None:
        results: list[Result] = []

        async def run_long() -> None:
            results.append(await run_command(long, "long"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_long)
            with anyio.fail_after(PATIENCE):
                while not alive(tag):
                    await anyio.lowlevel.checkpoint()
                short = await run_command("setsid sleep 599 >/dev/null 2>&1 & echo short", "short")
            assert short.output == "short\n"
            assert len(alive(tag)) == 1
            await anyio.to_thread.run_sync(release.write_text, "go\n")
        assert results[0].termination is not None
        assert results[0].termination.leaked_processes == 1
        assert alive(tag) == []

    anyio.run(main)
