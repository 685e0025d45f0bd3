"""`leaks`: what thousands of commands leave behind in the process that ran them."""

import gc
from typing import Final

import anyio
from msgspec import Struct

from .figures import Figure
from .machine import MIB, descriptors, rounds, rss, threads, zombies
from .running import run_many, run_ours

BUDGET: Final = 40.0
TASKS: Final = 10_000
BATCH: Final = 500
MOST_GROWTH: Final = 8
"""MiB."""


class _Holdings(Struct, frozen=True):
    """What a process has."""

    descriptors: int
    threads: int
    zombies: int
    rss: float


def measure(_: int) -> list[Figure]:
    """Measure before and after; the rounds do not matter."""
    return anyio.run(_measure)


async def _measure() -> list[Figure]:
    await run_many(BATCH, run_ours)
    before = _holdings()
    batches = 0
    for _ in rounds(TASKS // BATCH, BUDGET):
        await run_many(BATCH, run_ours)
        batches += 1
    after = _holdings()
    return [
        Figure(name="tasks", value=batches * BATCH),
        _growth("descriptors", before.descriptors, after.descriptors),
        _growth("threads", before.threads, after.threads),
        _growth("zombies", before.zombies, after.zombies),
        Figure(name="RSS before", value=before.rss, unit="MiB"),
        Figure(name="RSS growth", value=after.rss - before.rss, unit="MiB", below=MOST_GROWTH),
    ]


def _growth(name: str, before: int, after: int) -> Figure:
    return Figure(name=f"{name} more than the {before} before", value=after - before, below=1)


def _holdings() -> _Holdings:
    gc.collect()
    return _Holdings(descriptors(), threads(), zombies(), rss() / MIB)
