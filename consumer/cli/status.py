"""`jetrunner status`: where a task is."""

from typing import Annotated, Literal

from consumer.client import Client, check_task_id
from consumer.errors import NotFoundError

from . import OK
from .rendering import OUTPUT, print_facts, print_json, short, when
from .session import Connecting, with_streams
from .states import TaskState, state_of


def status(
    task_id: str,
    /,
    *,
    output: Annotated[Literal["table", "json"], OUTPUT] = "table",
    connecting: Connecting | None = None,
) -> int:
    """Say where a task is: pending, running and on which worker, or how it ended.

    Parameters
    ----------
    task_id
        The task's id, or the beginning of it.
    output
        How to print it.
    """
    check_task_id(task_id)
    state = with_streams(connecting or Connecting(), lambda session: _find(session.client, task_id))
    if output == "json":
        print_json(state)
    else:
        print_facts(_facts(state))
    return OK


async def _find(client: Client, name: str) -> TaskState:
    task_id = await client.find(name)
    state = await state_of(client, task_id)
    if state is None:  # it has gone since
        raise NotFoundError(f"there is no task {task_id}")
    return state


def _facts(state: TaskState) -> dict[str, object]:
    return {
        "task": state.task_id,
        "status": "scheduled" if state.waits_for else state.status,
        "starts": when(state.next) if state.waits_for else None,
        "schedule": state.waits_for,
        "category": state.category,
        "worker": f"{state.worker} (does not answer)" if state.worker_answers is False else state.worker,
        "submitted": when(state.submitted),
        "started": when(state.started),
        "ended": when(state.ended),
        "duration": short(state.duration / 1000) if state.duration is not None else None,
        "exit code": state.exit_code,
        "error": state.error_code,
    }
