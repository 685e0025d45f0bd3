"""Pulling an image: its own time limit, and progress while it lasts."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
import anyio.from_thread

from runners.errors import DockerUnresponsiveError, ImagePullFailedError

from .engine import Engine
from .verdict import RefusedError, pull_refusal

PROGRESS_INTERVAL: Final = 1.0
"""Seconds between two events of one pull."""


class _GivenUpError(Exception):
    """Nobody waits for the image any more."""


async def pull(engine: Engine, image: str, limit: float, progress: Callable[..., None]) -> None:
    """Pull an image within so many seconds.

    Raises:
        RunnerError: there is none, or it was not to be had.
    """
    progress(stage="pull", image=image, status="begun")
    listener = _Listener(image, progress)
    try:
        with anyio.fail_after(limit):  # the registry's slowness is not the engine's
            await engine.call(lambda sdk: sdk.pull(image, listener.take), patience=math.inf, lasting=True)
    except RefusedError as error:
        raise pull_refusal(image, error.text, error.status) from None
    except (DockerUnresponsiveError, TimeoutError):
        raise ImagePullFailedError(f"the image {image!r} could not be pulled within {limit:g} s") from None
    finally:
        listener.given_up.set()
    progress(stage="pull", image=image, status="done")


class _Listener:
    """Hears what the engine says of a pull, on the thread that asks it."""

    def __init__(self, image: str, progress: Callable[..., None]) -> None:
        self.given_up = threading.Event()
        self._image = image
        self._progress = progress
        self._told = time.monotonic()

    def take(self, line: Mapping[str, Any]) -> None:
        """Take one line: an error, or a step of a layer."""
        if self.given_up.is_set():
            raise _GivenUpError
        if "error" in line:
            raise RefusedError(0, str(line["error"]))
        if time.monotonic() - self._told >= PROGRESS_INTERVAL:
            self._told = time.monotonic()
            tell = {"stage": "pull", "image": self._image, "status": line.get("status"), "layer": line.get("id")}
            anyio.from_thread.run_sync(lambda: self._progress(**tell))
