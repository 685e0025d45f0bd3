"""Stop and kill, from the control stream: to a task of ours at once, to one that has not started before it does."""

import logging
from typing import Final

import anyio
import msgspec
from anyio.abc import TaskGroup
from msgspec import structs
from nats.aio.msg import Msg

from schemas import Control, Result, SchemaError, Status, Verb, decode, utc_now

from .connection import NoReplyError
from .delivery import Deliveries, Services, canceled, summary
from .errors import JetStreamError
from .tail import Tail

ANSWER_WITHIN: Final = 0.5
"""Seconds that the other workers have to say that a task is theirs."""

_MAX_WORDS: Final = 1024
"""Characters of `by` and `reason` that are told further: events and Results must hold them."""
_LOOKUPS: Final = 32
"""Controls whose tasks are looked up at the same time: a worker's start meets those of a whole day."""

logger = logging.getLogger(__name__)


class Controls:
    """Follows the control stream from its oldest message on: who starts later obeys what was said before."""

    def __init__(self, services: Services, deliveries: Deliveries, tasks: TaskGroup) -> None:
        self._connection = services.connection
        self._subjects = services.subjects
        self._worker = services.worker
        self._results = services.results
        self._events = services.events
        self._deliveries = deliveries
        self._tasks = tasks
        self._lookups = anyio.CapacityLimiter(_LOOKUPS)
        subjects = services.subjects
        self._tail = Tail(self._connection, subjects.control_stream, [subjects.control("*", "*")], self._obey)

    async def start(self) -> None:
        """Answer the other workers' questions, and return once every control given so far is known."""
        await self._connection.subscribe(self._subjects.ask("*"), self._answer)
        self._tasks.start_soon(self._tail.run)
        await self._tail.caught_up.wait()

    def _obey(self, message: Msg) -> None:
        named = self._subjects.parse_control(message.subject)
        if named is None:
            logger.warning("a control on %s names no task", message.subject)
            return
        task_id, verb = named
        if not self._deliveries.control(task_id, verb, _read_control(message)):
            self._tasks.start_soon(self._cancel_unstarted, task_id, verb, _read_control(message))

    def _answer(self, message: Msg) -> None:
        status = self._deliveries.status(self._subjects.last_token(message.subject))
        if status is not None and message.reply:
            self._connection.send(message.reply, msgspec.json.encode(status))

    async def _cancel_unstarted(self, task_id: str, verb: Verb, control: Control) -> None:
        """Store `canceled` for a task that no worker has: the first Result wins, so a finished task keeps its own."""
        try:
            async with self._lookups:
                finished = await self._results.load(task_id) is not None
            if finished or await self._has_owner(task_id):
                return
            result = Result(
                task_id=task_id, category="", status=Status.CANCELED, end_time=utc_now(), worker=self._worker
            )
            stored, is_ours = await self._results.save(canceled(result, verb, control))
        except JetStreamError as error:  # its task, when it comes, is canceled all the same
            logger.warning("task %s could not be canceled before its start: %s", task_id, error)
            return
        if is_ours:
            self._events.finished(task_id, stored.category, summary(stored))
            logger.info("task %s was canceled before it started", task_id)

    async def _has_owner(self, task_id: str) -> bool:
        if self._deliveries.holds(task_id):
            return True
        try:
            await self._connection.request(self._subjects.ask(task_id), patience=ANSWER_WITHIN)
        except NoReplyError:
            return self._deliveries.holds(task_id)
        return True


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
