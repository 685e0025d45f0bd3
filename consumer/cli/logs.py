"""What a worker says on stderr: lines for a person on a terminal, one JSON object per line anywhere else.

A line that is about a task says which, and has none of its secrets; no line has the credentials or the query of a URL.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

from consumer.story import current_story
from runners.redaction import REPLACEMENT

from .plain import printable

Level = Literal["debug", "info", "warning", "error"]

_OURS: Final = ("consumer", "runners")
_OTHERS: Final = {"nats": "DEBUG", "docker": "DEBUG", "httpx": "INFO"}
"""The libraries whose steps are told when ours are, and how much of them: below, httpx's would be every header."""
_COLORS: Final = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}
"""SGR parameters (ECMA-48) by level."""
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
"""What every record has; the rest was given as `extra`."""
_OF_STORY: Final = ("task_id", "category", "attempt", "trace_id", "span_id")
_REDACTED: Final = REPLACEMENT.decode()
_URL: Final = re.compile(r"""(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?P<rest>[^\s"'<>]+)""", re.IGNORECASE)
_QUERY: Final = re.compile(r"\?[^#]+")


def configure(level: Level) -> None:
    """Log to stderr: our own messages from `level` up, other libraries' warnings, and their steps if it is debug."""
    handler = logging.StreamHandler(sys.stderr)
    for_person = sys.stderr.isatty()
    handler.setFormatter(_HumanFormatter(colored=not os.environ.get("NO_COLOR")) if for_person else _JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
    for name, most in _OTHERS.items():
        logging.getLogger(name).setLevel(most if level == "debug" else "WARNING")


class _HumanFormatter(logging.Formatter):
    """`12:34:56 INFO    message`, the task's id if the message has it not, and a traceback if there is one."""

    def __init__(self, *, colored: bool) -> None:
        super().__init__()
        self._colored = colored

    def format(self, record: logging.LogRecord) -> str:
        moment = self.formatTime(record, "%H:%M:%S")
        message = printable(_clean(record.getMessage()))
        task_id = _about(record).get("task_id")
        if task_id is not None and task_id not in message:
            message += f" (task {task_id})"
        line = f"{moment} {record.levelname:<7} {message}"
        if self._colored and record.levelno in _COLORS:
            line = f"\x1b[{_COLORS[record.levelno]}m{line}\x1b[0m"
        return f"{line}\n{_clean(self.formatException(record.exc_info))}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    """An object with `time` (RFC 3339), `level`, `logger`, `message`, what was given as data, and `exception`.

    A line about a task has `task_id`, `category` and `attempt`, and `trace_id` and `span_id` if it is traced.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _clean(record.getMessage()),
            **_about(record),
        }
        if record.exc_info:
            fields["exception"] = _clean(self.formatException(record.exc_info))
        return json.dumps(fields, default=lambda value: _clean(str(value)))


def _about(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the task that a line is about, and the data that it was given."""
    story = current_story()
    told = {name: value for name in _OF_STORY if (value := getattr(story, name, None)) is not None}
    given = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
    return told | {name: _clean(value) if isinstance(value, str) else value for name, value in given.items()}


def _clean(text: str) -> str:
    story = current_story()
    if story is not None:
        text = story.secrets.redact_text(text)
    return _URL.sub(_without_secrets, text) if "://" in text else text


def _without_secrets(url: re.Match[str]) -> str:
    """Return a URL without user, password and query: more than one service takes its keys there."""
    authority, slash, path = url["rest"].partition("/")
    user, at, host = authority.rpartition("@")
    kept = f"{_REDACTED}@{host}" if user and at else authority
    return url["scheme"] + _QUERY.sub(f"?{_REDACTED}", kept + slash + path)
