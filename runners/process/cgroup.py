"""Control groups, version 2: a group per task that asks for what only a group can limit.

The groups lie in the one that this process was started in, if it may divide it: as root, or where it was delegated to
us (cgroups(7), and https://systemd.io/CGROUP_DELEGATION). A group that has controllers for its children must hold no
process itself; so we move, with our keeper and all that runs already, into a child of our own first.
"""

import functools
import itertools
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import anyio

from .keeper import descendants

CONTROLLERS: Final = ("memory", "pids", "cpu")
"""Those that limit anything a task may ask for."""
END_WINDOW: Final = 10.0
"""Seconds after cgroup.kill before what is left is called unkillable."""
_OWN: Final = "worker"
_PREFIX: Final = "jetrunner-"
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05
_REMOVALS: Final = 8
_MOVES: Final = 16
_OPTIONAL: Final = frozenset({"memory.swap.max"})
"""Missing where the kernel does not account for swap: then there is none to limit."""


class Cgroup:
    """One task's group: made for it, and removed after it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def make(cls, path: Path, limits: Mapping[str, str]) -> Self:
        """Make a group with its limits, by the names of their files.

        Raises:
            OSError: it cannot be made; nothing is left of it.
        """
        path.mkdir()
        try:
            for name, value in limits.items():
                _write_limit(path / name, value)
        except OSError:
            path.rmdir()
            raise
        return cls(path)

    def processes(self) -> list[int]:
        """Return the live processes in the group and its children."""
        with suppress(OSError):
            return [int(pid) for file in self.path.rglob("cgroup.procs") for pid in file.read_text().split()]
        return []

    def kill(self) -> None:
        """Send SIGKILL to all in the group and its children at once."""
        with suppress(OSError):
            _write(self.path / "cgroup.kill", "1")

    async def end(self) -> bool:
        """Kill all in the group and wait until it is empty, whoever cancels; tell whether it is."""
        pause = _FIRST_PAUSE
        with anyio.move_on_after(END_WINDOW, shield=True):
            while self._populated():
                self.kill()
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        return not self._populated()

    def oom_kills(self) -> int:
        """Return how many processes the kernel has killed for the group's memory limit."""
        events = _pairs(self._read("memory.events"))
        return max(events.get("oom_kill", 0), events.get("oom_group_kill", 0))

    async def remove(self) -> bool:
        """Remove the empty group, with what the task has made in it; tell whether it is gone."""
        pause = _FIRST_PAUSE
        for _ in range(_REMOVALS):
            if _remove(self.path):
                return True
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return False

    def _populated(self) -> bool:
        return _pairs(self._read("cgroup.events")).get("populated", 0) != 0

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text()
        except OSError:
            return ""


class Division:
    """The group that we may divide, and the controllers that its children have."""

    def __init__(self, path: Path, controllers: frozenset[str]) -> None:
        self.path = path
        self.controllers = controllers
        self._numbers = itertools.count(1)

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Divide a group, as far as we may: None if not at all."""
        if not _probe(path):
            return None
        wanted = [name for name in CONTROLLERS if name in _words(path / "cgroup.controllers")]
        if wanted and _is_inner(path):
            _move_out(path)
        for name in wanted:
            with suppress(OSError):  # it may be taken, or processes that are not ours be in the way
                _write(path / "cgroup.subtree_control", f"+{name}")
        _remove_stale(path)
        return cls(path, frozenset(wanted) & _words(path / "cgroup.subtree_control"))

    def make(self, limits: Mapping[str, str]) -> Cgroup:
        """Make a task's group.

        Raises:
            OSError: it cannot be made.
        """
        return Cgroup.make(self.path / f"{_PREFIX}{os.getpid()}-{next(self._numbers)}", limits)


@functools.cache
def division() -> Division | None:
    """Return the division of our own group, worked out once; None where there is none to be had."""
    own = own_group()
    return None if own is None else Division.of(own)


def own_group(proc: Path = Path("/proc/self")) -> Path | None:
    """Return the directory of this process's group of version 2, if it has one (proc_pid_mountinfo(5), cgroups(7))."""
    try:
        path = next(line[3:] for line in (proc / "cgroup").read_text().splitlines() if line.startswith("0::"))
        mounts = [line.partition(" - ") for line in (proc / "mountinfo").read_text().splitlines()]
        mount = next(place.split() for place, _, kind in mounts if kind.startswith("cgroup2 "))
    except (OSError, StopIteration):
        return None
    root, point = mount[3:5]
    below = path.removeprefix(root) if root != "/" else path
    return Path(point, below.lstrip("/"))


def _probe(path: Path) -> bool:
    """Tell whether we may make groups here, and whether this kernel can kill them (5.14)."""
    group = path / f"{_PREFIX}{os.getpid()}-probe"
    try:
        group.mkdir(exist_ok=True)
    except OSError:
        return False
    complete = (group / "cgroup.kill").exists()
    group.rmdir()
    return complete


def _is_inner(path: Path) -> bool:
    """Tell whether the rule against processes in inner groups applies: the real root is exempt, and has no type."""
    return (path / "cgroup.type").exists()


def _move_out(path: Path) -> None:
    """Move our processes into a group of their own, until those they start meanwhile have followed.

    They are this one, its keeper, and what both have started: tasks that need no group, an embedded server.
    """
    own = path / _OWN
    with suppress(OSError):
        own.mkdir(exist_ok=True)
    for _ in range(_MOVES):
        left = _processes(path) & {pid for root in (os.getpid(), *_keeper()) for pid in (root, *descendants(root))}
        if not left:
            return
        for pid in left:
            with suppress(OSError):  # it may have ended
                _write(own / "cgroup.procs", str(pid))


def _processes(path: Path) -> set[int]:
    return {int(pid) for pid in _words(path / "cgroup.procs")}


def _keeper() -> list[int]:
    parent = os.getppid()
    try:
        command = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return [parent] if any(part.endswith(b"/keeper.py") for part in command) else []


def _remove_stale(path: Path) -> None:
    """Remove the groups of workers that have died."""
    for group in path.glob(f"{_PREFIX}*-*"):
        pid = group.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path(f"/proc/{pid}").exists():
            _remove(group)


def _remove(path: Path) -> bool:
    """Remove a group and those in it, deepest first; tell whether it is gone."""
    try:
        for child in [entry for entry in path.iterdir() if entry.is_dir()]:
            _remove(child)
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _write_limit(file: Path, value: str) -> None:
    if file.name in _OPTIONAL and not file.exists():
        return
    _write(file, value)


def _write(file: Path, value: str) -> None:
    """Write to a file of the kernel's, in one call, and never make one."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _words(file: Path) -> frozenset[str]:
    try:
        return frozenset(file.read_text().split())
    except OSError:
        return frozenset()


def _pairs(text: str) -> dict[str, int]:
    """Return the numbers of a flat keyed file."""
    return {name: int(number) for name, _, number in (line.partition(" ") for line in text.splitlines())}
