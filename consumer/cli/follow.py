"""`jetrunner follow`: a task's output and states from its start, and its exit code."""

from typing import Annotated

from consumer.client import check_task_id
from schemas import Status

from .following import Narrator, Shown, follow_task
from .rendering import OUTPUT, Quiet
from .session import Connecting, Session, with_streams
from .states import expect_result
from .values import duration


def follow(
    task_id: str,
    /,
    *,
    timeout: str | None = None,
    quiet: Quiet = False,
    output: Annotated[Shown, OUTPUT] = "output",
    connecting: Connecting | None = None,
) -> int:
    """Follow a task from its start to its end and exit with its code, whether it waits, runs or has ended.

    Parameters
    ----------
    task_id
        The task's id, or the beginning of it.
    timeout
        Give up after so long, such as 30 or 1m30s, with exit code 124; the task goes on.
    quiet
        Do not tell on stderr how things go.
    output
        What stdout carries: the task's output, or its Result as JSON.
    """
    check_task_id(task_id)
    patience = duration("--timeout", timeout)
    narrator = Narrator(shown=output, is_quiet=quiet)

    async def find_and_follow(session: Session) -> int:
        client = session.client
        found = await client.find(task_id)
        state = await expect_result(client, found)
        if state is not None and state.status is Status.PENDING:
            narrator.state(f"queued: {found}")
        return await follow_task(session, found, narrator, patience=patience)

    return with_streams(connecting or Connecting(), find_and_follow)
