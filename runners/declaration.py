"""`@runner`: declares that a class or function of a plug-in runs the tasks of a category."""

import inspect
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

from msgspec import Struct

from .base import Runner
from .functions import FunctionFactory

_ATTRIBUTE: Final = "__jetrunner__"

T = TypeVar("T", bound=Callable[..., Any])


class Declaration(Struct, frozen=True):
    """A category, and what makes its Runners."""

    category: str
    factory: Callable[[], Runner[Any]]


def runner(category: str, *, on_stop: Literal["raise", "flag"] = "raise") -> Callable[[T], T]:
    """Declare the runner of a category: a function, or a Runner class. What is decorated stays as it is.

    An `async def` runs in the worker and is cancelled by a stop, kill or time-out. A plain function runs in one of a
    pool of processes; a stop or time-out raises TaskStopped in it or, with `on_stop="flag"`, only sets its context's
    `stopping`, and after the grace its process is killed.

    The function's parameters are the task's: each has an annotation; one that is annotated with TaskContext gets the
    context. A single parameter that is a msgspec Struct takes them all. What it returns is the task's output, as JSON.
    """

    def declare(declared: T) -> T:
        factory: Any = declared if inspect.isclass(declared) else FunctionFactory(declared, on_stop)
        setattr(declared, _ATTRIBUTE, Declaration(category, factory))
        return declared

    return declare


def declaration_of(value: object) -> Declaration | None:
    """Return what `@runner` has said of a class or function, if it has."""
    own = getattr(value, "__dict__", {})  # a subclass does not inherit its parent's category
    declaration = own.get(_ATTRIBUTE)
    return declaration if isinstance(declaration, Declaration) else None


def factory_of(value: Callable[..., Any]) -> Callable[[], Runner[Any]]:
    """Return the factory that a decorated class or function stands for; anything else is one itself."""
    declaration = declaration_of(value)
    return value if declaration is None else declaration.factory
