"""The client: what people do with tasks from outside - submit, follow, ask, stop."""

import getpass
import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final
from uuid import uuid4

import msgspec
from msgspec import structs

from schemas import Control, Result, Subjects, Task, Verb, decode, encode

from .connection import Connection, NoReplyError
from .errors import NotFoundError
from .follow import Follower, Item
from .jetstream import last_message, publish

ANSWER_WITHIN: Final = 0.5
"""Seconds that the workers have to say that they have a task."""


def new_task_id() -> str:
    """Return a fresh id: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def whoami() -> str:
    """Return who asks, as user@host, for the receipts of stop and kill."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's arbitrary uid has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


class Client:
    """Submits tasks and follows them."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects

    async def submit(self, category: str, task: Task) -> str:
        """Publish a task and return its id, once the server has stored it.

        Raises:
            JetStreamError: the server refuses it for good.
        """
        task_id = task.id or new_task_id()
        payload = encode(structs.replace(task, id=task_id))
        await publish(self._connection, self._subjects.task(category), payload, message_id=task_id)
        return task_id

    async def result(self, task_id: str) -> Result | None:
        """Return a task's Result, or None if it has none (yet)."""
        stored = await last_message(self._connection, self._subjects.results_stream, self._subjects.result(task_id))
        return decode(Result, stored.data) if stored is not None else None

    async def wait(self, task_id: str) -> Result:
        """Return a task's Result as soon as there is one."""
        async for item in self.follow(task_id):
            if isinstance(item, Result):
                return item
        raise NotFoundError(f"the task {task_id} came to no Result")

    async def follow(self, task_id: str) -> AsyncGenerator[Item]:
        """Yield a task's events and output from the start, as they come, and its Result last."""
        async with aclosing(Follower(self._connection, self._subjects, task_id).items()) as items:
            async for item in items:
                yield item

    async def control(self, task_id: str, verb: Verb, control: Control) -> None:
        """Stop or kill a task, whether it has started or not.

        Raises:
            JetStreamError: the server refuses the control for good.
        """
        subject = self._subjects.control(task_id, verb)
        await publish(self._connection, subject, encode(control), message_id=uuid4().hex)

    async def owner(self, task_id: str) -> dict[str, Any] | None:
        """Return what the worker that has a task says of it, or None if none has it."""
        try:
            reply = await self._connection.request(self._subjects.ask(task_id), patience=ANSWER_WITHIN)
        except NoReplyError:
            return None
        answer: dict[str, Any] = msgspec.json.decode(reply.data)
        return answer
