"""A worker's link to its keeper: it tells us when the keeper is gone, and we tell it what must not outlive us."""

import asyncio
import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Final, Self

import anyio

from .keeper import PIPES_VARIABLE

SHORT: Final = 1.0
"""Seconds that a task may run before the keeper is told of it at all."""
ALLOWANCE: Final = 5.0
"""Seconds after a task's time-out and grace before the keeper ends it in the worker's stead."""


class KeeperLink:
    """The two pipes between a worker and its keeper; `gone` is set when the keeper is."""

    def __init__(self, alive: int, saying: int) -> None:
        self._alive = alive
        self._saying = saying
        self.gone = anyio.Event()

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> Self | None:
        """Take the link that a keeper has left in the environment, if one has."""
        pipes = environ.pop(PIPES_VARIABLE, None)
        if pipes is None:
            return None
        alive, saying = map(int, pipes.split(","))
        for descriptor in (alive, saying):
            os.set_inheritable(descriptor, False)  # noqa: FBT003 - it takes no keyword
            os.set_blocking(descriptor, False)
        return cls(alive, saying)

    def watch(self) -> None:
        """Notice from now on when the keeper is gone."""
        asyncio.get_running_loop().add_reader(self._alive, self._end)

    @contextmanager
    def watching(self, pid: int, seconds: float) -> Iterator[None]:
        """Let the keeper kill a task that has not ended in so many seconds: we may be frozen then."""
        told: list[int] = []

        def tell() -> None:
            told.append(pid)
            self.limit(pid, seconds + ALLOWANCE - SHORT)

        timer = asyncio.get_running_loop().call_later(SHORT, tell)
        try:
            yield
        finally:
            timer.cancel()
            if told:
                self.release(pid)

    def limit(self, pid: int, seconds: float) -> None:
        """Let the keeper kill a process and all its descendants in so many seconds; said again, from now on."""
        self._say(f"run {pid} {seconds:.3f}\n")

    def release(self, pid: int) -> None:
        """Let a process live."""
        self._say(f"end {pid}\n")

    def keep_containers(self, socket: str, label: str) -> None:
        """Let the keeper stop the containers with a label, through their engine's socket, when we are gone."""
        self._say(f"containers {label} {socket}\n")

    def _say(self, line: str) -> None:
        try:
            os.write(self._saying, line.encode())
        except BlockingIOError:  # the keeper is frozen: so much for a second opinion
            return
        except BrokenPipeError:
            self._end()

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._alive)
        self.gone.set()
