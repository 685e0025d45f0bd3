"""Requests to JetStream: its API, and messages that are stored for sure.

Follows ADR-1 (API), ADR-7 (error codes), ADR-22 (retried publishing) and ADR-31 (direct get).
"""

import asyncio
import base64
import logging
import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from .connection import Connection, NoReplyError, NoRespondersError
from .errors import JetStreamError
from .wire import Headers

ELECTION: Final = 30.0
"""Seconds that a cluster has to agree on a leader: several times what it needs."""
NOT_FOUND: Final = 404
TIMED_OUT: Final = 408
UNAVAILABLE: Final = 503
MESSAGES_PER_SUBJECT_EXCEEDED: Final = 10077
"""The server's code for "a message for this subject is stored already", and for a full store."""

_NO_LEADER: Final = 10008
_ELECTION_PAUSE: Final = 0.25
_LED_PATIENCE: Final = 2.0
_NO_MESSAGE: Final = 10037
_END_OF_BATCH: Final = "204"
_BATCH_PATIENCE: Final = 5.0
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_PUBLISH_PATIENCE: Final = 5.0
TEMPORARY: Final = frozenset({TIMED_OUT, 429, UNAVAILABLE})
"""Statuses after which another try may succeed."""
_FINAL_CODES: Final = frozenset({MESSAGES_PER_SUBJECT_EXCEEDED})

_FRACTION: Final = re.compile(r"\.([0-9]{1,9})")

logger = logging.getLogger(__name__)


class PubAck(Struct, frozen=True):
    """The server's word that a message is stored."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False


class StoredMessage(Struct, frozen=True):
    """A message read back from a stream."""

    subject: str
    seq: int
    data: bytes
    headers: dict[str, str] = {}

    @property
    def stored(self) -> datetime:
        """When it was stored, to the microsecond."""
        return datetime.fromisoformat(self.headers["Nats-Time-Stamp"]).astimezone(UTC)

    @property
    def nanoseconds(self) -> int:
        """When it was stored, since the Unix epoch."""
        fraction = _FRACTION.search(self.headers["Nats-Time-Stamp"])
        whole = self.stored.replace(microsecond=0)
        return int(whole.timestamp()) * 1_000_000_000 + int((fraction[1] if fraction else "0").ljust(9, "0"))


async def api(connection: Connection, operation: str, body: object = None, *, patience: float = 5.0) -> dict[str, Any]:
    """Call the JetStream API.

    Raises:
        JetStreamError: the server says no, or does not answer.
    """
    payload = b"" if body is None else msgspec.json.encode(body)
    try:
        reply = await connection.request(f"$JS.API.{operation}", payload, patience=patience)
    except NoReplyError as error:
        raise _unanswered(error, f"JetStream does not answer {operation}") from None
    answer: dict[str, Any] = msgspec.json.decode(reply.data)
    _raise_error(answer.get("error"))
    return answer


async def api_once_led(connection: Connection, operation: str, body: object = None) -> dict[str, Any]:
    """Call the JetStream API, again and again while the cluster is choosing a leader: that takes some seconds.

    What is called must be harmless if it is done twice: nobody answers what was asked while there was no leader.

    Raises:
        JetStreamError: the server says no, or there was no leader for `ELECTION` seconds.
    """
    deadline = anyio.current_time() + ELECTION
    while True:
        try:
            return await api(connection, operation, body, patience=_LED_PATIENCE)
        except JetStreamError as error:
            is_leaderless = error.err_code == _NO_LEADER or error.status == TIMED_OUT
            if not is_leaderless or anyio.current_time() > deadline:
                raise
            logger.warning("the cluster has no leader just now; asking again: %s", error.description)
        await anyio.sleep(_ELECTION_PAUSE)


async def publish(
    connection: Connection, subject: str, payload: bytes, *, message_id: str, headers: Headers | None = None
) -> PubAck:
    """Publish until the server has stored the message, once: every try carries the same `Nats-Msg-Id`.

    Raises:
        JetStreamError: the server refuses the message for good.
    """
    headers = {**(headers or {}), "Nats-Msg-Id": message_id}
    pause = _FIRST_PAUSE
    while True:
        await connection.wait_connected()
        try:
            return await publish_once(connection, subject, payload, headers)
        except NoReplyError as error:
            logger.debug("publishing on %s again: %s", subject, error)
        except JetStreamError as error:
            if error.err_code in _FINAL_CODES or error.status not in TEMPORARY:
                raise
            logger.debug("publishing on %s again: %s", subject, error)
        await anyio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads retries, guards nothing
        pause = min(2 * pause, _LONGEST_PAUSE)


async def publish_once(connection: Connection, subject: str, payload: bytes, headers: Headers) -> PubAck:
    """Publish and wait for the server's word.

    Raises:
        NoReplyError: it did not come; the message may be stored all the same.
        JetStreamError: the server refuses the message.
    """
    reply = await connection.request(subject, payload, headers=headers, patience=_PUBLISH_PATIENCE)
    answer = _ACK_DECODER.decode(reply.data)
    if answer.error is not None:
        _raise_error(answer.error)
    return PubAck(answer.stream, answer.seq, answer.duplicate)


async def last_message(connection: Connection, stream: str, subject: str) -> StoredMessage | None:
    """Return the last message on a subject, or None, by direct get (ADR-31).

    Raises:
        JetStreamError: the server does not answer.
    """
    try:
        reply = await connection.request(f"$JS.API.DIRECT.GET.{stream}.{subject}")
    except NoReplyError as error:
        raise _unanswered(error, f"the stream {stream} does not answer") from None
    headers = dict(reply.headers or {})
    status = headers.get("Status")
    if status == str(NOT_FOUND):
        return None
    if status is not None:
        raise JetStreamError(int(status), 0, headers.get("Description", "direct get failed"))
    return StoredMessage(
        headers.get("Nats-Subject", subject), int(headers.get("Nats-Sequence", 0)), reply.data, headers
    )


async def last_message_for_sure(connection: Connection, stream: str, subject: str) -> StoredMessage | None:
    """Return the last message on a subject, or None, from the stream's leader: a follower may not have it yet.

    Raises:
        JetStreamError: the server does not answer.
    """
    try:
        answer = await api(connection, f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    except JetStreamError as error:
        if error.status == NOT_FOUND and error.err_code == _NO_MESSAGE:
            return None
        raise
    message = answer["message"]
    return StoredMessage(message["subject"], message["seq"], base64.b64decode(message.get("data", "")))


async def read_batch(connection: Connection, stream: str, request: Mapping[str, Any]) -> list[StoredMessage]:
    """Return stored messages, in the stream's order, by batched direct get (ADR-31).

    Consumers do not notice, which is the only way to look into a work queue. `request` is the server's own, such as
    `{"seq": 1, "next_by_subj": "a.*", "batch": 100}` or `{"multi_last": ["a.1", "a.2"]}` (1024 subjects at most).

    Raises:
        JetStreamError: the server refuses, or does not answer.
    """
    replies: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = connection.new_inbox()
    subscription = await connection.subscribe_once(inbox, replies.put_nowait)
    messages: list[StoredMessage] = []
    try:
        connection.send(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(request), reply=inbox)
        with anyio.fail_after(_BATCH_PATIENCE) as patience:
            while (message := _stored(await replies.get())) is not None:
                messages.append(message)
                patience.deadline = anyio.current_time() + _BATCH_PATIENCE
    except TimeoutError:
        raise JetStreamError(TIMED_OUT, 0, f"the stream {stream} does not answer") from None
    finally:
        await connection.unsubscribe(subscription)
    return messages


async def stored_subjects(connection: Connection, stream: str, pattern: str, *, limit: int) -> list[str] | None:
    """Return the subjects of a stream that match a pattern, or None if there are more than `limit`.

    Raises:
        JetStreamError: the server refuses, or does not answer.
    """
    found: list[str] = []
    while True:
        body = {"subjects_filter": pattern, "offset": len(found)}
        info = await api(connection, f"STREAM.INFO.{stream}", body)
        page = info["state"].get("subjects") or {}
        found += page
        if info.get("total", 0) > limit:
            return None
        if not page or len(found) >= info.get("total", 0):
            return found


def _stored(reply: Msg) -> StoredMessage | None:
    """Read one answer to a batched direct get; None at its end."""
    headers = dict(reply.headers or {})
    if "Nats-Sequence" in headers:
        return StoredMessage(headers["Nats-Subject"], int(headers["Nats-Sequence"]), reply.data, headers)
    status = headers.get("Status", "")
    if status not in {_END_OF_BATCH, str(NOT_FOUND)}:
        description = headers.get("Description") or "direct get is not answered"
        raise JetStreamError(int(status or UNAVAILABLE), 0, description)
    return None


class _Ack(Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: dict[str, Any] | None = None


_ACK_DECODER: Final = msgspec.json.Decoder(_Ack)


def _unanswered(error: NoReplyError, what: str) -> JetStreamError:
    status = UNAVAILABLE if isinstance(error, NoRespondersError) else TIMED_OUT
    return JetStreamError(status, 0, f"{what}: {error}")


def _raise_error(error: dict[str, Any] | None) -> None:
    if error:
        raise JetStreamError(
            error.get("code", 500), error.get("err_code", 0), error.get("description", "no reason given")
        )
