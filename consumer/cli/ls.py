"""`jetrunner ls`: the newest tasks."""

from typing import Annotated

from cyclopts import Parameter, validators

from schemas import Status

from . import OK
from .listing import MAX_EVENTS, Listing, Wanted
from .rendering import OUTPUT, Format, age, print_list, say, short, until
from .session import Connecting, Session, with_streams
from .states import TaskState
from .values import moment_before

_COLUMNS = ("ID", "CATEGORY", "STATUS", "AGE", "DURATION", "EXIT", "ERROR", "WORKER")


def ls(
    *,
    status: Annotated[tuple[Status, ...], Parameter(negative="", show_default=False)] = (),
    category: str | None = None,
    since: str | None = None,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 20,
    output: Annotated[Format, OUTPUT] = "table",
    connecting: Connecting | None = None,
) -> int:
    """List tasks, newest first: those that wait, run or have ended.

    Parameters
    ----------
    status
        Only tasks with this status; may be repeated.
    category
        Only tasks of this category.
    since
        Only tasks that have not ended, or within this time, such as 1h.
    limit
        So many at most.
    output
        How to print them; `id` prints nothing else.
    """
    wanted = Wanted(
        statuses=frozenset(status or Status), category=category, since=moment_before("--since", since), limit=limit
    )
    states = with_streams(connecting or Connecting(), lambda session: _read(session, wanted))
    print_list(output, states, _COLUMNS, _row, lambda state: state.task_id)
    return OK


async def _read(session: Session, wanted: Wanted) -> list[TaskState]:
    listing = Listing(session, wanted)
    states = await listing.read()
    if listing.is_cut:
        say(f"only the newest {MAX_EVENTS} events were read")
    return states


def _row(state: TaskState) -> tuple[str, ...]:
    elapsed = state.duration if state.duration is not None else None
    return (
        state.task_id,
        state.category,
        f"scheduled, {until(state.next) or state.waits_for}" if state.waits_for else state.status,
        age(state.begun),
        short(elapsed / 1000) if elapsed is not None else "",
        str(state.exit_code) if state.exit_code is not None else "",
        state.error_code or "",
        state.worker,
    )
