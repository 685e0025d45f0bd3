"""What tasks themselves have to say of their runs: each tells a file when it starts, that it is held, and its end."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio

POLL: Final = 0.02
OPEN: Final = Path("/")
"""A gate that holds nobody."""

_SCRIPT: Final = """
echo "start $0 $$" >>"$1"
until test -e "$2"; do echo "alive $0 $$" >>"$1"; sleep 0.1; done
sleep "$3"
echo "end $0 $$" >>"$1"
"""
_KILL_THE_WORKER: Final = 'echo "start $0 $$" >>"$1"; kill -9 "$PPID"; sleep 60'


class Entry(NamedTuple):
    """One line: `start`, `alive` or `end`; the pid tells one run of a task from another."""

    what: str
    task_id: str
    pid: int


class Ledger:
    """A file that tasks append to, line by line: its order is that of the events (O_APPEND)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._gate = path.with_suffix(".gate")
        path.touch()

    def task(self, *, hold: bool = False, seconds: float = 0) -> Callable[[str], dict[str, Any]]:
        """Return what makes a task of an id: it lasts so many seconds, after the release if it is held."""
        gate = str(self._gate if hold else OPEN)
        return lambda task_id: _shell(_SCRIPT, task_id, str(self.path), gate, f"{seconds:g}")

    def deadly_task(self, task_id: str) -> dict[str, Any]:
        """Return a task that kills its worker."""
        return _shell(_KILL_THE_WORKER, task_id, str(self.path))

    def release(self) -> None:
        """Let all held tasks end, those that start later, too."""
        self._gate.touch()

    def write(self, what: str, task_id: str) -> None:
        """Append a line on behalf of a task that is no process of its own."""
        with self.path.open("ab", buffering=0) as file:
            file.write(f"{what} {task_id} {os.getpid()}\n".encode())

    def read(self) -> list[Entry]:
        """Return all that was written so far."""
        lines = (line.split() for line in self.path.read_text().splitlines())
        return [Entry(what, task_id, int(pid)) for what, task_id, pid in lines]

    @property
    def starts(self) -> Counter[str]:
        """How often each task has started."""
        return _count("start", self.read())

    @property
    def ends(self) -> Counter[str]:
        """How often each task has come to its own end."""
        return _count("end", self.read())

    async def until_started(self, count: int, *, within: float) -> None:
        """Wait until there were so many starts, of whatever tasks."""
        await self._until(lambda: self.starts.total() >= count, within)

    async def until_ended(self, count: int, *, within: float) -> None:
        """Wait until there were so many ends."""
        await self._until(lambda: self.ends.total() >= count, within)

    async def until_gone(self, pids: Iterable[int], *, within: float) -> None:
        """Wait until these runs are over, whether they have come to their end or not."""
        await self._until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), within)

    def overlaps(self) -> list[Entry]:
        """Return the signs of life of a run after the start of the same task's next run."""
        latest: dict[str, int] = {}
        found = []
        for entry in self.read():
            if entry.what == "start":
                latest[entry.task_id] = entry.pid
            elif latest[entry.task_id] != entry.pid:
                found.append(entry)
        return found

    async def _until(self, condition: Callable[[], bool], within: float) -> None:
        with anyio.fail_after(within):
            while not condition():  # noqa: ASYNC110 - a file sends no event
                await anyio.sleep(POLL)


def _shell(script: str, *args: str) -> dict[str, Any]:
    return {"command": "/bin/sh", "args": ["-c", script, *args]}


def _count(what: str, entries: Iterable[Entry]) -> Counter[str]:
    return Counter(entry.task_id for entry in entries if entry.what == what)
