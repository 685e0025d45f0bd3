"""`jetrunner schema`: the messages' JSON Schema."""

from typing import Literal

import msgspec

from schemas import Control, Event, Result, Task, json_schema

_MESSAGES = {"task": Task, "result": Result, "event": Event, "control": Control}


def schema(message: Literal["task", "result", "event", "control"]) -> None:
    """Print the JSON Schema of a message.

    Parameters
    ----------
    message
        Which message.
    """
    print(msgspec.json.format(msgspec.json.encode(json_schema(_MESSAGES[message]))).decode())
