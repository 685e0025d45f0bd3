"""Directories of one process alone, locked (flock(2)) as long as it lives: those without a lock were left behind."""

import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self


class PrivateDirectory:
    """A directory of our own, mode 0700, locked until it is removed or we die."""

    def __init__(self, path: Path, held: int) -> None:
        self.path = path
        self._held = held

    @classmethod
    def make(cls, parent: Path, prefix: str) -> Self:
        """Make a fresh one.

        Raises:
            OSError: there is no room, or no lock to be had.
        """
        while True:  # until no sweep has come between the making and the lock
            path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            try:
                held = _lock(path)
            except OSError:
                path.rmdir()
                raise
            if held is not None:
                return cls(path, held)

    def write(self, name: str, content: bytes) -> str:
        """Write a file that is ours alone; return its path."""
        path = self.path / name
        with open(path, "xb", opener=functools.partial(os.open, mode=0o600)) as file:
            file.write(content)
        return str(path)

    def remove(self) -> None:
        """Remove it with all that is in it; what cannot be removed is left to the next worker."""
        try:
            with suppress(FileNotFoundError):  # by the doing of whoever uses it
                shutil.rmtree(self.path)
        finally:
            self.release()

    def release(self) -> None:
        """Leave it as it is, to whoever finds it."""
        os.close(self._held)


def abandoned(parent: Path, prefix: str) -> Iterator[PrivateDirectory]:
    """Yield the directories that dead processes of our user have left; they are ours now."""
    for path in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            if path.lstat().st_uid != os.geteuid():
                continue
            held = _lock(path)
            if held is not None:
                yield PrivateDirectory(path, held)


def _lock(path: Path) -> int | None:
    """Lock a directory; None if someone else holds it, or has just removed it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.lstat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
