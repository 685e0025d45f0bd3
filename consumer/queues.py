"""How many tasks wait in each category: asked of the server now and again, for the metrics."""

import logging
from collections.abc import Sequence
from typing import Final

import anyio

from .errors import JetStreamError
from .jetstream import api
from .services import Services

INTERVAL: Final = 30.0
"""Seconds between two looks."""
_SOON: Final = 1.0

logger = logging.getLogger(__name__)


class Queues:
    """Tells the telemetry of the queues of some categories."""

    def __init__(self, services: Services, categories: Sequence[str]) -> None:
        self._connection = services.connection
        self._telemetry = services.telemetry
        self._stream = services.subjects.tasks_stream
        self._categories = categories

    async def run(self) -> None:
        """Look until cancelled, if anyone wants to know."""
        while self._telemetry.measures:
            known = [await self._look(category) for category in self._categories]
            await anyio.sleep(INTERVAL if all(known) else _SOON)

    async def _look(self, category: str) -> bool:
        try:
            info = await api(self._connection, f"CONSUMER.INFO.{self._stream}.{category}")
        except JetStreamError as error:  # there is no consumer yet, or no server just now
            logger.debug("the backlog of %s is not known: %s", category, error)
            return False
        self._telemetry.waiting(category, int(info["num_pending"]), int(info["num_ack_pending"]))
        return True
