"""The command line: what it offers, and what becomes of errors. Each command lives in a module of its own.

A command is imported when it is called, and returns its exit code (contract section 8).
"""

import os
import sys
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError

from consumer.errors import JetrunnerError

__all__ = [
    "CANCELED",
    "COMMANDS",
    "INTERRUPTED",
    "NOT_FOUND",
    "OK",
    "OUR_ERROR",
    "TASK_FAILED",
    "TIMED_OUT",
    "USAGE",
    "main",
]

OK: Final = 0
OUR_ERROR: Final = 1
USAGE: Final = 2
TASK_FAILED: Final = 3
NOT_FOUND: Final = 5
TIMED_OUT: Final = 124
CANCELED: Final = 125
INTERRUPTED: Final = 130

COMMANDS: Final = {
    "demo": "Show it all: a server, a worker and six tasks, in a temporary directory.",
    "worker": "Run tasks until told to stop; without a server configured, start one.",
    "workers": "Say which workers are there, and what they have at work.",
    "init": "Create the streams, and the consumers of categories.",
    "submit": "Submit a task, or those of a file, and print the ids.",
    "run": "Submit a task, follow it, and exit with its code.",
    "follow": "Follow a task from its start and exit with its code.",
    "result": "Print a task's Result.",
    "status": "Say where a task is.",
    "stop": "Stop a task: SIGTERM, and SIGKILL after its grace.",
    "kill": "Kill a task at once.",
    "ls": "List tasks, newest first.",
    "events": "Print tasks' events as they come.",
    "dead": "List, show, retry and remove tasks that were given up.",
    "schedule": "List and remove tasks that wait for their time.",
    "schema": "Print the JSON Schema of a message, or of a category's parameters.",
    "config": "Print the configuration in force, and where it came from.",
    "runners": "Say which runners there are, and whether they can run.",
    "doctor": "Check the server, the streams and this machine.",
}


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; errors are one sentence on stderr."""
    tokens = list(sys.argv[1:] if tokens is None else tokens)
    try:
        code = _app(tokens)(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        return _fail(str(error), USAGE)
    except JetrunnerError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code if isinstance(code, int) else OK


def _app(tokens: Sequence[str]) -> App:
    app = App(
        name="jetrunner",
        help="Run tasks on NATS JetStream.",
        version=_version,
        help_format="plaintext",
    )
    for name, text in COMMANDS.items():
        # The command that is called is imported anyway, and says more of itself.
        app.command(f"consumer.cli.{name}:{name}", name=name, help=None if name in tokens[:1] else text)
    return app


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - it takes longer than all of ours, for one option

    return version("jetrunner")


def _fail(message: str, code: int) -> int:
    print(f"jetrunner: {' '.join(message.split())}", file=sys.stderr)
    return code
