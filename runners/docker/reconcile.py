"""Which containers nobody can want any more, so that any worker on their engine may remove them."""

from collections.abc import Callable, Collection, Mapping

from msgspec import Struct

from .owner import is_dead
from .spec import DEADLINE_LABEL, LOCK_LABEL


class Listed(Struct, frozen=True, kw_only=True):
    """A container of some worker's, as the engine lists it."""

    id: str
    names: tuple[str, ...]
    labels: Mapping[str, str]


def is_wanted(
    container: Listed, own_lock: str, live: Collection[str], now: float, is_dead: Callable[[str], bool] = is_dead
) -> bool:
    """Tell whether a task may still have a container, at a time in Unix seconds.

    Ours are wanted if they are in `live`; another's while its owner is not known to be dead, until their deadline.
    """
    lock = container.labels[LOCK_LABEL]
    if lock == own_lock:
        return any(name in live for name in container.names)
    return now < _deadline(container) and not is_dead(lock)


def _deadline(container: Listed) -> float:
    """Return when nobody can want it any more; one that does not say has never been ours to make."""
    try:
        return float(container.labels.get(DEADLINE_LABEL, ""))
    except ValueError:
        return 0.0
