"""The client: what people do with tasks from outside - submit, follow, find, ask, stop."""

import asyncio
import getpass
import logging
import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final
from uuid import uuid4

import anyio
import msgspec
from msgspec import structs
from nats.aio.msg import Msg

from schemas import (
    ContentType,
    Control,
    Event,
    Result,
    SchemaError,
    Subjects,
    Task,
    Verb,
    decode,
    encode,
)
from schemas.subjects import is_task_id

from .connection import Connection, NoReplyError, NoRespondersError
from .errors import ConfigError, ConnectError, JetStreamError, NotFoundError, TopologyError
from .follow import Follower, Item
from .groups import collapsed
from .jetstream import (
    NOT_FOUND,
    UNAVAILABLE,
    PubAck,
    StoredMessage,
    api,
    last_message,
    publish,
    publish_once,
    read_batch,
    stored_subjects,
)
from .message import header
from .queued import QueuedTask, read_queued
from .tail import Tail
from .telemetry import SILENT, Publication, Telemetry
from .trace import Trace, trace_id_of, without_trace
from .wire import Headers, message_size

ANSWER_WITHIN: Final = 0.5
"""Seconds that the workers have to say that they have a task."""
STORE_WITHIN: Final = 30.0
"""Seconds that the server has to store what we publish."""
MAX_QUEUE: Final = 10_000
"""Tasks of the queue that are looked at, the newest."""
MAX_SEARCHED: Final = 300_000
"""Subjects of a stream that an abbreviated id is searched among."""

_MAX_EVENTS: Final = 1000
_MAX_NAMED: Final = 5
_BATCH: Final = 1000
_MAX_BATCH: Final = 16 * 2**20

logger = logging.getLogger(__name__)


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
    """Submits tasks, follows them and finds them again."""

    def __init__(self, connection: Connection, subjects: Subjects, telemetry: Telemetry = SILENT) -> None:
        self.trace_id: str | None = None
        """The trace of the task submitted last."""
        self._connection = connection
        self._subjects = subjects
        self._telemetry = telemetry

    async def submit(
        self, category: str, task: Task, headers: Headers | None = None, *, after: Headers | None = None
    ) -> str:
        """Publish a task and return its id, once the server has stored it; `headers` say in which form, too.

        `after` are the headers of a message that this one follows from, such as a dead letter: its trace is linked.

        Raises:
            SchemaError: the headers name a form that there is not.
            ConfigError: the task is larger than the server takes.
            TopologyError: there is no stream for tasks.
            ConnectError: the server has not stored it in time; it still may.
            JetStreamError: the server refuses it for good.
        """
        task_id = task.id or new_task_id()
        payload = encode(structs.replace(task, id=task_id), ContentType.parse(header(headers, "Content-Type")))
        check_size(self._connection, payload, {**(headers or {}), "Nats-Msg-Id": task_id})
        await self.store(category, task_id, payload, headers, after=after)
        return task_id

    async def store(
        self,
        category: str,
        task_id: str,
        payload: bytes,
        headers: Headers | None = None,
        *,
        after: Headers | None = None,
    ) -> bool:
        """Publish a task that is encoded and has been checked; tell whether it was stored now, and not minutes ago.

        Its trace goes with it if there is room for that.

        Raises:
            TopologyError: there is no stream for tasks.
            ConnectError: the server has not stored it in time; it still may.
            JetStreamError: the server refuses it for good.
        """
        subject, given = self._subjects.task(category), {**(headers or {}), "Nats-Msg-Id": task_id}
        publication = Publication(
            template=subject, task_id=task_id, trace=Trace.read(given), cause=Trace.read(after or {})
        )
        with self._telemetry.publishing(publication) as carrier:
            traced = {**without_trace(given), **carrier} if carrier else given
            fits = message_size(payload, traced) <= self._connection.max_payload
            self.trace_id = trace_id_of(carrier) if fits else publication.trace.trace_id
            ack = await self._store(subject, payload, traced if fits else given, f"the task {task_id}")
        return not ack.duplicate

    async def control(self, task_id: str, verb: Verb, control: Control) -> None:
        """Stop or kill a task, whether it has started or not.

        Raises:
            TopologyError: there is no stream for controls.
            ConnectError: the server has not stored it in time; it still may.
            JetStreamError: the server refuses the control for good.
        """
        publication = Publication(template=self._subjects.control("*", verb), task_id=task_id)
        with self._telemetry.publishing(publication) as carrier:
            headers = {**carrier, "Nats-Msg-Id": uuid4().hex}
            await self._store(self._subjects.control(task_id, verb), encode(control), headers, f"the {verb}")

    async def check(self) -> None:
        """Let the streams be there, or not.

        Raises:
            TopologyError: they are not.
        """
        stream = self._subjects.tasks_stream
        try:
            await api(self._connection, f"STREAM.INFO.{stream}")
        except JetStreamError as error:
            if error.status == NOT_FOUND:
                raise TopologyError(f"the stream {stream} does not exist; make it with: jetrunner init") from None
            if error.status == UNAVAILABLE and not error.err_code:
                raise TopologyError(f"the server {self._connection.server} offers no JetStream") from None
            raise

    async def result(self, task_id: str) -> Result | None:
        """Return a task's Result, or None if it has none (yet)."""
        stored = await last_message(self._connection, self._subjects.results_stream, self._subjects.result(task_id))
        return decode(Result, stored.data) if stored is not None else None

    async def wait(self, task_id: str) -> Result:
        """Return a task's Result as soon as there is one."""
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        stream, subject = self._subjects.results_stream, self._subjects.result(task_id)
        tail = Tail(self._connection, stream, [subject], arrived.put_nowait)
        with collapsed():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tail.run)
                message = await arrived.get()
                tasks.cancel_scope.cancel()
        return decode(Result, message.data)

    async def follow(self, task_id: str) -> AsyncGenerator[Item]:
        """Yield a task's events and output from the start, as they come, and its Result last."""
        async with aclosing(Follower(self._connection, self._subjects, task_id).items()) as items:
            async for item in items:
                yield item

    async def owner(self, task_id: str) -> dict[str, Any] | None:
        """Return what the worker that has a task says of it, or None if none has it."""
        try:
            reply = await self._connection.request(self._subjects.ask(task_id), patience=ANSWER_WITHIN)
        except NoReplyError:
            return None
        answer: dict[str, Any] = msgspec.json.decode(reply.data)
        return answer

    async def history(self, task_id: str) -> list[Event]:
        """Return a task's events so far, in order; of very many the first."""
        request = {"seq": 1, "next_by_subj": self._subjects.event(task_id, "*"), "batch": _MAX_EVENTS}
        messages = await read_batch(self._connection, self._subjects.events_stream, request)
        return [event for message in messages if (event := read_event(message)) is not None]

    async def queue(self, *, most: int = MAX_QUEUE) -> list[QueuedTask]:
        """Return the tasks that are not done with, in the order they were stored; of more than `most` the newest.

        Raises:
            JetStreamError: the server does not answer.
        """
        stream = self._subjects.tasks_stream
        state = (await api(self._connection, f"STREAM.INFO.{stream}"))["state"]
        first, last = int(state["first_seq"]), int(state["last_seq"])
        if int(state["messages"]) > most:
            first = max(first, last - most + 1)
        tasks: list[QueuedTask] = []
        while len(tasks) < most:
            request = {"seq": max(first, 1), "batch": _BATCH, "max_bytes": _MAX_BATCH}
            batch = await read_batch(self._connection, stream, request)
            if not batch:
                break
            tasks += (read_queued(message, self._subjects) for message in batch)
            first = batch[-1].seq + 1
        return tasks

    async def scheduled(self, task_id: str) -> QueuedTask | None:
        """Return a task that waits for its time, or None if none of this id does.

        Raises:
            JetStreamError: the server does not answer.
        """
        subject = self._subjects.schedule(task_id)
        message = await last_message(self._connection, self._subjects.tasks_stream, subject)
        return read_queued(message, self._subjects) if message is not None else None

    async def find(self, name: str) -> str:
        """Return the id of the task that has it, or whose id alone begins with it.

        Raises:
            ConfigError: it is no id, or several begin with it.
            NotFoundError: there is no such task.
        """
        check_task_id(name)
        if await self._has_left_traces(name):
            return name
        queued = {task.task_id for task in await self.queue()}
        if name in queued:
            return name
        found = sorted({task_id for task_id in queued | await self._recorded() if task_id.startswith(name)})
        if not found:
            raise NotFoundError(f"there is no task {name}")
        if len(found) > 1:
            named = ", ".join(found[:_MAX_NAMED]) + (", …" if len(found) > _MAX_NAMED else "")
            raise ConfigError(f"{len(found)} tasks have an id that begins with {name}: {named}")
        return found[0]

    async def may_have(self, task_id: str) -> bool:
        """Tell whether there may be a task of this id: a queue longer than we look is no proof that there is not."""
        if await self._has_left_traces(task_id):
            return True
        queue = await self.queue()
        return len(queue) >= MAX_QUEUE or any(task.task_id == task_id for task in queue)

    async def _store(self, subject: str, payload: bytes, headers: Headers, what: str) -> PubAck:
        with anyio.move_on_after(STORE_WITHIN):
            try:
                return await publish_once(self._connection, subject, payload, headers)
            except NoRespondersError:
                await self.check()
            except (NoReplyError, JetStreamError) as error:
                logger.debug("%s is sent again: %s", what, error)
            message_id = headers["Nats-Msg-Id"]
            return await publish(self._connection, subject, payload, message_id=message_id, headers=headers)
        raise ConnectError(f"the server has not stored {what} within {STORE_WITHIN:g} s, though it still may")

    async def _has_left_traces(self, task_id: str) -> bool:
        if await self.result(task_id) is not None:
            return True
        request = {"seq": 1, "next_by_subj": self._subjects.event(task_id, "*"), "batch": 1}
        return bool(await read_batch(self._connection, self._subjects.events_stream, request))

    async def _recorded(self) -> set[str]:
        """Return the ids of all tasks that a worker has had, or that have ended."""
        recorded: set[str] = set()
        for stream, pattern, place in (
            (self._subjects.results_stream, self._subjects.result("*"), -1),
            (self._subjects.events_stream, self._subjects.event("*", "received"), -2),
        ):
            subjects = await stored_subjects(self._connection, stream, pattern, limit=MAX_SEARCHED)
            if subjects is None:
                raise ConfigError("there are too many tasks to find one by the beginning of its id: give the whole id")
            recorded.update(subject.split(".")[place] for subject in subjects)
        return recorded


def check_size(connection: Connection, payload: bytes, headers: Headers) -> None:
    """Let a task's message pass, or not.

    Raises:
        ConfigError: it is larger than the server takes.
    """
    if (size := message_size(payload, headers)) > connection.max_payload:
        raise ConfigError(f"the task has {size} bytes, but the server takes {connection.max_payload} at most")


def check_task_id(text: str) -> None:
    """Let a task's id pass, or not.

    Raises:
        ConfigError: no task can have it.
    """
    if not is_task_id(text):
        raise ConfigError(f"{text[:100]!r} is not a task's id: 1 to 64 characters of A-Z a-z 0-9 _ -")


def read_event(message: StoredMessage) -> Event | None:
    """Read an event; None if it is none that we know."""
    try:
        event = decode(Event, message.data)
    except SchemaError:
        return None
    return event if event.time.tzinfo is not None else None
