"""The life of a task's process: start, drain, wait, end (rules R1 to R4).

The leader's exit ends the task. What ends the leader early is a cancellation: its cause, patience and sender are in the
runner's `interruption`; or it is the task's own use of memory.
"""

import signal
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, Final

import anyio

from runners.base import Runner
from runners.context import Interruption
from runners.errors import SUCCESS, Outcome, SpawnFailedError, failed
from schemas import Cause, Usage

from .cgroup import Cgroup, division
from .keeper import send
from .limits import MemoryPoll, Plan, members, plan
from .orphans import ORPHANS
from .spawn import Confinement, Process, ProcessSpec, spawn
from .watch import ExitWatch, PipeReader, ThreadedExitWatch, watch_exit

KILL_WINDOW: Final = 10.0
"""Seconds after SIGKILL before a process is called unkillable."""
CONFINE_WINDOW: Final = 10.0
"""Seconds that a process may take to be confined; some 10 ms are usual."""


async def supervise(runner: Runner[Any], spec: ProcessSpec) -> Outcome:
    """Run a process to its end, whatever ends it, within the limits of the task.

    Raises:
        RunnerError: it could not be started.
    """
    limits = plan(runner.context)
    runner.report.limits = dict(limits.applied)
    if not limits.applied:
        return await _Supervision(runner, spec, limits).run()
    async with _cgroup(runner, limits) as cgroup:
        return await _Supervision(runner, spec, limits, cgroup).run()


@asynccontextmanager
async def _cgroup(runner: Runner[Any], limits: Plan) -> AsyncIterator[Cgroup | None]:
    """Make the task's cgroup, if its limits need one, and remove it in the end."""
    divided = division() if limits.cgroup else None
    if divided is None:
        yield None
        return
    try:
        cgroup = divided.make(limits.cgroup)
    except OSError as error:
        raise SpawnFailedError(f"no cgroup could be made for the process: {error.strerror}") from None
    try:
        yield cgroup
    finally:
        with anyio.CancelScope(shield=True):
            if not await cgroup.remove():
                runner.report.cleanup = "pending"


class _Supervision:
    """One process and all that is needed to see it to its end."""

    def __init__(self, runner: Runner[Any], spec: ProcessSpec, limits: Plan, cgroup: Cgroup | None = None) -> None:
        self._runner = runner
        self._report = runner.report
        self._spec = spec
        self._limits = limits
        self._cgroup = cgroup
        self._process = spawn(spec, _confinement(limits, cgroup))
        self._watch = _watch(self._process)
        self._readers = [
            PipeReader(self._process.stdout, runner.capture("stdout").write),
            PipeReader(self._process.stderr, runner.capture("stderr").write),
        ]
        self._poll: MemoryPoll | None = None
        self._patience = anyio.CancelScope()
        self._begun = False
        self._interrupted = False
        ORPHANS.enter(self._process.pid, spec.env)

    async def run(self) -> Outcome:
        """See the process to its end, and all that it has left."""
        try:
            await self._become()
            with self._kept():
                await self._ended()
            self._runner.ended()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._terminate()
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._conclude()
        return self._outcome()

    async def _become(self) -> None:
        """Wait until a confined process has become its command, or see on a cancellation that it just has.

        Raises:
            RunnerError: it has not; it is dead.
        """
        start = self._process.start
        if start is None:
            self._begin()
            return
        try:
            with anyio.move_on_after(CONFINE_WINDOW):
                while not start.decided():
                    await anyio.wait_readable(start.descriptor)
        finally:
            failure = start.failure() if start.decided() else _too_slow()
            start.close()
            if failure is None:
                self._begin()
        if failure is not None:
            with anyio.CancelScope(shield=True):
                await self._end_wrapper()
            raise failure

    def _begin(self) -> None:
        self._begun = True
        if self._limits.resident is not None:
            self._poll = MemoryPoll(self._process.pid, self._limits.resident, self._out_of_memory)
        self._runner.started(pid=self._process.pid)

    async def _ended(self) -> None:
        """Wait for the leader's end; for that of one killed for its memory, no longer than KILL_WINDOW."""
        if self._poll is None:
            await self._watch.exited.wait()
            return
        with self._patience:
            await self._watch.exited.wait()

    def _kept(self) -> AbstractContextManager[None]:
        context = self._runner.context
        if context.keeper is None:
            return nullcontext()
        return context.keeper.watching(self._process.pid, self._runner.timeout + context.grace)

    def _out_of_memory(self) -> None:
        """Kill the task for its use of memory; that is the cause, unless it is being ended already (R1)."""
        if not self._interrupted:
            self._runner.ended()
            self._report.cause = Cause.OOM
            self._patience.deadline = anyio.current_time() + KILL_WINDOW
        self._kill()
        self._runner.context.reporter.stopping(
            {"by": None, "reason": "the task used more memory than its limit", "signal": signal.SIGKILL.name}
        )

    async def _terminate(self) -> None:
        """SIGTERM and SIGCONT, the grace, SIGKILL; a kill skips or ends the grace (R4)."""
        self._interrupted = True
        interruption = self._runner.interruption
        if not self._begun:
            await self._end_wrapper()
            return
        if not interruption.impatient.is_set():
            self._send(signal.SIGTERM, leader_only=self._spec.stop_scope == "leader")
            self._process.signal(signal.SIGCONT)  # a stopped process does not act on SIGTERM
            self._announce(interruption, signal.SIGTERM)
            await _exit_or_impatience(self._watch, interruption)
        if self._watch.exited.is_set():
            return
        self._kill()
        self._announce(interruption, signal.SIGKILL)
        with anyio.move_on_after(KILL_WINDOW):
            await self._watch.exited.wait()

    async def _end_wrapper(self) -> None:
        """End what has not become the task's command: it has nothing to be polite for."""
        self._process.signal(signal.SIGKILL)
        with anyio.move_on_after(KILL_WINDOW):
            await self._watch.exited.wait()

    async def _conclude(self) -> None:
        """Drain the pipes for a while, end what the leader has left, and reap it (R3)."""
        exited = self._watch.exited.is_set()
        complete = self._is_drained()
        if exited and not complete:
            with anyio.move_on_after(self._runner.context.drain_window):
                for reader in self._readers:
                    await reader.closed.wait()
            complete = self._is_drained()
        if self._poll is not None:
            self._poll.close()
        killed, unkillable = await self._end_leftovers()
        if self._begun:
            self._report.output_complete = complete
            self._report.leaked_processes, self._report.unkillable = killed, unkillable or not exited
        if exited:
            self._reap()
        for reader in self._readers:
            reader.close()
        self._watch.close()

    def _is_drained(self) -> bool:
        return all(reader.closed.is_set() for reader in self._readers)

    async def _end_leftovers(self) -> tuple[int, bool]:
        """Kill what is left beside the leader; return how many they were, and whether some cannot be killed."""
        grouped, emptied = 0, True
        if self._cgroup is not None:
            grouped = len({*self._cgroup.processes()} - {self._process.pid})
            emptied = await self._cgroup.end()
        leftovers = await ORPHANS.end(self._process.pid)
        return max(grouped, leftovers.killed), leftovers.unkillable or not emptied

    def _reap(self) -> None:
        """Collect the leader; without a sub-reaper, end what is left of its group only now that it does not count."""
        report, leader = self._report, self._process.reap()
        ORPHANS.leave(self._process.pid)
        survivors = 0 if ORPHANS.adopting else self._process.survivors()
        if not self._begun:
            return
        report.exit_code, report.signal = leader.code, leader.signal
        report.usage = Usage(cpu_user=leader.cpu_user, cpu_system=leader.cpu_system, max_rss=leader.max_rss)
        report.leaked_processes = max(report.leaked_processes, survivors)
        self._judge_oom()

    def _judge_oom(self) -> None:
        """Tell a task that the kernel killed for its memory from one that lost a child to it."""
        if self._cgroup is None or not self._cgroup.oom_kills():
            return
        if self._report.signal == signal.SIGKILL.name and not self._interrupted:
            self._report.cause = Cause.OOM
        else:
            self._report.warnings.append("oom_kill_in_task: the kernel killed a process for the task's memory limit")

    def _kill(self) -> None:
        """SIGKILL to the whole task."""
        if self._cgroup is not None:
            self._cgroup.kill()
        if self._poll is not None:  # the task is known to be spread over more than a group
            for pid in members(self._process.pid):
                send(pid, signal.SIGKILL)
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals, *, leader_only: bool = False) -> None:
        if self._process.signal(number, leader_only=leader_only):
            self._report.signals_sent.append(number.name)

    def _announce(self, interruption: Interruption, number: signal.Signals) -> None:
        self._runner.context.reporter.stopping(
            {
                "by": interruption.by,
                "reason": interruption.reason or _REASONS.get(interruption.cause),
                "signal": number.name,
            }
        )

    def _outcome(self) -> Outcome:
        report, limits = self._report, self._limits.applied
        if report.cause is Cause.OOM:
            return failed("oom_killed", f"the task used more than its {limits['memory'].requested} bytes of memory")
        if report.exit_code == 0:
            return SUCCESS
        if "cpu_seconds" in limits and self._used_up(limits["cpu_seconds"].requested):
            return failed(
                "cpu_limit", f"the process used more than its {limits['cpu_seconds'].requested} s of CPU time"
            )
        if report.signal is not None:
            return failed("signalled", f"the process was ended by {report.signal}")
        return failed("exit_nonzero", f"the process ended with exit code {report.exit_code}")

    def _used_up(self, seconds: float) -> bool:
        """Tell whether the leader died of its CPU time: by SIGXCPU or, ignoring that, by SIGKILL a second later."""
        usage = self._report.usage
        if self._report.signal == signal.SIGXCPU.name:
            return True
        return (
            self._report.signal == signal.SIGKILL.name
            and usage is not None
            and usage.cpu_user + usage.cpu_system >= 0.9 * (seconds + 1)  # the limit counts ticks, the usage does not
        )


def _confinement(limits: Plan, cgroup: Cgroup | None) -> Confinement | None:
    if not limits.rlimits and cgroup is None:
        return None
    return Confinement(rlimits=limits.rlimits, cgroup=None if cgroup is None else cgroup.path)


def _too_slow() -> SpawnFailedError:
    return SpawnFailedError(f"the process was not confined within {CONFINE_WINDOW:g} s")


def _watch(process: Process) -> ExitWatch | ThreadedExitWatch:
    try:
        return watch_exit(process.pid)
    except OSError as error:  # nobody would see its end
        process.abandon()
        raise SpawnFailedError(f"the process could not be watched: {error.strerror}") from None


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


_REASONS: Final = {
    Cause.TIMEOUT: "time-out",
    Cause.OUTPUT_LIMIT: "the output limit",
    Cause.SHUTDOWN: "the worker is shut down",
    Cause.LOST: "the task was lost to another worker",
}
