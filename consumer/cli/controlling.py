"""What `stop` and `kill` share."""

import anyio

from consumer.client import Client, check_task_id
from consumer.errors import NotFoundError
from schemas import Control, Verb

from . import OK, TIMED_OUT
from .rendering import complain, say
from .session import Connecting, Session, with_streams
from .values import sendable


def control_task(
    connecting: Connecting, task_id: str, verb: Verb, control: Control, *, wait: bool, patience: float | None
) -> int:
    """Stop or kill a task, given its whole id, and wait for its end if asked to.

    Raises:
        ConfigError: no task can have this id, or the control is no text.
        NotFoundError: no task has it.
    """
    check_task_id(task_id)
    sendable(control)

    async def ask(session: Session) -> int:
        client = session.client
        if (result := await client.result(task_id)) is not None:
            say(f"the task {task_id} has ended already: {result.status}")
        elif not await client.may_have(task_id):
            raise NotFoundError(f"there is no task {task_id}; a {verb} takes the whole id")
        else:
            await client.control(task_id, verb, control)
            say(f"{verb} sent to {task_id}")
        return await _wait(client, task_id, patience) if wait else OK

    return with_streams(connecting, ask, publishes=True)


async def _wait(client: Client, task_id: str, patience: float | None) -> int:
    with anyio.move_on_after(patience):
        print((await client.wait(task_id)).status)
        return OK
    complain(f"the task {task_id} has not ended within {patience} s")
    return TIMED_OUT
