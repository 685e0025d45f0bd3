"""Runs of DockerRunner for tests: what they report can be waited for, and nothing of them may be left."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio

from runners.context import Context, Policy
from runners.docker import DockerRunner, Engine
from schemas import Result, Task
from tests.conftest import IMAGE

PATIENCE: Final = 30.0
"""Seconds that no wait in these tests takes."""
LONG: Final = 600.0
"""Seconds that no run in these tests takes: a grace or time-out of this length is not used up."""
READY_AND_SLEEP: Final = "echo ready; sleep 600"


class Recorder:
    """Keeps a runner's reports, and lets a test wait for them."""

    def __init__(self) -> None:
        self.container = ""
        self.steps: list[dict[str, Any]] = []
        self.stops: list[dict[str, Any]] = []
        self.stdout = bytearray()
        self._news = anyio.Event()

    def started(self, data: Mapping[str, Any]) -> None:
        """Keep the container's id."""
        self.container = data["container"]
        self._tell()

    def progress(self, data: Mapping[str, Any]) -> None:
        """Keep a step of a pull."""
        self.steps.append(dict(data))
        self._tell()

    def stopping(self, data: Mapping[str, Any]) -> None:
        """Keep the beginning of the end."""
        self.stops.append(dict(data))
        self._tell()

    def output(self, stream: str, offset: int, chunk: bytes | memoryview) -> None:
        """Keep the beginning of the standard output."""
        if stream == "stdout" and len(self.stdout) < 1000:
            self.stdout += chunk[:1000]
            self._tell()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for reports that make a condition true."""
        with anyio.fail_after(PATIENCE):
            while not condition():
                await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()


class Run:
    """One container task: its runner and what it reports."""

    def __init__(
        self,
        engine: Engine,
        parameters: Mapping[str, Any] | None = None,
        command: str = "",
        *,
        script: str = "",
        timeout: float = LONG,
        grace: float = LONG,
        policy: Policy | None = None,
        attempt: int = 1,
        worker: str = "w-1",
        **task: Any,
    ) -> None:
        self.recorder = Recorder()
        self.runner = DockerRunner(engine)
        self.runner.context = Context(
            task=Task(**{"id": "t-1", "category": "docker", **task}),
            worker=worker,
            grace=grace,
            attempt=attempt,
            policy=policy or Policy(),
            reporter=self.recorder,
        )
        self.runner.timeout = timeout
        given = {"command": "sh", "args": ["-c", script]} if script else {}
        self.runner.parse_args(command, {"image": IMAGE, **given, **(parameters or {})})

    async def to_its_end(self) -> Result:
        """Execute."""
        with anyio.fail_after(PATIENCE):
            return await self.runner.execute()

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Execute; the body begins once the container is known to run and has printed "ready", and outlives the run."""
        with anyio.fail_after(2 * PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(self.runner.execute)
                await self.recorder.until(lambda: bool(self.recorder.container) and b"ready" in self.recorder.stdout)
                yield

    async def ready_then(self, end: Callable[[DockerRunner], object]) -> Result:
        """Execute, and end the run once the container has printed "ready"."""
        async with self.ready():
            end(self.runner)
        assert self.runner.result is not None
        return self.runner.result
