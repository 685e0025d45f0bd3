"""httpx's transport over guarded connections.

A name is resolved once, all its addresses are vetted, and one of those is connected to; the name stays what TLS and the
`Host` header are about.
"""

import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import anyio
import httpcore
import httpx

from runners.errors import DnsError, GuardError, PolicyDeniedError, RedirectBlockedError

from .addresses import Address, AddressClass, classify
from .guard import Guard, Target
from .progress import Progress
from .resolving import Resolver

MAX_READ: Final = 32 * 1024
MAX_HEAD_READ: Final = 4 * 1024
"""Bytes that are parsed at a time: thousands of tiny responses or chunks must not keep the other tasks waiting."""

MAX_WRITE: Final = 64 * 1024

SocketOptions = Iterable[httpcore.SOCKET_OPTION]


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Makes one task's connections, each of them the answer to its URL or to a redirect from the one before."""

    def __init__(self, guard: Guard, resolve: Resolver, progress: Progress) -> None:
        self._guard = guard
        self._resolve = resolve
        self._progress = progress
        self._backend = httpcore.AnyIOBackend()
        self._came_from: AddressClass | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._look_up(host, port, timeout)
        self._check(Target(host=host, port=port, came_from=self._came_from), addresses)
        self._progress.enter("connect")
        share = None if timeout is None else timeout / max(len(addresses), 1)
        failure: Exception = DnsError(f"the host {host!r} has no address")
        for address in addresses:
            try:
                stream = await self._backend.connect_tcp(str(address), port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            self._came_from = classify(address)
            return WatchedStream(stream, self._progress)
        raise failure

    async def _look_up(self, host: str, port: int, seconds: float | None) -> Sequence[Address]:
        self._progress.enter("dns")
        with anyio.move_on_after(seconds):
            return await self._resolve(host, port)
        raise DnsError(f"the host {host!r} was not resolved within {seconds:g} s")

    def _check(self, target: Target, addresses: Sequence[Address]) -> None:
        try:
            self._guard.check(target, addresses)
        except (GuardError, PolicyDeniedError) as error:
            if target.came_from is None:
                raise
            raise RedirectBlockedError(f"a redirect was not followed: {error}") from None


class WatchedStream(httpcore.AsyncNetworkStream):
    """A connection that notes how far it has come."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, progress: Progress) -> None:
        self._stream = stream
        self._progress = progress

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        if self._progress.phase == "request":
            self._progress.enter("response")
        most = MAX_READ if self._progress.phase == "body" else MAX_HEAD_READ
        data = await self._stream.read(min(max_bytes, most), timeout)
        self._progress.closed_by_server = not data
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        if self._progress.phase != "request":
            self._progress.enter("request")
        self._progress.sent = True
        for start in range(0, len(buffer), MAX_WRITE):  # the time is for each piece, however large the whole
            await self._stream.write(buffer[start : start + MAX_WRITE], timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
    ) -> httpcore.AsyncNetworkStream:
        self._progress.enter("tls")
        try:
            stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:  # a cancelled handshake would leave the connection open
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
            raise
        return WatchedStream(stream, self._progress)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends requests one after the other, each over a connection of its own."""

    def __init__(self, backend: GuardedBackend, ssl_context: ssl.SSLContext) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context, max_connections=1, max_keepalive_connections=0, network_backend=backend
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        response = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
            request=request,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.aiter_stream():
            yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()
