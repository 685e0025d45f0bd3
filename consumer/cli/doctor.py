"""`jetrunner doctor`: check the server, the streams and this machine."""

import sys
from typing import Annotated, Final, Literal

import anyio
import anyio.to_thread
import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from consumer.config import Config
from consumer.errors import ConnectError
from consumer.plugins import find_runners

from . import OK, OUR_ERROR
from .check import Check
from .machine_checks import check_machine
from .plain import printable
from .server_checks import check_server
from .session import Connecting

_STYLES: Final = {"ok": "green", "warning": "yellow", "failed": "red"}


def doctor(
    *,
    output: Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])] = "table",
    connecting: Connecting | None = None,
) -> int:
    """Check the server, the streams and this machine, within ten seconds.

    The exit code is 1 if a check failed, and 4 if there is no server.

    Parameters
    ----------
    output
        How to report.
    """
    config = (connecting or Connecting()).load()
    checks, reached = anyio.run(_examine, config)
    if output == "json":
        print(msgspec.json.format(msgspec.json.encode(checks)).decode())
    else:
        _print(checks)
    if not reached:
        return ConnectError.exit_code
    return OUR_ERROR if any(check.state == "failed" for check in checks) else OK


async def _examine(config: Config) -> tuple[list[Check], bool]:
    """Return all findings, the server's first, and whether there is a server."""
    ours: list[Check] = []
    of_server: list[Check] = []

    async def examine_machine() -> None:
        ours.extend(await anyio.to_thread.run_sync(check_machine))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(examine_machine)
        categories = config.worker.categories or tuple(find_runners(config))
        reached = await check_server(config, categories, of_server)
    return of_server + ours, reached


def _print(checks: list[Check]) -> None:
    console = Console(highlight=False, soft_wrap=True, file=sys.stdout)
    width = max(len(check.name) for check in checks)
    for check in checks:
        line = Text.assemble((f"{check.state:<7}", _STYLES[check.state]), f"  {check.name:<{width}}  ")
        line.append(printable(f"{check.detail}; {check.advice}" if check.advice else check.detail))
        console.print(line)
