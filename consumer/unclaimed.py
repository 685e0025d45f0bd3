"""Answers the tasks of categories that nobody serves: without a consumer on their subject they would wait for ever.

A consumer of ours takes them, for as long as it needs. A work queue allows one consumer a subject, so the server itself
keeps us from a category that has one; and a worker that begins to serve the category gets its consumer once ours is
gone.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

import anyio
from msgspec import structs
from nats.aio.msg import Msg

from runners.base import Runner
from runners.errors import UnknownCategoryError
from runners.registry import Registry
from schemas.subjects import is_category

from .deliveries import Deliveries
from .errors import JetStreamError
from .jetstream import NOT_FOUND, api
from .message import Position
from .puller import Puller
from .services import Services

INTERVAL: Final = 2.0
"""Seconds between two looks at the stream."""
_WINDOW: Final = 100
_QUIET: Final = 1.0
_POLL: Final = 0.02
_TURN: Final = 5.0
"""Seconds that we take a category's tasks without giving a worker the chance to do so."""
_WILDCARDS: Final = frozenset({"*", ">"})
"""Tokens that the server stores, against its own rules, and that select more than themselves."""
_REPLACED: Final = "\ufffd"
"""What the server shows instead of what is not UTF-8."""
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
    """Looks for tasks without a consumer, and answers them after `after` seconds.

    Those that the worker itself has `served`, or would if it got its consumer, are none of them.
    """

    def __init__(self, services: Services, *, after: float, served: Callable[[], Sequence[str]]) -> None:
        self._connection = services.connection
        self._subjects = services.subjects
        self._stream = services.subjects.tasks_stream
        self._deliveries = Deliveries(structs.replace(services, registry=_Unserved(after)))
        self._after = after
        self._served = served
        self._first_seen: dict[str, float] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            for category in await self._overdue():
                try:
                    await self._answer(category)
                except JetStreamError as error:
                    logger.debug("the tasks of %s cannot be answered: %s", category, error)
                del self._first_seen[category]  # those that come now wait as long: a worker may be on its way
            await anyio.sleep(min(INTERVAL, self._after / 2))

    async def _overdue(self) -> list[str]:
        """Return the categories that have had tasks and no consumer for long enough."""
        try:
            categories = await self._categories() - {*self._served()}
            if categories:
                consumers = await self._consumers()
                categories = {each for each in categories if not {each, _name(each)} & consumers}
        except JetStreamError as error:
            logger.debug("unclaimed tasks cannot be looked for: %s", error)
            return []
        now = time.monotonic()
        self._first_seen = {category: self._first_seen.get(category, now) for category in categories}
        return [category for category, since in self._first_seen.items() if now - since >= self._after]

    async def _categories(self) -> set[str]:
        """Return the categories that have tasks; those that no consumer could select do not count."""
        body = {"subjects_filter": self._subjects.task("*")}
        info = await api(self._connection, f"STREAM.INFO.{self._stream}", body)
        tokens = {self._subjects.last_token(subject) for subject in info["state"].get("subjects") or {}}
        return {token for token in tokens if token not in _WILDCARDS and _REPLACED not in token}

    async def _consumers(self) -> set[str]:
        names: list[str] = []
        while True:
            page = await api(self._connection, f"CONSUMER.NAMES.{self._stream}", {"offset": len(names)})
            names += page["consumers"] or []
            if not page["consumers"] or len(names) >= page["total"]:
                return set(names)

    async def _answer(self, category: str) -> None:
        """Take the tasks that a category has, for one turn: in between, a worker can get its consumer."""
        consumer = _name(category)
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
            turn_ends = time.monotonic() + _TURN
            while time.monotonic() < turn_ends and (message := await _next(waiting)) is not None:
                await self._deliveries.handle(message)
                puller.release()
                if Position.of(message).pending == 0:
                    break
            pulling.cancel_scope.cancel()
        await self._until_acked(consumer)
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

    async def _until_acked(self, name: str) -> None:
        """Wait until the server has dealt with our acks, which a removal would overtake; bounded."""
        with anyio.move_on_after(_QUIET):
            while (await api(self._connection, f"CONSUMER.INFO.{self._stream}.{name}"))["num_ack_pending"]:  # noqa: ASYNC110 - a consumer sends no event
                await anyio.sleep(_POLL)

    async def _remove_consumer(self, name: str) -> None:
        try:
            await api(self._connection, f"CONSUMER.DELETE.{self._stream}.{name}")
        except JetStreamError as error:
            if error.status != NOT_FOUND:
                raise


def _name(category: str) -> str:
    """Name our consumer; not every token of a subject may be part of a name."""
    return f"unclaimed-{category if is_category(category) else sha256(category.encode()).hexdigest()}"


async def _next(waiting: "asyncio.Queue[Msg]") -> Msg | None:
    with anyio.move_on_after(_QUIET):
        return await waiting.get()
    return None
