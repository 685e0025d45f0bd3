"""What the server's scheduler keeps: tasks that are delayed, recurring, or waiting to be tried again."""

import logging
from collections.abc import Iterable
from typing import Final

from schemas import Control, Subjects, Verb

from .client import Client, check_task_id
from .connection import Connection
from .errors import JetStreamError, NotFoundError
from .jetstream import api, read_batch
from .queued import QueuedTask, read_queued

_BATCH: Final = 1000
_MAX_BYTES: Final = 16 * 2**20

logger = logging.getLogger(__name__)


class Schedules:
    """The tasks that wait for their time."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects
        self._client = Client(connection, subjects)

    async def kept(self) -> list[QueuedTask]:
        """Return all tasks that wait for their time, in the order in which they began to.

        Raises:
            JetStreamError: the server does not answer.
        """
        tasks: list[QueuedTask] = []
        following = 1
        while True:
            request = {"seq": following, "next_by_subj": self._subjects.schedule("*"), "batch": _BATCH}
            request["max_bytes"] = _MAX_BYTES
            batch = await read_batch(self._connection, self._subjects.tasks_stream, request)
            if not batch:
                return tasks
            tasks += (read_queued(message, self._subjects) for message in batch)
            following = batch[-1].seq + 1

    async def expect(self, task_ids: Iterable[str]) -> None:
        """Let tasks pass that all wait for their time.

        Raises:
            ConfigError: one of them is no id.
            NotFoundError: one of them does not wait.
        """
        for task_id in task_ids:
            check_task_id(task_id)
            if await self._client.scheduled(task_id) is None:
                raise NotFoundError(f"no task {task_id} waits for its time; removing one takes the whole id")

    async def remove(self, task_id: str, control: Control) -> None:
        """Stop a task that waits for its time, and take it out of the schedule if we may; else a worker does.

        Raises:
            ConnectError: the server has not stored the stop in time; it still may.
            JetStreamError: the server refuses it for good.
        """
        await self._client.control(task_id, Verb.STOP, control)
        body = {"filter": self._subjects.schedule(task_id)}
        try:
            await api(self._connection, f"STREAM.PURGE.{self._subjects.tasks_stream}", body)
        except JetStreamError as error:
            logger.warning("the schedule of task %s is left to a worker to remove: %s", task_id, error)
