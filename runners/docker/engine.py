"""The Docker engine as the event loop sees it: blocking calls on threads of its own, a breaker, and what is ours.

However long the engine hangs, it holds up these threads and nobody else.
"""

import atexit
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread

from runners.context import Watcher
from runners.errors import DockerUnavailableError, DockerUnresponsiveError

from .breaker import Breaker
from .knock import knock
from .owner import Owner, sweep
from .reconcile import Listed, is_wanted
from .spec import LOCK_LABEL, Facts
from .verdict import RefusedError

if TYPE_CHECKING:
    from .sdk import Sdk

DEFAULT_URL: Final = "unix:///var/run/docker.sock"
PATIENCE: Final = 5.0
"""Seconds that it may take to answer a simple question where someone waits for the answer."""
CALL_TIMEOUT: Final = 40.0
"""Seconds that no call takes: each has a shorter limit of its own, but threads may be taken by those that hang."""
RECONCILE_INTERVAL: Final = 60.0
"""Seconds between two looks for what dead workers have left."""
THREADS: Final = 20
"""Short calls at once: two for each of eight tasks, and some."""
_CONNECTIONS: Final = 100
"""Connections that are kept for the next call, if so many calls were made at once."""

_UNIX: Final = "unix://"

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Engine:
    """One engine, shared by all docker tasks of a process: the Facility of the category.

    `url` is as in `DOCKER_HOST`, which it defaults to. `live` are the names of the containers that our tasks have.
    """

    def __init__(self, url: str | None = None, *, patience: float = PATIENCE) -> None:
        self.url = url or os.environ.get("DOCKER_HOST") or DEFAULT_URL
        self.patience = patience
        self.live: set[str] = set()
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._connecting = threading.Lock()
        self._sdk: Sdk | None = None
        self._facts: Facts | None = None
        self._breaker = Breaker(self.probe)
        self._owner: Owner | None = None
        self._owing = False
        self._told: Watcher | None = None

    @property
    def lock(self) -> str:
        """The file that tells others whether we live; taken with the first call."""
        if self._owner is None:
            raise RuntimeError("the engine has not been called yet")
        return self._owner.path

    @property
    def socket(self) -> str | None:
        """The path of its socket; None if it is not on this host."""
        return self.url.removeprefix(_UNIX) if self.url.startswith(_UNIX) else None

    @property
    def obstacle(self) -> str | None:
        """Why no task can run now; None: as far as we know, it can."""
        return self._breaker.obstacle

    async def wait_ready(self) -> None:
        """Return as soon as it answers, asking as long as it does not."""
        await self._breaker.wait_closed()

    async def wait_obstacle(self) -> str:
        """Return as soon as it does not answer, with the reason."""
        return await self._breaker.wait_open()

    async def serve(self) -> None:
        """Remove what dead workers have left: at once, each minute, and when the engine is back."""
        while True:
            await self.wait_ready()
            try:
                await self.reconcile()
            except (DockerUnavailableError, DockerUnresponsiveError) as error:
                logger.debug("no reconciliation: %s", error)
            except Exception:  # the next one may fare better
                logger.exception("the reconciliation failed")
            with anyio.move_on_after(RECONCILE_INTERVAL):
                await self.wait_obstacle()

    async def probe(self) -> None:
        """Ask whether it answers.

        Raises:
            DockerUnavailableError: it cannot be reached.
            DockerUnresponsiveError: it does not answer in time.
        """
        await self.call(lambda sdk: sdk.ping(), patience=self.patience)

    async def facts(self) -> Facts:
        """Return what it can do; asked once."""
        if self._facts is None:
            self._facts = await self.call(lambda sdk: sdk.facts())
        return self._facts

    async def call(self, function: "Callable[[Sdk], T]", *, patience: float = CALL_TIMEOUT, lasting: bool = False) -> T:
        """Call the engine on a thread, for so many seconds at most; a cancellation leaves the thread to itself.

        A `lasting` call is one that is meant to take its time: it has a thread beside the limited ones, of which
        there are at most two for each task.

        Raises:
            DockerUnavailableError: it cannot be reached.
            DockerUnresponsiveError: it does not answer in time.
            RefusedError: it answers with an error.
        """
        try:
            with anyio.fail_after(patience):
                limiter = anyio.CapacityLimiter(1) if lasting else self._limiter
                answer = await self._on_thread(lambda: function(self._connect()), limiter)
        except (DockerUnavailableError, DockerUnresponsiveError) as error:
            if self._sdk is not None:
                self._sdk.close()  # an engine on its way out still answers on the connections that it has
            self._breaker.open(str(error))
            raise
        except RefusedError:
            self._breaker.close()
            raise
        except TimeoutError:
            text = f"the Docker engine does not answer within {patience:g} s"
            self._breaker.open(text)
            raise DockerUnresponsiveError(text) from None
        self._breaker.close()
        return answer

    async def on_thread(self, function: Callable[[], T]) -> T:
        """Call something that may block on one of the engine's threads."""
        return await self._on_thread(function, self._limiter)

    async def _on_thread(self, function: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
        return await anyio.to_thread.run_sync(function, limiter=limiter, abandon_on_cancel=True)

    def keep(self, keeper: Watcher | None) -> None:
        """Let a keeper stop our containers when we are gone."""
        if keeper is None or keeper is self._told or self.socket is None:
            return
        keeper.keep_containers(self.socket, f"{LOCK_LABEL}={self.lock}")
        self._told = keeper

    async def reconcile(self) -> list[str]:
        """Remove the containers that nobody can want any more; return their ids."""
        found = await self.call(lambda sdk: sdk.list(LOCK_LABEL))
        wanted = await self.wanted(found)
        abandoned = [one.id for one in found if one.id not in wanted]
        for container in abandoned:
            await self.call(functools.partial(remove, container))
        self._owing = False
        locks = {one.labels[LOCK_LABEL] for one in found if one.id in wanted}
        await self.on_thread(lambda: sweep(locks))
        if abandoned:
            logger.warning("%d containers of dead workers or lost tasks were removed", len(abandoned))
        return abandoned

    async def wanted(self, listed: Sequence[Listed]) -> set[str]:
        """Return the ids of those containers that a task may still have."""
        live = frozenset(self.live)  # not earlier: whatever is younger than this is not in the list
        return await self.on_thread(lambda: {one.id for one in listed if is_wanted(one, self.lock, live, time.time())})

    def close(self) -> None:
        """Close what is open, and let go of our lock."""
        atexit.unregister(self.close)
        if self._sdk is not None:
            self._sdk.close()
        if self._owner is not None:
            self._owner.leave(owing=self._owing or bool(self.live))
        self._sdk = self._owner = None

    def owe(self) -> None:
        """Leave a container to the next reconciliation, ours or another worker's."""
        self._owing = True

    def _connect(self) -> "Sdk":
        """Return the one connection, which asks the engine for its version when it is made."""
        if self.socket is not None:
            knock(self.socket)
        from .sdk import API_TIMEOUT, Sdk  # noqa: PLC0415 - a worker without docker tasks has no use for the library

        if not self._connecting.acquire(timeout=API_TIMEOUT):  # not in turn, each for as long as a hanging engine takes
            raise DockerUnresponsiveError("the Docker engine does not answer in time")
        try:
            if self._sdk is None:
                self._sdk = Sdk(self.url, _CONNECTIONS)
            if self._owner is None:
                self._owner = Owner()
                atexit.register(self.close)
            return self._sdk
        finally:
            self._connecting.release()


def remove(container: str, sdk: "Sdk") -> None:
    """Remove a container, running or not."""
    sdk.remove(container)
