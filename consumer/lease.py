"""The tasks that are ours for now: every delivery of each, renewed from one place until it is settled."""

import logging
from typing import Final

import anyio

from .connection import Connection, NoReplyError

logger = logging.getLogger(__name__)

_ACK: Final = b"+ACK"
NAK: Final = b"-NAK"
_IN_PROGRESS: Final = b"+WPI"


class Lease:
    """Our hold on one task: the ack subjects of all its deliveries."""

    def __init__(self, leases: "Leases", task_id: str, delivery: str) -> None:
        self._leases = leases
        self._task_id = task_id
        self._deliveries = [delivery]

    @property
    def deliveries(self) -> tuple[str, ...]:
        """The ack subjects of the deliveries we hold."""
        return tuple(self._deliveries)

    def adopt(self, delivery: str) -> None:
        """Hold one more delivery of the same task."""
        if delivery not in self._deliveries:
            self._deliveries.append(delivery)

    def settle(self) -> None:
        """Acknowledge all deliveries: the task is done with."""
        self._end(_ACK)

    def give_back(self) -> None:
        """Return all deliveries to the queue: another worker may have the task at once."""
        self._end(NAK)

    def _end(self, word: bytes) -> None:
        for delivery in self._deliveries:
            self._leases.send(delivery, word)
        self._leases.forget(self._task_id, self)


class Leases:
    """All tasks that this worker holds.

    `interval` is the seconds between renewals; with a third of the server's ack_wait, a renewal that is not
    confirmed within half an interval can be tried once more.
    """

    def __init__(self, connection: Connection, *, interval: float) -> None:
        self._connection = connection
        self._interval = interval
        self._held: dict[str, Lease] = {}

    def take(self, task_id: str, delivery: str) -> Lease | None:
        """Hold a task; None if it is held already, by a lease that now has this delivery too."""
        held = self._held.get(task_id)
        if held is not None:
            held.adopt(delivery)
            logger.info("task %s was delivered again while we have it", task_id)
            return None
        lease = self._held[task_id] = Lease(self, task_id, delivery)
        return lease

    def forget(self, task_id: str, lease: Lease) -> None:
        """Let go of a task."""
        if self._held.get(task_id) is lease:
            del self._held[task_id]

    def send(self, delivery: str, word: bytes) -> None:
        """Say a word about a delivery."""
        self._connection.send(delivery, word)

    async def run(self) -> None:
        """Renew all leases until cancelled."""
        while True:
            await anyio.sleep(self._interval)
            async with anyio.create_task_group() as renewals:
                for task_id, lease in list(self._held.items()):
                    for delivery in lease.deliveries:
                        renewals.start_soon(self._renew, task_id, delivery)

    async def _renew(self, task_id: str, delivery: str) -> None:
        try:
            await self._connection.request(delivery, _IN_PROGRESS, patience=self._interval / 2)
        except NoReplyError as error:
            logger.warning("the lease of task %s was not renewed: %s", task_id, error)
