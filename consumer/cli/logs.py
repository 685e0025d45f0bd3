"""What a worker says on stderr: lines for a person on a terminal, one JSON object per line anywhere else."""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Final, Literal

from .plain import printable

Level = Literal["debug", "info", "warning", "error"]

_OURS: Final = ("consumer", "runners", "nats")
_COLORS: Final = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}
"""SGR parameters (ECMA-48) by level."""


def configure(level: Level) -> None:
    """Log to stderr: our own messages from `level` up, other libraries' warnings."""
    handler = logging.StreamHandler(sys.stderr)
    for_person = sys.stderr.isatty()
    handler.setFormatter(_HumanFormatter(colored=not os.environ.get("NO_COLOR")) if for_person else _JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())


class _HumanFormatter(logging.Formatter):
    """`12:34:56 INFO    message`, and a traceback if there is one."""

    def __init__(self, *, colored: bool) -> None:
        super().__init__()
        self._colored = colored

    def format(self, record: logging.LogRecord) -> str:
        moment = self.formatTime(record, "%H:%M:%S")
        line = f"{moment} {record.levelname:<7} {printable(record.getMessage())}"
        if self._colored and record.levelno in _COLORS:
            line = f"\x1b[{_COLORS[record.levelno]}m{line}\x1b[0m"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    """An object with `time` (RFC 3339), `level`, `logger`, `message`, and `exception` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)
