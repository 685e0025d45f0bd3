"""Registry: which Runner a category is run by."""

from collections.abc import Callable, Iterator
from typing import Any

from schemas.subjects import is_category

from .base import Runner
from .command import CommandRunner
from .context import Facility
from .docker import DockerRunner, Engine
from .errors import UnknownCategoryError
from .script import ScriptRunner

RunnerFactory = Callable[[], Runner[Any]]
"""Makes a fresh Runner; called once per task."""


class Registry:
    """Maps categories to the factories of their Runners."""

    def __init__(self) -> None:
        self._factories: dict[str, RunnerFactory] = {}
        self._facilities: dict[str, Facility] = {}

    def register(self, category: str, factory: RunnerFactory, facility: Facility | None = None) -> None:
        """Let `factory` make the Runners of a category, with what they share and cannot run without.

        Raises:
            ValueError: the name cannot be a subject's token, or the category is taken.
        """
        if not is_category(category):
            raise ValueError(f"the category {category!r} must be 1 to 64 characters of A-Z a-z 0-9 _ -")
        if category in self._factories:
            raise ValueError(f"the category {category!r} is registered twice")
        self._factories[category] = factory
        if facility is not None:
            self._facilities[category] = facility

    def create(self, category: str) -> Runner[Any]:
        """Make the Runner for one task.

        Raises:
            UnknownCategoryError: no factory is registered for the category.
        """
        factory = self._factories.get(category)
        if factory is None:
            raise UnknownCategoryError(
                f"no runner is registered for the category {category!r}; there are {', '.join(self) or 'none'}"
            )
        return factory()

    def facility(self, category: str) -> Facility | None:
        """Return what a category's runners cannot run without; None: they can always run."""
        return self._facilities.get(category)

    def __contains__(self, category: object) -> bool:
        return category in self._factories

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._factories))


def default_registry() -> Registry:
    """Return a registry of the built-in runners."""
    registry = Registry()
    registry.register("command", CommandRunner)
    registry.register("script", ScriptRunner)
    registry.register("http", _http)
    engine = Engine()
    registry.register("docker", lambda: DockerRunner(engine), engine)
    return registry


def _http() -> Runner[Any]:
    from .http.runner import HttpRunner  # noqa: PLC0415 - httpx is loaded by the first task that needs it

    return HttpRunner()
