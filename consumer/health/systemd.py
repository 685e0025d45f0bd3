"""What systemd is told of a worker, if it listens (sd_notify(3)): ready, stopping, and alive again and again.

The worker's parent may be its keeper, whose pid is the service's: the unit needs `NotifyAccess=all`.
"""

import logging
import os
import socket
from collections.abc import Mapping
from typing import Final, Self

import anyio

SOCKET: Final = "NOTIFY_SOCKET"
_INTERVAL: Final = "WATCHDOG_USEC"
_WATCHED: Final = "WATCHDOG_PID"

logger = logging.getLogger(__name__)


class Notifier:
    """Tells systemd; to nobody, if nobody listens. `interval` is the watchdog's, in seconds."""

    def __init__(self, address: str | None = None, interval: float | None = None) -> None:
        self._address = address
        self._interval = interval

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """Return whom the environment names."""
        watched, interval = environ.get(_WATCHED, ""), environ.get(_INTERVAL, "")
        is_ours = not watched or watched in {str(os.getpid()), str(os.getppid())}
        seconds = int(interval) / 1e6 if interval.isascii() and interval.isdigit() and is_ours else 0.0
        return cls(environ.get(SOCKET) or None, seconds or None)

    def ready(self) -> None:
        """Tell that the worker takes tasks."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """Tell that it drains."""
        self._tell("STOPPING=1")

    async def watch(self) -> None:
        """Tell twice per interval that the event loop lives, until cancelled; return if nobody asks."""
        while self._address is not None and self._interval is not None:
            self._tell("WATCHDOG=1")
            await anyio.sleep(self._interval / 2)

    def _tell(self, state: str) -> None:
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
                speaker.settimeout(0)
                speaker.sendto(state.encode(), address)
        except OSError as error:
            logger.debug("systemd was not told %s: %s", state, error)
