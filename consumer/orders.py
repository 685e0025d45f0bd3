"""What was said from outside to the tasks of a worker: stop and kill, before or while they are here, and its drain."""

from typing import Final, NamedTuple

from schemas import Control, Verb

_MAX_GIVEN: Final = 100_000
"""Controls that are remembered, the newest; older ones have their `canceled` Result."""


class Order(NamedTuple):
    """A stop or kill."""

    verb: Verb
    control: Control


class Orders:
    """The controls given so far, by task, and whether tasks may still begin."""

    def __init__(self) -> None:
        self.accepting = True
        """False once the worker ends: what comes goes back."""
        self._given: dict[str, Order] = {}

    def remember(self, task_id: str, order: Order) -> None:
        """Keep an order for its task, which may come later; the first one decides."""
        if len(self._given) >= _MAX_GIVEN:
            del self._given[next(iter(self._given))]
        self._given.setdefault(task_id, order)

    def given(self, task_id: str) -> Order | None:
        """Return the order that was given to a task, if one was."""
        return self._given.get(task_id)
