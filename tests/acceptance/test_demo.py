"""`jetrunner demo` as a process: what it shows, and that it leaves nothing behind, however it ends."""

import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.acceptance.conftest import COMMAND, PATIENCE, Running, processes

LONGEST = 15.0
"""Seconds that the demo may take."""
TASKS = ["ls", "live", "fails", "slow", "long", "queued"]
ENDED = {"ls": "success", "live": "success", "fails": "failed", "slow": "timeout", "queued": "canceled"}


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Have a directory for all temporary files, which is empty in the end; no process that knows it is left."""
    yield tmp_path
    assert [*tmp_path.iterdir()] == []
    assert processes(str(tmp_path)) == []


def environment(directory: Path, *without: str, **environ: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in without}
    return {**kept, "TMPDIR": str(directory), "PYTHONDONTWRITEBYTECODE": "1", **environ}


@contextmanager
def started(directory: Path) -> Iterator[Running]:
    """Have a demo in a process group of its own."""
    process = subprocess.Popen(
        [COMMAND, "demo"],
        env=environment(directory),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with Running(process) as running:
        yield running


def read_until(running: Running, text: str) -> None:
    """Read stdout up to and with the line that holds a text."""
    assert running.process.stdout is not None
    while text.encode() not in (line := running.process.stdout.readline()):
        assert line, running.process.stderr and running.process.stderr.read()


def test_it_shows_all(directory: Path) -> None:
    """Six tasks and a table, without a home, a terminal, colours, or what we have configured for ourselves."""
    begin = time.monotonic()
    done = subprocess.run(
        [COMMAND, "demo"],
        env=environment(
            directory,
            "HOME",
            "XDG_DATA_HOME",
            NO_COLOR="1",
            NATS_URL="nats://127.0.0.1:1",
            JETRUNNER_SUBJECT_PREFIX="x",
        ),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - begin < LONGEST
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    shown = [line.split()[1].rstrip(":") for line in lines if line[:1].isdigit()]
    assert shown == TASKS
    _, table = done.stdout.split("task     status")
    rows = [line.split() for line in table.splitlines()]
    assert {row[0]: row[1] for row in rows if row and row[0] in TASKS} == {**ENDED, "long": "canceled"}
    assert "| step 5 of 5" in done.stdout
    assert "NOT AS PROMISED" not in done.stdout


def test_ctrl_c_on_a_terminal(directory: Path) -> None:
    """There it is colourful; Ctrl-C goes to its whole group, ends it with 130 and says nothing."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", COMMAND, "demo"],
        env=environment(directory, "NO_COLOR", TERM="xterm"),
        cwd=directory,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while b"step 2 of 5" not in shown:
        shown += os.read(ours, 65536)
    assert b"\x1b[32mls: success" in shown
    os.write(ours, b"\x03")
    assert process.wait(PATIENCE) == 130
    os.close(ours)


@pytest.mark.parametrize(("number", "moment"), [(signal.SIGHUP, "a NATS server at"), (signal.SIGTERM, "| step 2 of 5")])
def test_it_can_be_interrupted(directory: Path, number: signal.Signals, moment: str) -> None:
    """While the worker starts, or a task runs: exit code 130 and no complaints."""
    with started(directory) as demo:
        read_until(demo, moment)
        os.killpg(demo.process.pid, number)
        code, _ = demo.end()
    assert (code, demo.said) == (130, b"")


def test_impatience_changes_nothing(directory: Path) -> None:
    """A second and third Ctrl-C do not interrupt the cleaning up, which does not wait for a task that would last."""
    begin = time.monotonic()
    with started(directory) as demo:
        read_until(demo, "| working")
        for _ in range(3):
            os.killpg(demo.process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                demo.process.wait(0.05)
        code, _ = demo.end()
    assert (code, demo.said) == (130, b"")
    assert time.monotonic() - begin < LONGEST * 2 / 3


def test_a_reader_that_has_seen_enough(directory: Path) -> None:
    """`| head -1` is quiet."""
    with started(directory) as demo:
        read_until(demo, "a NATS server at")
        assert demo.process.stdout is not None
        demo.process.stdout.close()
        assert demo.process.wait(PATIENCE) == 0
        assert demo.process.stderr is not None
        assert demo.process.stderr.read() == b""
