"""One category's tasks: pulled as far as there are free slots, each taken to its end by one of a fixed set of tasks.

While something that the tasks cannot run without is missing, none is pulled: others may have it.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Final

import anyio
import anyio.lowlevel
from nats.aio.msg import Msg

from runners.context import Facility

from .claims import owner_within
from .connection import Connection
from .deliveries import Deliveries
from .jetstream import api
from .lease import RENEWALS
from .message import Position
from .puller import EXPIRES, Puller
from .topology import Topology, ensure_consumer

_UNLIMITED: Final = nullcontext()

logger = logging.getLogger(__name__)


class Intake:
    """Pulls and runs the tasks of one category, `slots` at once, and not more than `room` allows all categories."""

    def __init__(
        self,
        connection: Connection,
        topology: Topology,
        category: str,
        *,
        slots: int,
        create: bool,
        deliveries: Deliveries,
        facilities: Sequence[Facility] = (),
        room: anyio.CapacityLimiter | None = None,
    ) -> None:
        self.category = category
        self.slots = slots
        self._connection = connection
        self._topology = topology
        self._create = create
        self._deliveries = deliveries
        self._facilities = facilities
        self._room = room
        self._doubt: _Doubt | None = None
        self._waiting: asyncio.Queue[Msg] = asyncio.Queue()
        self._puller = Puller(
            connection,
            topology.subjects.tasks_stream,
            window=slots,
            ensure=self._ensure,
            deliver=self._waiting.put_nowait,
            silent=self._note_silence,
            expires=min(EXPIRES, topology.ack_wait / 2),  # before our leases: what we lose does not come back to us
            drains=True,
        )

    @property
    def obstacle(self) -> str | None:
        """What is missing, as a sentence, so that no tasks are taken."""
        return next((each.obstacle for each in self._facilities if each.obstacle is not None), None)

    @property
    def is_pulling(self) -> bool:
        """Whether new tasks would come now, as far as we know."""
        return self._puller.is_pulling

    async def fetch(self) -> None:
        """Pull until cancelled; return once all that was pulled has been begun."""
        try:
            while True:
                for facility in self._facilities:
                    await facility.wait_ready()
                await self._pull()
        finally:
            with anyio.CancelScope(shield=True):
                while not self._waiting.empty():  # there is a free slot for each
                    await anyio.lowlevel.checkpoint()

    async def _pull(self) -> None:
        """Pull until something is missing."""

        async def watch(facility: Facility) -> None:
            logger.warning("no tasks of %s are taken: %s", self.category, await facility.wait_obstacle())
            pulling.cancel_scope.cancel()

        async with anyio.create_task_group() as pulling:
            for facility in self._facilities:
                pulling.start_soon(watch, facility)
            await self._puller.run()

    async def work(self) -> None:
        """Run tasks until cancelled."""
        async with anyio.create_task_group() as slots:
            for _ in range(self.slots):
                slots.start_soon(self._fill_slot)

    async def _fill_slot(self) -> None:
        while True:
            message = await self._waiting.get()
            doubt = self._doubt.about(message) if self._doubt is not None else 0.0
            async with self._room or _UNLIMITED:
                await self._deliveries.handle(message, doubt=doubt)
            self._puller.release()

    def _note_silence(self, lasted: float) -> None:
        """Doubt what may have waited for us until its lease was over, or nearly so."""
        if self._doubt is not None and lasted > self._topology.ack_wait / RENEWALS:
            self._doubt.begin()

    async def _ensure(self) -> str:
        """Make sure of the consumer; whatever made us ask again may have cost the server its memory of deliveries."""
        differences = await ensure_consumer(self._connection, self._topology, self.category, create=self._create)
        for difference in differences:
            logger.warning("%s", difference)
        if self._doubt is None:
            self._doubt = _Doubt(owner_within(self._topology.ack_wait))
        else:
            info = await api(self._connection, f"CONSUMER.INFO.{self._topology.subjects.tasks_stream}.{self.category}")
            self._doubt.begin(datetime.fromisoformat(info["ts"]).timestamp() * 1e9)
        return self.category


class _Doubt:
    """What the server may have given to someone else before, though it does not know any more.

    A server that was killed, a consumer that was made anew, or a new leader may count the deliveries of older messages
    from 1 again. Their owners have a while to come back and claim them. Whoever had no pull open then is told nothing,
    but sees that the server goes back: it counts deliveries, and takes new messages in order.
    """

    def __init__(self, lasts: float) -> None:
        self._lasts = lasts
        self._stored_before = 0.0
        self._until = 0.0
        self._consumer_seq = 0
        self._stream_seq = 0

    def begin(self, stored_before: float = math.inf) -> None:
        """Doubt all that comes, or was stored before some nanoseconds since the Unix epoch, by the server's clock."""
        self._stored_before = stored_before
        self._until = time.monotonic() + self._lasts

    def about(self, message: Msg) -> float:
        """Return the seconds for which a message is in doubt; to be asked once about each, as they come."""
        place = Position.of(message)
        if self._goes_back(place):
            self.begin()
        self._consumer_seq = place.consumer_seq
        if place.deliveries == 1:
            self._stream_seq = place.stream_seq
        if self._until == 0.0 or place.nanoseconds > self._stored_before:
            return 0.0
        return max(self._until - time.monotonic(), 0.0)

    def _goes_back(self, place: Position) -> bool:
        is_old = place.deliveries == 1 and place.stream_seq <= self._stream_seq
        return is_old or place.consumer_seq <= self._consumer_seq
