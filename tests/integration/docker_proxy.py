"""A proxy in front of an engine's socket, which can hang, drop what goes through it, and refuse."""

import asyncio
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

import anyio


class Proxy:
    """Passes everything on, until it is told otherwise."""

    def __init__(self, target: str) -> None:
        self._target = target.removeprefix("unix://")
        self._directory = Path(tempfile.mkdtemp(prefix="proxy-"))
        self._socket = self._directory / "docker.sock"
        self._flowing = anyio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = f"unix://{self._socket}"

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.flow()
        await self.refuse()
        shutil.rmtree(self._directory)

    async def accept(self) -> None:
        """Take connections, after `refuse` again."""
        self._server = await asyncio.start_unix_server(self._serve, self._socket)

    async def refuse(self) -> None:
        """Take no connection any more, and drop those there are."""
        if self._server is not None:
            self._server.close()
            self._socket.unlink()
        await self.drop()

    async def drop(self) -> None:
        """Cut all connections."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def hang(self) -> None:
        """Pass nothing on, and leave the connections open."""
        self._flowing = anyio.Event()

    def flow(self) -> None:
        """Pass on what has waited."""
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there = None
        with suppress(OSError, asyncio.CancelledError):
            back, there = await asyncio.open_unix_connection(self._target)
            await asyncio.gather(self._pass(reader, there), self._pass(back, writer, is_last=True))
        for end in (writer, there):
            if end is not None:
                end.transport.abort()
        self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_last: bool = False) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        await self._flowing.wait()
        if is_last:
            writer.close()
        else:
            writer.write_eof()
