"""`jetrunner run`: submit a task, follow it, and exit with its code."""

import signal
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Final

import anyio
from anyio.abc import TaskStatus

from consumer.client import Client, whoami
from consumer.errors import ConfigError
from consumer.groups import collapsed
from schemas import Control, Task, Verb

from . import INTERRUPTED
from .following import Narrator, Shown, follow_task
from .rendering import OUTPUT, Quiet, say
from .runner_options import RunnerOptions
from .session import Connecting, Session, with_streams
from .task_options import TaskOptions, make_task

DETACH_AFTER: Final = 2.0
"""Seconds in which a second Ctrl-C is waited for."""


def run(
    category: str | None = None,
    /,
    *words: str,
    runner: RunnerOptions | None = None,
    options: TaskOptions | None = None,
    quiet: Quiet = False,
    output: Annotated[Shown, OUTPUT] = "output",
    connecting: Connecting | None = None,
) -> int:
    """Submit a task, follow it, and exit with its code.

    jetrunner run command -- /bin/ls -la /tmp
    jetrunner run script --interpreter bash FILE -- ARGUMENT...
    jetrunner run docker IMAGE -- COMMAND ARGUMENT...
    jetrunner run http URL
    jetrunner run CATEGORY --command COMMAND --args JSON

    The exit code is the task's own; 3 if it ended badly without one, 124 if
    it timed out, 125 if it was canceled. Ctrl-C leaves it running (130);
    pressed twice, on a terminal, it stops the task.

    Parameters
    ----------
    category
        Which runner is to run it.
    words
        What to run.
    quiet
        Do not tell on stderr how things go.
    output
        What stdout carries: the task's output, or its Result as JSON.
    """
    category, task = make_task(category, words, runner or RunnerOptions(), options or TaskOptions())
    if task.schedule is not None:
        raise ConfigError("a recurring task has no end to wait for: hand it in with submit")
    narrator = Narrator(shown=output, is_quiet=quiet)
    return with_streams(
        connecting or Connecting(), lambda session: _run(session, category, task, narrator), publishes=True
    )


async def _run(session: Session, category: str, task: Task, narrator: Narrator) -> int:
    code, client = INTERRUPTED, session.client
    with collapsed():
        async with anyio.create_task_group() as tasks:
            interrupts = _Interrupts(client, tasks.cancel_scope)
            await tasks.start(interrupts.attend)
            task_id = interrupts.task_id = await client.submit(category, task)
            narrator.state(f"queued: {task_id}")
            code = await follow_task(session, task_id, narrator)
            tasks.cancel_scope.cancel()
    return code


class _Interrupts:
    """What Ctrl-C means: first that we leave the task alone, and then that it is to stop."""

    def __init__(self, client: Client, following: anyio.CancelScope) -> None:
        self.task_id = ""
        self._client = client
        self._following = following

    async def attend(self, *, task_status: TaskStatus[None]) -> None:
        """Wait for Ctrl-C."""
        with anyio.open_signal_receiver(signal.SIGINT) as presses:
            task_status.started()
            await anext(presses)
            if self.task_id and sys.stderr.isatty() and await self._is_pressed_again(presses):
                control = Control(by=whoami(), reason="Ctrl-C")
                await self._client.control(self.task_id, Verb.STOP, control)
                await anext(presses)
            if self.task_id:
                say(f"the task goes on: jetrunner follow {self.task_id}")
            self._following.cancel()

    async def _is_pressed_again(self, presses: AsyncIterator[signal.Signals]) -> bool:
        say("the task goes on; press Ctrl-C again to stop it")
        with anyio.move_on_after(DETACH_AFTER):
            await anext(presses)
            return True
        return False
