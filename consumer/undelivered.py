"""Tasks that the server delivers no more, after too many tries without an end: the net under everything else.

The server leaves them in the stream for good and says so once, to whoever listens. So we listen, and look through each
category at the start, and now and again, for what nobody heard of.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import anyio
import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from .errors import JetStreamError
from .jetstream import NOT_FOUND, StoredMessage, api, read_batch
from .message import rebuilt
from .request import TaskRequest, read_request
from .services import Services
from .unstarted import undelivered

_BATCH: Final = 256
_QUEUE: Final = "jetrunner"
_PAUSE: Final = 5.0
_LOOK_EVERY: Final = 60.0
_SETTLED: Final = 2.0

logger = logging.getLogger(__name__)


class _Advisory(Struct):
    """What the server says when it gives up (io.nats.jetstream.advisory.v1.max_deliver)."""

    consumer: str
    stream_seq: int


class Undelivered:
    """Gives up the tasks that the server has given up."""

    def __init__(self, services: Services, categories: Sequence[str]) -> None:
        self._services = services
        self._connection = services.connection
        self._stream = services.subjects.tasks_stream
        self._categories = categories
        self._given_up: asyncio.Queue[int] = asyncio.Queue()

    async def look(self) -> None:
        """Find what the server has given up so far."""
        for category in self._categories:
            await self._look(category)

    async def run(self) -> None:
        """Give up what is found, listen, and look again, until cancelled."""
        advisories = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{self._stream}.*"
        await self._connection.subscribe(advisories, self._hear, queue=_QUEUE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look_again)
            await self._give_up_all()

    async def _look_again(self) -> None:
        while True:
            await anyio.sleep(_LOOK_EVERY)
            await self.look()

    async def _give_up_all(self) -> None:
        while True:
            seq = await self._given_up.get()
            try:
                await self._give_up(seq)
            except JetStreamError as error:
                logger.warning("the task at %s:%d, which is delivered no more, waits: %s", self._stream, seq, error)
                await anyio.sleep(_PAUSE)
                self._given_up.put_nowait(seq)

    def _hear(self, message: Msg) -> None:
        try:
            advisory = msgspec.json.decode(message.data, type=_Advisory)
        except msgspec.MsgspecError as error:
            logger.debug("an advisory is not understood: %s", error)
            return
        self._given_up.put_nowait(advisory.stream_seq)

    async def _look(self, category: str) -> None:
        """Find the tasks of a category that lie behind all that its consumer still minds."""
        subject = self._services.subjects.task(category)
        try:
            info = await api(self._connection, f"CONSUMER.INFO.{self._stream}.{category}")
            minded = info["ack_floor"] if info["num_ack_pending"] else info["delivered"]
            request = {"seq": 1, "next_by_subj": subject, "batch": _BATCH}
            stored = await read_batch(self._connection, self._stream, request)
        except JetStreamError as error:  # there is no consumer yet, or no leader: nothing was given up just now
            logger.debug("undelivered tasks of %s cannot be looked for: %s", category, error)
            return
        left = [message.seq for message in stored if message.seq <= minded["stream_seq"]]
        if left:
            await anyio.sleep(_SETTLED)  # what was acknowledged just now may not be removed everywhere
        for seq in left:
            self._given_up.put_nowait(seq)

    async def _give_up(self, seq: int) -> None:
        found = await read_batch(self._connection, self._stream, {"seq": seq, "batch": 1})
        if not found or found[0].seq != seq:
            return
        request = self._read(found[0])
        services = self._services
        if await services.results.load(request.task_id) is None:
            result = undelivered(request, services.worker)
            await services.conclusions.conclude(request, result, buried=True)
        try:
            await api(self._connection, f"STREAM.MSG.DELETE.{self._stream}", {"seq": seq, "no_erase": True})
        except JetStreamError as error:
            if error.status != NOT_FOUND:
                raise

    def _read(self, stored: StoredMessage) -> TaskRequest:
        """Read a stored task as if it had been delivered."""
        category = self._services.subjects.last_token(stored.subject)
        delivery = f"$JS.ACK.{self._stream}.{category}.1.{stored.seq}.0.{stored.nanoseconds}.0"
        message = rebuilt(stored.subject, delivery, stored.data, stored.headers)
        return read_request(message, self._services.subjects, self._services.config.reply_prefixes)
