"""Requests to JetStream: its API, and messages that are stored for sure.

Follows ADR-1 (API), ADR-7 (error codes) and ADR-22 (retried publishing).
"""

import logging
import random
from typing import Any, Final

import anyio
import msgspec
from msgspec import Struct

from .connection import Connection, Headers, NoReplyError, NoRespondersError
from .errors import JetStreamError

NOT_FOUND: Final = 404
TIMED_OUT: Final = 408
UNAVAILABLE: Final = 503
MESSAGES_PER_SUBJECT_EXCEEDED: Final = 10077
"""The server's code for "a message for this subject is stored already", and for a full store."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_PUBLISH_PATIENCE: Final = 5.0
_TEMPORARY: Final = frozenset({TIMED_OUT, 429, UNAVAILABLE})
_FINAL_CODES: Final = frozenset({MESSAGES_PER_SUBJECT_EXCEEDED})

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
            if error.err_code in _FINAL_CODES or error.status not in _TEMPORARY:
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
