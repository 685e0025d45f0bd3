"""`commands-runner`: short commands through CommandRunner alone, against asyncio's own subprocesses."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio

from .figures import Figure, both, ratio
from .machine import Cost, Stopwatch, rounds
from .running import run_bare, run_many, run_ours, use_pidfd_watcher

BUDGET: Final = 20.0
TASKS: Final = 400
"""Of each kind in a round."""
BURST: Final = 100
"""Of one kind before the other has its turn: what else the machine does then falls on both."""
WARM_UP: Final = 50


def measure(most_rounds: int) -> list[Figure]:
    """Measure throughput and CPU, eight at once."""
    use_pidfd_watcher()
    ours, bare = anyio.run(_rounds, most_rounds)
    rates = [TASKS / cost.wall for cost in ours], [TASKS / cost.wall for cost in bare]
    cpu = [cost.cpu / TASKS * 1000 for cost in ours], [cost.cpu / TASKS * 1000 for cost in bare]
    return [
        ratio("throughput ratio", *rates, at_least=1.0),
        *both("throughput", *rates, "tasks/s"),
        ratio("CPU ratio", *cpu),
        *both("CPU per task", *cpu, "ms"),
        Figure(name="rounds", value=len(ours)),
    ]


async def _rounds(most: int) -> tuple[list[Cost], list[Cost]]:
    ours: list[Cost] = []
    bare: list[Cost] = []
    for run in (run_ours, run_bare):
        await run_many(WARM_UP, run)
    for _ in rounds(most, BUDGET):
        bursts = [await _burst(run) for _ in range(TASKS // BURST) for run in (run_ours, run_bare)]
        ours.append(_sum(bursts[::2]))
        bare.append(_sum(bursts[1::2]))
    return ours, bare


async def _burst(run: Callable[[], Awaitable[object]]) -> Cost:
    watch = Stopwatch()
    await run_many(BURST, run)
    return watch.read()


def _sum(costs: Sequence[Cost]) -> Cost:
    return Cost(sum(cost.wall for cost in costs), sum(cost.cpu for cost in costs))
