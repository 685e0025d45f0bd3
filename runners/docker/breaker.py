"""Whether the Docker engine answers, and why not: open while it does not, closed again by a probe that succeeds."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from runners.errors import RunnerError

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0
_NOT_ASKED: Final = "the Docker engine has not been asked yet"

logger = logging.getLogger(__name__)


class Breaker:
    """What the last answer says of the engine. Open from the start: nobody knows yet.

    `probe` raises a RunnerError as long as the engine does not answer. Not thread-safe: it lives on the event loop.
    """

    def __init__(self, probe: Callable[[], Awaitable[object]]) -> None:
        self._probe = probe
        self._obstacle: str | None = _NOT_ASKED
        self._changed = anyio.Event()

    @property
    def obstacle(self) -> str | None:
        """Why the engine cannot be used; None while it answers."""
        return self._obstacle

    def open(self, reason: str) -> None:
        """Say that the engine does not answer."""
        if self._obstacle in (None, _NOT_ASKED):
            logger.warning("no docker tasks until the engine answers: %s", reason)
        self._change(reason)

    def close(self) -> None:
        """Say that it does."""
        if self._obstacle not in (None, _NOT_ASKED):
            logger.info("the Docker engine answers again")
        self._change(None)

    async def wait_closed(self) -> None:
        """Return once the engine answers; ask it, at growing intervals, as long as it does not."""
        pause = _FIRST_PAUSE
        while self._obstacle is not None:
            try:
                await self._probe()
            except RunnerError as error:
                self.open(str(error))
            else:
                self.close()
                return
            with anyio.move_on_after(pause):
                await self._until(closed=True)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def wait_open(self) -> str:
        """Return once the engine does not answer, with the reason."""
        await self._until(closed=False)
        return self._obstacle or ""

    async def _until(self, *, closed: bool) -> None:
        while (self._obstacle is None) is not closed:
            await self._changed.wait()

    def _change(self, obstacle: str | None) -> None:
        self._obstacle = obstacle
        self._changed.set()
        self._changed = anyio.Event()
