"""Exclusive tasks: killed before an unconfirmed lease ends, so that they never overlap their successors.

The worker does so itself as soon as half a renewal's time is left. If it shows no life, its keeper kills it with all
that it runs a little later: while exclusive tasks run, the worker has to tell the keeper, renewal by renewal, how long
it may live.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from runners.process import KeeperLink

from .lease import RENEWALS, Lease

_OURS: Final = 1 / (2 * RENEWALS)
_THE_KEEPER_S: Final = 1 / (4 * RENEWALS)
"""What is left of a lease, as a share of ack_wait, when the worker kills the task, and the keeper the worker."""


class DeadMansSwitch:
    """Ends what may not outlive its lease. `ack_wait` is a lease's seconds."""

    def __init__(self, ack_wait: float, keeper: KeeperLink | None) -> None:
        self._ours = ack_wait * _OURS
        self._keeper_s = ack_wait * _THE_KEEPER_S
        self._keeper = keeper
        self._leases: set[Lease] = set()

    @contextmanager
    def holding(self, lease: Lease, kill: Callable[[], None]) -> Iterator[None]:
        """Call `kill` before the lease ends, for as long as the body lasts."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def arm() -> None:
            nonlocal timer
            if timer is not None:
                timer.cancel()
            timer = loop.call_later(lease.expires - self._ours - time.monotonic(), kill)
            self._tell_keeper()

        self._leases.add(lease)
        lease.on_renewed.append(arm)
        arm()
        try:
            yield
        finally:
            lease.on_renewed.remove(arm)
            if timer is not None:
                timer.cancel()
            self._leases.remove(lease)
            self._tell_keeper()

    def _tell_keeper(self) -> None:
        if self._keeper is None:
            return
        if not self._leases:
            self._keeper.release(os.getpid())
            return
        expires = min(lease.expires for lease in self._leases)
        self._keeper.limit(os.getpid(), expires - self._keeper_s - time.monotonic())
