"""One category's tasks: pulled as far as there are free slots, each taken to its end by one of a fixed set of tasks."""

import asyncio
import logging

import anyio
from nats.aio.msg import Msg

from .connection import Connection
from .delivery import Deliveries
from .lease import NAK
from .puller import Puller
from .topology import Topology, ensure_consumer

logger = logging.getLogger(__name__)


class Intake:
    """Pulls and runs the tasks of one category, `slots` at once."""

    def __init__(
        self,
        connection: Connection,
        topology: Topology,
        category: str,
        *,
        slots: int,
        create: bool,
        deliveries: Deliveries,
    ) -> None:
        self.category = category
        self._connection = connection
        self._topology = topology
        self._slots = slots
        self._create = create
        self._deliveries = deliveries
        self._waiting: asyncio.Queue[Msg] = asyncio.Queue()
        self._puller = Puller(
            connection,
            topology.subjects.tasks_stream,
            window=slots,
            ensure=self._ensure,
            deliver=self._waiting.put_nowait,
            give_back=self._return,
        )

    @property
    def is_pulling(self) -> bool:
        """Whether new tasks would come now, as far as we know."""
        return self._puller.is_pulling

    async def fetch(self) -> None:
        """Pull until cancelled; what was pulled and not begun goes back at once."""
        try:
            await self._puller.run()
        finally:
            while not self._waiting.empty():
                self._return(self._waiting.get_nowait())

    async def work(self) -> None:
        """Run tasks until cancelled."""
        async with anyio.create_task_group() as slots:
            for _ in range(self._slots):
                slots.start_soon(self._fill_slot)

    async def _fill_slot(self) -> None:
        while True:
            message = await self._waiting.get()
            await self._deliveries.handle(message)
            self._puller.release()

    def _return(self, message: Msg) -> None:
        self._connection.send(message.reply, NAK)

    async def _ensure(self) -> str:
        differences = await ensure_consumer(self._connection, self._topology, self.category, create=self._create)
        for difference in differences:
            logger.warning("%s", difference)
        return self.category
