"""One connection to NATS: sending that never blocks, requests of our own, and a client that is rebuilt if it closes.

nats-py must never be cancelled inside: a cancelled flush kills its read loop, a cancelled close leaks its socket. So
only tasks of this module call it, and those are shielded. Everyone else calls `send`, which is not even a coroutine,
and waits on futures of our own.
"""

import asyncio
import itertools
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import anyio
import nats.errors
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from .errors import ConnectError
from .groups import collapsed
from .sturdy import SturdyClient
from .wire import Headers, message_size, publication

Callback = Callable[[Msg], None]
"""Takes one message; must neither block nor raise: an exception would end nats-py's read loop."""

MAX_QUEUED: Final = 16 * 2**20
"""Bytes that may wait for the client; what comes on top is dropped, and sent again by whoever needs an answer."""
NO_RESPONDERS: Final = "503"

_REBUILD_PAUSE: Final = 0.5
_CLOSE_TIMEOUT: Final = 5.0
_CLIENT_OPTIONS: Final[dict[str, Any]] = {
    "connect_timeout": 2,
    "reconnect_time_wait": 0.25,
    "max_reconnect_attempts": 1,  # for the first connection; endless once it stands
    "ping_interval": 10,
    "max_outstanding_pings": 2,
    "flush_timeout": 10,
}
_NO_LIMITS: Final[dict[str, Any]] = {"pending_msgs_limit": 0, "pending_bytes_limit": 0}

T = TypeVar("T")

logger = logging.getLogger(__name__)


class ConnectOptions(Struct, frozen=True, kw_only=True):
    """Where and as whom to connect; `credentials` are nats-py's own keyword arguments."""

    servers: tuple[str, ...]
    name: str = "jetrunner"
    timeout: float = 5.0
    credentials: dict[str, Any] = {}


class NoReplyError(Exception):
    """A request was not answered in time."""


class NoRespondersError(NoReplyError):
    """Nobody is there to answer a request."""


class Connection:
    """A connection that outlives its client. Made by `connect`."""

    def __init__(self, options: ConnectOptions) -> None:
        self._options = options
        self._client = SturdyClient()
        self._loop = asyncio.get_running_loop()
        self._queue: list[bytes] = []
        self._queued = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._connected = asyncio.Event()
        self._closed = asyncio.Event()
        self._closing = False
        self._attachments: list[Callable[[Client], Awaitable[None]]] = []
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._tokens = itertools.count(1)
        self._inbox = ""
        self._last_error = ""
        self.reconnected: list[Callable[[], None]] = []
        """Called after each reconnection; must neither block nor raise."""

    @property
    def is_connected(self) -> bool:
        """Whether the server can be reached, as far as the client knows."""
        return bool(self._client.is_connected)

    @property
    def max_payload(self) -> int:
        """Bytes that the server lets a message have, its headers included."""
        return int(self._client.max_payload)

    @property
    def server(self) -> str:
        """The server we are connected to, without credentials."""
        url = self._client.connected_url
        return url.netloc.rpartition("@")[2] if url is not None else ""

    @property
    def server_version(self) -> tuple[int, int]:
        """Major and minor version of the server."""
        version = self._client.connected_server_version
        return version.major, version.minor

    def new_inbox(self) -> str:
        """Return a subject of our own for replies."""
        return str(self._client.new_inbox())

    def send(self, subject: str, payload: bytes = b"", *, reply: str = "", headers: Headers | None = None) -> None:
        """Hand a message to the client, in order, best effort.

        Raises:
            ValueError: it is larger than the server takes: sent, it would cost us the connection.
        """
        message = publication(subject, payload, reply, headers)
        if len(message) > self.max_payload and (size := message_size(payload, headers)) > self.max_payload:
            raise ValueError(f"a message of {size} bytes on {subject} is over the server's {self.max_payload}")
        if self._queued + len(message) > MAX_QUEUED:
            logger.warning("the queue to the server is full: a message on %s is dropped", subject)
            return
        self._queue.append(message)
        self._queued += len(message)
        self._wake.set()

    async def request(
        self, subject: str, payload: bytes = b"", *, headers: Headers | None = None, patience: float = 5.0
    ) -> Msg:
        """Send a message and wait for one reply.

        Raises:
            NoReplyError: none came within `patience` seconds, or before the connection was lost.
            NoRespondersError: nobody listens.
        """
        token = str(next(self._tokens))
        future: asyncio.Future[Msg] = self._loop.create_future()
        self._waiting[token] = future
        timer = self._loop.call_later(patience, _expire, future)
        try:
            self.send(subject, payload, reply=self._inbox + token, headers=headers)
            message = await future
        finally:
            timer.cancel()
            del self._waiting[token]
        if message.headers and message.headers.get("Status") == NO_RESPONDERS and not message.data:
            raise NoRespondersError(f"nobody answers on {subject}")
        return message

    async def attach(self, attachment: Callable[[Client], Awaitable[None]]) -> None:
        """Call `attachment` with the client now, and with each client that replaces it."""
        self._attachments.append(attachment)
        await _uncancelled(attachment(self._client))

    async def subscribe(self, subject: str, callback: Callback, *, queue: str = "") -> None:
        """Subscribe for the life of the connection."""

        async def attachment(client: Client) -> None:
            await client.subscribe(subject, queue=queue, cb=_guarded(callback), **_NO_LIMITS)

        await self.attach(attachment)

    async def subscribe_once(self, subject: str, callback: Callback) -> Subscription:
        """Subscribe with this client only: the subscription ends with it."""
        return await _uncancelled(self._client.subscribe(subject, cb=_guarded(callback), **_NO_LIMITS))

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End what `subscribe_once` began."""

        async def unsubscribe() -> None:
            try:
                await subscription.unsubscribe()
            except nats.errors.Error as error:  # its client is closed: there is nothing left to end
                logger.debug("unsubscribe: %s", error)

        await _uncancelled(unsubscribe())

    async def drain(self, subscription: Subscription) -> None:
        """End what `subscribe_once` began, after all that the server has sent to it was heard."""
        if not self.is_connected:
            await self.unsubscribe(subscription)
            return

        async def drain() -> None:
            try:
                await subscription.drain()  # type: ignore[no-untyped-call]
            except nats.errors.Error as error:  # the server is silent, or gone: nothing more will come
                logger.debug("drain: %s", error)

        await _uncancelled(drain())

    async def force_reconnect(self) -> None:
        """Drop a connection that seems dead, though the client does not know it."""
        await _uncancelled(self._client.force_reconnect())

    async def wait_connected(self) -> None:
        """Wait until the server can be reached."""
        await self._connected.wait()

    async def flush(self) -> None:
        """Wait until all that was sent is with the client."""
        while self._queue:
            self._idle.clear()
            await self._idle.wait()

    async def open(self) -> None:
        """Connect for the first time.

        Raises:
            ConnectError: no server can be reached in time, or it refuses us.
        """
        await self._connect()
        await self.subscribe(self._listen(), self._reply)

    async def run(self) -> None:
        """Send what is queued, and replace the client when it closes, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write)
            tasks.start_soon(self._rebuild)

    async def close(self) -> None:
        """Hand over what is queued and close; bounded."""
        self._closing = True
        finishing = asyncio.ensure_future(self._finish())
        await _uncancelled(asyncio.wait({finishing}, timeout=_CLOSE_TIMEOUT))
        if not finishing.done():  # a server that neither reads nor closes: the process's end will
            logger.warning("the connection could not be closed in time")
            finishing.cancel()
        self._give_up_waiting()

    def _listen(self) -> str:
        inbox = self.new_inbox()
        self._inbox = f"{inbox}."
        return f"{inbox}.*"

    def _reply(self, message: Msg) -> None:
        future = self._waiting.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(message)

    async def _connect(self) -> None:
        client = SturdyClient()
        connecting = asyncio.ensure_future(self._open_client(client))
        done, _ = await asyncio.wait({connecting}, timeout=self._options.timeout)
        servers = ", ".join(without_credentials(server) for server in self._options.servers)
        if not done:
            connecting.cancel()
            raise ConnectError(f"no answer from {servers} within {self._options.timeout:g} s{self._because()}")
        if (error := connecting.exception()) is not None:
            self._last_error = self._last_error or _in_words(error)
            raise ConnectError(f"cannot connect to {servers}{self._because()}") from None
        client.options["max_reconnect_attempts"] = -1
        self._client = client
        self._closed.clear()
        self._connected.set()

    async def _open_client(self, client: Client) -> None:
        await client.connect(
            servers=list(self._options.servers),
            name=self._options.name,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            closed_cb=self._on_close,
            **_CLIENT_OPTIONS,
            **self._options.credentials,
        )

    def _because(self) -> str:
        return f": {self._last_error}" if self._last_error else ""

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            with anyio.CancelScope(shield=True):
                await self._drain_queue()

    async def _drain_queue(self) -> None:
        while self._queue:
            messages, self._queue, self._queued = self._queue, [], 0
            try:
                await self._client.publish_all(messages)
            except nats.errors.Error as error:  # away or full: whoever needs an answer sends again
                logger.debug("%d messages were not sent: %s", len(messages), error)
        self._idle.set()

    async def _rebuild(self) -> None:
        """Replace a client that has closed for good, which nats-py's does on most errors of the server."""
        while True:
            await self._closed.wait()
            if self._closing:
                return
            logger.warning("the connection was closed%s; opening a new one", self._because())
            with anyio.CancelScope(shield=True):
                await self._replace()

    async def _replace(self) -> None:
        try:
            await self._connect()
        except ConnectError as error:
            logger.warning("%s", error)
            await asyncio.sleep(_REBUILD_PAUSE)
            return
        try:
            for attachment in self._attachments:
                await attachment(self._client)
        except nats.errors.Error as error:  # closed again already: the next round begins
            logger.warning("the new connection did not last: %s", error)
            return
        await self._on_reconnect()

    async def _finish(self) -> None:
        await self._drain_queue()
        try:
            if self._client.is_connected:
                await self._client.flush(timeout=2)
        except (nats.errors.Error, TimeoutError) as error:
            logger.debug("the last flush failed: %s", error)
        try:
            await self._client.close()
        except OSError as error:  # the server went at the same moment
            logger.debug("the connection was lost before it was closed: %s", error)

    async def _on_error(self, error: Exception) -> None:
        self._last_error = _in_words(error)
        logger.debug("nats: %s", self._last_error)
        if "permissions violation" in self._last_error.lower():
            logger.error("the server refuses: %s", self._last_error)

    def _give_up_waiting(self) -> None:
        """Fail what waits for a reply: it was sent, or would have come, over the connection that is gone."""
        for future in self._waiting.values():
            _expire(future)

    async def _on_disconnect(self) -> None:
        self._connected.clear()
        self._give_up_waiting()
        if not self._closing:
            logger.warning("the connection to the server was lost%s", self._because())

    async def _on_reconnect(self) -> None:
        self._last_error = ""
        self._connected.set()
        logger.info("connected again to %s", self.server)
        self._wake.set()
        for callback in self.reconnected:
            callback()

    async def _on_close(self) -> None:
        if (error := self._client.last_error) is not None:
            self._last_error = _in_words(error)
        self._closed.set()


@asynccontextmanager
async def connect(options: ConnectOptions) -> AsyncIterator[Connection]:
    """Open a connection, and close it on the way out.

    Raises:
        ConnectError: no server can be reached in time, or it refuses us.
    """
    connection = Connection(options)
    await connection.open()
    with collapsed():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            try:
                yield connection
            finally:
                await connection.close()
                tasks.cancel_scope.cancel()


def _expire(future: "asyncio.Future[Msg]") -> None:
    if not future.done():
        future.set_exception(NoReplyError("no answer in time"))


def _guarded(callback: Callback) -> Callable[[Msg], Awaitable[None]]:
    async def guarded(message: Msg) -> None:
        try:
            callback(message)
        except Exception:
            logger.exception("the handler of a message on %s failed", message.subject)

    return guarded


async def _uncancelled(awaitable: Awaitable[T]) -> T:
    scope = anyio.CancelScope(shield=True)
    with scope:
        value = await awaitable
    return value  # noqa: RET504 - a scope may swallow, says its type; this one never does


def _in_words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):  # whose errno is not one
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def without_credentials(server: str) -> str:
    """Return a server's URL without its user and password."""
    scheme, separator, rest = server.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
