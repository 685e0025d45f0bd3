"""What commands print: data on stdout, in the form that was asked for, and everything else on stderr."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import IO, Annotated, Final, Literal, TypeVar

import msgspec
from cyclopts import Parameter

from schemas import Result, Status, encode, utc_now

from . import CANCELED, OK, TASK_FAILED, TIMED_OUT
from .plain import printable

OUTPUT: Final = Parameter(name=["--output", "-o"])
QUIET: Final = Parameter(name=["--quiet", "-q"], negative="")

Quiet = Annotated[bool, QUIET]
Format = Literal["table", "json", "jsonl", "id"]

V = TypeVar("V")

_PIPE_WIDTH: Final = 10_000
_STYLES: Final = {
    Status.PENDING: "dim",
    Status.RUNNING: "cyan",
    Status.SUCCESS: "green",
    Status.FAILED: "red",
    Status.TIMEOUT: "red",
    Status.CANCELED: "yellow",
    Status.ERROR: "bold red",
}
_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def exit_code(result: Result) -> int:
    """Return what a command that stands for a task exits with (contract section 8)."""
    match result.status:
        case Status.SUCCESS:
            return OK
        case Status.TIMEOUT:
            return TIMED_OUT
        case Status.CANCELED:
            return CANCELED
        case Status.FAILED:  # the part of the code that a process can have must not look like success
            return (result.exit_code or 0) & 0xFF or TASK_FAILED
    return TASK_FAILED


def say(text: str) -> None:
    """Tell a person on stderr how things go, dimmed on a terminal."""
    dimmed = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    line = printable(text)
    print(f"\x1b[2m{line}\x1b[0m" if dimmed else line, file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """Tell a person on stderr what went wrong, in one sentence."""
    print(f"jetrunner: {printable(' '.join(text.split()))}", file=sys.stderr, flush=True)


def write(stream: IO[str], data: bytes) -> None:
    """Pass bytes on as they are, at once."""
    stream.buffer.write(data)  # type: ignore[attr-defined]  # of every stream that is a file
    stream.flush()


def print_json(value: object) -> None:
    """Print a value as JSON: indented on a terminal, else on one line."""
    text = encode(value)
    print((msgspec.json.format(text) if sys.stdout.isatty() else text).decode())


def print_jsonl(values: Iterable[object]) -> None:
    """Print each value as JSON on a line of its own."""
    for value in values:
        print(encode(value).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their columns' names; the whole of each, if it does not go to a terminal."""
    from rich.console import Console  # noqa: PLC0415 - other forms of output have no use for it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*columns, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in table.columns:
        column.no_wrap = True
    for row in rows:
        table.add_row(*(Text(printable(cell), style=_STYLES.get(cell, "")) for cell in row))  # type: ignore[call-overload]
    Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def print_list(
    output: Format,
    values: Sequence[V],
    columns: Sequence[str],
    row: Callable[[V], Sequence[str]],
    name: Callable[[V], str],
) -> None:
    """Print things in the form that was asked for; `id` prints the name of each, once."""
    match output:
        case "table":
            print_table(columns, map(row, values))
        case "json":
            print_json(values)
        case "jsonl":
            print_jsonl(values)
        case "id":
            for each in dict.fromkeys(map(name, values)):
                print(each)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, those that there are, one pair a line."""
    known = {name: str(value) for name, value in facts.items() if value is not None and value != ""}
    width = max(map(len, known))
    for name, value in known.items():
        print(f"{name:<{width}}  {printable(value)}")


def when(moment: datetime | None) -> str:
    """Return a moment in local time, and how long ago it was or in how long it will be."""
    if moment is None:
        return ""
    distance = until(moment) if moment > utc_now() else f"{age(moment)} ago"
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}, {distance}"


def age(moment: datetime | None) -> str:
    """Return how long ago something was, such as `5 min`."""
    return "" if moment is None else short((utc_now() - moment).total_seconds())


def until(moment: datetime | None) -> str:
    """Return in how long something will be, such as `in 5 min`."""
    return "" if moment is None else f"in {short((moment - utc_now()).total_seconds())}"


def short(seconds: float) -> str:
    """Return a span of time in its largest unit, such as `250 ms`, `5 s` or `3 h`."""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    unit, size = next((unit, size) for unit, size in _UNITS if seconds >= size)
    return f"{seconds / size:.0f} {unit}"
