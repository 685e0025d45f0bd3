"""Who holds a task: asked of all workers before anyone runs it again, and answered for those that we hold.

A question carries the ack subjects of the asker's deliveries. Whoever holds the task adopts them, so the asker is rid
of the task and its owner acknowledges every delivery in the end. Of two workers that ask about the same task at the
same time, the one whose name comes first holds it.
"""

import logging
import time
from typing import Final, Protocol

import anyio
from msgspec import Struct
from nats.aio.msg import Msg

from schemas import SchemaError, Status, Subjects, decode, encode
from schemas.subjects import is_task_id

from .connection import Connection, NoReplyError, NoRespondersError

ASK_AGAIN: Final = 0.5
"""Seconds until a question is put again: who has just come back may not have heard it."""
_OWNER_WITHIN: Final = 5.0
_OWNER_SHARE: Final = 1 / 6

logger = logging.getLogger(__name__)


def owner_within(ack_wait: float) -> float:
    """Return the seconds in which a task's owner, who may just be coming back, has to claim it."""
    return min(_OWNER_WITHIN, ack_wait * _OWNER_SHARE)


class Question(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who asks (a worker's name, none for people), and the deliveries to be adopted."""

    worker: str = ""
    deliveries: tuple[str, ...] = ()


class Holding(Struct, frozen=True, kw_only=True):
    """Who holds a task, and which run of it."""

    worker: str
    category: str
    status: Status
    attempt: int = 1
    redeliveries: int = 0

    def succeeds(self, other: "Holding") -> bool:
        """Tell whether this run took the other's place, or would, if both came about at once."""
        return (self.redeliveries, self.attempt, self.worker) > (other.redeliveries, other.attempt, other.worker)


class Holder(Protocol):
    """Knows the tasks in a worker's hands."""

    def answer(self, task_id: str, question: Question) -> Holding | None:
        """Return what we hold of a task, and adopt the deliveries; None if we do not hold it."""


class Claims:
    """Asks the workers, and answers for one."""

    def __init__(self, connection: Connection, subjects: Subjects, worker: str) -> None:
        self._connection = connection
        self._subjects = subjects
        self._worker = worker

    async def answer_for(self, holder: Holder) -> None:
        """Answer all questions from now on."""

        def answer(message: Msg) -> None:
            task_id = self._subjects.last_token(message.subject)
            if message.reply and is_task_id(task_id):
                holding = holder.answer(task_id, _read(message))
                if holding is not None:
                    self._connection.send(message.reply, encode(holding))

        await self._connection.subscribe(self._subjects.ask("*"), answer)

    async def find(self, task_id: str, *, within: float, deliveries: tuple[str, ...] = ()) -> Holding | None:
        """Return who else holds a task, or None if nobody says so within so many seconds."""
        question = encode(Question(worker=self._worker, deliveries=deliveries))
        deadline = time.monotonic() + within
        while (left := deadline - time.monotonic()) > 0:
            try:
                reply = await self._connection.request(
                    self._subjects.ask(task_id), question, patience=min(left, ASK_AGAIN)
                )
            except NoRespondersError:
                await anyio.sleep(min(left, ASK_AGAIN))
            except NoReplyError:
                continue
            else:
                return decode(Holding, reply.data)
        return None


def _read(message: Msg) -> Question:
    if not message.data:
        return Question()
    try:
        return decode(Question, message.data)
    except SchemaError as error:
        logger.debug("a question on %s is answered without its payload: %s", message.subject, error)
        return Question()
