"""What the conformance suite holds a Runner in: its reports kept, its cleanups counted, and what is left of it."""

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import anyio
from msgspec import structs

from runners.base import Runner
from runners.context import Context
from runners.process.keeper import descendants
from schemas import Cause, Result, Task, encode

LONG: Final = 600.0
"""Seconds that no run takes: a time-out or grace of this length is not used up."""
_DESCRIPTORS: Final = Path("/dev/fd")


def expect(what: str, found: object, expected: object = True) -> None:  # noqa: FBT002 - a value, not a switch
    """Compare, and say in the error what was looked at."""
    if found != expected:
        raise AssertionError(f"{what}: expected {expected!r}, but found {found!r}")


class Reports:
    """Keeps what a Runner reports."""

    def __init__(self) -> None:
        self.starts = 0
        self.begun = anyio.Event()
        """Set at the start."""
        self.output_of = {"stdout": bytearray(), "stderr": bytearray()}
        self.gaps = 0
        """Chunks of output that did not follow the one before."""

    def started(self, _data: Mapping[str, Any]) -> None:
        """Count the start."""
        self.starts += 1
        self.begun.set()

    def progress(self, data: Mapping[str, Any]) -> None:
        """See that a step of the work can be published."""
        encode(dict(data))

    def stopping(self, data: Mapping[str, Any]) -> None:
        """See that the beginning of the end can be published."""
        encode(dict(data))

    def output(self, stream: str, offset: int, chunk: bytes | memoryview) -> None:
        """Keep some output."""
        self.gaps += offset != len(self.output_of[stream])
        self.output_of[stream] += chunk


class Run:
    """One task, prepared as a worker's execution prepares it.

    Raises:
        InvalidTaskError: its parameters are refused.
    """

    def __init__(self, runner: Runner[Any], task: Task, context: Context) -> None:
        self.runner = runner
        self.reports = Reports()
        self.cleanups = 0
        runner.context = structs.replace(context, task=task, reporter=self.reports)
        runner.timeout = LONG if task.timeout is None else task.timeout
        self._count_cleanups()
        runner.parse_args(task.command, task.args)

    async def execute(self) -> Result:
        """Run the task to its end."""
        return await self.runner.execute()

    async def end(self, end: Callable[[Runner[Any]], None]) -> Result:
        """Run the task, and end it once it has started."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.execute)
            await self.reports.begun.wait()
            end(self.runner)
        return self.result

    @property
    def result(self) -> Result:
        """Its Result."""
        if self.runner.result is None:
            raise AssertionError("the run has ended without a Result")
        return self.runner.result

    def check_end(self, cause: Cause) -> None:
        """Look at what holds for every run that has started, whatever ended it."""
        result = self.result
        expect("how often the start is reported", self.reports.starts, 1)
        expect("how often it cleans up", self.cleanups, 1)
        expect("the runner's status", self.runner.status, result.status)
        expect("whether it has a start before its end", result.start_time and result.start_time <= result.end_time)
        expect("the cause in the receipt", result.termination and result.termination.cause, cause)
        expect(
            "whether something could not be killed",
            result.termination and result.termination.unkillable,
            expected=False,
        )
        expect("whether the Result has a JSON form", bool(encode(result)))

    def _count_cleanups(self) -> None:
        cleanup = self.runner.cleanup

        async def counted(_: Runner[Any]) -> None:
            self.cleanups += 1
            await cleanup()

        kind = type(self.runner)
        self.runner.__class__ = type(kind.__name__, (kind,), {"cleanup": counted})


def present() -> dict[str, object]:
    """Return what a run could leave: processes, descriptors, threads and tasks."""
    gc.collect()
    return {
        "processes": sorted(descendants(os.getpid())),
        "descriptors": len(list(_DESCRIPTORS.iterdir())),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "tasks": len(asyncio.all_tasks()),
    }
