"""Looks for alerts again and again, if it is ours to look, and sends them: on `P.alerts.<rule>` and to webhooks."""

import logging
from typing import Final

import anyio
from msgspec import structs

from consumer.connection import Connection
from consumer.errors import JetStreamError
from consumer.groups import collapsed
from schemas import Subjects, encode
from schemas.alert import Alert, AlertState

from . import webhooks
from .election import Election
from .evaluation import look
from .facts import Observer
from .settings import AlertsConfig

_RESIGNED_WITHIN: Final = 1.0

logger = logging.getLogger(__name__)


class AlertWatch:
    """One worker's part in looking for alerts."""

    def __init__(self, connection: Connection, subjects: Subjects, worker: str, config: AlertsConfig) -> None:
        self._connection = connection
        self._subjects = subjects
        self._config = config
        self._election = Election(connection, subjects, worker, config.interval)

    async def run(self) -> None:
        """Look whenever it is ours to, until cancelled; return if there is nothing to look for."""
        while self._config.enabled:
            await self._election.win()
            logger.info("this worker looks for alerts")
            with collapsed():
                await self._lead()
            logger.info("another worker looks for alerts")

    async def _lead(self) -> None:
        """Look until someone else does."""
        observer = Observer(self._connection, self._subjects, self._config)
        try:
            async with observer.observing():
                while await self._look(observer):  # noqa: ASYNC110 - a queue grows old without an event
                    await anyio.sleep(self._config.interval)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(_RESIGNED_WITHIN, shield=True):
                await self._election.resign()
            raise

    async def _look(self, observer: Observer) -> bool:
        """Look once; tell whether it is still ours to look."""
        election = self._election
        try:
            facts, now = await observer.facts()
        except JetStreamError as error:
            logger.debug("no look for alerts: %s", error)
            return True
        if not await election.write(look(election.record, self._config, facts, now, self._subjects.prefix)):
            return False
        return not election.record.unsent or await self._send(election.record.unsent)

    async def _send(self, alerts: tuple[Alert, ...]) -> bool:
        """Send alerts, and go on saying that we look: others must not send them, too."""
        for alert in alerts:
            level = logging.WARNING if alert.state is AlertState.FIRING else logging.INFO
            logger.log(level, "alert %s (%s): %s", alert.rule, alert.state, alert.text, extra={"alert": alert.id})
            self._connection.send(self._subjects.alert(alert.rule), encode(alert), headers={"Nats-Msg-Id": alert.id})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hold)
            await webhooks.send(self._config.webhooks, alerts)
            tasks.cancel_scope.cancel()
        return await self._election.write(structs.replace(self._election.record, unsent=()))

    async def _hold(self) -> None:
        while True:
            await anyio.sleep(self._config.interval)
            with anyio.CancelScope(shield=True):
                await self._election.write(self._election.record)
