"""Tells a task's story as it happens: its output as it is, its states on stderr, and at last how it ended."""

import sys
from collections.abc import AsyncIterable, Mapping
from contextlib import aclosing
from typing import Any, Literal

import anyio

from consumer.follow import Item, OutputChunk
from schemas import Event, EventType, Result, Status

from . import TIMED_OUT
from .rendering import complain, exit_code, print_json, say, short, write
from .session import Session

Shown = Literal["output", "json"]
"""What goes to stdout: the task's output, or its Result."""


class Narrator:
    """Shows what is followed; `is_quiet` leaves out how things go."""

    def __init__(self, *, shown: Shown, is_quiet: bool) -> None:
        self._shown = shown
        self._is_quiet = is_quiet

    def state(self, text: str) -> None:
        """Tell how things go."""
        if not self._is_quiet:
            say(text)

    async def tell(self, items: AsyncIterable[Item]) -> Result:
        """Show everything up to the Result, and return that."""
        async for item in items:
            match item:
                case OutputChunk():
                    self._output(item)
                case Event():
                    if (text := _describe(item)) is not None:
                        self.state(text)
                case Result():
                    self._end(item)
                    return item
        raise AssertionError("a story ends with a Result")

    def _output(self, chunk: OutputChunk) -> None:
        if self._shown == "json":
            return
        if chunk.restarted:
            self.state("the task was started again, and so is its output")
        if chunk.lost:
            say(f"{chunk.lost} bytes of {chunk.stream} are missing here")
        if chunk.data:
            write(sys.stdout if chunk.stream == "stdout" else sys.stderr, chunk.data)

    def _end(self, result: Result) -> None:
        if self._shown == "json":
            print_json(result)
        code = "" if result.exit_code in {None, 0} else f", exit code {result.exit_code}"
        self.state(f"finished: {result.status}{code} in {short(result.duration / 1000)}")
        if result.status is not Status.SUCCESS:
            complain(result.error or f"the task ended with {result.status}")


async def follow_task(session: Session, task_id: str, narrator: Narrator, *, patience: float | None = None) -> int:
    """Follow a task to its end, for `patience` seconds at most, and return what to exit with."""
    with anyio.move_on_after(patience):
        async with aclosing(session.client.follow(task_id)) as items:
            result = await narrator.tell(items)
        if (url := session.trace_url(result.trace_id)) is not None:
            narrator.state(f"trace: {url}")
        return exit_code(result)
    complain(f"the task {task_id} has not ended within {patience} s; it goes on")
    return TIMED_OUT


def _describe(event: Event) -> str | None:
    """Return one step of a task in words; its end is told by the Result."""
    data = event.data
    match event.type:
        case EventType.STARTED:
            return f"started{_what(data)} on worker {event.worker}"
        case EventType.STOPPING:
            return f"stopping: {data.get('signal')}{_why(data)}"
        case EventType.RETRYING:
            return f"trying again in {data.get('delay')} s, after {data.get('error_code')}"
        case EventType.PROGRESS:
            return f"progress: {', '.join(f'{name} {value}' for name, value in data.items())}"
    return None


def _what(data: Mapping[str, Any]) -> str:
    return next((f" {name} {data[name]}" for name in ("pid", "container", "url") if data.get(name)), "")


def _why(data: Mapping[str, Any]) -> str:
    known = [str(data[name]) for name in ("by", "reason") if data.get(name)]
    return f" ({': '.join(known)})" if known else ""
