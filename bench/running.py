"""Commands run in this process: by CommandRunner, and by asyncio alone."""

import asyncio
import sys
import warnings
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from runners.command import CommandRunner
from runners.context import Context, Reporter, SilentReporter
from schemas import Result, Status, Task

CONCURRENCY: Final = 8
TRUE: Final = "/bin/true"

_TASK: Final = Task(id="bench", category="command")


async def run_ours(command: str = TRUE, *args: str, reporter: Reporter | None = None) -> Result:
    """Run a command by CommandRunner, as a worker's execution does."""
    runner = CommandRunner()
    runner.context = Context(task=_TASK, worker="bench", reporter=reporter or SilentReporter())
    runner.parse_args(command, [*args])
    result = await runner.execute()
    if result.status is not Status.SUCCESS:
        raise RuntimeError(f"{command} ended as {result.status}: {result.error}")
    return result


async def run_bare(command: str = TRUE, *args: str) -> tuple[bytes, bytes]:
    """Run a command by asyncio alone, and return its output."""
    process = await asyncio.create_subprocess_exec(command, *args, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    output = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{command} ended with exit code {process.returncode}")
    return output


async def run_many(count: int, run: Callable[[], Awaitable[object]]) -> None:
    """Run something so many times, `CONCURRENCY` at once."""
    numbers = iter(range(count))

    async def slot() -> None:
        for _ in numbers:
            await run()

    async with anyio.create_task_group() as slots:
        for _ in range(CONCURRENCY):
            slots.start_soon(slot)


def use_pidfd_watcher() -> None:
    """Let asyncio wait for its children as well as it can, which is the default from Python 3.12 on."""
    if sys.version_info >= (3, 12):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
