"""Dead letters from outside: found, read, tried again as new tasks, and removed."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from schemas import ContentType, SchemaError, Subjects, Task, convert, decode, utc_now

from .backwards import Backwards
from .client import Client, check_task_id
from .connection import Connection
from .dead import ERROR_CODE, HEADERS, REASON, SUBJECT, TRUNCATED
from .errors import ConfigError, JetStreamError, NotFoundError
from .jetstream import StoredMessage, api, read_batch
from .message import header
from .queued import derived_id
from .request import ATTEMPT, REDELIVERIES, TASK_ID

RETRY_OF: Final = "retry_of"
"""The label that names the task that a new one tries again."""

_KEPT: Final = ("Content-Type", "Reply-To", "traceparent", "tracestate", "baggage")
_WINDOW: Final = 100
_WIDEST: Final = 2000
_MAX_NAMED: Final = 5


class Letter(Struct, frozen=True, kw_only=True):
    """What is said of a task that was given up. `time` is when, `size` the bytes of the task that are kept.

    `truncated` is the bytes that the task had, if not all of them are kept.
    """

    task_id: str
    category: str
    error_code: str
    reason: str
    time: datetime
    attempt: int
    redeliveries: int
    subject: str
    seq: int
    size: int
    truncated: int | None = None


class OpenLetter(Struct, frozen=True, kw_only=True):
    """A letter, and the task's own message."""

    letter: Letter
    headers: Mapping[str, str]
    payload: bytes

    @property
    def fields(self) -> dict[str, Any] | None:
        """The task's fields; None if they cannot be read."""
        try:
            return decode(dict[str, Any], self.payload, self.content_type)
        except SchemaError:
            return None

    @property
    def content_type(self) -> ContentType:
        """The task's form, which its answer has, too."""
        try:
            return ContentType.parse(header(self.headers, "Content-Type"))
        except SchemaError:  # which may be why it is here
            return ContentType.JSON


class WantedLetters(Struct, frozen=True, kw_only=True):
    """Which letters: of a category, with an error code, given up since a moment."""

    category: str | None = None
    error_code: str | None = None
    since: datetime | None = None


class Letters:
    """The tasks that were given up."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects
        self._client = Client(connection, subjects)

    async def newest(self, wanted: WantedLetters | None = None) -> AsyncGenerator[Letter]:
        """Yield the letters that are there now, newest first; few of them are in memory at a time.

        Raises:
            JetStreamError: the server does not answer.
        """
        wanted = wanted or WantedLetters()
        letters = Backwards(
            self._connection,
            self._subjects.dead_stream,
            self._subjects.dead(wanted.category or "*"),
            self._read,
            window=_WINDOW,
            widest=_WIDEST,
        )
        while not letters.is_exhausted:
            for letter in reversed(await letters.earlier()):
                if wanted.since is not None and letter.time < wanted.since:
                    return
                if wanted.error_code in {None, letter.error_code}:
                    yield letter

    async def find(self, names: Sequence[str]) -> list[Letter]:
        """Return the newest letter of each task that is named: by its id, or by the beginning of its alone.

        Raises:
            ConfigError: a name is no id, or several ids begin with it.
            NotFoundError: there is no such letter.
        """
        for name in names:
            check_task_id(name)
        exact: dict[str, Letter] = {}
        alike: dict[str, dict[str, Letter]] = {name: {} for name in names}
        async with aclosing(self.newest()) as letters:
            async for letter in letters:
                for name in names:
                    if letter.task_id == name:
                        exact.setdefault(name, letter)
                    elif letter.task_id.startswith(name):
                        alike[name].setdefault(letter.task_id, letter)
                if len(exact) == len(alike):
                    break
        return [exact.get(name) or _only(name, alike[name]) for name in names]

    async def of(self, task_ids: Iterable[str]) -> list[Letter]:
        """Return all letters of some tasks, given by their whole ids.

        Raises:
            ConfigError: one of them is no id.
            NotFoundError: one of them has no letter.
        """
        asked = set(task_ids)
        for task_id in asked:
            check_task_id(task_id)
        async with aclosing(self.newest()) as letters:
            found = [letter async for letter in letters if letter.task_id in asked]
        if missing := asked - {letter.task_id for letter in found}:
            raise NotFoundError(f"there is no dead letter of a task {min(missing)}; removing one takes the whole id")
        return found

    async def open(self, seq: int) -> OpenLetter:
        """Return the letter at a place in the stream.

        Raises:
            NotFoundError: it has gone.
        """
        message = await self._stored(seq)
        if message is None:
            raise NotFoundError("the dead letter has just gone")
        return OpenLetter(letter=self._read(message), headers=_original_headers(message), payload=message.data)

    async def retry(self, opened: OpenLetter, fields: Mapping[str, Any]) -> str:
        """Publish a task again as a new one, as `fields` describe it, and return the new id.

        It has all attempts and redeliveries before it. It answers to where the first one did and is part of its trace.

        Raises:
            ConfigError: the fields describe no task, or one that would not start.
            ConnectError: the server has not stored it in time; it still may.
            JetStreamError: the server refuses it for good.
        """
        letter, headers = opened.letter, opened.headers
        category, task = _task_again(letter, fields)
        kept = {name: value for name in _KEPT if (value := header(headers, name)) is not None}
        if reply_to := header(headers, "Reply-To", "reply_to"):
            kept["Reply-To"] = reply_to
        kept["Content-Type"] = opened.content_type
        return await self._client.submit(category, task, kept)

    async def remove(self, seq: int) -> None:
        """Remove the letter at a place in the stream, if it is there.

        Raises:
            JetStreamError: the server refuses.
        """
        try:
            await api(self._connection, f"STREAM.MSG.DELETE.{self._subjects.dead_stream}", {"seq": seq})
        except JetStreamError:  # it has many ways to say that there is no such message
            if await self._stored(seq) is not None:
                raise

    async def purge(self, category: str | None, *, through: int) -> int:
        """Remove all letters, or all of a category, up to a place in the stream; return how many there were.

        Raises:
            JetStreamError: the server refuses.
        """
        body = {"filter": self._subjects.dead(category or "*"), "seq": through + 1}
        answer = await api(self._connection, f"STREAM.PURGE.{self._subjects.dead_stream}", body, patience=60)
        return int(answer["purged"])

    async def _stored(self, seq: int) -> StoredMessage | None:
        request = {"seq": seq, "next_by_subj": self._subjects.dead("*"), "batch": 1}
        batch = await read_batch(self._connection, self._subjects.dead_stream, request)
        return next((message for message in batch if message.seq == seq), None)

    def _read(self, message: StoredMessage) -> Letter:
        headers = message.headers
        return Letter(
            task_id=header(headers, TASK_ID) or derived_id(message),
            category=self._subjects.last_token(message.subject),
            error_code=header(headers, ERROR_CODE) or "",
            reason=header(headers, REASON) or "",
            time=message.stored,
            attempt=_number(header(headers, ATTEMPT), 1),
            redeliveries=_number(header(headers, REDELIVERIES), 0),
            subject=header(headers, SUBJECT) or "",
            seq=message.seq,
            size=len(message.data),
            truncated=_number(header(headers, TRUNCATED), 0) or None,
        )


def _only(name: str, alike: Mapping[str, Letter]) -> Letter:
    if not alike:
        raise NotFoundError(f"there is no dead letter of a task {name}")
    if len(alike) > 1:
        named = ", ".join(sorted(alike)[:_MAX_NAMED]) + (", …" if len(alike) > _MAX_NAMED else "")
        raise ConfigError(f"{len(alike)} dead letters have an id that begins with {name}: {named}")
    return next(iter(alike.values()))


def _task_again(letter: Letter, fields: Mapping[str, Any]) -> tuple[str, Task]:
    """Return the category and the task that a new try is made of."""
    try:
        task = convert({**fields, "id": None}, Task)
    except SchemaError as error:
        raise ConfigError(f"the task {letter.task_id} cannot be retried as it is: {error}") from None
    if task.expires is not None and task.expires.moment(utc_now()) <= utc_now():
        raise ConfigError(f"the task {letter.task_id} would not start: it expired {task.expires.to_wire()}")
    labels = {**task.labels, RETRY_OF: letter.task_id}
    return task.category or letter.category, structs.replace(task, labels=labels)


def _original_headers(message: StoredMessage) -> dict[str, str]:
    try:
        return msgspec.json.decode(header(message.headers, HEADERS) or "{}", type=dict[str, str])
    except (msgspec.DecodeError, UnicodeError):  # whoever wrote this letter, it was not us
        return {}


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else default
