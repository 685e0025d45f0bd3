"""Whether a worker would take a task now, and if not, why. Pure."""

from collections.abc import Mapping

from msgspec import Struct


class CategoryReadiness(Struct, frozen=True, kw_only=True):
    """Whether tasks of a category would come; `obstacle` is what they lack, as a sentence."""

    pulling: bool
    slots: int
    obstacle: str | None = None


class Readiness(Struct, frozen=True, kw_only=True):
    """Where a worker is, by what it takes; `server` is the NATS server it is connected to."""

    worker: str
    server: str
    connected: bool
    draining: bool
    busy: int
    """Tasks at work."""
    categories: Mapping[str, CategoryReadiness]

    @property
    def reason(self) -> str | None:
        """Why no task would be taken, or not all that should; None: it is ready.

        A category with an obstacle is left to other workers: that alone makes no worker unready.
        """
        if self.draining:
            return "the worker is draining"
        if not self.connected:
            return "there is no connection to the server"
        able = {name: each for name, each in self.categories.items() if each.obstacle is None}
        if not able:
            return "no category can be served: " + "; ".join(filter(None, (self._obstacle(n) for n in self.categories)))
        idle = [name for name, each in able.items() if not each.pulling]
        return f"no tasks are pulled of {', '.join(idle)}" if idle else None

    def _obstacle(self, category: str) -> str:
        return f"{category}: {self.categories[category].obstacle}"
