"""Nothing is left after many tasks: no descriptor, thread, file, cgroup, zombie or memory."""

import gc
import os
import resource
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from runners.command import CommandRunner
from runners.context import Context
from runners.process import ORPHANS, keeper
from schemas import Status, Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it counts in procfs")

TASKS = 10_000
AT_ONCE = 8
GROWTH = 5 * 2**20
"""Bytes that the process may grow by: allocators keep some."""


@pytest.fixture
def adopting() -> Iterator[None]:
    """Make this process a sub-reaper for one test, as a worker is."""
    ORPHANS.adopt()
    yield
    ORPHANS.stop_adopting()


def left() -> dict[str, object]:
    """Count what could be left."""
    gc.collect()
    cgroups = Path("/sys/fs/cgroup")
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "children": sorted(keeper.children(os.getpid())),
        "files": sorted(path.name for path in Path(tempfile.gettempdir()).glob("jetrunner*")),
        "cgroups": sorted(str(path) for path in cgroups.glob("**/jetrunner*")),
    }


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def run(count: int) -> None:
    """Run trivial tasks, some of which leave an orphan."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            runner = CommandRunner()
            runner.context = Context(task=Task(id=f"t{number}"), worker="leaks")
            if number % 500 == 0:
                runner.parse_args("sh", ["-c", "setsid sleep 600 >/dev/null 2>&1 &"])
            else:
                runner.parse_args("/bin/true", "")
            assert (await runner.execute()).status is Status.SUCCESS

    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(work)


@pytest.mark.usefixtures("adopting")
@pytest.mark.timeout(180)
def test_nothing_is_left_after_ten_thousand_tasks() -> None:
    """Descriptors, threads, children, files and cgroups are as before, and memory nearly so."""
    anyio.run(run, 500)
    before, memory = left(), resident()
    anyio.run(run, TASKS)
    assert left() == before
    assert resident() - memory < GROWTH
