"""`jetrunner schema`: JSON Schema of the messages, and of the parameters that the built-in runners take in `args`."""

from typing import Literal

import msgspec

from schemas import Control, Event, Result, Task, json_schema

_MESSAGES = {"task": Task, "result": Result, "event": Event, "control": Control}


def schema(message: Literal["task", "result", "event", "control", "command", "script", "http"]) -> None:
    """Print the JSON Schema of a message, or of a category's parameters.

    Parameters
    ----------
    message
        Which message or category.
    """
    type_ = _MESSAGES.get(message) or _parameters(message)
    print(msgspec.json.format(msgspec.json.encode(json_schema(type_))).decode())


def _parameters(category: str) -> type:
    from runners.registry import default_registry  # noqa: PLC0415 - messages need no runner

    return default_registry().create(category).params_type
