"""The end of a task: its whole output, its dead letter and its Result stored, and everyone told - in that order."""

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import structs

from runners.spool import Spool
from schemas import EventType, Result, Status

from .connection import Connection
from .dead import DeadLetters
from .events import Events
from .lease import ACK
from .outbox import Outbox
from .request import TaskRequest
from .results import Results
from .story import ending
from .whole import WholeOutputs

logger = logging.getLogger(__name__)


class Run(Protocol):
    """What a task that has run leaves beside its Result."""

    @property
    def spools(self) -> Mapping[str, Spool]:
        """Its output, as far as it was spooled."""

    async def output_stored(self) -> None:
        """Return once followers can read its output, or after a while."""


class Conclusions:
    """Concludes the tasks of one worker."""

    def __init__(
        self,
        connection: Connection,
        *,
        results: Results,
        dead: DeadLetters,
        whole: WholeOutputs,
        events: Events,
        outbox: Outbox,
    ) -> None:
        self._connection = connection
        self._results = results
        self._dead = dead
        self._whole = whole
        self._events = events
        self._outbox = outbox

    async def conclude(self, request: TaskRequest, result: Result, *, buried: bool, run: Run | None = None) -> Result:
        """Store a Result, unless someone else's came first, tell of the one that counts, and return it.

        Tries until the server has it; meanwhile the Result is safe from our own end.
        """
        if result.trace_id is None and (trace_id := request.trace.trace_id) is not None:
            result = structs.replace(result, trace_id=trace_id)
        async with self._outbox.keeping(request, result, buried=buried):
            stored, is_ours = await self._store(request, result, run, buried=buried)
        if is_ours:
            self._tell(request, stored, buried=buried)
        self._results.answer(stored, request.reply_to, request.content_type)
        return stored

    async def conclude_unseen(self, result: Result) -> bool:
        """Store the Result of a task whose message we do not hold; tell whether it came first."""
        stored, is_ours = await self._results.save(result)
        if is_ours:
            self._events.finished(stored.task_id, stored.category, _summary(stored))
        return is_ours

    async def finish(self, request: TaskRequest, result: Result, *, buried: bool) -> None:
        """Finish a task whose worker is dead, and has left its Result on disk."""
        await self.conclude(request, result, buried=buried)
        self._connection.send(request.delivery, ACK)

    async def _store(
        self, request: TaskRequest, result: Result, run: Run | None, *, buried: bool
    ) -> tuple[Result, bool]:
        result = await self._whole.keep(result, run.spools if run is not None else {})
        if run is not None:
            await run.output_stored()
        if buried:
            await self._dead.keep(request, result)
        return await self._results.save(result, request.trace)

    def _tell(self, request: TaskRequest, result: Result, *, buried: bool) -> None:
        self._events.publish(EventType.FINISHED, request, _summary(result))
        if buried:
            self._events.publish(EventType.DEAD, request, {"reason": result.error})
        logger.log(
            logging.INFO if result.status is Status.SUCCESS else logging.WARNING,
            "task %s (%s) ended: %s after %d ms%s",
            result.task_id,
            result.category,
            result.status,
            result.duration,
            f": {result.error}" if result.error else "",
            extra=ending(result, request.position.stored),
        )


def _summary(result: Result) -> dict[str, Any]:
    """Return what a `finished` event tells of a Result."""
    return {
        "status": result.status,
        "exit_code": result.exit_code,
        "duration": result.duration,
        "error_code": result.error_code,
        "started": result.start_time is not None,
    }
