"""Results that wait for the server, on disk: a worker that ends, or is killed, while the server is away loses none.

A Result that is not stored within PATIENCE is written to a file of the worker's own, and removed once the server has
it. What a dead worker has left is stored by the next one on the host that speaks to the same stream: at its start,
before it takes a task, and each minute. Where no file can be written, Results wait in memory alone.

    <data directory>/outbox/<which stream>/<worker's own, locked>/<task id>
"""

import asyncio
import functools
import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, Self

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskGroup
from msgspec import Struct
from nats.aio.msg import Msg

from runners.private import PrivateDirectory, abandoned
from schemas import Result, Subjects, decode, encode

from .connection import Connection
from .jetstream import api
from .message import rebuilt
from .request import TaskRequest
from .story import telling

PATIENCE: Final = 1.0
"""Seconds that a Result waits in memory alone."""
SWEEP_INTERVAL: Final = 60.0
"""Seconds between two looks for what dead workers have left."""

_PREFIX: Final = "worker-"
_DRAFT: Final = ".draft"
_UNREADABLE: Final = ".unreadable"

logger = logging.getLogger(__name__)


class Finish(Protocol):
    """Finishes the task of a Result that was left."""

    async def __call__(self, request: TaskRequest, result: Result, *, buried: bool) -> None:
        """Return once the server has the Result."""


class Letter(Struct, frozen=True, kw_only=True):
    """A Result under way, with the message of its task: what it takes to finish the task elsewhere."""

    subject: str
    delivery: str
    headers: dict[str, str]
    payload: bytes
    result: bytes
    buried: bool

    def message(self) -> Msg:
        """Return the task's message, as it was delivered."""
        return rebuilt(self.subject, self.delivery, self.payload, self.headers)


class Outbox:
    """The Results of one worker that are not stored yet. `tasks` owns the writing of those that wait."""

    def __init__(
        self, tasks: TaskGroup, directory: PrivateDirectory | None, read: Callable[[Msg], TaskRequest]
    ) -> None:
        self._tasks = tasks
        self._directory = directory
        self._read = read

    @classmethod
    async def open(
        cls,
        parent: Path | None,
        connection: Connection,
        subjects: Subjects,
        tasks: TaskGroup,
        *,
        read: Callable[[Msg], TaskRequest],
    ) -> Self:
        """Make room below a directory; what is kept belongs to one Results stream, however it is reached.

        Raises:
            JetStreamError: the stream is not there.
        """
        info = await api(connection, f"STREAM.INFO.{subjects.results_stream}")
        which = hashlib.sha256(f"{subjects.results_stream} {info['created']}".encode()).hexdigest()[:16]
        directory = None if parent is None else await anyio.to_thread.run_sync(_make, parent / "outbox" / which)
        return cls(tasks, directory, read)

    def keeping(self, request: TaskRequest, result: Result, *, buried: bool) -> "Kept":
        """Return a scope that has a Result on disk from PATIENCE on, until it ends by itself: the server has it."""
        return Kept(self._tasks, self._directory, request, result, buried=buried)

    async def run(self, finish: Finish) -> None:
        """Finish what dead workers have left, now and again, until cancelled."""
        while True:
            await anyio.sleep(SWEEP_INTERVAL)
            await self.finish_abandoned(finish)

    async def finish_abandoned(self, finish: Finish) -> None:
        """Finish what dead workers have left; return once the server has it."""
        if self._directory is None:
            return
        for directory in await anyio.to_thread.run_sync(_find, self._directory.path.parent):
            try:
                for path in await anyio.to_thread.run_sync(_letters, directory):
                    await self._finish(path, finish)
            except BaseException:
                directory.release()
                raise
            await anyio.to_thread.run_sync(directory.remove)

    async def _finish(self, path: Path, finish: Finish) -> None:
        letter = await anyio.to_thread.run_sync(_read_letter, path)
        if letter is None:
            return
        request = self._read(letter.message())
        with telling(request):
            await finish(request, decode(Result, letter.result), buried=letter.buried)
            logger.info("the Result of task %s, which a dead worker had left, is stored", request.task_id)
        await anyio.to_thread.run_sync(path.unlink)

    def close(self) -> None:
        """Leave what still waits to the next worker."""
        if self._directory is not None:
            with suppress(OSError):  # something waits
                self._directory.path.rmdir()
            self._directory.release()


class Kept:
    """One Result that may have to be written."""

    def __init__(
        self,
        tasks: TaskGroup,
        directory: PrivateDirectory | None,
        request: TaskRequest,
        result: Result,
        *,
        buried: bool,
    ) -> None:
        self._tasks = tasks
        self._directory = directory
        self._request = request
        self._result = result
        self._buried = buried
        self._timer: asyncio.TimerHandle | None = None
        self._path: Path | None = None
        self._written: anyio.Event | None = None

    async def __aenter__(self) -> None:
        if self._directory is not None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._begin_writing, self._directory)

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if kind is not None or self._written is None:
            return
        await self._written.wait()
        if self._path is not None:
            await anyio.to_thread.run_sync(functools.partial(self._path.unlink, missing_ok=True))

    def _begin_writing(self, directory: PrivateDirectory) -> None:
        self._written = anyio.Event()
        self._tasks.start_soon(self._write, directory, self._written)

    async def _write(self, directory: PrivateDirectory, written: anyio.Event) -> None:
        request = self._request
        letter = Letter(
            subject=request.subject,
            delivery=request.delivery,
            headers=dict(request.headers),
            payload=request.payload,
            result=encode(self._result),
            buried=self._buried,
        )
        try:
            self._path = await anyio.to_thread.run_sync(_write, directory, request.task_id, letter)
        except OSError as error:
            logger.warning("the Result of task %s waits in memory alone: %s", request.task_id, error)
        finally:
            written.set()


def _make(parent: Path) -> PrivateDirectory | None:
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return PrivateDirectory.make(parent, _PREFIX)
    except OSError as error:
        logger.warning("Results that wait for the server are kept in memory alone: %s", error)
        return None


def _find(parent: Path) -> list[PrivateDirectory]:
    return list(abandoned(parent, _PREFIX))


def _letters(directory: PrivateDirectory) -> list[Path]:
    """Return what is whole; a draft was being written when its worker died."""
    return [path for path in directory.path.iterdir() if path.suffix != _DRAFT]


def _read_letter(path: Path) -> Letter | None:
    """Read a letter; what is none is moved aside for a person to look at."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Letter)
    except msgspec.MsgspecError as error:
        kept = path.rename(path.parent.parent / f"{path.name}{_UNREADABLE}")
        logger.warning("%s holds no Result that can be read: %s", kept, error)
        return None


def _write(directory: PrivateDirectory, name: str, letter: Letter) -> Path:
    """Write a file that is whole or not there, whatever happens to the machine."""
    draft = Path(directory.write(f"{name}{_DRAFT}", msgspec.msgpack.encode(letter)))
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    return draft.rename(directory.path / name)
