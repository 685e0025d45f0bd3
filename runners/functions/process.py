"""One process of a pool, as its worker sees it: started, given one call after the other, ended and reaped."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final, Self

import anyio
import msgspec
from msgspec import Struct

from runners.base import Runner
from runners.context import Context, Report
from runners.errors import InternalError, SpawnFailedError
from runners.process import ORPHANS, ProcessSpec, environment
from runners.process.ending import KILL_WINDOW, Ending
from runners.process.leader import Process
from runners.process.spawn import spawn
from runners.process.watch import ExitWatch, ThreadedExitWatch, watch_exit
from schemas import Usage

from .messages import LONGEST, Call, Done, Output, Progress, Ready, Said, Unable, Unframer, Used, decode_said, frame

READ_SIZE: Final = 256 * 1024
START_WINDOW: Final = 60.0
"""Seconds that a function's module may take to be imported."""
LAST_WORDS: Final = 2.0
"""Seconds that a process may live after it has closed its socket."""
_PROGRAM: Final = (sys.executable, "-I", "-X", "utf8", str(Path(__file__).with_name("child.py")))
_READS_TO_EMPTY: Final = 64
"""More than any pipe holds: what still comes then is not of a task that has ended."""


class Target(Struct, frozen=True):
    """Which function a process is for, and where to look for its module."""

    module: str
    name: str
    path: tuple[str, ...]


class PoolProcess:
    """A process that has imported one function, and all that is needed to see it to its end.

    Between two calls it rests: then nobody listens to what it prints, and its memory is its own affair.
    """

    def __init__(self, process: Process, link: socket.socket, watch: ExitWatch | ThreadedExitWatch) -> None:
        self.pid = process.pid
        self.process = process
        self.watch = watch
        self.loop = asyncio.get_running_loop()
        self.calls = 0
        self.resident = 0
        """Bytes that it held at the end of the last call."""
        self.resting = False
        self._link = link
        self._unframer = Unframer(LONGEST)
        self._used = Used(0.0, 0.0, 0)
        self._runner: Runner[Any] | None = None
        self._first: Ready | Unable | None = None
        self._done: Done | None = None
        self._answered = asyncio.Event()
        self._gone = False
        self._ended = False
        self.loop.add_reader(link, self._hear)
        self.loop.add_reader(process.stderr, self._print)

    @classmethod
    def start(cls, target: Target, worker: str) -> Self:
        """Start one; it is not ready yet.

        Raises:
            SpawnFailedError: the machine has nothing to spare.
        """
        try:
            ours, its = socket.socketpair()
        except OSError as error:
            raise SpawnFailedError(f"no socket could be made for the process: {error.strerror}") from None
        with its:
            argv = (*_PROGRAM, str(its.fileno()))
            spec = ProcessSpec(argv=argv, env=environment(Context(worker=worker)), inherited=(its.fileno(),))
            try:
                process = spawn(spec)
            except BaseException:
                ours.close()
                raise
        os.close(process.stdout)  # it prints to one pipe only
        try:
            watch = watch_exit(process.pid)
        except OSError as error:
            ours.close()
            process.stdout = os.open(os.devnull, os.O_RDONLY)
            process.abandon()
            raise SpawnFailedError(f"the process could not be watched: {error.strerror}") from None
        ORPHANS.rest(process.pid)
        where = json.dumps({"module": target.module, "name": target.name, "path": target.path}).encode()
        with contextlib.suppress(OSError):  # it has ended: whoever waits for it is told
            ours.sendall(len(where).to_bytes(4, "little") + where)
        ours.setblocking(False)  # noqa: FBT003 - it takes no keyword
        return cls(process, ours, watch)

    async def become_ready(self) -> None:
        """Wait until it has imported the function.

        Raises:
            InternalError: it cannot; the text says why.
        """
        with anyio.move_on_after(START_WINDOW):
            await self._answered.wait()
        match self._first:
            case Ready(used=used):
                self._used = used
                self.resting = True
            case Unable(why=why):
                raise InternalError(f"the function's process could not import it: {why}")
            case _:
                how = "ended" if self._gone else f"took more than {START_WINDOW:g} s"
                raise InternalError(f"the function's process {how} before it had imported the function")

    @property
    def is_alive(self) -> bool:
        """Whether it can be given a call."""
        return self.resting and not self._gone and self.process.is_running()

    def begin(self, runner: Runner[Any]) -> None:
        """Belong to a runner's task from now on."""
        self.resting = False
        self.calls += 1
        self._runner = runner
        ORPHANS.enter(self.pid, environment(runner.context))

    async def call(self, call: Call) -> Done | None:
        """Have the function called; None if the process has ended, or closed its socket, before it returned."""
        self._done = None
        self._answered.clear()
        with contextlib.suppress(OSError):  # it has ended: that is the answer
            await self.loop.sock_sendall(self._link, frame(call))
        await self._answered.wait()
        return self._done

    def rest(self, done: Done, report: Report) -> None:
        """Belong to no task any more, after one that has come to its end."""
        report.leaked_processes = done.leaked
        report.usage = self._usage(done.used)
        self._used, self.resident = done.used, done.resident
        self._runner = None
        self.resting = True
        ORPHANS.rest(self.pid)

    async def end(self, report: Report | None = None) -> None:
        """Kill it, unless it has ended, and whatever it has left; no cancellation cuts this short."""
        if self._ended:
            return
        self._ended = True
        with anyio.CancelScope(shield=True):
            if not self.watch.exited.is_set():
                self.process.signal(signal.SIGKILL)
            with anyio.move_on_after(KILL_WINDOW):
                await self.watch.exited.wait()
            left = await ORPHANS.end(self.pid)
        self._print_rest()
        self._hear()
        self._forget()
        if report is not None:
            report.leaked_processes, report.unkillable = left.killed, left.unkillable
        if self.watch.exited.is_set():
            self._reap(report)
        elif report is not None:
            report.unkillable = True
        self.watch.close()

    def ending(self, runner: Runner[Any]) -> Ending:
        """Return what ends it for the task that it works on."""
        return Ending(self.process, self.watch, None, runner.context, runner.report)

    def give_up(self) -> None:
        """Wait no longer for its answer."""
        self._gone = True
        self._answered.set()

    async def wait_exit(self) -> None:
        """Wait for the end of a process that has closed its socket, for a while."""
        with anyio.move_on_after(LAST_WORDS):
            await self.watch.exited.wait()

    def abandon(self) -> None:
        """End it at once: its event loop is closed, so nobody would see it do anything."""
        self._ended = True
        self._link.close()
        self.process.signal(signal.SIGKILL)
        self.process.reap()
        ORPHANS.leave(self.pid)
        os.close(self.process.stderr)

    def _reap(self, report: Report | None) -> None:
        leader = self.process.reap()
        ORPHANS.leave(self.pid)
        survivors = 0 if ORPHANS.adopting else self.process.survivors()
        if report is None:
            return
        report.exit_code, report.signal = leader.code, leader.signal
        report.leaked_processes = max(report.leaked_processes, survivors)
        used = Used(leader.usage.cpu_user, leader.usage.cpu_system, leader.usage.max_rss or 0)
        report.usage = self._usage(used)

    def _usage(self, used: Used) -> Usage:
        """Return what was used since the last call; the most memory only if that was in this one."""
        before = self._used
        return Usage(
            cpu_user=max(0.0, used.cpu_user - before.cpu_user),
            cpu_system=max(0.0, used.cpu_system - before.cpu_system),
            max_rss=used.peak if used.peak > before.peak else None,
        )

    def _hear(self) -> None:
        """Take what it says."""
        try:
            data = self._link.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:  # it was killed in the middle of a word
            data = b""
        try:
            messages = [decode_said(payload) for payload in self._unframer.feed(data)] if data else []
        except (ValueError, msgspec.MsgspecError):  # whoever writes this is not our child.py any more
            self.process.signal(signal.SIGKILL)
            data, messages = b"", []
        for message in messages:
            self._take(message)
        if not data:
            self.loop.remove_reader(self._link)
            self.give_up()

    def _take(self, message: Said) -> None:
        match message:
            case Output(data=data) if self._runner is not None:
                self._runner.write(data)
            case Progress(data=data) if self._runner is not None:
                self._runner.context.reporter.progress(data)
            case Done() if self._runner is not None:
                self._print_rest()
                self._runner.ended()
                self._done = message
                self._answered.set()
            case Ready() | Unable():
                self._first = message
                self._answered.set()

    def _print_rest(self) -> None:
        """Take all that it has printed."""
        for _ in range(_READS_TO_EMPTY):
            if not self._print():
                break

    def _print(self) -> bool:
        """Take some of what it has printed: for its task, or for nobody; tell whether there was anything."""
        try:
            data = os.read(self.process.stderr, READ_SIZE)
        except BlockingIOError:
            return False
        if not data:
            self.loop.remove_reader(self.process.stderr)
        elif self._runner is not None:
            self._runner.write(data, "stderr")
        return bool(data)

    def _forget(self) -> None:
        self.loop.remove_reader(self._link)
        self.loop.remove_reader(self.process.stderr)
        self._link.close()
        os.close(self.process.stderr)
        self._runner = None
