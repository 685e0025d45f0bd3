"""The life of a task's process: start, wait, drain, conclude (rules R1 to R3).

The leader's exit ends the task. What ends the leader early is a cancellation: its cause, patience and sender are in the
runner's `interruption`; or it is the task's own use of memory.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, Final

import anyio

from runners.base import Runner
from runners.errors import Outcome, SpawnFailedError
from schemas import Cause

from .cgroup import Cgroup, division
from .ending import KILL_WINDOW, Ending
from .leader import Process
from .limits import MemoryPoll, Plan, plan
from .orphans import ORPHANS
from .spawn import spawn
from .spec import Confinement, ProcessSpec
from .verdict import verdict
from .watch import ExitWatch, PipeReader, ThreadedExitWatch, watch_exit

LISTEN_AFTER: Final = 0.02
"""Seconds that a new task's pipes are left to themselves: those of a short one are read once, at its end."""
CONFINE_WINDOW: Final = 10.0
"""Seconds that a process may take to be confined; some 10 ms are usual."""
_UNLIMITED: Final = nullcontext()


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
        self._readers = (
            PipeReader(self._process.stdout, runner.capture("stdout").write),
            PipeReader(self._process.stderr, runner.capture("stderr").write),
        )
        self._attention = asyncio.get_running_loop().call_later(LISTEN_AFTER, self._listen)
        self._ending = Ending(self._process, self._watch, cgroup, runner.context, runner.report)
        self._poll: MemoryPoll | None = None
        self._patience: anyio.CancelScope | None = None
        self._begun = False
        self._interrupted = False
        ORPHANS.enter(self._process.pid, spec.env)

    async def run(self) -> Outcome:
        """See the process to its end, and all that it has left."""
        try:
            await self._become()
            with self._kept():
                await self._ended()
            self._take_rest()  # what the leader has written counts against the limit of output
            self._runner.ended()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._terminate()
            raise
        finally:
            await self._conclude()
        return verdict(self._report, self._limits.applied)

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
                await self._ending.end_wrapper()
            raise failure

    def _begin(self) -> None:
        self._begun = True
        if self._limits.resident is not None:
            self._poll = MemoryPoll(self._process.pid, self._limits.resident, self._out_of_memory)
            self._patience = anyio.CancelScope()
        self._runner.started(pid=self._process.pid)

    async def _ended(self) -> None:
        """Wait for the leader's end; for that of one killed for its memory, no longer than KILL_WINDOW."""
        with self._patience or _UNLIMITED:
            await self._watch.exited.wait()

    def _kept(self) -> AbstractContextManager[None]:
        context = self._runner.context
        if context.keeper is None:
            return _UNLIMITED
        return context.keeper.watching(self._process.pid, self._runner.timeout + context.grace)

    def _out_of_memory(self) -> None:
        """Kill the task for its use of memory; that is the cause, unless it is being ended already (R1)."""
        if not self._interrupted:
            self._runner.ended()
            self._report.cause = Cause.OOM
            if self._patience is not None:
                self._patience.deadline = anyio.current_time() + KILL_WINDOW
        self._ending.kill(spread=True)
        self._runner.context.reporter.stopping(
            {"by": None, "reason": "the task used more memory than its limit", "signal": signal.SIGKILL.name}
        )

    async def _terminate(self) -> None:
        self._interrupted = True
        interruption = self._runner.interruption
        if self._begun:
            await self._ending.terminate(interruption, self._spec.stop_scope, spread=self._poll is not None)
        else:
            await self._ending.end_wrapper()

    def _listen(self) -> None:
        for reader in self._readers:
            reader.listen()

    def _take_rest(self) -> bool:
        """Take what is in the pipes; tell whether nothing can follow."""
        closed = [reader.take_rest() for reader in self._readers]  # of both, even if the first is open
        return all(closed)

    async def _conclude(self) -> None:
        """Drain the pipes for a while, end what the leader has left, and reap it (R3); no wait can be cancelled."""
        self._attention.cancel()
        exited = self._watch.exited.is_set()
        complete = exited and (self._take_rest() or await self._drained())
        if self._poll is not None:
            self._poll.close()
        leftovers = await self._ending.leftovers()
        if self._begun:
            self._report.output_complete = complete
            self._report.leaked_processes = leftovers.killed
            self._report.unkillable = leftovers.unkillable or not exited
        if exited:
            self._reap()
        for reader in self._readers:
            reader.close()
        self._watch.close()

    async def _drained(self) -> bool:
        """Wait, for the drain window, until others than the leader have closed the pipes."""
        self._listen()
        with anyio.move_on_after(self._runner.context.drain_window, shield=True):
            for reader in self._readers:
                await reader.closed.wait()
        return all(reader.closed.is_set() for reader in self._readers)

    def _reap(self) -> None:
        """Collect the leader; without a sub-reaper, end what is left of its group only now that it does not count."""
        report, leader = self._report, self._process.reap()
        ORPHANS.leave(self._process.pid)
        survivors = 0 if ORPHANS.adopting else self._process.survivors()
        if not self._begun:
            return
        report.exit_code, report.signal, report.usage = leader.code, leader.signal, leader.usage
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
