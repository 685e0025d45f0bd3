"""Which dead letters a command is about."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cyclopts import Parameter

from consumer.errors import ConfigError
from consumer.letters import Letters, WantedLetters

from .session import Connecting, with_streams
from .values import moment_before

T = TypeVar("T")


@Parameter(name="*", group="Selection")
@dataclass(frozen=True, kw_only=True)
class Selection:
    """The options that choose among dead letters."""

    category: str | None = None
    """Only tasks of this category."""
    code: str | None = None
    """Only tasks with this error code, such as worker_lost."""
    since: str | None = None
    """Only tasks given up within this time, such as 1h."""

    def wanted(self) -> WantedLetters:
        """Return what to look for.

        Raises:
            ConfigError: `since` is no duration.
        """
        since = moment_before("--since", self.since)
        return WantedLetters(category=self.category, error_code=self.code, since=since)

    def check(self, task_ids: Sequence[str], *, every: bool) -> None:
        """Let what was named pass, or not: either ids, or all that the options describe.

        Raises:
            ConfigError: it is neither, or both.
        """
        if every and task_ids:
            raise ConfigError("name the tasks, or say --all, but not both")
        if not every and not task_ids:
            raise ConfigError("name the tasks, or say --all")
        if not every and self != Selection():
            raise ConfigError("--category, --code and --since choose among --all")


def with_letters(connecting: Connecting | None, command: Callable[[Letters], Awaitable[T]]) -> T:
    """Run an asynchronous command on the dead letters."""
    return with_streams(
        connecting or Connecting(), lambda session: command(Letters(session.connection, session.subjects))
    )
