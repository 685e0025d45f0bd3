"""What the machine says of time, memory and processes (proc(5), getrusage(2)); Linux only."""

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

MIB: Final = 2**20

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_TIMES: Final = slice(11, 15)
"""utime, stime, cutime and cstime, after the command's name."""
_RESET_PEAK: Final = "5"


class Cost(Struct, frozen=True):
    """What a piece of work took: seconds by the clock, and of CPU, ours and our children's."""

    wall: float
    cpu: float


class Stopwatch:
    """Runs from the moment it is made."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = _cpu()

    def read(self) -> Cost:
        """Return the cost so far."""
        return Cost(time.perf_counter() - self._wall, _cpu() - self._cpu)


def rounds(most: int, seconds: float) -> Iterator[int]:
    """Count rounds up to `most`; none begins after so many seconds, except the first."""
    end = time.monotonic() + seconds
    for number in range(most):
        if number and time.monotonic() >= end:
            return
        yield number


def tree_cpu(pid: int) -> float:
    """Return the CPU seconds of a process, all below it, and all that these have reaped."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[_TIMES])) / _TICKS
    return own + sum(tree_cpu(child) for child in children(pid))


def children(pid: int) -> list[int]:
    """Return a process's children, zombies included."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def rss() -> int:
    """Return our resident set, in bytes."""
    return _status("VmRSS") * 1024


def reset_peak_rss() -> None:
    """Let `peak_rss` begin anew."""
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)


def peak_rss() -> int:
    """Return the largest resident set since `reset_peak_rss`, in bytes."""
    return _status("VmHWM") * 1024


def threads() -> int:
    """Count our threads."""
    return _status("Threads")


def descriptors() -> int:
    """Count our open files."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def zombies() -> int:
    """Count our children that have ended and are not reaped."""
    return sum(_is_zombie(child) for child in children(os.getpid()))


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _cpu() -> float:
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
