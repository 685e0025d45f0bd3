"""Reads from a report what the end of a process means for its task."""

import signal
from collections.abc import Mapping
from typing import Final

from runners.context import Report
from runners.errors import SUCCESS, Outcome, failed
from schemas import AppliedLimit, Cause

_TICKS_WORTH: Final = 0.7
"""What a CPU second of a limit may really be: the limit counts ticks, also those that others had a part of."""


def verdict(report: Report, limits: Mapping[str, AppliedLimit]) -> Outcome:
    """Return how a task ended whose leader is reaped."""
    if report.cause is Cause.OOM:
        return failed("oom_killed", f"the task used more than its {limits['memory'].requested} bytes of memory")
    if report.exit_code == 0:
        return SUCCESS
    if "cpu_seconds" in limits and _used_up(limits["cpu_seconds"].requested, report):
        return failed("cpu_limit", f"the process used more than its {limits['cpu_seconds'].requested} s of CPU time")
    if report.signal is not None:
        return failed("signalled", f"the process was ended by {report.signal}")
    return failed("exit_nonzero", f"the process ended with exit code {report.exit_code}")


def _used_up(seconds: float, report: Report) -> bool:
    """Tell whether the leader died of its CPU time: by SIGXCPU or, ignoring that, by SIGKILL a second later."""
    if report.signal == signal.SIGXCPU.name:
        return True
    return (
        report.signal == signal.SIGKILL.name
        and report.usage is not None
        and report.usage.cpu_user + report.usage.cpu_system >= _TICKS_WORTH * (seconds + 1)
    )
