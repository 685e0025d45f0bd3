"""nats-py's client, made to survive messages that it cannot read: anyone may publish one where we listen.

Its read loop ends for good at headers without their first line, or a subject that is not UTF-8, and leaves a connection
that looks alive. JetStream would deliver such a message again and again, to every worker.

It ends, too, when the answer to a flush comes after the flush has given up; and its flush overtakes what is to be sent.

It also sends a login in the clear where TLS was asked for but the server offers none, and may miss why it is refused.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

import nats.errors
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport

_FLUSH_TIMEOUT: Final = 10

logger = logging.getLogger(__name__)


class SturdyClient(Client):
    """Takes a message with unreadable headers as one without, and replaces what is not UTF-8 in subjects.

    Asked for TLS, by a URL with tls:// or by a certificate, it has TLS or no connection.
    """

    async def _connect_to_server(self, s: Srv) -> None:
        if self._transport is None and s.uri.scheme in {"nats", "tls"}:
            self._transport = _Transport()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002
        if initial_connection and self._wants_tls():
            if not (info.get("tls_required") or info.get("tls_available")):
                raise nats.errors.Error("the server does not offer TLS")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    def _wants_tls(self) -> bool:
        if self.options["tls_handshake_first"] or self._current_server is None:
            return False  # it is there already, whatever the server says
        scheme = self._current_server.uri.scheme
        return scheme == "tls" or (scheme == "nats" and "tls" in self.options)

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except Exception as error:  # noqa: BLE001 - whatever it is, the read loop must go on
            logger.warning("the headers of a message cannot be read: %s", error)
            return None

    async def publish_all(self, messages: Sequence[bytes]) -> None:
        """Publish messages that are encoded already (wire.py), as one piece.

        Raises:
            nats.errors.Error: the connection is closed, or away and the buffer full.
        """
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if self.is_draining_pubs:
            raise nats.errors.ConnectionDrainingError
        data = b"".join(messages)
        if not self.is_connected and len(data) + self._pending_data_size > self._max_pending_size:
            raise nats.errors.OutboundBufferLimitError
        self.stats["out_msgs"] += len(messages)
        self.stats["out_bytes"] += len(data)
        await self._send_command(data)
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def flush(self, timeout: int = _FLUSH_TIMEOUT) -> None:  # noqa: ASYNC109 - it is nats-py's
        """Return when the server has dealt with all that was sent before."""
        await self._flush_pending(force_flush=True)
        await super().flush(timeout)

    async def _process_pong(self) -> None:
        try:
            await super()._process_pong()
        except asyncio.InvalidStateError:  # it answers a flush that has given up
            self._pings_outstanding = 0

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        try:
            message: Msg = super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            message = super()._build_message(sid, _readable(subject), _readable(reply), data, headers)
        return message


class _Transport(TcpTransport):
    """Sends CONNECT and PING at once: a server that refuses CONNECT resets a connection on which more comes."""

    _held = b""

    def __bool__(self) -> bool:
        return True  # else the client would replace it before it has connected

    def write(self, payload: bytes) -> None:
        if payload.startswith(b"CONNECT "):
            self._held = payload
            return
        held, self._held = self._held, b""
        super().write(held + payload)  # type: ignore[no-untyped-call]


def _readable(subject: bytes) -> bytes:
    return subject.decode(errors="replace").encode()
