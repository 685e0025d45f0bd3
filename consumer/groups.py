"""Task groups whose failure is the failure itself, where there is only one."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collapsed() -> Iterator[None]:
    """Raise what a task group of ours raised, without the group, if it holds one exception only."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise _innermost(group) from None


def _innermost(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 1:
        group = group.exceptions[0]
    return group
