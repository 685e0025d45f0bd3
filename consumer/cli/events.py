"""`jetrunner events`: what happens to tasks, or has happened."""

import asyncio
import sys
from datetime import datetime
from typing import Annotated, Any, Literal

import anyio
from cyclopts import Parameter
from nats.aio.msg import Msg

from consumer.client import check_task_id
from consumer.groups import collapsed
from consumer.tail import Tail
from schemas import Event, EventType, SchemaError, decode, encode

from . import OK
from .plain import printable
from .rendering import OUTPUT
from .session import Connecting, Session, with_streams
from .values import moment_before


def events(
    task_id: str | None = None,
    /,
    *,
    types: Annotated[tuple[EventType, ...], Parameter(name="--type", negative="", show_default=False)] = (),
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    since: str | None = None,
    output: Annotated[Literal["table", "jsonl"] | None, OUTPUT] = None,
    connecting: Connecting | None = None,
) -> int:
    """Print the events of all tasks, or of one, in the order they were stored.

    Parameters
    ----------
    task_id
        Of this task only: its id, or the beginning of it.
    types
        Only events of this type; may be repeated.
    follow
        Go on with those that come, until interrupted.
    since
        Only events of this time, such as 1h.
    output
        By default a table on a terminal, else JSON lines.
    """
    if task_id is not None:
        check_task_id(task_id)
    begin = moment_before("--since", since)
    as_table = (output or ("table" if sys.stdout.isatty() else "jsonl")) == "table"

    async def print_events(session: Session) -> int:
        found = await session.client.find(task_id) if task_id is not None else "*"
        subjects = [session.subjects.event(found, type_) for type_ in types or "*"]
        await _read(session, subjects, _start(begin), follow=follow, as_table=as_table)
        return OK

    return with_streams(connecting or Connecting(), print_events)


async def _read(session: Session, subjects: list[str], start: dict[str, Any], *, follow: bool, as_table: bool) -> None:
    await session.client.check()
    messages: asyncio.Queue[Msg | None] = asyncio.Queue()
    tail = Tail(session.connection, session.subjects.events_stream, subjects, messages.put_nowait, start=start)
    with collapsed():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tail.run)
            if not follow:
                tasks.start_soon(_end_when_caught_up, tail, messages)
            while (message := await messages.get()) is not None:
                _print(message, as_table=as_table, at_once=follow)
            tasks.cancel_scope.cancel()


async def _end_when_caught_up(tail: Tail, messages: "asyncio.Queue[Msg | None]") -> None:
    await tail.caught_up.wait()
    messages.put_nowait(None)


def _print(message: Msg, *, as_table: bool, at_once: bool) -> None:
    try:
        event = decode(Event, message.data)
    except SchemaError:  # of a newer version than ours
        return
    print(_line(event) if as_table else encode(event).decode(), flush=at_once)


def _line(event: Event) -> str:
    data = " ".join(f"{name}={value}" for name, value in event.data.items() if value is not None)
    moment = f"{event.time.astimezone():%H:%M:%S.%f}"[:-3]
    return printable(f"{moment}  {event.task_id:<16}  {event.type:<8}  {event.category:<8}  {data}").rstrip()


def _start(begin: datetime | None) -> dict[str, Any]:
    if begin is None:
        return {"deliver_policy": "all"}
    return {"deliver_policy": "by_start_time", "opt_start_time": begin.isoformat()}
