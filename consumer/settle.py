"""Decides what becomes of a task whose run has ended. Pure."""

from enum import Enum, auto

from schemas import Cause, Result, Status


class Settlement(Enum):
    """What a delivery does with a Result."""

    FINISH = auto()
    """Store it: the task is done with."""
    BURY = auto()
    """Store it, and keep the task as a dead letter."""
    GIVE_BACK = auto()
    """Forget it: the task goes back to the queue, for its worker's sake and not its own."""


def settle(result: Result) -> Settlement:
    """Decide by how the run ended."""
    cause = result.termination.cause if result.termination is not None else None
    if cause in {Cause.SHUTDOWN, Cause.LOST}:
        return Settlement.GIVE_BACK
    return Settlement.BURY if result.status is Status.ERROR else Settlement.FINISH
