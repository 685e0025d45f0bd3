"""`jetrunner kill`: end a task at once."""

from typing import Annotated

from cyclopts import Parameter

from consumer.client import whoami
from schemas import Control, Verb

from .controlling import control_task
from .session import Connecting
from .values import duration


def kill(
    task_id: str,
    /,
    *,
    reason: str | None = None,
    wait: Annotated[bool, Parameter(negative="")] = False,
    timeout: str | None = None,
    connecting: Connecting | None = None,
) -> int:
    """Kill a task at once: SIGKILL. One that has not started never will.

    Parameters
    ----------
    task_id
        The task's whole id.
    reason
        Why, for the Result.
    wait
        Wait for the task's end and print its status.
    timeout
        Wait for so long at most, then exit with 124.
    """
    control = Control(reason=reason, by=whoami())
    patience = duration("--timeout", timeout)
    return control_task(connecting or Connecting(), task_id, Verb.KILL, control, wait=wait, patience=patience)
