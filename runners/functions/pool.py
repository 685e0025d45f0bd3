"""Pool: the warm processes of one function, each at work on one task at a time."""

import asyncio
from typing import Final

import anyio

from runners.context import Context, PoolSettings

from .process import PoolProcess, Target

_NO_SETTINGS: Final = PoolSettings()


class Pool:
    """Starts processes as they are needed, up to its size, and keeps them until they are spent.

    Size and wear come with the first task's context: they are its category's.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._processes: set[PoolProcess] = set()
        self._idle: list[PoolProcess] = []
        self._settings = _NO_SETTINGS
        self._slots: anyio.Semaphore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def acquire(self, context: Context) -> PoolProcess:
        """Return a process that is ready, waiting for one to be free.

        Raises:
            RunnerError: none can be started.
        """
        slots = self._open(context)
        await slots.acquire()
        try:
            return await self._find() or await self._start(context.worker)
        except BaseException:
            slots.release()
            raise

    async def release(self, process: PoolProcess) -> None:
        """Take a process back; one that is spent, or not at rest, is ended."""
        try:
            if process.is_alive and not self._is_spent(process):
                self._idle.append(process)
            else:
                await self._end(process)
        finally:
            if self._slots is not None:
                self._slots.release()

    async def aclose(self) -> None:
        """End all processes; a later task starts new ones."""
        for process in [*self._processes]:
            await self._end(process)
        self._idle.clear()
        self._slots = None

    def _open(self, context: Context) -> anyio.Semaphore:
        """Return the slots; on an event loop that is new to us, begin again."""
        loop = asyncio.get_running_loop()
        if self._slots is None or loop is not self._loop:
            for process in self._processes:
                process.abandon()
            self._processes.clear()
            self._idle.clear()
            self._loop, self._settings = loop, context.pool
            self._slots = anyio.Semaphore(context.pool.size or context.concurrency, fast_acquire=True)
        return self._slots

    async def _find(self) -> PoolProcess | None:
        while self._idle:
            process = self._idle.pop()
            if process.is_alive:
                return process
            await self._end(process)
        return None

    async def _start(self, worker: str) -> PoolProcess:
        process = PoolProcess.start(self._target, worker)
        self._processes.add(process)
        try:
            await process.become_ready()
        except BaseException:
            await self._end(process)
            raise
        return process

    async def _end(self, process: PoolProcess) -> None:
        self._processes.discard(process)
        await process.end()

    def _is_spent(self, process: PoolProcess) -> bool:
        calls, memory = self._settings.max_tasks, self._settings.max_memory
        return (calls is not None and process.calls >= calls) or (memory is not None and process.resident > memory)
