"""The runners that a configuration has: built-in, of installed packages, and of its plug-ins."""

from collections.abc import Iterable

from runners.plugins import PluginError, check, make_registry
from runners.registry import Registry

from .config import Config
from .errors import ConfigError


def find_runners(config: Config) -> Registry:
    """Return all runners that there are; those of packages are imported when they are needed.

    Raises:
        ConfigError: a plug-in cannot be used; the text names it and says what to do.
    """
    try:
        return make_registry(config.plugins)
    except PluginError as error:
        raise ConfigError(str(error)) from None


def start_runners(registry: Registry, categories: Iterable[str]) -> None:
    """See that the runners of the categories that are served can be made.

    Raises:
        ConfigError: one cannot; the text names it.
    """
    try:
        check(registry, (category for category in categories if category in registry))
    except PluginError as error:
        raise ConfigError(str(error)) from None
