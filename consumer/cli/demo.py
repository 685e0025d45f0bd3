"""`jetrunner demo`: a server and a worker in a temporary directory, six tasks, and nothing left behind."""

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import anyio
from msgspec import Struct
from rich.console import Console

from consumer.connection import ConnectOptions, connect
from consumer.errors import JetrunnerError
from consumer.server import EmbeddedServer

from . import OK, OUR_ERROR
from .demo_tour import Tour, print_table
from .plain import printable

WORKER_PATIENCE: Final = 10.0
"""Seconds that the worker may take to end."""

_HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stage(Struct, frozen=True):
    """Where the demo takes place."""

    directory: Path
    url: str
    worker: "subprocess.Popen[bytes]"

    @property
    def log(self) -> Path:
        """What the worker says."""
        return self.directory / "worker.log"


def demo() -> int:
    """Show it all: a server, a worker and six tasks, in a temporary directory.

    Each task has to end as promised; the exit code is 1 if one does not.
    """
    begin = time.monotonic()
    console = _console()
    with _stage() as stage:
        console.print(f"a NATS server at {stage.url} and a worker, both in {stage.directory}")
        console.print("   $ jetrunner worker --concurrency 1", style="cyan")
        broken = _show(stage, console)
        broken += _end_worker(stage)
    for promise in broken:
        console.print(f"NOT AS PROMISED: {printable(promise)}", style="bold red", markup=False)
    if broken:
        return OUR_ERROR
    console.print(f"All ended as promised, in {time.monotonic() - begin:.1f} s. The worker drained, the server is")
    console.print(f"stopped, and {stage.directory} is gone. Now with a server that stays:")
    console.print("   $ jetrunner worker", style="cyan")
    console.print("   $ jetrunner run command -- /bin/ls -la /tmp", style="cyan")
    return OK


def _console() -> Console:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names are not always what the terminal can show
    return _Console(highlight=False, soft_wrap=True)


class _Console(Console):
    """A console that leaves it to `main` what a reader means who has seen enough; rich would exit with code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


@contextmanager
def _stage() -> Iterator[Stage]:
    """Yield a server and a worker of our own; on the way out, end both and remove what they left.

    All this is outside the event loop, so that nothing that happens inside can skip it.
    """
    with ExitStack() as stack:
        stack.enter_context(_handlers())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jetrunner-demo-")))
        server = stack.enter_context(EmbeddedServer.start(directory / "server"))
        worker = stack.enter_context(_worker(directory, server.url))
        try:
            yield Stage(directory, server.url, worker)
        finally:
            _ignore_further_signals()


@contextmanager
def _handlers() -> Iterator[None]:
    """Take SIGTERM and SIGHUP for Ctrl-C: they too must leave nothing behind. A second one changes nothing."""
    before = {number: signal.signal(number, _interrupt) for number in _HANDLED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    _ignore_further_signals()
    raise KeyboardInterrupt


def _ignore_further_signals() -> None:
    """Let nobody interrupt the cleaning up, which is bounded."""
    for number in _HANDLED:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _worker(directory: Path, url: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start `jetrunner worker` as anyone would, with one slot, so that a second task has to wait."""
    argv = [sys.executable, "-P", "-m", "consumer", "worker", "--concurrency", "1", "--server", url]
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("JETRUNNER_", "NATS_"))}
    environ["XDG_CONFIG_HOME"] = str(directory)  # no context of the nats command
    environ["JETRUNNER_WORKER_DRAIN_TIMEOUT"] = "0"  # a task is at work only if we are interrupted
    with (directory / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            argv, cwd=directory, env=environ, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True
        )
    try:
        yield worker
    finally:
        _end(worker)


def _end(worker: "subprocess.Popen[bytes]") -> int:
    """End the worker, by its keeper, and return its exit code."""
    worker.terminate()
    try:
        return worker.wait(WORKER_PATIENCE)
    except subprocess.TimeoutExpired:
        worker.kill()
        return worker.wait()


def _show(stage: Stage, console: Console) -> list[str]:
    """Show all tasks and a table of them; return the promises that were not kept."""
    try:
        return anyio.run(_tour, stage, console)
    except JetrunnerError as error:
        return [str(error), *_last_words(stage)]


async def _tour(stage: Stage, console: Console) -> list[str]:
    async with connect(ConnectOptions(servers=(stage.url,))) as connection:
        tour = Tour(connection, console)
        await tour.run()
    print_table(console, tour.ended)
    return tour.broken


def _end_worker(stage: Stage) -> list[str]:
    code = _end(stage.worker)
    return [f"the worker drained with exit code {code}", *_last_words(stage)] if code else []


def _last_words(stage: Stage) -> list[str]:
    lines = stage.log.read_text(errors="replace").splitlines()
    return [f"the worker's last line: {lines[-1]}"] if lines else ["the worker said nothing"]
