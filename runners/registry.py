"""Registry: which Runner a category is run by, where it comes from, and what there is to close in the end."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, TypeVar, overload

from msgspec import Struct

from schemas.subjects import is_category

from .base import Runner
from .context import Facility
from .declaration import factory_of
from .docker import DockerRunner, Engine
from .errors import UnknownCategoryError

RunnerFactory = Callable[[], Runner[Any]]
"""Makes a fresh Runner; called once per task. If it has an `aclose`, that is awaited when no more will be made."""

BUILT_IN: Final = "built-in"
"""The source of our own runners."""

_BUILT_INS: Final = {
    "command": "runners.command:CommandRunner",
    "script": "runners.script:ScriptRunner",
    "http": "runners.http.runner:HttpRunner",
}

F = TypeVar("F", bound=Callable[..., Any])


class _Offer(Struct, frozen=True):
    """A factory that is loaded when it is needed, and who offers it."""

    load: Callable[[], RunnerFactory]
    source: str


class Registry:
    """Maps categories to the factories of their Runners."""

    def __init__(self) -> None:
        self._offers: dict[str, _Offer] = {}
        self._factories: dict[str, RunnerFactory] = {}
        self._facilities: dict[str, Facility] = {}
        self._registering = "this program"

    @overload
    def register(self, category: str, factory: F, facility: Facility | None = ...) -> F: ...
    @overload
    def register(self, category: str) -> Callable[[F], F]: ...
    def register(self, category: str, factory: F | None = None, facility: Facility | None = None) -> Any:
        """Let `factory` make the Runners of a category, with what they share and cannot run without.

        Without a factory, decorate it. A function that is decorated with `@runner` stands for its own factory.

        Raises:
            ValueError: the name cannot be a subject's token, or the category is taken.
        """
        if factory is None:
            return functools.partial(self.register, category)
        self.offer(category, lambda: factory_of(factory), source=self._registering)
        if facility is not None:
            self._facilities[category] = facility
        return factory

    @contextmanager
    def crediting(self, source: str) -> Iterator[None]:
        """Within this scope, name a source for what is registered."""
        before, self._registering = self._registering, source
        try:
            yield
        finally:
            self._registering = before

    def offer(self, category: str, load: Callable[[], RunnerFactory], *, source: str) -> None:
        """Let a category have the factory that `load` returns, once it is needed.

        Raises:
            ValueError: as `register`.
        """
        if not is_category(category):
            raise ValueError(f"the category {category!r} must be 1 to 64 characters of A-Z a-z 0-9 _ -")
        if taken := self._offers.get(category):
            raise ValueError(f"the category {category!r} is registered twice: by {taken.source} and by {source}")
        self._offers[category] = _Offer(load, source)

    def create(self, category: str) -> Runner[Any]:
        """Make the Runner for one task.

        Raises:
            UnknownCategoryError: no factory is registered for the category.
        """
        factory = self._factories.get(category)
        return self._load(category)() if factory is None else factory()

    def facility(self, category: str) -> Facility | None:
        """Return what a category's runners cannot run without; None: they can always run."""
        return self._facilities.get(category)

    def source(self, category: str) -> str:
        """Return who offers a category."""
        return self._offers[category].source

    async def aclose(self) -> None:
        """End what the factories keep for their runners; they can make more, and may then be closed again."""
        for factory in self._factories.values():
            if (aclose := getattr(factory, "aclose", None)) is not None:
                await aclose()

    def _load(self, category: str) -> RunnerFactory:
        offer = self._offers.get(category)
        if offer is None:
            raise UnknownCategoryError(
                f"no runner is registered for the category {category!r}; there are {', '.join(self) or 'none'}"
            )
        factory = self._factories[category] = offer.load()
        return factory

    def __contains__(self, category: object) -> bool:
        return category in self._offers

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._offers))


def default_registry() -> Registry:
    """Return a registry of the built-in runners; each is imported when it is needed."""
    registry = Registry()
    for category, place in _BUILT_INS.items():
        registry.offer(category, functools.partial(_import, place), source=BUILT_IN)
    engine = Engine()
    with registry.crediting(BUILT_IN):
        registry.register("docker", lambda: DockerRunner(engine), engine)
    return registry


def _import(place: str) -> RunnerFactory:
    module, _, name = place.partition(":")
    factory: RunnerFactory = getattr(import_module(module), name)
    return factory
