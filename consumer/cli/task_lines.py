"""Tasks from a file, one on each line as JSON; read as a stream, so that its size does not matter."""

import hashlib
import os
import stat
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Final

import anyio

from consumer.batch import Entry
from consumer.client import check_size, new_task_id
from consumer.connection import Connection
from consumer.errors import ConfigError
from schemas import SchemaError, Task, decode

STDIN: Final = "-"
LONGEST: Final = 64 * 2**20
"""Bytes of a line: the most that any server takes."""

_CHUNK: Final = 256 * 1024
_ID_DIGITS: Final = 16


class TaskLines:
    """The tasks of a file, or of stdin.

    A task without an id gets one that follows from the batch's name, the line's number and the line, so that the same
    file names the same tasks each time. Stdin has no name: what comes from there is new, unless a name is given.
    """

    def __init__(self, name: str, *, category: str | None, batch: str | None, connection: Connection) -> None:
        self._name = name
        self._category = category
        self._connection = connection
        self._batch = batch if batch is not None or name == STDIN else str(Path(name).resolve())

    @property
    def is_stdin(self) -> bool:
        """Whether they can be read only once."""
        return self._name == STDIN

    async def entries(self) -> AsyncGenerator[Entry | ConfigError]:
        """Yield each line's task, or what is wrong with it.

        Raises:
            ConfigError: the file cannot be read.
        """
        number = 0
        async with aclosing(self._lines()) as lines:
            async for line in lines:
                number += 1
                if line and not line.isspace():
                    yield self._read(number, line)

    def _read(self, number: int, line: bytes) -> Entry | ConfigError:
        try:
            return self._entry(number, line)
        except (SchemaError, ConfigError, ValueError) as error:
            return ConfigError(f"{self._shown}, line {number}: {error}")

    def _entry(self, number: int, line: bytes) -> Entry:
        task = decode(Task, line)
        category = task.category or self._category
        if category is None:
            raise ConfigError("the task names no `category`; one for all may be given: submit CATEGORY --file …")
        line = line.strip()
        task_id = task.id or self._id(number, line)
        check_size(self._connection, line, {"Nats-Msg-Id": task_id})
        return Entry(number, task_id, category, line, recurring=task.schedule is not None)

    def _id(self, number: int, line: bytes) -> str:
        if self._batch is None:
            return new_task_id()
        named = b"\n".join((os.fsencode(self._batch), str(number).encode(), line))
        return hashlib.sha256(named).hexdigest()[:_ID_DIGITS]

    @property
    def _shown(self) -> str:
        return "stdin" if self.is_stdin else self._name

    async def _lines(self) -> AsyncGenerator[bytes]:
        rest = b""
        with self._opened() as file:
            while chunk := await self._read_some(file):
                first, *others = chunk.split(b"\n")
                rest += first
                for following in others:
                    yield rest
                    rest = following
                if len(rest) > LONGEST:
                    raise ConfigError(f"{self._shown}: a line is longer than {LONGEST} bytes; is it JSON Lines?")
        yield rest

    @contextmanager
    def _opened(self) -> Iterator[int]:
        if self.is_stdin:
            yield sys.stdin.fileno()
            return
        try:
            file = os.open(self._name, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from None
        try:
            yield file
        finally:
            os.close(file)

    async def _read_some(self, file: int) -> bytes:
        """Read what is there, or wait for more; of a pipe as soon as something comes."""
        if stat.S_ISFIFO(mode := os.fstat(file).st_mode) or stat.S_ISSOCK(mode) or os.isatty(file):
            await anyio.wait_readable(file)
        else:
            await anyio.lowlevel.checkpoint()
        try:
            return os.read(file, _CHUNK)
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError | ValueError) -> ConfigError:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return ConfigError(f"--file: {self._shown} cannot be read: {reason}")
