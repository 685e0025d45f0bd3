"""`jetrunner schema`: the JSON Schema of messages, and of the parameters of categories."""

import msgspec

from consumer.errors import ConfigError
from schemas import Control, Event, Result, Task, json_schema

from .session import Connecting

_MESSAGES = {"task": Task, "result": Result, "event": Event, "control": Control}


def schema(what: str, /, *, connecting: Connecting | None = None) -> None:
    """Print the JSON Schema of a message, or of a category's parameters in `args`.

    Parameters
    ----------
    what
        task, result, event, control, or a category.
    """
    type_ = _MESSAGES.get(what) or _parameters(what, connecting or Connecting())
    print(msgspec.json.format(msgspec.json.encode(json_schema(type_))).decode())


def _parameters(category: str, connecting: Connecting) -> type:
    from consumer.plugins import find_runners, start_runners  # noqa: PLC0415 - messages need no runner

    registry = find_runners(connecting.load())
    if category not in registry:
        known = ", ".join([*_MESSAGES, *registry])
        raise ConfigError(f"{category!r} is neither a message nor a category; there are {known}")
    start_runners(registry, [category])
    return registry.create(category).params_type
