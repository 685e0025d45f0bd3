"""A container's streams on one socket: its output told apart as it comes, its input written as it is taken.

The engine sends frames: a byte that names the stream, three of padding, the size as 32 bits in network order, and so
many bytes (Docker Engine API, "Attach to a container"). Nothing here blocks; the event loop calls back.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Final

import anyio

from runners.output import Chunk

_HEADER: Final = struct.Struct(">BxxxL")
_STDERR: Final = 2
_BUFFER: Final = memoryview(bytearray(256 * 1024))
"""All readers' buffer, one after the other."""

Write = Callable[[Chunk], None]


class Demultiplexer:
    """Takes the bytes of an attached stream, cut anywhere, and hands on what each of the two streams said."""

    def __init__(self, stdout: Write, stderr: Write) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self._write = stdout
        self._left = 0
        self._header = b""

    def feed(self, chunk: memoryview) -> None:
        """Take the next bytes."""
        while chunk:
            if self._left:
                part, chunk = chunk[: self._left], chunk[self._left :]
                self._left -= len(part)
                self._write(part)
            else:
                chunk = self._begin_frame(chunk)

    def _begin_frame(self, chunk: memoryview) -> memoryview:
        missing = _HEADER.size - len(self._header)
        self._header += chunk[:missing]
        if len(self._header) == _HEADER.size:
            stream, self._left = _HEADER.unpack(self._header)
            self._write = self._stderr if stream == _STDERR else self._stdout
            self._header = b""
        return chunk[missing:]


class Attachment:
    """A container's streams, until its end or that of the connection; `closed` is set at either.

    `stdin` is written as fast as the container takes it, and then ends; None means that it has none.
    """

    def __init__(self, attached: socket.socket, stdout: Write, stderr: Write, stdin: bytes | None = None) -> None:
        self._socket = attached
        self._streams = Demultiplexer(stdout, stderr)
        self._stdin = memoryview(stdin or b"")
        self._loop = asyncio.get_running_loop()
        self.closed = anyio.Event()
        self._loop.add_reader(attached, self._read)
        if stdin is not None:
            self._loop.add_writer(attached, self._write)

    def close(self) -> None:
        """Let go of the streams; safe to call twice."""
        if self.closed.is_set():
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self.closed.set()

    def _read(self) -> None:
        try:
            size = self._socket.recv_into(_BUFFER)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if size:
            self._streams.feed(_BUFFER[:size])
        else:
            self.close()

    def _write(self) -> None:
        try:
            if self._stdin:
                self._stdin = self._stdin[self._socket.send(self._stdin) :]
            if self._stdin:
                return
            self._loop.remove_writer(self._socket)
            self._socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:  # the container does not read it, which is no error; its output may still come
            self._loop.remove_writer(self._socket)
