"""The end of a task's process from outside: signals, patience, and what its leader has left (rules R3 and R4)."""

import signal
from typing import Final, Literal

import anyio

from runners.context import Context, Interruption, Report

from .cgroup import Cgroup
from .keeper import send
from .leader import Process
from .limits import members
from .orphans import ORPHANS, Leftovers
from .watch import ExitWatch, ThreadedExitWatch

KILL_WINDOW: Final = 10.0
"""Seconds after SIGKILL before a process is called unkillable."""


class Ending:
    """Ends one process, and all that belongs to its task; its report tells with which signals."""

    def __init__(
        self,
        process: Process,
        watch: ExitWatch | ThreadedExitWatch,
        cgroup: Cgroup | None,
        context: Context,
        report: Report,
    ) -> None:
        self._process = process
        self._watch = watch
        self._cgroup = cgroup
        self._reporter = context.reporter
        self._report = report

    async def terminate(self, interruption: Interruption, scope: Literal["group", "leader"], *, spread: bool) -> None:
        """SIGTERM and SIGCONT, the grace, SIGKILL; a kill skips or ends the grace (R4)."""
        if not interruption.impatient.is_set():
            self._send(signal.SIGTERM, leader_only=scope == "leader")
            self._process.signal(signal.SIGCONT)  # a stopped process does not act on SIGTERM
            self._announce(interruption, signal.SIGTERM)
            await interruption.allow(self._watch.exited.wait)
        if self._watch.exited.is_set():
            return
        self.kill(spread=spread)
        self._announce(interruption, signal.SIGKILL)
        await self._exit()

    async def end_wrapper(self) -> None:
        """End what has not become the task's command: it has nothing to be polite for."""
        self._process.signal(signal.SIGKILL)
        await self._exit()

    def kill(self, *, spread: bool) -> None:
        """SIGKILL to the whole task; `spread` if it may have left its group and is in no cgroup."""
        if self._cgroup is not None:
            self._cgroup.kill()
        if spread:
            for pid in members(self._process.pid):
                send(pid, signal.SIGKILL)
        self._send(signal.SIGKILL)

    async def leftovers(self) -> Leftovers:
        """Kill what is left of the task beside its leader, within a limit."""
        if self._cgroup is None:
            return await ORPHANS.end(self._process.pid)
        grouped = len({*self._cgroup.processes()} - {self._process.pid})
        emptied = await self._cgroup.end()
        others = await ORPHANS.end(self._process.pid)
        return Leftovers(max(grouped, others.killed), others.unkillable or not emptied)

    async def _exit(self) -> None:
        with anyio.move_on_after(KILL_WINDOW):
            await self._watch.exited.wait()

    def _send(self, number: signal.Signals, *, leader_only: bool = False) -> None:
        if self._process.signal(number, leader_only=leader_only):
            self._report.signals_sent.append(number.name)

    def _announce(self, interruption: Interruption, number: signal.Signals) -> None:
        self._reporter.stopping({"by": interruption.by, "reason": interruption.why, "signal": number.name})
