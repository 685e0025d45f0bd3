"""The tasks that are ours for now: every delivery of each, renewed from one place until it is settled.

A renewal counts once the server has confirmed it. A lease whose time has passed without one is not ours to rely on:
someone else may have the task by then. Its holder is told when the server confirms it again.
"""

import logging
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Final

import anyio

from .connection import Connection, NoReplyError
from .telemetry import SILENT, Telemetry

logger = logging.getLogger(__name__)

RENEWALS: Final = 3
"""Renewals within the server's ack_wait."""

ACK: Final = b"+ACK"
"""What tells the server that a delivery is done with."""
_NAK: Final = b"-NAK"
_IN_PROGRESS: Final = b"+WPI"
_OPERATIONS: Final = {ACK: "ack", _NAK: "nak"}


class Lease:
    """Our hold on one task: the ack subjects of all its deliveries.

    `expires` is when, by the monotonic clock, the server may give the task to someone else; it is never later than the
    server's own idea of it.
    """

    def __init__(self, leases: "Leases", task_id: str, delivery: str) -> None:
        self.task_id = task_id
        self._leases = leases
        self._deliveries = [delivery]
        self.expires = time.monotonic() + leases.ack_wait
        self.context = copy_context()
        """Where a log line about the lease is one about its task."""
        self.on_renewed: list[Callable[[], None]] = []
        """Called after each confirmed renewal; must neither block nor raise."""
        self.on_regained: list[Callable[[], None]] = []
        """Called when a renewal is confirmed after the lease had run out; must neither block nor raise."""

    @property
    def deliveries(self) -> tuple[str, ...]:
        """The ack subjects of the deliveries we hold."""
        return tuple(self._deliveries)

    def adopt(self, *deliveries: str) -> None:
        """Hold more deliveries of the same task."""
        self._deliveries += [delivery for delivery in deliveries if delivery not in self._deliveries]

    def settle(self) -> None:
        """Acknowledge all deliveries: the task is done with, or put back."""
        self._end(ACK)

    def give_back(self) -> None:
        """Return all deliveries to the queue as they are: whoever gets one takes us for lost."""
        self._end(_NAK)

    def drop(self) -> None:
        """Let go of the task and say nothing: its deliveries are someone else's."""
        self._leases.forget(self)

    def renewed(self, since: float) -> None:
        """Take note of a confirmed renewal that was begun at `since`."""
        if had_run_out := since > self.expires:
            self._leases.telemetry.lease_lost(self.task_id)
        self.expires = since + self._leases.ack_wait
        for callback in [*self.on_renewed, *(self.on_regained if had_run_out else [])]:
            callback()

    def _end(self, word: bytes) -> None:
        with self._leases.telemetry.settling(self.task_id, _OPERATIONS[word]):
            for delivery in self._deliveries:
                self._leases.send(delivery, word)
        self._leases.forget(self)


class Leases:
    """All tasks that this worker holds. `ack_wait` is the seconds that the server waits for a renewal."""

    def __init__(self, connection: Connection, *, ack_wait: float, telemetry: Telemetry = SILENT) -> None:
        self.ack_wait = ack_wait
        self.telemetry = telemetry
        self._connection = connection
        self._interval = ack_wait / RENEWALS
        self._held: dict[Lease, None] = {}
        self._hurry = anyio.Event()

    def take(self, task_id: str, delivery: str) -> Lease:
        """Hold a task."""
        lease = Lease(self, task_id, delivery)
        self._held[lease] = None
        return lease

    def forget(self, lease: Lease) -> None:
        """Let go of a task."""
        self._held.pop(lease, None)

    def send(self, delivery: str, word: bytes) -> None:
        """Say a word about a delivery."""
        self._connection.send(delivery, word)

    async def run(self) -> None:
        """Renew all leases until cancelled: in time, sooner after a failure, and at once after a reconnection."""
        self._connection.reconnected.append(self._renew_now)
        try:
            all_renewed = True
            while True:
                with anyio.move_on_after(self._interval if all_renewed else self._interval / 4):
                    await self._hurry.wait()
                await self._connection.wait_connected()
                self._hurry = anyio.Event()
                all_renewed = await self._renew_all()
        finally:
            self._connection.reconnected.remove(self._renew_now)

    def _renew_now(self) -> None:
        self._hurry.set()

    async def _renew_all(self) -> bool:
        failures: list[Lease] = []

        async def renew(lease: Lease) -> None:
            if not await self._renew(lease):
                failures.append(lease)

        async with anyio.create_task_group() as renewals:
            for lease in list(self._held):
                renewals.start_soon(renew, lease)
        return not failures

    async def _renew(self, lease: Lease) -> bool:
        begun = time.monotonic()
        for delivery in lease.deliveries:
            try:
                await self._connection.request(delivery, _IN_PROGRESS, patience=self._interval / 2)
            except NoReplyError as error:
                text = "the lease of task %s was not renewed: %s"
                lease.context.run(logger.warning, text, lease.task_id, error)
                return False
        if lease in self._held:
            lease.renewed(begun)
        return True
