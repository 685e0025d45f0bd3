"""A started process, the leader of its own session: signalled, reaped, and its group counted."""

import os
import resource
import signal
from pathlib import Path
from typing import Final

from msgspec import Struct

from schemas import Usage

from .wrapper import Start


class Exit(Struct, frozen=True, kw_only=True):
    """How the leader ended: its wait status, and what it and its reaped children used (getrusage(2))."""

    code: int
    signal: str | None
    usage: Usage


class Process:
    """A started leader of its own session and group, its output pipes' reading ends, and nothing else.

    The pid stays ours until `reap`: until then it names the leader, or its zombie, and no other process. A confined
    one has a `start`, which tells when it has become its command.
    """

    def __init__(self, pid: int, stdout: int, stderr: int, start: Start | None = None) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.start = start
        self._our_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def signal(self, number: int, *, leader_only: bool = False) -> bool:
        """Send a signal to the group or its leader; tell whether anyone was there to get it."""
        try:
            if leader_only:
                os.kill(self.pid, number)
            else:
                os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # macOS: the group holds only zombies; elsewhere: a set-user-id program
            return False
        return True

    def is_running(self) -> bool:
        """Tell whether the leader has not ended yet, whatever the event loop knows."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None

    def reap(self) -> Exit:
        """Collect the leader, which has ended; its pid is free from here on."""
        _, status, used = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return Exit(
            code=code if code >= 0 else 128 - code,
            signal=_signal_name(-code) if code < 0 else None,
            usage=Usage(
                cpu_user=used.ru_utime,
                cpu_system=used.ru_stime,
                # until its exec the process was a part of us: what does not exceed our own is no measure of it
                max_rss=used.ru_maxrss * _RSS_UNIT if used.ru_maxrss > self._our_rss else None,
            ),
        )

    def survivors(self) -> int:
        """Kill what is left of the group after `reap`, and count it.

        The kernel keeps a group's number from being given out again while anyone is in the group.
        """
        if not self.signal(_NO_SIGNAL):
            return 0
        count = _count_group(self.pid)
        self.signal(signal.SIGKILL)
        return count

    def abandon(self) -> None:
        """End it at once, and close its pipes: for one that cannot be watched."""
        self.signal(signal.SIGKILL)
        self.reap()
        os.close(self.stdout)
        os.close(self.stderr)
        if self.start is not None:
            self.start.close()


def _count_group(group: int) -> int:
    """Count the live processes of a group, by procfs; where there is none, tell only that there are some."""
    if not _PROC.is_dir():
        return 1
    return sum(_is_alive_in(entry, group) for entry in _PROC.iterdir() if entry.name.isdigit())


def _is_alive_in(entry: Path, group: int) -> bool:
    try:
        state, _, pgrp = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:3]
    except OSError:
        return False
    return int(pgrp) == group and state not in {b"Z", b"X"}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal between the two that have names
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


_PROC: Final = Path("/proc")
_NO_SIGNAL: Final = 0
"""Sent to learn whether there is anyone to signal (kill(2))."""
_RSS_UNIT: Final = 1 if os.uname().sysname == "Darwin" else 1024
"""Bytes: getrusage(2) counts the resident set in KiB, except on macOS."""
