"""Follows one task: its events, its output in order, and at last its Result, from the start or from wherever it is.

Output may be stored out of order and by several runs; here a run's streams come out in the order of their bytes, a run
that was superseded says no more, and what never came is taken from the Result. A stream's end, if it comes, comes last:
what is missing then never will.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping
from typing import Final

import anyio
from msgspec import Struct
from nats.aio.msg import Msg

from schemas import Event, Result, SchemaError, StreamOutput, Subjects, decode, utc_now
from schemas.subjects import STREAMS

from .connection import Connection
from .groups import collapsed
from .message import header
from .output import ATTEMPT, END, INSTANCE, OFFSET
from .tail import Tail

GAP_PATIENCE: Final = 10.0
"""Seconds without news that a missing piece of output is waited for: it is sent again after some 5 s."""
STALL: Final = 10.0
"""Seconds without news after which a stream that is not read to its end is given up, once the Result is there."""
SETTLED: Final = 60.0
"""Seconds after a task's end at which no more of its output is on its way."""


class OutputChunk(Struct, frozen=True, kw_only=True):
    """Some bytes of a stream.

    `lost` counts those before it that did not come. If the stream's last bytes did not, a chunk without data says so.
    """

    stream: str
    data: bytes
    offset: int
    lost: int = 0
    restarted: bool = False
    """True for the first chunk of a run that is not the task's first."""


Item = Event | OutputChunk | Result


class _Run(Struct, frozen=True):
    """One run of a task: its attempt, and the worker that made it."""

    attempt: int
    worker: str

    def is_of(self, result: Result) -> bool:
        """Tell whether this run came to that Result; messages of others may leave the worker out."""
        return self.attempt == result.attempt and (self.worker == result.worker or not (self.worker and result.worker))


class OutputAssembler:
    """Puts the pieces of one task's output in order."""

    def __init__(self) -> None:
        self._run: _Run | None = None
        self._superseded: set[_Run] = set()
        self._restarted = False
        self._forget()

    @property
    def gap(self) -> tuple[int, ...]:
        """Where a piece is missing before one that has come, for each such stream."""
        return tuple(self._next[stream] for stream in STREAMS if self._early[stream])

    def add(self, message: Msg) -> list[OutputChunk]:
        """Take a stored piece; return what can be read now."""
        headers = message.headers or {}
        stream = message.subject.rpartition(".")[2]
        run = _Run(_number(headers, ATTEMPT) or 1, header(headers, INSTANCE) or "")
        if stream not in STREAMS or not self._is_current(run):
            return []
        if header(headers, END) is not None:
            self._ended.add(stream)
            return self._rest_of(stream)
        self._early[stream][_number(headers, OFFSET)] = message.data
        return self._ready(stream)

    def bridge(self) -> list[OutputChunk]:
        """Return what waits behind the first gap of each stream."""
        return [chunk for stream in STREAMS if self._early[stream] for chunk in self._bridge(stream)]

    def is_complete(self, result: Result) -> bool:
        """Tell whether all output of the run that came to a Result has been read."""
        sizes = {stream: facts.bytes for stream, _, facts in _streams(result)}
        if not any(sizes.values()):
            return True
        is_its_run = self._run is not None and self._run.is_of(result)
        return is_its_run and all(stream in self._ended or self._next[stream] >= size for stream, size in sizes.items())

    def finish(self, result: Result) -> list[OutputChunk]:
        """Return all that waits, and what the Result has of the rest."""
        if self._run is not None and not self._run.is_of(result):
            self._begin(_Run(result.attempt, result.worker))
        chunks: list[OutputChunk] = []
        for stream, text, facts in _streams(result):
            chunks += self._rest_of(stream) + self._rest(stream, text, facts)
        return chunks

    def _is_current(self, run: _Run) -> bool:
        if run == self._run:
            return True
        if run in self._superseded or (self._run is not None and run.attempt < self._run.attempt):
            return False
        self._begin(run)
        return True

    def _begin(self, run: _Run) -> None:
        if self._run is not None:
            self._superseded.add(self._run)
            self._restarted = True
        self._run = run
        self._forget()

    def _forget(self) -> None:
        self._next = dict.fromkeys(STREAMS, 0)
        self._early: dict[str, dict[int, bytes]] = {stream: {} for stream in STREAMS}
        self._ended: set[str] = set()

    def _bridge(self, stream: str) -> list[OutputChunk]:
        return self._take(stream, min(self._early[stream])) + self._ready(stream)

    def _rest_of(self, stream: str) -> list[OutputChunk]:
        """Return all that waits, whatever is missing before it."""
        chunks: list[OutputChunk] = []
        while self._early[stream]:
            chunks += self._bridge(stream)
        return chunks

    def _ready(self, stream: str) -> list[OutputChunk]:
        chunks: list[OutputChunk] = []
        while self._early[stream] and (start := min(self._early[stream])) <= self._next[stream]:
            chunks += self._take(stream, start)
        return chunks

    def _take(self, stream: str, start: int) -> list[OutputChunk]:
        data = self._early[stream].pop(start)
        known = max(self._next[stream] - start, 0)
        return self._chunk(stream, data[known:], start + known) if len(data) > known else []

    def _rest(self, stream: str, text: str, facts: StreamOutput) -> list[OutputChunk]:
        """Return what comes after the end of what was read, as far as the Result has it."""
        begun = self._next[stream]
        if begun >= facts.bytes:
            return []
        kept = base64.b64decode(text) if facts.encoding == "base64" else text.encode()
        if not facts.truncated:
            return self._chunk(stream, kept[begun:], begun)
        shown = self._chunk(stream, kept, 0) if begun == 0 else []
        return shown + self._chunk(stream, b"", facts.bytes)

    def _chunk(self, stream: str, data: bytes, offset: int) -> list[OutputChunk]:
        lost = offset - self._next[stream]
        self._next[stream] = offset + len(data)
        restarted, self._restarted = self._restarted, False
        return [OutputChunk(stream=stream, data=data, offset=offset, lost=lost, restarted=restarted)]


def _number(headers: Mapping[str, str], name: str) -> int:
    text = header(headers, name)
    return int(text) if text is not None and text.isdecimal() else 0


def _streams(result: Result) -> tuple[tuple[str, str, StreamOutput], ...]:
    return ("stdout", result.output, result.streams.stdout), ("stderr", result.stderr, result.streams.stderr)


class Follower:
    """Reads the three streams that tell of one task, and makes one story of them."""

    def __init__(self, connection: Connection, subjects: Subjects, task_id: str) -> None:
        self._connection = connection
        self._items: asyncio.Queue[Item | None] = asyncio.Queue()
        self._assembler = OutputAssembler()
        self._result: Result | None = None
        self._is_old = False
        self._received = 0
        self._changed = anyio.Event()
        self._output = Tail(connection, subjects.output_stream, [subjects.output(task_id, "*")], self._on_output)
        self._events = Tail(connection, subjects.events_stream, [subjects.event(task_id, "*")], self._on_event)
        self._results = Tail(connection, subjects.results_stream, [subjects.result(task_id)], self._on_result)

    async def items(self) -> AsyncGenerator[Item]:
        """Yield events and output as they come, and the Result last. To be closed by whoever stops early."""
        with collapsed():
            async with anyio.create_task_group() as tails:
                for tail in (self._output, self._events, self._results):
                    tails.start_soon(tail.run)
                tails.start_soon(self._tell)
                while (item := await self._items.get()) is not None:
                    yield item
                tails.cancel_scope.cancel()

    def _on_output(self, message: Msg) -> None:
        self._put(self._assembler.add(message))
        self._note()

    def _on_event(self, message: Msg) -> None:
        self._note()
        try:
            self._items.put_nowait(decode(Event, message.data))
        except SchemaError:  # of a newer version than ours
            return

    def _on_result(self, message: Msg) -> None:
        result = self._result = decode(Result, message.data)
        was_there = not self._results.caught_up.is_set()
        self._is_old = was_there and (utc_now() - result.end_time).total_seconds() > SETTLED
        self._note()

    async def _tell(self) -> None:
        """Bridge gaps that nothing fills; once there is a Result, let the rest come before it."""
        while self._result is None:
            await self._bridge_gap()
        for tail in (self._events, self._output):
            await self._catch_up(tail)
        waiting = not self._is_old
        while waiting and not self._assembler.is_complete(self._result):
            waiting = await self._news_within(GAP_PATIENCE) or not self._connection.is_connected
        self._put(self._assembler.finish(self._result))
        self._items.put_nowait(self._result)
        self._items.put_nowait(None)

    async def _bridge_gap(self) -> None:
        """Wait for a Result, or for news of where output is missing."""
        gap = self._assembler.gap
        with anyio.move_on_after(GAP_PATIENCE if gap else None) as waiting:
            while self._result is None and self._assembler.gap == gap:
                await self._news()
        if waiting.cancelled_caught and self._connection.is_connected:
            self._put(self._assembler.bridge())

    async def _catch_up(self, tail: Tail) -> None:
        """Wait for what was stored before we began, as long as anything comes or the server is away."""
        received = -1
        while received != self._received or not self._connection.is_connected:
            received = self._received
            with anyio.move_on_after(STALL):
                await tail.caught_up.wait()
                return

    async def _news_within(self, patience: float) -> bool:
        with anyio.move_on_after(patience):
            await self._news()
            return True
        return False

    async def _news(self) -> None:
        await self._changed.wait()
        self._changed = anyio.Event()

    def _note(self) -> None:
        self._received += 1
        self._changed.set()

    def _put(self, chunks: list[OutputChunk]) -> None:
        for chunk in chunks:
            self._items.put_nowait(chunk)
