"""What a function's return value or exception means for its task."""

import traceback
from pathlib import Path
from typing import Any, Final

from runners.errors import Outcome, failed
from schemas import SchemaError, encode

_LONGEST: Final = 2000
"""Characters of an exception's text that become the task's error; its traceback holds them all."""
_OURS: Final = Path(__file__).parent


def as_json(value: Any) -> bytes:
    """Return what a function has returned as the task's output; None is none.

    Raises:
        TypeError: it has no JSON form.
    """
    if value is None:
        return b""
    try:
        return encode(value)
    except (TypeError, ValueError, NotImplementedError, SchemaError) as error:
        raise TypeError(f"a {type(value).__name__} was returned that has no JSON form: {error}") from None


def exception_text(error: BaseException) -> str:
    """Return an exception on one line."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return " ".join(text.split())[:_LONGEST]


def traceback_text(error: BaseException) -> str:
    """Return an exception's traceback, from the function on: our own call of it tells nobody anything."""
    frame = error.__traceback__
    while frame is not None and Path(frame.tb_frame.f_code.co_filename).parent == _OURS:
        frame = frame.tb_next
    return "".join(traceback.format_exception(error.with_traceback(frame)))


def exception_outcome(text: str) -> Outcome:
    """Return the outcome of a function that has raised an exception."""
    return failed("exception", text)
