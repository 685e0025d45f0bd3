"""One worker of all looks for alerts: the one whose name is in the record, for as long as it writes the record anew.

The record is one message, stored by compare-and-set, so that of two who write at once one finds out. A record that has
not changed for a while, by the reader's own clock, is anybody's to take. What is open is in it, and survives a change.
"""

import logging
import time
from typing import Final

import anyio
import msgspec
from msgspec import structs

from consumer.cache import EXPECTED, TTL
from consumer.connection import Connection, NoReplyError
from consumer.errors import JetStreamError
from consumer.jetstream import last_message, publish_once
from schemas import Subjects

from .evaluation import Record

MISSED: Final = 3
"""Intervals without news of the one who looks, after which someone else does."""
_KEY: Final = "alerts"
_KEPT: Final = "86400s"

logger = logging.getLogger(__name__)


class Election:
    """Our part in finding who looks; `worker` is our name, `interval` is seconds."""

    def __init__(self, connection: Connection, subjects: Subjects, worker: str, interval: float) -> None:
        self._connection = connection
        self._stream = subjects.cache_stream
        self._subject = subjects.cache(_KEY)
        self._worker = worker
        self._interval = interval
        self._seq = 0
        self._record = Record()

    @property
    def record(self) -> Record:
        """The record as we have last read or written it."""
        return self._record

    async def win(self) -> None:
        """Return when it is ours to look."""
        seen, since = -1, time.monotonic()
        while True:
            await self._connection.wait_connected()
            if await self._load():
                if self._seq != seen:
                    seen, since = self._seq, time.monotonic()
                is_free = self._record.leader in {"", self._worker}
                is_stale = time.monotonic() - since > MISSED * self._interval
                if (is_free or is_stale) and await self.write(self._record):
                    return
            await anyio.sleep(self._interval)

    async def write(self, record: Record) -> bool:
        """Store the record as ours; tell whether it still was ours to store."""
        record = structs.replace(record, leader=self._worker)
        return await self._store(record)

    async def resign(self) -> None:
        """Let the next one begin at once."""
        await self._store(structs.replace(self._record, leader=""))

    async def _store(self, record: Record) -> bool:
        headers = {EXPECTED: str(self._seq), TTL: _KEPT}
        try:
            ack = await publish_once(self._connection, self._subject, msgspec.json.encode(record), headers)
        except (JetStreamError, NoReplyError) as error:
            logger.debug("the record of alerts was not written: %s", error)
            return False
        self._record, self._seq = record, ack.seq
        return True

    async def _load(self) -> bool:
        try:
            stored = await last_message(self._connection, self._stream, self._subject)
            self._record = msgspec.json.decode(stored.data, type=Record) if stored is not None else Record()
        except JetStreamError as error:
            logger.debug("the record of alerts was not read: %s", error)
            return False
        except msgspec.MsgspecError as error:
            logger.warning("the record of alerts cannot be read, and is begun anew: %s", error)
            self._record = Record()
        self._seq = stored.seq if stored is not None else 0
        return True
