"""`jetrunner workers`: which workers are there, and what they have at work."""

from typing import Annotated

from consumer.overview import CategoryOverview
from consumer.workers import WorkerState, find_workers

from . import OK
from .rendering import OUTPUT, Format, age, print_list, say
from .session import Connecting, with_session

_COLUMNS = ("WORKER", "HOST", "PID", "VERSION", "UP", "STATE", "BUSY", "CATEGORIES", "SERVER")


def workers(*, output: Annotated[Format, OUTPUT] = "table", connecting: Connecting | None = None) -> int:
    """Say which workers are there, and what they have at work.

    Parameters
    ----------
    output
        How to print them; JSON names their tasks, too, `id` prints nothing but their names.
    """
    found = with_session(connecting or Connecting(), lambda session: find_workers(session.connection, session.subjects))
    print_list(output, found, _COLUMNS, _row, lambda each: each.worker)
    if not found:
        say("no worker answers; start one with: jetrunner worker")
    return OK


def _row(state: WorkerState) -> tuple[str, ...]:
    return (
        state.worker,
        state.host,
        str(state.pid),
        state.version,
        age(state.started),
        "draining" if state.draining else "working" if state.busy else "idle",
        str(state.busy),
        " ".join(_told(each) for each in state.categories),
        state.server,
    )


def _told(category: CategoryOverview) -> str:
    return f"{category.category} {category.busy}/{category.slots}{' (not taken)' if category.obstacle else ''}"
