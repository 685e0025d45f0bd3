"""`jetrunner schedule ls`: the tasks that wait for their time."""

from typing import Annotated

from consumer.queued import QueuedTask
from consumer.schedules import Schedules

from . import OK
from .rendering import OUTPUT, Format, age, print_json, print_jsonl, print_table, until
from .session import Connecting, with_streams

_COLUMNS = ("ID", "CATEGORY", "SCHEDULE", "NEXT", "ATTEMPT", "AGE")


def ls(
    *,
    category: str | None = None,
    output: Annotated[Format, OUTPUT] = "table",
    connecting: Connecting | None = None,
) -> int:
    """List the tasks that wait for their time: delayed, recurring, or to be tried again; the next one first.

    The server alone knows when a cron fires next.

    Parameters
    ----------
    category
        Only tasks of this category.
    output
        How to print them; `id` prints nothing else.
    """
    everything = with_streams(
        connecting or Connecting(), lambda session: Schedules(session.connection, session.subjects).kept()
    )
    kept = sorted((task for task in everything if category in {None, task.category}), key=_order)
    match output:
        case "table":
            print_table(_COLUMNS, map(_row, kept))
        case "json":
            print_json(kept)
        case "jsonl":
            print_jsonl(kept)
        case "id":
            for task in kept:
                print(task.task_id)
    return OK


def _order(task: QueuedTask) -> tuple[bool, float]:
    return (task.next is None, (task.next or task.submitted).timestamp())


def _row(task: QueuedTask) -> tuple[str, ...]:
    return (
        task.task_id,
        task.category,
        task.schedule or "",
        until(task.next),
        str(task.attempt),
        age(task.submitted),
    )
