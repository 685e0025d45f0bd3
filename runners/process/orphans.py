"""What escapes from a task falls to us, its sub-reaper: here it is found, told apart by task, ended and reaped.

A process that leaves its task's session (setsid, double fork) and outlives its parent becomes our child. It belongs to
the task whose session or marks it bears: TASK_ID, TASK_ATTEMPT and TASK_INSTANCE in the environment it was started
with. One that bears neither has thrown them away; it belongs to some task that ran when it was started, and is ended
once none of those runs any more. Children in our own session are our own: a task's process cannot join it.
"""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio
from msgspec import Struct

from .keeper import become_subreaper, children, descendants, send

END_WINDOW: Final = 10.0
"""Seconds after SIGKILL before what is left is called unkillable."""
_MARKS: Final = ("TASK_ID", "TASK_ATTEMPT", "TASK_INSTANCE")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_TICKS_OF_DOUBT: Final = 2
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


class _Family(Struct, frozen=True):
    """A running task: the environment that bears its marks, and since when it runs (clock ticks after boot)."""

    environment: Mapping[str, str]
    started: int

    def marks(self) -> list[bytes]:
        """Return its marks as they stand in an environment."""
        given = ((name, self.environment.get(name)) for name in _MARKS)
        return [f"{name}={value}".encode() for name, value in given if value]


class Leftovers(Struct, frozen=True):
    """What was left of a task: how many processes were killed, and whether all of them are gone."""

    killed: int = 0
    unkillable: bool = False


class Orphans:
    """The orphans that this process has adopted; nothing is adopted before `adopt` is called."""

    def __init__(self) -> None:
        self._families: dict[int, _Family] = {}
        self._resting: set[int] = set()
        self._own: frozenset[int] = frozenset()
        self._adopting = False

    @property
    def adopting(self) -> bool:
        """Whether orphans come to us."""
        return self._adopting

    def adopt(self) -> None:
        """Become the sub-reaper of all that we start from now on; our children of before are our own.

        Raises:
            OSError: the kernel cannot.
        """
        become_subreaper()
        self._own = frozenset(children(os.getpid()))
        self._adopting = True

    def stop_adopting(self) -> None:
        """Leave orphans to whoever is above us."""
        become_subreaper(on=False)
        self._adopting = False

    def enter(self, leader: int, environment: Mapping[str, str]) -> None:
        """Know a task by its leader and its marks."""
        self._resting.discard(leader)
        self._families[leader] = _Family(environment, _ticks_now() - _TICKS_OF_DOUBT)

    def rest(self, leader: int) -> None:
        """Know a process that leads no task for now, but may lead another."""
        self._families.pop(leader, None)
        self._resting.add(leader)

    def leave(self, leader: int) -> None:
        """Forget a task whose leader is reaped and whose leftovers are gone."""
        self._families.pop(leader, None)
        self._resting.discard(leader)

    def sweep(self) -> None:
        """Reap the orphans that have ended."""
        for child in self._adopted():
            _reap(child)

    def of(self, leader: int) -> list[int]:
        """Return the live processes of a task beside its leader, as far as they have come to us."""
        found: list[int] = []
        for child in self._adopted():
            if not _reap(child) and self._belongs(child, leader):
                found += [child, *descendants(child)]
        return found

    async def end(self, leader: int) -> Leftovers:
        """Kill what is left of a task whose leader has ended, until nothing is: each kill may orphan others.

        No cancellation cuts this short.
        """
        if not self.of(leader):
            return Leftovers()
        killed: set[int] = set()
        pause = _FIRST_PAUSE
        with anyio.move_on_after(END_WINDOW, shield=True) as scope:
            while left := self.of(leader):
                killed.update(pid for pid in left if send(pid, signal.SIGKILL))
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        return Leftovers(len(killed), scope.cancelled_caught)

    def _adopted(self) -> list[int]:
        if not self._adopting:
            return []
        present = children(os.getpid())
        for leader in self._families.keys() - set(present):  # reaped by someone else: it would shield others' orphans
            del self._families[leader]
        known = self._families.keys() | self._resting | self._own
        return [child for child in present if child not in known]

    def _belongs(self, child: int, leader: int) -> bool:
        try:
            session = os.getsid(child)
        except ProcessLookupError:
            return False
        if session == leader:
            return True
        if session in self._families or session == os.getsid(0):
            return False
        bearer = self._bearer(_environment(child))
        return bearer == leader if bearer is not None else not self._has_older_family(leader, _started(child))

    def _bearer(self, environment: frozenset[bytes]) -> int | None:
        """Return the leader whose marks an environment bears; 0 for those of a task that is gone."""
        if not any(mark.startswith(b"TASK_INSTANCE=") for mark in environment):
            return None
        return next((leader for leader, family in self._families.items() if environment.issuperset(family.marks())), 0)

    def _has_older_family(self, leader: int, started: int) -> bool:
        return any(pid != leader and family.started <= started for pid, family in self._families.items())


def _reap(child: int) -> bool:
    """Collect an orphan if it has ended; tell whether it has."""
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:
        return True


def _environment(pid: int) -> frozenset[bytes]:
    try:
        return frozenset(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return frozenset()


def _started(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot (proc(5), field 22)."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except OSError:
        return 0


def _ticks_now() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS_PER_SECOND)


ORPHANS: Final = Orphans()
"""This process's orphans: there is one sub-reaper a process."""
