"""`output-1gib`: a task that writes 1 GiB, and what it does to memory and to a small task beside it."""

import subprocess
import time
from typing import Final

import anyio
from msgspec import Struct

from runners.context import SilentReporter

from .figures import Figure, both, ratio
from .machine import MIB, peak_rss, reset_peak_rss, rounds, rss
from .running import run_ours

BUDGET: Final = 20.0
MOST_ROUNDS: Final = 5
SIZE: Final = 2**30
MOST_GROWTH: Final = 64
"""MiB."""
MOST_DELAY: Final = 2.0
"""Seconds."""


class _Flood(Struct, frozen=True):
    seconds: float
    growth: float
    small: float


class _FirstOutput(SilentReporter):
    """Tells when the flood has begun."""

    def __init__(self) -> None:
        self.seen = anyio.Event()

    def output(self, stream: str, offset: int, chunk: bytes) -> None:  # noqa: ARG002 - the Reporter's
        self.seen.set()


def measure(most_rounds: int) -> list[Figure]:
    """Measure speed against a pipe into cat, memory, and the small task's time."""
    floods: list[_Flood] = []
    bare: list[float] = []
    anyio.run(run_ours)
    for _ in rounds(min(most_rounds, MOST_ROUNDS), BUDGET):
        bare.append(_pipe_into_cat())
        floods.append(anyio.run(_flood))
    speeds = [SIZE / MIB / flood.seconds for flood in floods], [SIZE / MIB / seconds for seconds in bare]
    return [
        ratio("speed ratio", *speeds),
        *both("speed", *speeds, "MiB/s"),
        Figure(name="RSS growth, most", value=max(flood.growth for flood in floods), unit="MiB", below=MOST_GROWTH),
        Figure(
            name="small task meanwhile, most", value=max(flood.small for flood in floods), unit="s", below=MOST_DELAY
        ),
        Figure(name="rounds", value=len(floods)),
    ]


def _pipe_into_cat() -> float:
    begun = time.perf_counter()
    subprocess.run(["/bin/sh", "-c", "head -c 1G /dev/zero | cat >/dev/null"], check=True)
    return time.perf_counter() - begun


async def _flood() -> _Flood:
    before = rss()
    reset_peak_rss()
    reporter = _FirstOutput()
    small: list[float] = []

    async def run_small() -> None:
        await reporter.seen.wait()
        begun = time.perf_counter()
        await run_ours()
        small.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    async with anyio.create_task_group() as beside:
        beside.start_soon(run_small)
        result = await run_ours("head", "-c", "1G", "/dev/zero", reporter=reporter)
        seconds = time.perf_counter() - begun
    if result.streams.stdout.bytes != SIZE:
        raise RuntimeError(f"{result.streams.stdout.bytes} of {SIZE} bytes arrived")
    return _Flood(seconds, (peak_rss() - before) / MIB, small[0])
