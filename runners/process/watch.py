"""Waits for a process without a task per descriptor: its pipes' bytes, and its exit.

The event loop calls back; events tell those who wait. A caller that is cancelled leaves nothing behind once `close` is
called.
"""

import asyncio
import contextlib
import fcntl
import os
import threading
from collections.abc import Callable
from typing import Final

READ_SIZE: Final = 256 * 1024
"""Bytes read at once: after each, everyone else on the loop has a turn."""
DEFAULT_PIPE_SIZE: Final = 64 * 1024
LARGE_PIPE_SIZE: Final = 1024 * 1024
"""Bytes that a pipe holds, and that of a writer that keeps filling it."""
_BUSY: Final = 8
"""Reads of a full pipe that make a writer a busy one."""
_READS_TO_END: Final = 2
"""What a pipe of usual size holds, and the end of it."""
_BUFFER: Final = memoryview(bytearray(READ_SIZE))
"""All readers' buffer, one after the other: fresh ones of this size would each cost page faults."""


class PipeReader:
    """Hands a pipe's bytes to `take` as they come, once it listens, until all its writers have closed it.

    `take` is given a buffer that is used again after the call. The descriptor must not block.
    """

    def __init__(self, descriptor: int, take: Callable[[memoryview], None]) -> None:
        self._descriptor = descriptor
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._full_reads = 0
        self._listening = False
        self.closed = asyncio.Event()

    def listen(self) -> None:
        """Take what comes from now on; safe to call twice, or too late."""
        if not self._listening and not self.closed.is_set():
            self._loop.add_reader(self._descriptor, self._read)
            self._listening = True

    def take_rest(self) -> bool:
        """Take what is there; tell whether that was all: the pipe is closed."""
        for _ in range(_READS_TO_END):
            if self.closed.is_set():
                break
            self._read()
        return self.closed.is_set()

    def close(self) -> None:
        """Take what is there, and no more; safe to call twice."""
        if not self.take_rest():
            self._end()

    def _read(self) -> None:
        try:
            size = os.readv(self._descriptor, [_BUFFER])
        except BlockingIOError:
            return
        if not size:
            self._end()
            return
        if size >= DEFAULT_PIPE_SIZE:
            self._enlarge()
        self._take(_BUFFER[:size])

    def _enlarge(self) -> None:
        """Give a busy writer a larger pipe: four times as many bytes go through with a quarter of the turns."""
        self._full_reads += 1
        if self._full_reads == _BUSY and hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # an unprivileged user may have so many pages in pipes (pipe(7))
                fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, LARGE_PIPE_SIZE)

    def _end(self) -> None:
        if self._listening:
            self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self.closed.set()


class ExitWatch:
    """Sees a child's end and leaves it a zombie, so that its pid stays ours until it is reaped."""

    def __init__(self, pid: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = os.pidfd_open(pid)
        self.exited = asyncio.Event()
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
    """The same where there is no pidfd (macOS): a thread of its own waits, however many processes there are."""

    def __init__(self, pid: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.exited = asyncio.Event()
        threading.Thread(target=self._wait, args=(pid,), name=f"exit of {pid}", daemon=True).start()

    def close(self) -> None:
        """Leave the thread to end with the process."""

    def _wait(self, pid: int) -> None:
        with contextlib.suppress(ChildProcessError):  # it was reaped by someone who no longer waited for us
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self.exited.set)


def watch_exit(pid: int) -> ExitWatch | ThreadedExitWatch:
    """Watch a child of ours."""
    return ExitWatch(pid) if hasattr(os, "pidfd_open") else ThreadedExitWatch(pid)
