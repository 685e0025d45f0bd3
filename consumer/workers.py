"""The workers that are there, as their micro services tell (ADR-32)."""

import asyncio
import logging
from datetime import datetime
from typing import Final

import anyio
import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from schemas import Subjects

from .connection import NO_RESPONDERS, Connection
from .overview import SERVICE, CategoryOverview

FIRST_WITHIN: Final = 2.0
"""Seconds until the first answer, if there is anybody to answer."""
NEXT_WITHIN: Final = 0.5
"""Seconds between two answers."""
ALL_WITHIN: Final = 10.0
"""Seconds for all of them."""

logger = logging.getLogger(__name__)


class WorkerState(Struct, frozen=True, kw_only=True):
    """A worker, as it is known from outside."""

    worker: str
    host: str
    pid: int
    version: str
    started: datetime
    server: str
    draining: bool
    categories: tuple[CategoryOverview, ...]

    @property
    def busy(self) -> int:
        """How many tasks it has at work."""
        return sum(category.busy for category in self.categories)


async def find_workers(connection: Connection, subjects: Subjects) -> list[WorkerState]:
    """Return the workers of a prefix that answer, by name; those that are frozen or cut off do not."""
    found: dict[str, WorkerState] = {}
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = connection.new_inbox()
    subscription = await connection.subscribe_once(inbox, answers.put_nowait)
    try:
        connection.send(f"$SRV.STATS.{SERVICE}", reply=inbox)
        with anyio.move_on_after(ALL_WITHIN), anyio.move_on_after(FIRST_WITHIN) as patience:
            while not _is_nobody(message := await answers.get()):
                patience.deadline = anyio.current_time() + NEXT_WITHIN
                if (state := _read(message, subjects.prefix)) is not None:
                    found[state.worker] = state
    finally:
        await connection.unsubscribe(subscription)
    return [found[name] for name in sorted(found)]


class _Metadata(Struct):
    worker: str
    prefix: str
    host: str
    pid: int
    started: datetime


class _Endpoint(Struct):
    data: CategoryOverview


class _Stats(Struct):
    version: str
    metadata: _Metadata
    endpoints: list[_Endpoint]


_DECODER: Final = msgspec.json.Decoder(_Stats, strict=False)  # metadata is all text


def _is_nobody(message: Msg) -> bool:
    return not message.data and (message.headers or {}).get("Status") == NO_RESPONDERS


def _read(message: Msg, prefix: str) -> WorkerState | None:
    try:
        stats = _DECODER.decode(message.data)
    except msgspec.DecodeError as error:  # of another version than ours, or no worker of ours at all
        logger.debug("a service of our name cannot be read: %s", error)
        return None
    told, categories = stats.metadata, tuple(endpoint.data for endpoint in stats.endpoints)
    if told.prefix != prefix:
        return None
    return WorkerState(
        worker=told.worker,
        host=told.host,
        pid=told.pid,
        version=stats.version,
        started=told.started,
        server=next((each.server for each in categories), ""),
        draining=any(each.draining for each in categories),
        categories=categories,
    )
