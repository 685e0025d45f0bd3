"""`jetrunner schedule rm`: tasks that wait for their time, ended before it comes."""

from consumer.client import whoami
from consumer.errors import ConfigError
from consumer.schedules import Schedules
from schemas import Control

from . import OK
from .rendering import say
from .session import Connecting, Session, with_streams
from .values import sendable


def rm(*task_ids: str, reason: str | None = None, connecting: Connecting | None = None) -> int:
    """End tasks that wait for their time: delayed, recurring, or to be tried again. Each gets the Result `canceled`.

    What a recurring task has begun already goes on.

    Parameters
    ----------
    task_ids
        The tasks' whole ids.
    reason
        Why, for the Results.
    """
    task_ids = tuple(dict.fromkeys(task_ids))
    if not task_ids:
        raise ConfigError("name the tasks by their whole ids; jetrunner schedule ls lists them")
    control = sendable(Control(by=whoami(), reason=reason))

    async def remove(session: Session) -> None:
        schedules = Schedules(session.connection, session.subjects)
        await schedules.expect(task_ids)
        for task_id in task_ids:
            await schedules.remove(task_id, control)

    with_streams(connecting or Connecting(), remove)
    count = len(task_ids)
    say(f"removed {count} {'task' if count == 1 else 'tasks'} from the schedule")
    return OK
