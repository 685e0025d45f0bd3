"""What the server and the workers tell of each category, for the rules that are enabled."""

import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import anyio
from nats.aio.msg import Msg

from consumer.connection import Connection
from consumer.dead import REASON
from consumer.jetstream import api, read_batch
from consumer.message import Position, header
from consumer.tail import Tail
from consumer.workers import find_workers
from schemas import Event, EventType, SchemaError, Status, Subjects, decode, utc_now

from .evaluation import Facts
from .settings import AlertsConfig
from .window import MAX_CATEGORIES, Window

_BAD: Final = frozenset({Status.FAILED, Status.TIMEOUT, Status.ERROR})
_CAUGHT_UP_WITHIN: Final = 30.0

logger = logging.getLogger(__name__)


class Observer:
    """Gathers facts; what happened before it began is read back from the streams."""

    def __init__(self, connection: Connection, subjects: Subjects, config: AlertsConfig) -> None:
        self._connection = connection
        self._subjects = subjects
        self._config = config
        self._given_up = Window(config.dead.window)
        self._reasons: dict[str, str] = {}
        self._ended = Window(config.error_rate.window)
        self._ended_badly = Window(config.error_rate.window)

    @asynccontextmanager
    async def observing(self) -> AsyncIterator[None]:
        """Read what happens for as long as the body lasts, which begins when the past is known."""
        async with anyio.create_task_group() as tasks:
            with anyio.move_on_after(_CAUGHT_UP_WITHIN):  # a flood of events is better judged late than never
                for tail in self._tails():
                    tasks.start_soon(tail.run)
                    await tail.caught_up.wait()
            yield
            tasks.cancel_scope.cancel()

    async def facts(self) -> tuple[dict[str, Facts], datetime]:
        """Return what is known of each category, and the server's time.

        Raises:
            JetStreamError: the server does not tell.
        """
        consumers, now = await self._consumers()
        oldest = {}
        if self._config.queue_age.enabled:
            oldest = {each["name"]: await self._oldest(each) for each in consumers if each["num_pending"]}
        obstacles = await self._obstacles()
        moment = now.timestamp()
        given_up, ended = self._given_up.counts(moment), self._ended.counts(moment)
        badly = self._ended_badly.counts(moment)
        categories = {each["name"] for each in consumers} | given_up.keys() | ended.keys() | obstacles.keys()
        self._reasons = {category: self._reasons.get(category, "") for category in given_up}
        return {
            category: Facts(
                given_up=given_up[category],
                last_reason=self._reasons.get(category, ""),
                ended=ended[category],
                ended_badly=badly[category],
                oldest=oldest.get(category),
                obstacles=obstacles.get(category, {}),
            )
            for category in categories
        }, now

    def _tails(self) -> list[Tail]:
        subjects, config, tails = self._subjects, self._config, []
        if config.dead.enabled:
            start = _since(config.dead.window) | {"headers_only": True}
            tails.append(Tail(self._connection, subjects.dead_stream, [subjects.dead("*")], self._bury, start=start))
        if config.error_rate.enabled:
            finished, start = subjects.event("*", EventType.FINISHED), _since(config.error_rate.window)
            tails.append(Tail(self._connection, subjects.events_stream, [finished], self._count, start=start))
        return tails

    def _bury(self, message: Msg) -> None:
        category = self._subjects.last_token(message.subject)
        self._given_up.add(category, Position.of(message).nanoseconds / 1e9)
        if category in self._reasons or len(self._reasons) < MAX_CATEGORIES:
            self._reasons[category] = header(message.headers, REASON) or "no reason is given"

    def _count(self, message: Msg) -> None:
        try:
            event = decode(Event, message.data)
        except SchemaError as error:
            logger.debug("an event cannot be read: %s", error)
            return
        status = event.data.get("status")
        at = Position.of(message).nanoseconds / 1e9
        if status == Status.SUCCESS or status in _BAD:
            self._ended.add(event.category, at)
        if status in _BAD:
            self._ended_badly.add(event.category, at)

    async def _consumers(self) -> tuple[list[dict[str, Any]], datetime]:
        found: list[dict[str, Any]] = []
        while True:
            page = await api(self._connection, f"CONSUMER.LIST.{self._subjects.tasks_stream}", {"offset": len(found)})
            found += page["consumers"] or []
            if not page["consumers"] or len(found) >= page["total"]:
                break
        told = [datetime.fromisoformat(each["ts"]).astimezone(UTC) for each in found if "ts" in each]
        return found, max(told, default=utc_now())

    async def _oldest(self, consumer: Mapping[str, Any]) -> datetime | None:
        after = consumer["delivered"]["stream_seq"] + 1
        request = {"seq": after, "next_by_subj": consumer["config"]["filter_subject"], "batch": 1}
        waiting = await read_batch(self._connection, self._subjects.tasks_stream, request)
        return waiting[0].stored if waiting else None

    async def _obstacles(self) -> dict[str, dict[str, str]]:
        found: defaultdict[str, dict[str, str]] = defaultdict(dict)
        if self._config.breaker.enabled:
            for worker in await find_workers(self._connection, self._subjects):
                for each in worker.categories:
                    if each.obstacle is not None:
                        found[each.category][worker.worker] = each.obstacle
        return found


def _since(window: float) -> dict[str, Any]:
    start = utc_now() - timedelta(seconds=window)
    return {"deliver_policy": "by_start_time", "opt_start_time": start.isoformat()}
