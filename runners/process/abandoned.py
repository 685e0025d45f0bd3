"""What a worker and its keeper have left when both were killed at once: found by its marks, and ended.

A worker's name says where it lives and as which process, so the next worker on the host can tell that it is gone.
"""

import os
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .keeper import send

_PROC: Final = Path("/proc")
_MARK: Final = b"TASK_INSTANCE="


def worker_name() -> str:
    """Return a fresh name for this process as a worker: its host, its pid, and what no other has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def end_abandoned() -> list[int]:
    """Kill the processes of tasks whose worker was on this host and is gone; return their pids.

    A pid that has been given out again makes a dead worker look alive: its tasks are then left to their deadlines.
    """
    abandoned = [pid for pid, worker in _marked() if _is_gone(worker)]
    return [pid for pid in abandoned if send(pid, signal.SIGKILL)]


def _marked() -> Iterator[tuple[int, str]]:
    """Yield the processes that bear a worker's name, as far as we may look."""
    for entry in _PROC.glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        worker = next((variable.removeprefix(_MARK) for variable in variables if variable.startswith(_MARK)), b"")
        if worker:
            yield int(entry.name), worker.decode(errors="replace")


def _is_gone(worker: str) -> bool:
    host, _, rest = worker.rpartition("-")[0].rpartition("-")
    return host == socket.gethostname() and rest.isdigit() and not (_PROC / rest).exists()
