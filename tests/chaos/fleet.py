"""Workers as people run them: `jetrunner worker` processes below their keepers, to be killed, frozen and drained."""

import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.abc

from runners.process.keeper import children
from schemas import Result

WITHIN: Final = 40.0
"""Seconds that no start and no end of a worker takes, however busy the machine."""
COMMAND: Final = (str(Path(sysconfig.get_path("scripts"), "jetrunner")), "worker")
KILLED: Final = 128 + signal.SIGKILL
"""The exit code of a keeper whose worker was killed."""

_POLL: Final = 0.02
_READY: Final = "takes tasks of"


class WorkerProcess:
    """A worker below its keeper. `keeper` and `pid` are their pids, the same one if it has no keeper."""

    def __init__(self, process: anyio.abc.Process, log: Path) -> None:
        self.keeper = process.pid
        self.pid = 0
        self.log = log
        self._process = process

    @property
    def rss(self) -> int:
        """Bytes of memory that the worker has resident."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def has_run(self, result: Result) -> bool:
        """Tell whether a Result is this worker's: its name holds its pid."""
        return result.worker.split("-")[-2] == str(self.pid)

    async def ready(self) -> None:
        """Wait until it takes tasks."""
        await self.says(_READY)
        self.pid = next(iter(children(self.keeper)), self.keeper)

    async def says(self, text: str) -> None:
        """Wait until it has said a text."""
        with anyio.fail_after(WITHIN):
            while text not in self.log.read_text():
                assert self._process.returncode is None, self.log.read_text()
                await anyio.sleep(_POLL)

    async def ended(self) -> int:
        """Wait for its end and its tasks'; return the exit code."""
        with anyio.fail_after(WITHIN):
            return await self._process.wait()

    def kill(self) -> None:
        """Kill the worker; its keeper is left to clean up."""
        os.kill(self.pid, signal.SIGKILL)

    def kill_keeper(self) -> None:
        """Kill the keeper; the worker is left to end by itself."""
        os.kill(self.keeper, signal.SIGKILL)

    def drain(self) -> None:
        """Ask it to end, as people do: by the keeper."""
        os.kill(self.keeper, signal.SIGTERM)

    async def freeze(self, *, keeper: bool = False) -> None:
        """Let the worker stand still, its tasks running on; with its keeper if asked for."""
        for pid in (self.pid, self.keeper) if keeper else (self.pid,):
            os.kill(pid, signal.SIGSTOP)
            with anyio.fail_after(WITHIN):
                while _state(pid) != "T":  # noqa: ASYNC110 - a process sends no event
                    await anyio.sleep(_POLL)

    def wake(self) -> None:
        """Let both go on, as far as they are there."""
        for pid in (self.keeper, self.pid):
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def end(self) -> None:
        """End it, whatever state it is in."""
        self.wake()
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(self.keeper, number)
            with anyio.move_on_after(WITHIN / 4):
                await self._process.wait()
                break
        await self._process.aclose()


class Fleet:
    """The workers of one test; `environ` is what all of them have in common."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self.workers: list[WorkerProcess] = []
        self.environ = environ
        self._directory = directory

    async def start(self, *arguments: str, **environ: str) -> WorkerProcess:
        """Start a worker, and return it when it takes tasks. The settings are `JETRUNNER_` variables without that."""
        return await self._start(COMMAND, arguments, environ)

    async def start_two(self) -> tuple[WorkerProcess, WorkerProcess]:
        """Start two workers at the same time."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.start)
            tasks.start_soon(self.start)
        return self.workers[-2], self.workers[-1]

    async def start_script(self, script: Path, *arguments: str, **environ: str) -> WorkerProcess:
        """Start a Python script that serves as a worker with runners of its own."""
        return await self._start((sys.executable, str(script)), arguments, environ)

    async def end(self) -> None:
        """End all."""
        async with anyio.create_task_group() as tasks:
            for worker in self.workers:
                tasks.start_soon(worker.end)

    async def _start(self, command: Iterable[str], arguments: Iterable[str], environ: dict[str, str]) -> WorkerProcess:
        log = self._directory / f"worker{len(self.workers) + 1}.log"
        own = {f"JETRUNNER_{name}": value for name, value in environ.items()}
        with log.open("wb") as stderr:
            process = await anyio.open_process(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd=self._directory,
                env={**self.environ, **own},
            )
        worker = WorkerProcess(process, log)
        self.workers.append(worker)
        await worker.ready()
        return worker


def _state(pid: int) -> str:
    """Return the state of a process: T is stopped, Z a zombie."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
