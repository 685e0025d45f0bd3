"""Plug-ins: modules that the configuration names, and entry points of installed packages, brought into a Registry."""

import functools
import importlib
import sys
import traceback
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from .base import Runner
from .declaration import Declaration, declaration_of, factory_of
from .registry import BUILT_IN, Registry, RunnerFactory, default_registry

ENTRY_POINTS: Final = "jetrunner.runners"
"""The group: an entry point's name is a category, its value a Runner class, a factory, or a decorated function."""
_BETWEEN: Final = {Path(__file__).parent, Path(importlib.__file__).parent}
"""Where the frames of a traceback are that say nothing of a plug-in."""


class PluginError(Exception):
    """A plug-in cannot be used; the text names it, and says why and what to do."""


def make_registry(plugins: Iterable[str]) -> Registry:
    """Return a registry of the built-in runners, those of installed packages, and those of plug-in modules.

    Raises:
        PluginError: a plug-in cannot be imported, has no runner, or takes a category that is taken.
    """
    registry = default_registry()
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda each: each.name):
        source = f"package {point.dist.name if point.dist is not None else point.module}"
        _offer(registry, point.name, functools.partial(_load_point, point, source), source)
    for name in dict.fromkeys(plugins):
        _add_module(registry, name)
    return registry


def check(registry: Registry, categories: Iterable[str]) -> None:
    """Load the runners of some categories, and see that each can be made; ours can, and wait for their first task.

    Raises:
        PluginError: one cannot.
    """
    for category in categories:
        if registry.source(category) != BUILT_IN:
            probe(registry, category)


def probe(registry: Registry, category: str) -> Runner[Any]:
    """Make a category's Runner, to learn about it.

    Raises:
        PluginError: it cannot be made.
    """
    try:
        runner: object = registry.create(category)
    except PluginError:
        raise
    except Exception as error:
        raise PluginError(_unable(registry, category, reason(error))) from error
    if not isinstance(runner, Runner):
        raise PluginError(_unable(registry, category, f"its factory has made a {type(runner).__name__}, not a Runner"))
    return runner


def reason(error: BaseException) -> str:
    """Return an error's last line, and where in a file it was raised."""
    last = traceback.format_exception_only(error)[-1].strip()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    theirs = [frame for frame in frames if not _BETWEEN & {*Path(frame.filename).parents}]
    return f"{last} ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else last


def _unable(registry: Registry, category: str, why: str) -> str:
    return f"the runner of the category {category!r}, by {registry.source(category)}, cannot start: {why}"


def _add_module(registry: Registry, name: str) -> None:
    module = _import_module(name)
    source = f"plug-in {name}"
    declarations = _declarations(module)
    for declaration in declarations:
        _offer(registry, declaration.category, functools.partial(_same, declaration.factory), source)
    hook = vars(module).get("register")
    if getattr(hook, "__module__", None) == module.__name__ and callable(hook):
        _call_hook(hook, registry, name)
    elif not declarations:
        raise PluginError(
            f"the plug-in {name!r} has no runner: decorate one in it with @runner, or define register(registry)"
        )


def _declarations(module: ModuleType) -> list[Declaration]:
    """Return what is declared by what a module holds, each thing once."""
    found = {id(value): declaration_of(value) for value in vars(module).values()}
    return [declaration for declaration in found.values() if declaration is not None]


def _same(factory: RunnerFactory) -> RunnerFactory:
    return factory


def _call_hook(hook: Any, registry: Registry, name: str) -> None:
    try:
        with registry.crediting(f"plug-in {name}"):
            hook(registry)
    except Exception as error:
        raise PluginError(f"the plug-in {name!r} failed in its register(): {reason(error)}") from error


def _offer(registry: Registry, category: str, load: Any, source: str) -> None:
    try:
        registry.offer(category, load, source=source)
    except ValueError as error:
        raise PluginError(f"{error}; rename one, or do without the {source}") from None


def _import_module(name: str) -> ModuleType:
    """Import a module from the Python path, or else from the current directory."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise PluginError(_failed(name, error)) from error
        raise PluginError(
            f"the plug-in {name!r} was not found, neither on the Python path nor in {here}: "
            "install it, or take it out of `plugins`"
        ) from None
    except (Exception, SystemExit) as error:
        raise PluginError(_failed(name, error)) from error


def _failed(name: str, error: BaseException) -> str:
    return f"the plug-in {name!r} failed when it was imported: {reason(error)}; mend it, or take it out of `plugins`"


def _load_point(point: EntryPoint, source: str) -> RunnerFactory:
    try:
        return factory_of(point.load())
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"the runner of the category {point.name!r}, by {source}, cannot be imported from {point.value}: "
            f"{reason(error)}; mend the package, or uninstall it"
        ) from error
