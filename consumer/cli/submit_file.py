"""`jetrunner submit --file`: many tasks, one on each line."""

import signal
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import anyio
from anyio.abc import TaskStatus
from cyclopts import Parameter

from consumer.batch import Batch, Entry, known_tasks
from consumer.errors import ConfigError
from consumer.gathering import Gathering
from consumer.groups import collapsed
from schemas import Status, encode

from . import INTERRUPTED, OK, TASK_FAILED, USAGE
from .progress import Step, progress
from .rendering import complain, say, short
from .session import Session
from .task_lines import TaskLines

IdForm = Literal["id", "json", "jsonl"]

_MOST_TOLD: Final = 20
"""Bad lines that are told of one by one."""
_MANY: Final = 100
"""Tasks whose rate says something."""


@Parameter(name="*", group="Batch", negative="", show_default=False)
@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Many tasks at once."""

    file: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Submit the tasks of a file, one on each line as JSON; - for stdin."""
    batch: str | None = None
    """Name it; the same line of the same batch is the same task. By default the file's path."""
    resume: bool = False
    """Leave out tasks that have a Result or are in the queue."""
    keep_going: bool = False
    """Submit the other tasks, too, if a line holds none."""
    wait: bool = False
    """Wait for all Results; exit with 3 if one is not a success."""

    def check(self) -> None:
        """Let the options of a single task pass.

        Raises:
            ConfigError: they are those of a file, but there is none.
        """
        for name in ("batch", "resume", "keep_going", "wait"):
            if self.file is None and getattr(self, name):
                raise ConfigError(f"--{name.replace('_', '-')} goes with --file")


class FileSubmission:
    """The tasks of one file, on their way.

    Args:
        category: of tasks that name none.
    """

    def __init__(self, session: Session, options: BatchOptions, category: str | None, form: IdForm) -> None:
        self._session = session
        self._options = options
        self._lines = TaskLines(
            options.file or "", category=category, batch=options.batch, connection=session.connection
        )
        self._printer = _Printer(form)
        self._batch = Batch(session.client, self._on_stored)
        self._gathering = Gathering(session.connection, session.subjects, self._on_ended)
        self._known: set[str] = set()
        self._skipped = self._bad = 0
        self._show_stored: Step = _nothing
        self._show_ended: Step = _nothing

    async def run(self) -> int:
        """Submit them, wait for their Results if asked to, and return the exit code."""
        code = INTERRUPTED
        with collapsed():
            async with anyio.create_task_group() as tasks:
                await tasks.start(_cancel_on_interrupt, tasks.cancel_scope)
                if self._options.wait:
                    await tasks.start(self._gathering.attend)
                code = await self._submit_and_wait()
                tasks.cancel_scope.cancel()
        if code == INTERRUPTED:
            say("interrupted; what was submitted goes on")
        return code

    async def _submit_and_wait(self) -> int:
        total = await self._check()
        if self._options.resume:
            self._known = await known_tasks(self._session.connection, self._session.subjects)
        await self._submit(total)
        if self._options.wait:
            await self._wait()
        if self._bad:
            return USAGE
        return OK if self._gathering.statuses.keys() <= {Status.SUCCESS} else TASK_FAILED

    async def _check(self) -> int | None:
        """Read all lines, before any task is submitted, and count them; None if they can be read only once."""
        if self._lines.is_stdin or self._options.keep_going:
            return None
        count = 0
        async with aclosing(self._lines.entries()) as entries:
            async for entry in entries:
                if isinstance(entry, ConfigError):
                    raise entry
                count += 1
        return count

    async def _submit(self, total: int | None) -> None:
        begun = time.monotonic()
        try:
            with self._printer, progress("submitting", total) as self._show_stored:
                async with aclosing(self._wanted()) as entries:
                    await self._batch.submit(entries)
        finally:
            self._tell_submitted(time.monotonic() - begun)

    async def _wanted(self) -> AsyncGenerator[Entry]:
        async with aclosing(self._lines.entries()) as entries:
            async for entry in entries:
                if isinstance(entry, ConfigError):
                    self._refuse(entry)
                    continue
                if self._options.wait and not entry.recurring:
                    self._gathering.expect(entry.task_id)
                if entry.task_id in self._known:
                    self._skipped += 1
                else:
                    yield entry

    def _refuse(self, error: ConfigError) -> None:
        if not self._options.keep_going:
            raise error
        self._bad += 1
        if self._bad <= _MOST_TOLD:
            complain(str(error))

    async def _wait(self) -> None:
        begun = time.monotonic()
        with progress("ended", self._gathering.expected) as self._show_ended:
            for _ in range(self._gathering.statuses.total()):
                self._show_ended()
            await self._gathering.wait()
        ends = ", ".join(f"{count} {status}" for status, count in sorted(self._gathering.statuses.items()))
        say(f"ended: {ends or 'none'}, {short(time.monotonic() - begun)} after the last was submitted")

    def _on_stored(self, entry: Entry) -> None:
        self._printer.print(entry)
        self._show_stored()

    def _on_ended(self) -> None:
        self._show_ended()

    def _tell_submitted(self, seconds: float) -> None:
        facts = [f"submitted {_counted(self._batch.stored, 'task')} in {short(seconds)}"]
        if self._batch.stored >= _MANY:
            facts.append(f"{self._batch.stored / seconds:.0f}/s")
        if self._batch.repeated:
            facts.append(f"{self._batch.repeated} of them again, which changes nothing")
        if self._skipped:
            facts.append(f"{self._skipped} left out: they have ended or are in the queue")
        if self._bad:
            facts.append(f"{_counted(self._bad, 'line')} refused")
        say(", ".join(facts))


class _Printer:
    """Prints the tasks that are stored, as they are."""

    def __init__(self, form: IdForm) -> None:
        self._form = form
        self._separator = ""

    def __enter__(self) -> None:
        if self._form == "json":
            print("[", end="")

    def __exit__(self, *_: object) -> None:
        if self._form == "json":
            print("]")
        sys.stdout.flush()

    def print(self, entry: Entry) -> None:
        if self._form == "id":
            print(entry.task_id)
            return
        text = encode({"task_id": entry.task_id, "category": entry.category, "line": entry.line}).decode()
        if self._form == "jsonl":
            print(text)
            return
        print(self._separator, text, sep="", end="")
        self._separator = ",\n"


async def _cancel_on_interrupt(scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT) as presses:
        task_status.started()
        await anext(presses)
        scope.cancel()


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _nothing() -> None:
    """Show nothing."""
