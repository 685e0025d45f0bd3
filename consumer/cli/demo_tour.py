"""The demo's course: each task is published, followed live, stopped if that is the point, and held to its promise."""

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

import anyio
from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumer.client import Client, whoami
from consumer.connection import Connection
from consumer.errors import JetrunnerError
from consumer.follow import Item, OutputChunk
from consumer.jetstream import api, publish
from schemas import Control, Event, EventType, Result, Status, Verb

from .demo_acts import CATEGORY, FAILS, LIVE, LONG, QUEUED, SEED, SLOW, SUBJECTS, Act
from .plain import printable

PATIENCE: Final = 15.0
"""Seconds that a task may take until its Result is there."""

_MOST_LINES: Final = 12
_STYLES: Final = {Status.SUCCESS: "green", Status.CANCELED: "yellow"}

Hook = Callable[[], Awaitable[None]]


class DemoError(JetrunnerError):
    """The demo cannot go on; the text says with which task."""


class Ended(Struct, frozen=True):
    """A task of the demo that has its Result."""

    act: Act
    result: Result


class Tour:
    """Shows the tasks one after the other, and remembers how they ended."""

    def __init__(self, connection: Connection, console: Console) -> None:
        self._connection = connection
        self._client = Client(connection, SUBJECTS)
        self._console = console
        self._shown = 0
        self.ended: list[Ended] = []
        self.broken: list[str] = []
        """Promises that were not kept."""

    async def run(self) -> None:
        """Show them all.

        Raises:
            DemoError: one of them comes to no end.
        """
        for act in (SEED, LIVE, FAILS, SLOW):
            await self._perform(act)
        await self._perform(LONG, once_running=self._stop_both)

    async def _stop_both(self) -> None:
        await self._perform(QUEUED, once_submitted=self._stop_queued)
        await self._stop(LONG)

    async def _stop_queued(self) -> None:
        consumer = await api(self._connection, f"CONSUMER.INFO.{SUBJECTS.tasks_stream}.{CATEGORY}")
        if consumer["num_pending"] != 1:
            self.broken.append(f"{QUEUED.name}: it does not wait")
        await self._stop(QUEUED)

    async def _perform(self, act: Act, *, once_submitted: Hook | None = None, once_running: Hook | None = None) -> None:
        self._shown += 1
        scene = Scene(self._console, self._shown, act)
        try:
            with anyio.fail_after(PATIENCE):
                payload = act.payload.encode()
                await publish(self._connection, SUBJECTS.task(CATEGORY), payload, message_id=act.name)
                if once_submitted is not None:
                    await once_submitted()
                result = await self._follow(act, scene, once_running)
        except TimeoutError:
            raise DemoError(f"{act.name} has not ended after {PATIENCE:g} s") from None
        except JetrunnerError as error:
            raise error if isinstance(error, DemoError) else DemoError(f"{act.name}: {error}") from error
        self.ended.append(Ended(act, result))
        broken = act.broken_promises(result, scene.lead)
        self.broken += broken
        scene.end(result, broken)

    async def _follow(self, act: Act, scene: "Scene", once_running: Hook | None) -> Result:
        async with aclosing(self._client.follow(act.name)) as items:
            async for item in items:
                scene.show(item)
                if isinstance(item, Result):
                    return item
                if isinstance(item, OutputChunk) and once_running is not None:
                    hook, once_running = once_running, None
                    await hook()
        raise DemoError(f"{act.name} came to no Result")

    async def _stop(self, act: Act) -> None:
        await self._client.control(act.name, Verb.STOP, Control(by=whoami(), reason="the demo wants to see it end"))


class Scene:
    """One task on the screen, its lines as they come."""

    def __init__(self, console: Console, number: int, act: Act) -> None:
        self._console = console
        self._act = act
        self._begin = time.monotonic()
        self._first_output: float | None = None
        self._partial = {"stdout": "", "stderr": ""}
        self._lines = 0
        self.lead = 0.0
        """Seconds between the first output and the Result."""
        console.print(Text(f"\n{number}  {act.name}: {act.title}", style="bold"))
        for command in act.commands:
            console.print(Text(f"   $ {command}", style="cyan"))

    def show(self, item: Item) -> None:
        """Show an event, or some output."""
        match item:
            case OutputChunk(stream=stream, data=data):
                self._first_output = self._first_output or time.monotonic()
                *lines, self._partial[stream] = (self._partial[stream] + data.decode(errors="replace")).split("\n")
                for line in lines:
                    self._line(stream, line)
            case Event(type=EventType.STARTED, data=data):
                self._say(f"started, pid {data.get('pid')}")
            case Event(type=EventType.STOPPING, data=data):
                who = f" for {data['by']}" if data.get("by") else ""
                self._say(printable(f"{data.get('signal')}{who}: {data.get('reason')}"))
            case Result():
                self.lead = time.monotonic() - self._first_output if self._first_output else 0.0

    def end(self, result: Result, broken: list[str]) -> None:
        """Show how it ended, and what that means."""
        if self._lines > _MOST_LINES:
            self._say(f"| ... and {self._lines - _MOST_LINES} more lines")
        code = "" if result.exit_code is None else f", exit code {result.exit_code}"
        self._say(f"{self._act.name}: {result.status}{code}", _STYLES.get(result.status, "red"))
        for promise in broken:
            self._say(f"NOT AS PROMISED: {promise}", "bold red")
        if not broken:
            self._console.print(Text(f"   {self._act.story}", style="italic"))

    def _line(self, stream: str, line: str) -> None:
        self._lines += 1
        if self._lines <= _MOST_LINES:
            mark, style = ("|", "") if stream == "stdout" else ("!", "red")
            self._say(f"{mark} {printable(line)}", style)

    def _say(self, text: str, style: str = "") -> None:
        elapsed = f"   {time.monotonic() - self._begin:5.2f} s  "
        self._console.print(Text.assemble((elapsed, "dim"), (text, style)))


def print_table(console: Console, ended: list[Ended]) -> None:
    """Print the tasks in the order in which they ended."""
    table = Table("task", "status", box=box.SIMPLE_HEAD)
    for name in ("exit code", "duration"):
        table.add_column(name, justify="right")
    table.add_column("error")
    for act, result in ((each.act, each.result) for each in ended):
        table.add_row(
            act.name,
            Text(result.status, style=_STYLES.get(result.status, "red")),
            "-" if result.exit_code is None else str(result.exit_code),
            f"{result.duration} ms",
            Text(printable(result.error)),
        )
    console.print(table, soft_wrap=False)
