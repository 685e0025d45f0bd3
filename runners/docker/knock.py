"""Whether anybody listens at the engine's socket; the library, asked instead, leaves a socket open if nobody does."""

import socket
from typing import Final

from runners.errors import DockerUnavailableError, DockerUnresponsiveError

KNOCK_TIMEOUT: Final = 5.0
"""Seconds that a listener may take: one that is frozen takes only so many connections."""


def knock(path: str) -> None:
    """Return if somebody listens; blocks.

    Raises:
        DockerUnavailableError: nobody does, or we may not connect.
        DockerUnresponsiveError: no connection is taken in time.
    """
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(KNOCK_TIMEOUT)
        try:
            door.connect(path)
        except TimeoutError:
            raise DockerUnresponsiveError("the Docker engine does not answer in time") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise DockerUnavailableError(f"the Docker engine cannot be reached: {reason}") from None
