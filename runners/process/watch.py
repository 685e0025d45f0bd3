"""Waits for a process without a task per descriptor: its pipes' bytes, and its exit.

The event loop calls back; `anyio.Event`s tell those who wait. A caller that is cancelled leaves nothing behind once
`close` is called.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Final

import anyio
import anyio.to_thread

READ_SIZE: Final = 256 * 1024
"""Bytes read at once: after each, everyone else on the loop has a turn."""


class PipeReader:
    """Hands a pipe's bytes to `take` as they come, until all its writers have closed it."""

    def __init__(self, descriptor: int, take: Callable[[bytes], None]) -> None:
        self._descriptor = descriptor
        self._take = take
        self._loop = asyncio.get_running_loop()
        self.closed = anyio.Event()
        self._loop.add_reader(descriptor, self._read)

    def close(self) -> None:
        """Take what is there, and no more; safe to call twice."""
        if self.closed.is_set():
            return
        self._read()
        self._end()

    def _read(self) -> None:
        try:
            chunk = os.read(self._descriptor, READ_SIZE)
        except BlockingIOError:
            return
        if chunk:
            self._take(chunk)
        else:
            self._end()

    def _end(self) -> None:
        if self.closed.is_set():
            return
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self.closed.set()


class ExitWatch:
    """Sees a child's end and leaves it a zombie, so that its pid stays ours until it is reaped."""

    def __init__(self, pid: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = os.pidfd_open(pid)
        self.exited = anyio.Event()
        self._loop.add_reader(self._descriptor, self._exit)

    def close(self) -> None:
        """Stop watching; safe to call twice."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _exit(self) -> None:
        self.close()
        self.exited.set()


class ThreadedExitWatch:
    """The same where there is no pidfd (macOS): a thread waits."""

    def __init__(self, pid: int) -> None:
        self.exited = anyio.Event()
        self._waiter = asyncio.get_running_loop().run_in_executor(
            None, os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT
        )
        self._waiter.add_done_callback(lambda _: self.exited.set())

    def close(self) -> None:
        """Leave the thread to end with the process."""


def watch_exit(pid: int) -> ExitWatch | ThreadedExitWatch:
    """Watch a child of ours."""
    return ExitWatch(pid) if hasattr(os, "pidfd_open") else ThreadedExitWatch(pid)
