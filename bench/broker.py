"""`commands-nats`: short commands through a worker process and a nats-server, against a bare nats-py loop."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import anyio
from nats.aio.msg import Msg

from consumer.client import Client, new_task_id
from consumer.connection import Connection, ConnectOptions, connect
from consumer.server import EmbeddedServer
from consumer.topology import Topology, ensure_consumer, ensure_streams
from schemas import Subjects, Task

from .bare import CATEGORY
from .figures import Figure, both, percentile, ratio
from .machine import rounds, tree_cpu
from .running import CONCURRENCY, TRUE

BUDGET: Final = 25.0
TASKS: Final = 300
"""Of each kind in a round."""
ALONE: Final = 40
"""Of each kind in a round, one at a time."""
WARM_UP: Final = 50
SUBMITTING: Final = 32
"""Submissions at once."""
PATIENCE: Final = 30.0

_CONFIG: Final = f"""\
[worker]
categories = ["{CATEGORY}"]
drain_timeout = 0

[runners.{CATEGORY}]
max_concurrency = {CONCURRENCY}
"""
_POLL: Final = 0.01


class Side:
    """One of the two that are compared: its process, its streams, and what was measured of it."""

    def __init__(self, connection: Connection, subjects: Subjects, pid: int) -> None:
        self._client = Client(connection, subjects)
        self._pid = pid
        self._left: set[str] = set()
        self._all_done = anyio.Event()
        self.rates: list[float] = []
        self.cpu: list[float] = []
        self.latencies: list[float] = []

    def receive(self, message: Msg) -> None:
        """Take a Result as it is stored."""
        self._left.discard(message.subject.rpartition(".")[2])
        if not self._left:
            self._all_done.set()

    async def measure_throughput(self) -> None:
        """Run many tasks at once."""
        cpu, begun = tree_cpu(self._pid), time.perf_counter()
        await self.run(TASKS)
        self.rates.append(TASKS / (time.perf_counter() - begun))
        self.cpu.append((tree_cpu(self._pid) - cpu) / TASKS * 1000)

    async def measure_latency(self) -> None:
        """Run one task after the other."""
        for _ in range(ALONE):
            begun = time.perf_counter()
            await self.run(1)
            self.latencies.append((time.perf_counter() - begun) * 1000)

    async def run(self, count: int) -> None:
        """Submit so many tasks and collect their Results."""
        task_ids = [new_task_id() for _ in range(count)]
        self._left = set(task_ids)
        self._all_done = anyio.Event()
        waiting = iter(task_ids)

        async def submit() -> None:
            for task_id in waiting:
                await self._client.submit(CATEGORY, Task(id=task_id, command=TRUE))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as submitting:
                for _ in range(min(count, SUBMITTING)):
                    submitting.start_soon(submit)
            await self._all_done.wait()


def measure(most_rounds: int) -> list[Figure]:
    """Measure throughput, CPU and idle latency."""
    with tempfile.TemporaryDirectory(prefix="jetrunner-bench-") as directory, ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer.start(Path(directory, "nats")))
        ours, bare = anyio.run(_rounds, server.url, Path(directory), stack, most_rounds)
    latencies = [("jetrunner", ours.latencies), ("bare loop", bare.latencies)]
    return [
        ratio("throughput ratio", ours.rates, bare.rates),
        *both("throughput", ours.rates, bare.rates, "tasks/s"),
        ratio("CPU ratio, worker and below", ours.cpu, bare.cpu),
        *both("CPU per task", ours.cpu, bare.cpu, "ms"),
        *(
            Figure(name=f"idle latency p{percent}, {name}", value=percentile(values, percent), unit="ms")
            for percent in (50, 99)
            for name, values in latencies
        ),
        Figure(name="rounds", value=len(ours.rates)),
    ]


async def _rounds(url: str, directory: Path, stack: ExitStack, most: int) -> tuple[Side, Side]:
    async with connect(ConnectOptions(servers=(url,))) as connection:
        ours = await _side(connection, "bench", lambda: stack.enter_context(_worker(url, directory)))
        bare = await _side(connection, "bare", lambda: stack.enter_context(_bare_loop(url)))
        sides = [ours, bare]
        for side in sides:
            await side.run(WARM_UP)
        for number in rounds(most, BUDGET):
            for side in sides if number % 2 else sides[::-1]:
                await side.measure_throughput()
                await side.measure_latency()
    return ours, bare


async def _side(connection: Connection, prefix: str, start: Callable[[], int]) -> Side:
    """Make the streams of one side, equal but for their names, and start its process."""
    topology = Topology(subjects=Subjects(prefix))
    await ensure_streams(connection, topology)
    await ensure_consumer(connection, topology, CATEGORY)
    side = Side(connection, topology.subjects, start())
    await connection.subscribe(topology.subjects.result("*"), side.receive)
    return side


@contextmanager
def _worker(url: str, directory: Path) -> Iterator[int]:
    """Run `jetrunner worker`; yield its keeper's pid once it takes tasks."""
    config, log = directory / "jetrunner.toml", directory / "worker.log"
    config.write_text(f'subject_prefix = "bench"\n{_CONFIG}')
    command = [sys.executable, "-m", "consumer", "worker", "--server", url, "--config", str(config)]
    with log.open("wb") as stderr, _ended(subprocess.Popen(command, stderr=stderr)) as worker:
        deadline = time.monotonic() + PATIENCE
        while "takes tasks of" not in log.read_text():
            if worker.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the worker did not start: {log.read_text()}")
            time.sleep(_POLL)
        yield worker.pid


@contextmanager
def _bare_loop(url: str) -> Iterator[int]:
    """Run the bare loop; yield its pid once it takes tasks."""
    command = [sys.executable, "-m", "bench.bare", url, "bare", str(CONCURRENCY)]
    with _ended(subprocess.Popen(command, stdout=subprocess.PIPE)) as loop:
        if not loop.stdout or not loop.stdout.readline():
            raise RuntimeError("the bare loop did not start")
        yield loop.pid


@contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    with process:
        try:
            yield process
        finally:
            process.terminate()
