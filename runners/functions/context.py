"""What a function may ask for beside its parameters: whose task it runs, and a way to tell how it goes."""

from typing import Any, Protocol

from msgspec import Struct

from runners.context import Context


class TaskStopped(BaseException):
    """Raised in a plain function whose task is stopped or timed out: its process is killed after the grace."""


class Facts(Struct, frozen=True, array_like=True):
    """What a function may know of its task."""

    id: str
    category: str
    attempt: int
    redeliveries: int
    worker: str
    labels: dict[str, str]


def facts_of(context: Context) -> Facts:
    """Return what a function may know of its runner's context."""
    task = context.task
    return Facts(
        id=task.id or "",
        category=task.category or "",
        attempt=context.attempt,
        redeliveries=context.redeliveries,
        worker=context.worker,
        labels=task.labels,
    )


class Channel(Protocol):
    """Where a function's reports go."""

    @property
    def stopping(self) -> bool:
        """Whether the task is to end."""

    def progress(self, data: dict[str, Any]) -> None:
        """Take a step of the work."""

    def output(self, data: bytes) -> None:
        """Take some output."""

    def log(self, data: bytes) -> None:
        """Take what is for people."""


class TaskContext:
    """A task as its function sees it: `id`, `category`, `attempt`, `redeliveries`, `worker` and `labels`."""

    def __init__(self, facts: Facts, channel: Channel) -> None:
        self.id = facts.id
        self.category = facts.category
        self.attempt = facts.attempt
        self.redeliveries = facts.redeliveries
        self.worker = facts.worker
        self.labels = facts.labels
        self._channel = channel

    @property
    def stopping(self) -> bool:
        """Whether the task is stopped or timed out: what is done within its grace still counts."""
        return self._channel.stopping

    def progress(self, **data: Any) -> None:
        """Publish a step of the work; the values must have a JSON form.

        Raises:
            TypeError: a value has none.
        """
        self._channel.progress(data)

    def write(self, data: str | bytes) -> None:
        """Append to the task's output, before what the function returns."""
        self._channel.output(data.encode() if isinstance(data, str) else data)

    def log(self, text: str) -> None:
        """Append a line to the task's stderr."""
        self._channel.log(f"{text}\n".encode())
