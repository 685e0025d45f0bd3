"""Follows one task: its events, its output in order, and at last its Result, from the start or from wherever it is.

Output may be stored out of order and in several runs; here each run's streams come out in the order of their bytes.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

import anyio
from msgspec import Struct
from nats.aio.msg import Msg

from schemas import Event, Result, SchemaError, Subjects, decode
from schemas.subjects import STREAMS

from .connection import Connection
from .message import header
from .output import ATTEMPT, END, INSTANCE, OFFSET
from .tail import Tail

GAP_PATIENCE: Final = 2.0
"""Seconds that a missing piece of output is waited for, and all of it once the Result is there."""


class OutputChunk(Struct, frozen=True, kw_only=True):
    """Some bytes of a stream. `lost` counts those before it that the server never got."""

    stream: str
    data: bytes
    offset: int
    lost: int = 0
    restarted: bool = False
    """True for the first chunk of a run that is not the task's first."""


Item = Event | OutputChunk | Result


class OutputAssembler:
    """Puts the pieces of one task's output in order."""

    def __init__(self) -> None:
        self._run: tuple[str, str] | None = None
        self._next = dict.fromkeys(STREAMS, 0)
        self._early: dict[str, dict[int, bytes]] = {stream: {} for stream in STREAMS}
        self._restarted = False

    def add(self, message: Msg) -> list[OutputChunk]:
        """Take a stored piece; return what can be read now."""
        headers = message.headers or {}
        stream = message.subject.rpartition(".")[2]
        run = (header(headers, ATTEMPT) or "", header(headers, INSTANCE) or "")
        if run != self._run:
            self._restarted = self._run is not None
            self._run = run
            self._next = dict.fromkeys(STREAMS, 0)
            self._early = {name: {} for name in STREAMS}
        offset = int(header(headers, OFFSET) or 0)
        if header(headers, END) is not None:
            return self.skip_to(stream, offset)
        if offset >= self._next[stream]:
            self._early[stream][offset] = message.data
        return self._ready(stream)

    def has(self, stream: str, size: int) -> bool:
        """Tell whether a stream has been read up to `size` bytes."""
        return self._next[stream] >= size

    def flush(self) -> list[OutputChunk]:
        """Return all that has come, though something before it has not."""
        return [
            chunk
            for stream in STREAMS
            if self._early[stream]
            for chunk in self.skip_to(stream, max(self._early[stream]))
        ]

    @property
    def is_waiting(self) -> bool:
        """Whether there are pieces that wait for one before them."""
        return any(self._early.values())

    def skip_to(self, stream: str, offset: int) -> list[OutputChunk]:
        """Return what has come of a stream up to `offset`, without what has not."""
        chunks: list[OutputChunk] = []
        for start in sorted(self._early[stream]):
            if start <= offset:
                chunks += self._take(stream, start)
        return chunks + self._ready(stream)

    def _ready(self, stream: str) -> list[OutputChunk]:
        chunks: list[OutputChunk] = []
        while self._next[stream] in self._early[stream]:
            chunks += self._take(stream, self._next[stream])
        return chunks

    def _take(self, stream: str, start: int) -> list[OutputChunk]:
        data = self._early[stream].pop(start, None)
        if data is None or start < self._next[stream]:
            return []
        lost = start - self._next[stream]
        self._next[stream] = start + len(data)
        restarted, self._restarted = self._restarted, False
        return [OutputChunk(stream=stream, data=data, offset=start, lost=lost, restarted=restarted)]


class Follower:
    """Reads the three streams that tell of one task, and makes one story of them."""

    def __init__(self, connection: Connection, subjects: Subjects, task_id: str) -> None:
        self._items: asyncio.Queue[Item | None] = asyncio.Queue()
        self._assembler = OutputAssembler()
        self._result: Result | None = None
        self._changed = anyio.Event()
        self._output = Tail(connection, subjects.output_stream, [subjects.output(task_id, "*")], self._on_output)
        self._events = Tail(connection, subjects.events_stream, [subjects.event(task_id, "*")], self._on_event)
        self._results = Tail(connection, subjects.results_stream, [subjects.result(task_id)], self._on_result)

    async def items(self) -> AsyncGenerator[Item]:
        """Yield events and output as they come, and the Result last."""
        async with anyio.create_task_group() as tails:
            for tail in (self._output, self._events, self._results):
                tails.start_soon(tail.run)
            tails.start_soon(self._conclude)
            while (item := await self._items.get()) is not None:
                yield item
            tails.cancel_scope.cancel()

    def _on_output(self, message: Msg) -> None:
        self._put(self._assembler.add(message))
        self._changed.set()

    def _on_event(self, message: Msg) -> None:
        try:
            self._items.put_nowait(decode(Event, message.data))
        except SchemaError:  # of a newer version than ours
            return

    def _on_result(self, message: Msg) -> None:
        self._result = decode(Result, message.data)
        self._changed.set()

    async def _conclude(self) -> None:
        """Bring the story to its end: bridge gaps that nothing fills, and let the output come before the Result."""
        while self._result is None:
            await self._wait_for_change()
            if self._assembler.is_waiting:
                await self._bridge_gap()
        await self._events.caught_up.wait()
        with anyio.move_on_after(GAP_PATIENCE):
            await self._output.caught_up.wait()
            while not self._is_complete(self._result):
                await self._wait_for_change()
        self._put(self._assembler.flush())
        self._items.put_nowait(self._result)
        self._items.put_nowait(None)

    async def _bridge_gap(self) -> None:
        with anyio.move_on_after(GAP_PATIENCE):
            while self._assembler.is_waiting:
                await self._wait_for_change()
        self._put(self._assembler.flush())

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed = anyio.Event()

    def _is_complete(self, result: Result) -> bool:
        streams = {"stdout": result.streams.stdout.bytes, "stderr": result.streams.stderr.bytes}
        return all(self._assembler.has(stream, size) for stream, size in streams.items())

    def _put(self, chunks: list[OutputChunk]) -> None:
        for chunk in chunks:
            self._items.put_nowait(chunk)
