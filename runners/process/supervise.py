"""The life of a task's process: start, drain, wait, end (rules R1 to R4).

The leader's exit ends the task. What ends the leader early is a cancellation: its cause, patience and sender are in the
runner's `interruption`.
"""

import signal
from typing import Any, Final

import anyio

from runners.base import Runner
from runners.context import Interruption
from runners.errors import SUCCESS, Outcome, failed
from schemas import Cause, Usage

from .spawn import Process, ProcessSpec, spawn
from .watch import ExitWatch, PipeReader, ThreadedExitWatch, watch_exit

DRAIN_WINDOW: Final = 2.0
"""Seconds that the pipes may stay open after the leader's exit."""
KILL_WINDOW: Final = 10.0
"""Seconds after SIGKILL before a process is called unkillable."""


async def supervise(runner: Runner[Any], spec: ProcessSpec) -> Outcome:
    """Run a process to its end, whatever ends it.

    Raises:
        RunnerError: it could not be started.
    """
    process = spawn(spec)
    watch = watch_exit(process.pid)
    readers = [
        PipeReader(process.stdout, runner.capture("stdout").write),
        PipeReader(process.stderr, runner.capture("stderr").write),
    ]
    runner.started(pid=process.pid)
    try:
        await watch.exited.wait()
        runner.ended()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await _terminate(runner, process, watch, spec)
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await _conclude(runner, process, watch, readers)
    return _outcome(runner)


async def _terminate(
    runner: Runner[Any], process: Process, watch: ExitWatch | ThreadedExitWatch, spec: ProcessSpec
) -> None:
    """SIGTERM and SIGCONT, the grace, SIGKILL; a kill skips or ends the grace (R4)."""
    interruption = runner.interruption
    if not interruption.impatient.is_set():
        _send(runner, process, signal.SIGTERM, leader_only=spec.stop_scope == "leader")
        process.signal(signal.SIGCONT)  # a stopped process does not act on SIGTERM
        _announce(runner, interruption, signal.SIGTERM)
        await _exit_or_impatience(watch, interruption)
    if watch.exited.is_set():
        return
    _send(runner, process, signal.SIGKILL)
    _announce(runner, interruption, signal.SIGKILL)
    with anyio.move_on_after(KILL_WINDOW):
        await watch.exited.wait()


async def _exit_or_impatience(watch: ExitWatch | ThreadedExitWatch, interruption: Interruption) -> None:
    """Wait for the exit, the end of the grace, or a kill."""

    async def grow_impatient() -> None:
        await interruption.impatient.wait()
        waiting.cancel_scope.cancel()

    with anyio.move_on_after(interruption.grace):
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(grow_impatient)
            await watch.exited.wait()
            waiting.cancel_scope.cancel()


async def _conclude(
    runner: Runner[Any], process: Process, watch: ExitWatch | ThreadedExitWatch, readers: list[PipeReader]
) -> None:
    """Drain the pipes for a while, reap the leader, end what it has left (R3)."""
    report = runner.report
    if watch.exited.is_set():
        with anyio.move_on_after(DRAIN_WINDOW):
            for reader in readers:
                await reader.closed.wait()
        leader = process.reap()
        report.exit_code, report.signal = leader.code, leader.signal
        report.usage = Usage(cpu_user=leader.cpu_user, cpu_system=leader.cpu_system, max_rss=leader.max_rss)
        report.leaked_processes = process.survivors()
    else:
        report.unkillable = True
    report.output_complete = all(reader.closed.is_set() for reader in readers)
    for reader in readers:
        reader.close()
    watch.close()


def _send(runner: Runner[Any], process: Process, number: signal.Signals, *, leader_only: bool = False) -> None:
    if process.signal(number, leader_only=leader_only):
        runner.report.signals_sent.append(number.name)


def _announce(runner: Runner[Any], interruption: Interruption, number: signal.Signals) -> None:
    runner.context.reporter.stopping(
        {
            "by": interruption.by,
            "reason": interruption.reason or _REASONS.get(interruption.cause),
            "signal": number.name,
        }
    )


def _outcome(runner: Runner[Any]) -> Outcome:
    report = runner.report
    if report.exit_code == 0:
        return SUCCESS
    if report.signal is not None:
        return failed("signalled", f"the process was ended by {report.signal}")
    return failed("exit_nonzero", f"the process ended with exit code {report.exit_code}")


_REASONS: Final = {
    Cause.TIMEOUT: "time-out",
    Cause.SHUTDOWN: "the worker is shut down",
    Cause.LOST: "the task was lost to another worker",
}
