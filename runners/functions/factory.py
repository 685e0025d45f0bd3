"""FunctionFactory: makes the Runners of one function, and owns the pool of processes that a plain one needs."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

from runners.base import Runner

from .coroutine import CoroutineRunner
from .pool import Pool
from .pooled import PooledRunner
from .process import Target
from .signature import Signature, read_signature

OnStop = Literal["raise", "flag"]


class Function(Struct, frozen=True):
    """A function, its parameters, and how it is stopped."""

    function: Callable[..., Any]
    signature: Signature
    on_stop: OnStop


class FunctionFactory:
    """Makes a Runner for each task of one function; its pool's processes are started when they are needed."""

    def __init__(self, function: Callable[..., Any], on_stop: OnStop) -> None:
        self._function = function
        self._on_stop = on_stop

    def __call__(self) -> Runner[Any]:
        """Make the Runner of one task.

        Raises:
            TypeError: the function cannot be one; the text says why.
        """
        return self._runner_type()

    async def aclose(self) -> None:
        """End the pool's processes, if there are any."""
        if "_pool" in self.__dict__:
            await self._pool.aclose()

    @functools.cached_property
    def function(self) -> Function:
        """The function and its signature, which may name what is defined below it: it is read when it is needed."""
        return Function(self._function, read_signature(self._function), self._on_stop)

    @functools.cached_property
    def _runner_type(self) -> type[Runner[Any]]:
        signature = self.function.signature
        body: dict[str, Any] = {"params_type": signature.params_type, "signature": signature}
        if inspect.iscoroutinefunction(self._function):
            return type("CoroutineRunner", (CoroutineRunner,), {**body, "function": staticmethod(self._function)})
        return type("PooledRunner", (PooledRunner,), {**body, "pool": self._pool})

    @functools.cached_property
    def _pool(self) -> Pool:
        return Pool(_target(self._function))


def _target(function: Callable[..., Any]) -> Target:
    """Return where another process finds a function.

    Raises:
        TypeError: nowhere.
    """
    if function.__module__ == "__main__" or "<" in function.__qualname__:
        raise TypeError(
            f"{function.__qualname__} runs in processes of its own, so it must be at the top of a module "
            "that they can import"
        )
    return Target(function.__module__, function.__qualname__, tuple(sys.path))
