"""A cable between a worker and its server, to be cut and mended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

_CHUNK: Final = 65536


class Cable:
    """Carries TCP connections to a server, or refuses them while it is cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._port = 0
        self._ends: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where the near end is."""
        return f"nats://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """Break all connections, and let no new one through."""
        assert self._server is not None
        self._server.close()
        for end in self._ends:
            end.transport.abort()

    async def mend(self) -> None:
        """Let connections through, for the first time or again."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._ends |= {writer, far_writer}
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._ends -= {writer, far_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


@asynccontextmanager
async def cable(url: str) -> AsyncIterator[Cable]:
    """Have a cable to the server at a URL."""
    host, port = url.removeprefix("nats://").split(":")
    laid = Cable(host, int(port))
    await laid.mend()
    try:
        yield laid
    finally:
        laid.cut()
