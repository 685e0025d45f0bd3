"""How far something has come: a bar on a terminal, elsewhere a line on stderr now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from .rendering import say

EVERY: Final = 10.0
"""Seconds between two lines."""

Step = Callable[[], None]
"""Counts one more."""


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Step]:
    """Show a count while the body lasts; `total` None: nobody knows how many there will be."""
    with _bar(what, total) if sys.stderr.isatty() else _lines(what, total) as step:
        yield step


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Step]:
    from rich.console import Console  # noqa: PLC0415 - only a terminal has use for it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


@contextmanager
def _lines(what: str, total: int | None) -> Iterator[Step]:
    count, told = 0, time.monotonic()
    of = f" of {total}" if total is not None else ""

    def step() -> None:
        nonlocal count, told
        count += 1
        if time.monotonic() - told >= EVERY:
            told = time.monotonic()
            say(f"{what}: {count}{of}")

    yield step
