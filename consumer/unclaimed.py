"""Answers the tasks of categories that nobody serves: without a consumer on their subject they would wait for ever.

A consumer of ours takes them, for as long as it needs. A work queue allows one consumer a subject, so the server itself
keeps us from a category that has one; and a worker that begins to serve the category gets its consumer once ours is
gone.
"""

import asyncio
import logging
import time
from typing import Any, Final

import anyio
from msgspec import structs
from nats.aio.msg import Msg

from runners.base import Runner
from runners.errors import UnknownCategoryError
from runners.registry import Registry

from .delivery import Deliveries, Services
from .errors import JetStreamError
from .jetstream import NOT_FOUND, api
from .puller import Puller

INTERVAL: Final = 2.0
"""Seconds between two looks at the stream."""
_WINDOW: Final = 100
_QUIET: Final = 1.0
_ACK_WAIT: Final = 30_000_000_000
_INACTIVE: Final = 5_000_000_000
_FILTER_TAKEN: Final = frozenset({10099, 10100})

logger = logging.getLogger(__name__)


class _Unserved(Registry):
    """Knows no category, and says since when nobody does."""

    def __init__(self, after: float) -> None:
        super().__init__()
        self._after = after

    def create(self, category: str) -> Runner[Any]:
        raise UnknownCategoryError(f"no worker has served the category {category!r} for {self._after:g} s")


class Unclaimed:
    """Looks for tasks without a consumer, and answers them after `after` seconds."""

    def __init__(self, services: Services, *, after: float) -> None:
        self._connection = services.connection
        self._subjects = services.subjects
        self._stream = services.subjects.tasks_stream
        self._deliveries = Deliveries(structs.replace(services, registry=_Unserved(after)))
        self._after = after
        self._first_seen: dict[str, float] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                for category in await self._overdue():
                    await self._answer(category)
            except JetStreamError as error:
                logger.debug("unclaimed tasks cannot be looked for: %s", error)
            await anyio.sleep(min(INTERVAL, self._after / 2))

    async def _overdue(self) -> list[str]:
        """Return the categories that have had tasks and no consumer for long enough."""
        categories = await self._categories()
        if categories:
            categories -= await self._consumers()
        now = time.monotonic()
        self._first_seen = {category: self._first_seen.get(category, now) for category in categories}
        return [category for category, since in self._first_seen.items() if now - since >= self._after]

    async def _categories(self) -> set[str]:
        body = {"subjects_filter": self._subjects.task("*")}
        info = await api(self._connection, f"STREAM.INFO.{self._stream}", body)
        return {self._subjects.last_token(subject) for subject in info["state"].get("subjects") or {}}

    async def _consumers(self) -> set[str]:
        names: list[str] = []
        while True:
            page = await api(self._connection, f"CONSUMER.NAMES.{self._stream}", {"offset": len(names)})
            names += page["consumers"] or []
            if not page["consumers"] or len(names) >= page["total"]:
                return set(names)

    async def _answer(self, category: str) -> None:
        """Take a category's tasks until no more come."""
        consumer = f"unclaimed-{category}"
        waiting: asyncio.Queue[Msg] = asyncio.Queue()
        puller = Puller(
            self._connection,
            self._stream,
            window=_WINDOW,
            ensure=lambda: self._make_consumer(consumer, category),
            deliver=waiting.put_nowait,
        )
        async with anyio.create_task_group() as pulling:
            pulling.start_soon(puller.run)
            while (message := await _next(waiting)) is not None:
                await self._deliveries.handle(message)
                puller.release()
            pulling.cancel_scope.cancel()
        await self._remove_consumer(consumer)

    async def _make_consumer(self, name: str, category: str) -> str:
        config = {
            "name": name,
            "filter_subject": self._subjects.task(category),
            "ack_policy": "explicit",
            "ack_wait": _ACK_WAIT,
            "mem_storage": True,
            "inactive_threshold": _INACTIVE,
        }
        body = {"stream_name": self._stream, "config": config}
        try:
            await api(self._connection, f"CONSUMER.CREATE.{self._stream}.{name}.{config['filter_subject']}", body)
        except JetStreamError as error:
            if error.err_code in _FILTER_TAKEN:
                logger.debug("the category %s is served after all", category)
            raise
        return name

    async def _remove_consumer(self, name: str) -> None:
        try:
            await api(self._connection, f"CONSUMER.DELETE.{self._stream}.{name}")
        except JetStreamError as error:
            if error.status != NOT_FOUND:
                raise


async def _next(waiting: "asyncio.Queue[Msg]") -> Msg | None:
    with anyio.move_on_after(_QUIET):
        return await waiting.get()
    return None
