"""Who owns a container: a file that its worker's process holds locked (flock(2)) as long as it lives.

A lock that is free tells a dead owner, whatever pid it had. A file that is not there tells nothing: the owner may be
in another container or on another host, so its containers are left to their deadline.
"""

import fcntl
import os
import tempfile
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = "jetrunner-owner-"


class Owner:
    """Our own lock; `path` names us on our containers."""

    def __init__(self) -> None:
        self._descriptor, self.path = tempfile.mkstemp(prefix=_PREFIX)
        os.fchmod(self._descriptor, 0o644)  # whoever may ask the engine may see whether we live
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def leave(self, *, owing: bool) -> None:
        """Let go of the lock, and of the file unless there are containers that still bear its name."""
        if not owing:
            with suppress(FileNotFoundError):
                Path(self.path).unlink()
        os.close(self._descriptor)


def is_dead(path: str) -> bool:
    """Tell whether the owner of a lock is known to be gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def sweep(wanted: Container[str]) -> None:
    """Remove the locks of dead owners, but those that are wanted: containers bear their names."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if str(path) in wanted:
            continue
        with suppress(OSError):
            if path.lstat().st_uid == os.geteuid() and is_dead(str(path)):
                path.unlink()
