"""A small HTTP/1.1 server for probes (RFC 9112): GET and HEAD, one answer a connection; few connections, and short."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

from msgspec import Struct

LONGEST_HEAD: Final = 8192
"""Bytes of a request, its headers included; a body is never read."""
WITHIN: Final = 5.0
"""Seconds for a whole exchange."""
MAX_CONNECTIONS: Final = 32

_END: Final = b"\r\n\r\n"

logger = logging.getLogger(__name__)


class Answer(Struct, frozen=True):
    """What is answered."""

    status: HTTPStatus
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


Page = Callable[[], Awaitable[Answer]]


@asynccontextmanager
async def serving(host: str, port: int, pages: Mapping[str, Page]) -> AsyncIterator[tuple[str, int]]:
    """Answer requests for `pages`, by path, while the body lasts; yield the address (port 0 takes a free one).

    Raises:
        OSError: the address cannot be had.
    """
    prober = _Prober(pages)
    server = await asyncio.start_server(prober.meet, host, port, limit=LONGEST_HEAD)
    try:
        address = server.sockets[0].getsockname()
        yield address[0], address[1]
    finally:
        server.close()
        prober.close()


class _Prober:
    """Answers; never more than MAX_CONNECTIONS at a time."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._open: set[asyncio.Task[None] | None] = set()

    def close(self) -> None:
        """Hang up on whoever is still there."""
        for task in self._open:
            if task is not None:
                task.cancel()

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, whatever it is."""
        me = asyncio.current_task()
        if len(self._open) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(me)
        try:
            async with asyncio.timeout(WITHIN):
                await self._exchange(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            logger.debug("a probe was not answered: %s", error)
        except asyncio.CancelledError:  # we close; whoever waits for this task is asyncio's own server
            logger.debug("a probe was not answered: the worker ends")
        finally:
            self._open.discard(me)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, answer = "GET", Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        try:
            method, path = _read(await reader.readuntil(_END))
            answer = await self._answer(method, path)
        except asyncio.LimitOverrunError as error:
            logger.debug("a probe is too long: %s", error)
        writer.write(_written(answer, with_body=method != "HEAD"))
        writer.write_eof()
        await writer.drain()
        while await reader.read(LONGEST_HEAD):  # hanging up on what is unread would take the answer back
            pass

    async def _answer(self, method: str, path: str) -> Answer:
        page = self._pages.get(path)
        if not method:
            return Answer(HTTPStatus.BAD_REQUEST)
        if method not in {"GET", "HEAD"}:
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED)
        if page is None:
            return Answer(HTTPStatus.NOT_FOUND)
        return await page()


def _read(head: bytes) -> tuple[str, str]:
    """Return the method and path of a request; empty ones if it is none."""
    match head.partition(b"\r\n")[0].decode("latin-1").split(" "):
        case [method, target, version] if version.startswith("HTTP/1."):
            return method, target.partition("?")[0]
    return "", ""


def _written(answer: Answer, *, with_body: bool) -> bytes:
    body = answer.body or f"{answer.status.phrase}\n".encode()
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(body)}",
        *(["Allow: GET, HEAD"] if answer.status is HTTPStatus.METHOD_NOT_ALLOWED else []),
        "Cache-Control: no-store",
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + _END + (body if with_body else b"")
