"""Whether this machine has room for another task: memory, descriptors and processes, looked at again and again.

A worker under pressure takes no tasks, which leaves them to others, instead of failing them.
"""

import logging
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

LOOK_EVERY: Final = 1.0
"""Seconds between two looks."""
LEAST_MEMORY: Final = 0.03
"""Share of the memory that must be available, up to LEAST_BYTES."""
LEAST_BYTES: Final = 256 * 2**20
LEAST_DESCRIPTORS: Final = 64
LEAST_PROCESSES: Final = 32

_MEMINFO: Final = Path("/proc/meminfo")
_DESCRIPTORS: Final = Path("/proc/self/fd")
_LOADAVG: Final = Path("/proc/loadavg")
_PID_MAX: Final = Path("/proc/sys/kernel/pid_max")
_THREADS_MAX: Final = Path("/proc/sys/kernel/threads-max")

logger = logging.getLogger(__name__)


class Pressure:
    """The machine as something that tasks cannot run without (a Facility); where /proc tells nothing, it has room."""

    def __init__(self) -> None:
        self._obstacle: str | None = None
        self._changed = anyio.Event()

    @property
    def obstacle(self) -> str | None:
        """What there is too little of, as a sentence; None: there is room."""
        return self._obstacle

    async def wait_ready(self) -> None:
        """Return as soon as there is room."""
        while self._obstacle is not None:
            await self._changed.wait()

    async def wait_obstacle(self) -> str:
        """Return as soon as there is no room, with the reason."""
        while self._obstacle is None:
            await self._changed.wait()
        return self._obstacle

    async def serve(self) -> None:
        """Look until cancelled."""
        while True:
            self._note(await anyio.to_thread.run_sync(shortage))
            await anyio.sleep(LOOK_EVERY)

    def _note(self, obstacle: str | None) -> None:
        if (obstacle is None) is (self._obstacle is None):
            return
        logger.warning("%s", f"no tasks are taken: {obstacle}" if obstacle else "there is room for tasks again")
        self._obstacle = obstacle
        self._changed.set()
        self._changed = anyio.Event()


def shortage() -> str | None:
    """Return what this machine, or this process, has too little of, as a sentence."""
    try:
        return next(_shortages(), None)
    except (OSError, ValueError):  # not Linux, or not ours to read
        return None


def _shortages() -> Iterator[str]:
    memory = dict(line.split()[:2] for line in _MEMINFO.read_text().splitlines())
    total, available = int(memory["MemTotal:"]) * 1024, int(memory["MemAvailable:"]) * 1024
    if available < min(total * LEAST_MEMORY, LEAST_BYTES):
        yield f"only {available >> 20} MiB of {total >> 20} MiB of memory are available"
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    descriptors = sum(1 for _ in _DESCRIPTORS.iterdir())
    if most != resource.RLIM_INFINITY and most - descriptors < LEAST_DESCRIPTORS:
        yield f"{descriptors} of {most} descriptors are in use"
    threads = int(_LOADAVG.read_text().split()[3].partition("/")[2])
    limit = min(int(_PID_MAX.read_text()), int(_THREADS_MAX.read_text()))
    if limit - threads < LEAST_PROCESSES:
        yield f"{threads} of {limit} processes and threads are in use"
