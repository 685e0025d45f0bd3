"""Results of equal work: kept for those who ask for it again, and shared by those who ask for it at the same time.

One subject per kind of work holds either the id of the task that does it just now, or the Result. Whoever comes second
waits for the first one's Result; if that is no success, or its task is nobody's any more, the next one does the work.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable
from typing import Final

import anyio
import msgspec
from msgspec import Struct, structs

from runners.arguments import parameter_object
from runners.errors import InvalidTaskError
from schemas import Result, SchemaError, Status, Subjects, Task, decode, encode, utc_now

from .claims import Claims
from .connection import Connection, NoReplyError
from .errors import JetStreamError
from .jetstream import StoredMessage, last_message, publish, publish_once
from .request import TaskRequest
from .results import Results

TTL: Final = "Nats-TTL"
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"

_LOOK_EVERY: Final = 0.25
_ASK_EVERY: Final = 20
"""Seconds between two looks for a Result, and how many looks there are to a question who does the work."""
_ANSWER_WITHIN: Final = 1.0
_CLAIM_TTL: Final = "86400s"

logger = logging.getLogger(__name__)


class InWork(Struct, frozen=True, tag="in_work"):
    """Someone does the work just now."""

    task_id: str


class Done(Struct, frozen=True, tag="done"):
    """The work is done: the Result as it is stored."""

    result: str


Entry = InWork | Done


class Cache:
    """The work that is done, or being done, on behalf of tasks with `cache`."""

    def __init__(self, connection: Connection, subjects: Subjects, results: Results, claims: Claims) -> None:
        self._connection = connection
        self._subjects = subjects
        self._results = results
        self._claims = claims

    async def reuse(self, request: TaskRequest, go_on: Callable[[], bool]) -> Result | None:
        """Return the Result of equal work, once there is one; None if the work is this task's to do.

        Waits as long as someone else does it, and `go_on` is true.
        """
        key = key_of(request.task)
        if request.task.cache is None or key is None:
            return None
        subject = self._subjects.cache(key)
        while go_on():
            stored = await self._load(subject)
            entry = _read(stored)
            if isinstance(entry, Done) and (result := _fresh(entry, stored, request.task.cache.ttl)) is not None:
                return _reused(result, request)
            if isinstance(entry, InWork):
                if entry.task_id == request.task_id:
                    return None
                result = await self._wait(entry.task_id, go_on)
                if result is not None and result.status is Status.SUCCESS:
                    return _reused(result, request)
            if await self._claim(subject, request.task_id, after=stored.seq if stored is not None else 0):
                return None
        return None

    async def keep(self, task: Task, result: Result) -> None:
        """Keep a stored Result for whoever asks for the same work; best effort."""
        key = key_of(task)
        if task.cache is None or key is None or result.status is not Status.SUCCESS or result.cached:
            return
        payload = msgspec.json.encode(Done(encode(result).decode()))
        headers = {TTL: f"{max(1, math.ceil(task.cache.ttl))}s"}
        try:
            identity = f"cache-{result.task_id}"
            await publish(self._connection, self._subjects.cache(key), payload, message_id=identity, headers=headers)
        except (JetStreamError, ValueError) as error:
            logger.warning("the Result of task %s is not kept for others: %s", result.task_id, error)

    async def _load(self, subject: str) -> StoredMessage | None:
        while True:
            await self._connection.wait_connected()
            try:
                return await last_message(self._connection, self._subjects.cache_stream, subject)
            except JetStreamError as error:
                logger.debug("looking for equal work again: %s", error)
                await anyio.sleep(_LOOK_EVERY)

    async def _claim(self, subject: str, task_id: str, *, after: int) -> bool:
        """Say that a task does the work now, unless someone was faster."""
        headers = {EXPECTED: str(after), TTL: _CLAIM_TTL}
        try:
            await publish_once(self._connection, subject, msgspec.json.encode(InWork(task_id)), headers)
        except (JetStreamError, NoReplyError) as error:
            logger.debug("the work on %s may be someone else's: %s", subject, error)
            await anyio.sleep(_LOOK_EVERY)
            return False
        return True

    async def _wait(self, task_id: str, go_on: Callable[[], bool]) -> Result | None:
        """Return the Result of the task that does the work; None if nobody does it any more."""
        looks = 0
        while go_on():
            if (result := await self._results.load(task_id)) is not None:
                return result
            looks += 1
            if looks % _ASK_EVERY == 0 and await self._claims.find(task_id, within=_ANSWER_WITHIN) is None:
                return await self._results.load(task_id)
            await anyio.sleep(_LOOK_EVERY)
        return None


def key_of(task: Task) -> str | None:
    """Return what names a kind of work: the task's own key, or all that decides what it does; None if it is invalid."""
    if task.cache is not None and task.cache.key is not None:
        work: object = ["key", task.category, task.cache.key]
    else:
        try:
            args = parameter_object(task.args)
        except InvalidTaskError:
            return None
        stdin = hashlib.sha256(task.stdin_bytes()).hexdigest()
        work = ["work", task.category, task.command, args, task.env, task.secret_env, task.cwd, stdin]
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()


def _read(stored: StoredMessage | None) -> Entry | None:
    if stored is None:
        return None
    try:
        entry: Entry = msgspec.json.decode(stored.data, type=Entry)
    except msgspec.MsgspecError as error:
        logger.warning("what is kept on %s cannot be read: %s", stored.subject, error)
        return None
    return entry


def _fresh(entry: Done, stored: StoredMessage | None, ttl: float) -> Result | None:
    if stored is None or (utc_now() - stored.stored).total_seconds() > ttl:
        return None
    try:
        return decode(Result, entry.result.encode())
    except SchemaError as error:
        logger.warning("the Result that is kept on %s cannot be read: %s", stored.subject, error)
        return None


def _reused(result: Result, request: TaskRequest) -> Result:
    """Return someone else's Result as this task's: nothing was started for it."""
    return structs.replace(
        result,
        task_id=request.task_id,
        cached=True,
        start_time=None,
        end_time=utc_now(),
        duration=0,
        attempt=request.attempt,
        redeliveries=request.redeliveries,
        labels=request.task.labels,
        termination=None,
        degraded=False,
        first_error=None,
        trace_id=None,
    )
