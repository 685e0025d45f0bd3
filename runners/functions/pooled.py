"""PooledRunner: a plain function as a runner, in a process of a pool, so that it can be killed."""

import signal
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import anyio

from runners.base import Runner
from runners.errors import Outcome, failed
from runners.process.ending import KILL_WINDOW
from runners.process.limits import MemoryPoll, Plan, plan_call
from runners.process.verdict import verdict
from schemas import Cause, encode

from .context import facts_of
from .messages import Call, Done
from .outcome import exception_outcome
from .pool import Pool
from .process import PoolProcess
from .signature import Signature


class PooledRunner(Runner[Any]):
    """Calls a function in a process; a stop or time-out is SIGTERM, and SIGKILL after the grace."""

    reports_start = True
    pool: ClassVar[Pool]
    signature: ClassVar[Signature]

    async def run(self, params: Any) -> Outcome | None:
        limits = plan_call(self.context)
        self.report.limits = dict(limits.applied)
        soft = {name: values[0] for name, values in limits.rlimits.items()}
        call = Call(encode(params), facts_of(self.context), soft)
        process = await self.pool.acquire(self.context)
        try:
            return await self._call(process, call, limits)
        finally:
            await self.pool.release(process)

    async def _call(self, process: PoolProcess, call: Call, limits: Plan) -> Outcome | None:
        process.begin(self)
        self.started(pid=process.pid)
        done = None
        poll = self._polling(process, limits)
        try:
            with self._kept(process):
                done = await process.call(call)
                if done is None:
                    await process.wait_exit()
                    self.ended()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await process.ending(self).terminate(self.interruption, "group", spread=True)
            raise
        finally:
            if poll is not None:
                poll.close()
            if done is None:
                await process.end(self.report)
        return self._conclude(process, done, limits)

    def _conclude(self, process: PoolProcess, done: Done | None, limits: Plan) -> Outcome | None:
        if done is not None:
            process.rest(done, self.report)
            return None if done.error is None else exception_outcome(done.error)
        if self.report.exit_code == 0:
            return failed("exit_nonzero", "the function ended its process, with exit code 0, instead of returning")
        return verdict(self.report, limits.applied)

    def _polling(self, process: PoolProcess, limits: Plan) -> MemoryPoll | None:
        if limits.resident is None:
            return None

        def kill() -> None:
            if not self.is_interrupted:
                self.ended()
                self.report.cause = Cause.OOM
            process.ending(self).kill(spread=True)
            process.loop.call_later(KILL_WINDOW, process.give_up)
            reason = "the task used more memory than its limit"
            self.context.reporter.stopping({"by": None, "reason": reason, "signal": signal.SIGKILL.name})

        return MemoryPoll(process.pid, limits.resident, kill)

    def _kept(self, process: PoolProcess) -> AbstractContextManager[None]:
        keeper, context = self.context.keeper, self.context
        return nullcontext() if keeper is None else keeper.watching(process.pid, self.timeout + context.grace)
