"""Stop and kill, from the control stream: to a task of ours at once, to one that has not started before it does."""

import logging
from typing import Final

import anyio
from msgspec import structs
from nats.aio.msg import Msg

from schemas import Control, SchemaError, Verb, decode

from .deliveries import Deliveries
from .errors import JetStreamError
from .services import Services
from .story import ending
from .tail import Tail
from .trace import Trace
from .unstarted import canceled_unseen

ANSWER_WITHIN: Final = 0.5
"""Seconds that the other workers have to say that a task is theirs."""

_MAX_WORDS: Final = 1024
"""Characters of `by` and `reason` that are told further: events and Results must hold them."""
_LOOKUPS: Final = 32
"""Controls whose tasks are looked up at the same time: a worker's start meets those of a whole day."""

logger = logging.getLogger(__name__)


class Controls:
    """Follows the control stream from its oldest message on: who starts later obeys what was said before."""

    def __init__(self, services: Services, deliveries: Deliveries) -> None:
        self._services = services
        self._subjects = services.subjects
        self._deliveries = deliveries
        self._lookups = anyio.CapacityLimiter(_LOOKUPS)
        subjects = services.subjects
        self._tail = Tail(services.connection, subjects.control_stream, [subjects.control("*", "*")], self._obey)

    async def start(self) -> None:
        """Return once every control given so far is known."""
        self._services.tasks.start_soon(self._tail.run)
        await self._tail.caught_up.wait()

    def _obey(self, message: Msg) -> None:
        named = self._subjects.parse_control(message.subject)
        if named is None:
            logger.warning("a control on %s names no task", message.subject)
            return
        task_id, verb = named
        control = _read_control(message)
        self._services.telemetry.controlled(task_id, verb, Trace.read(message.headers or {}))
        if not self._deliveries.control(task_id, verb, control):
            self._services.tasks.start_soon(self._cancel_unstarted, task_id, verb, control)

    async def _cancel_unstarted(self, task_id: str, verb: Verb, control: Control) -> None:
        """Store `canceled` for a task that no worker has: the first Result wins, so a finished task keeps its own."""
        services = self._services
        try:
            async with self._lookups:
                finished = await services.results.load(task_id) is not None
            if finished or await self._has_owner(task_id):
                return
            result = canceled_unseen(task_id, services.worker, verb, control)
            if await services.conclusions.conclude_unseen(result):
                told = {"task_id": task_id, **ending(result)}
                logger.info("task %s was canceled before it started", task_id, extra=told)
                await services.requeue.withdraw(task_id)
        except JetStreamError as error:  # its task, when it comes, is canceled all the same
            told = {"task_id": task_id}
            logger.warning("task %s could not be canceled before its start: %s", task_id, error, extra=told)

    async def _has_owner(self, task_id: str) -> bool:
        if self._deliveries.holds(task_id):
            return True
        owner = await self._services.claims.find(task_id, within=ANSWER_WITHIN)
        return owner is not None or self._deliveries.holds(task_id)


def _read_control(message: Msg) -> Control:
    """Read a control's payload; what cannot be read is no reason not to stop."""
    if not message.data:
        return Control()
    try:
        control = decode(Control, message.data)
    except SchemaError as error:
        logger.warning("the control on %s is obeyed without its payload: %s", message.subject, error)
        return Control()
    return structs.replace(
        control, by=control.by and control.by[:_MAX_WORDS], reason=control.reason and control.reason[:_MAX_WORDS]
    )
