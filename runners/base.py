r"""Runner: the life of one task, from its parameters to its Result, written once for all categories.

A concrete runner declares its parameter Struct and one coroutine:

    class GreetParams(msgspec.Struct, forbid_unknown_fields=True):
        name: str

    class GreetRunner(Runner[GreetParams]):
        params_type = GreetParams

        async def run(self, params: GreetParams) -> None:
            self.write(f"hello {params.name}\n")

Stop, kill and time-out cancel the coroutine; a runner whose work needs a gentler end catches the cancellation, asks
`interruption` what it is about, ends the work under a shield and lets the cancellation go on.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar

import anyio
import anyio.lowlevel

from schemas import Args, Cause, Result, SchemaError, Status, StreamOutput, Streams, Termination, convert, utc_now

from .arguments import parameter_object
from .context import DEFAULT_OUTPUT_LIMIT, Context, Interruption, Report
from .errors import SUCCESS, InternalError, InvalidTaskError, Outcome, RunnerError, interrupted
from .output import Excess, OutputCapture
from .redaction import Redactor, Secrets
from .spool import Spool

DEFAULT_TIMEOUT: Final = 3600.0
"""Seconds a task may run where nothing else is said."""
CLEANUP_TIMEOUT: Final = 15.0
"""Seconds that a runner's cleanup may take."""

_NO_CONTEXT: Final = Context()
_NO_SECRETS: Final = Secrets(())

P = TypeVar("P")

logger = logging.getLogger(__name__)


class Runner(ABC, Generic[P]):
    """One task's run. Made per task by the Registry; used once.

    Its operations are `parse_args`, `execute`, `stop`, `kill`, `status`, `result`, `timeout` (seconds, settable until
    the run starts) and `cleanup`.
    """

    params_type: ClassVar[type[Any]]
    """The Struct that the task's parameters are decoded into."""
    command_field: ClassVar[str | None] = None
    """The parameter that the task's `command` fills when the object leaves it out; None: `command` is refused."""
    takes: ClassVar[frozenset[str]] = frozenset()
    """Which of the task's `env`, `secret_env`, `cwd` and `stdin` mean something to this runner."""
    reports_start: ClassVar[bool] = False
    """True if `run` calls `started` itself, once its process, container or request has begun."""

    def __init__(self) -> None:
        self.context = _NO_CONTEXT
        self.timeout = DEFAULT_TIMEOUT
        self.on_output_limit: Literal["drop", "kill"] = "drop"
        """What becomes of a run that writes more than may be kept; it may go on by default."""
        self.report = Report()
        self.spools: dict[str, Spool] = {}
        """What was spooled of each stream; whoever set the limit closes them."""
        self._params: P | None = None
        self._status = Status.PENDING
        self._result: Result | None = None
        self._secrets = _NO_SECRETS
        self._captures: dict[str, OutputCapture] = {}
        self._scope: anyio.CancelScope | None = None
        self._interruption: Interruption | None = None
        self._ended = False
        self._start_time: datetime | None = None
        self._start_clock = 0.0

    @property
    def status(self) -> Status:
        """Where the run is."""
        return self._status

    @property
    def result(self) -> Result | None:
        """The Result, once there is one."""
        return self._result

    @property
    def is_interrupted(self) -> bool:
        """Whether the run is being ended from outside."""
        return self._interruption is not None or self._expired

    @property
    def interruption(self) -> Interruption:
        """What a cancellation that `run` has caught is about."""
        if self._interruption is None:
            self._interruption = self._find_interruption()
        return self._interruption

    def parse_args(self, command: str, args: Args) -> None:
        """Take the task's parameters.

        Raises:
            InvalidTaskError: they are malformed; the text says what and where.
        """
        self._refuse_unused()
        parameters = parameter_object(args)
        if command:
            if self.command_field is None:
                raise InvalidTaskError("this category takes no `command`")
            parameters = {self.command_field: command, **parameters}
        try:
            self._params = convert(parameters, self.params_type)
        except SchemaError as error:
            raise InvalidTaskError(f"in `args`: {error}" if args else str(error)) from None

    async def execute(self) -> Result:
        """Run the task to its end; whatever happens to it is in the Result.

        A cancellation from outside ends the task as its worker's shutdown does, and then goes on.
        """
        if self._params is None or self._status is not Status.PENDING:
            raise RuntimeError("a Runner runs once, after parse_args")
        self._status = Status.RUNNING
        self._secrets = Secrets.of(self.context.task)
        outcome = None
        try:
            with anyio.CancelScope() as self._scope:
                if self._interruption is not None:
                    self._scope.cancel()
                outcome = await self._run(self._params)
        finally:
            outcome = self._decide(outcome)
            for capture in self._captures.values():
                capture.close()
            await self._clean_up()
            result = self._settle(outcome)
        return result

    def stop(self, *, by: str | None = None, reason: str | None = None, grace: float | None = None) -> None:
        """End the run politely: SIGTERM, and SIGKILL after the grace (seconds; None: the task's own)."""
        self._interrupt(Cause.STOP, by=by, reason=reason, grace=grace)

    def kill(self, *, by: str | None = None, reason: str | None = None) -> None:
        """End the run at once; after a stop, end its grace."""
        self._interrupt(Cause.KILL, by=by, reason=reason)
        if self._interruption is not None:
            self._interruption.impatient.set()

    def shut_down(self, cause: Literal[Cause.SHUTDOWN, Cause.LOST], reason: str) -> None:
        """End the run politely for its worker's sake, not the task's."""
        self._interrupt(cause, reason=reason)

    async def cleanup(self) -> None:
        """Remove what the run has left; called once, shielded from cancellation, for at most 15 s."""

    def unready(self) -> str | None:
        """Return why no task of this kind could run here now, as a sentence; None: as far as is known, it can."""
        return None

    @abstractmethod
    async def run(self, params: P) -> Outcome | None:
        """Do the work; None means success.

        Raises:
            RunnerError: the task was refused or could not be started.
        """

    def started(self, **data: Any) -> None:
        """Say that the work has begun: the time-out counts from here."""
        self._start_time = utc_now()
        self._start_clock = anyio.current_time()
        if self._scope is not None:
            self._scope.deadline = self._start_clock + self.timeout
        self.context.reporter.started(data)

    def ended(self) -> None:
        """Say that the work has ended by itself: no stop, kill or time-out changes the outcome from here on."""
        self._ended = True
        if self._scope is not None:
            self._scope.deadline = float("inf")

    def progress(self, **data: Any) -> None:
        """Publish a step of the work."""
        self.context.reporter.progress(data)

    def write(self, data: str | bytes, stream: Literal["stdout", "stderr"] = "stdout") -> None:
        """Append to an output stream."""
        self.capture(stream).write(data.encode() if isinstance(data, str) else data)

    def capture(self, stream: Literal["stdout", "stderr"]) -> OutputCapture:
        """Return what takes a stream's bytes."""
        if stream not in self._captures:
            redactor = Redactor(self._secrets) if self._secrets else None
            limit = self.context.output_limit
            if limit is not None:
                self.spools[stream] = Spool(limit)
            self._captures[stream] = OutputCapture(
                stream,
                self.context.reporter.output,
                redactor=redactor,
                spool=self.spools.get(stream),
                excess=self._excess(),
                limit=DEFAULT_OUTPUT_LIMIT if limit is None else limit,
            )
        return self._captures[stream]

    def keep_secret(self, values: Iterable[str]) -> None:
        """Show no more of these values than of the task's own secrets; to be called before anything is written."""
        self._secrets = Secrets.of(self.context.task, values)

    def _excess(self) -> Excess | None:
        if self.on_output_limit == "drop":
            return None
        limit = DEFAULT_OUTPUT_LIMIT if self.context.output_limit is None else self.context.output_limit
        return Excess(limit, lambda: self._interrupt(Cause.OUTPUT_LIMIT))

    def _refuse_unused(self) -> None:
        task = self.context.task
        given = {"env": task.env, "secret_env": task.secret_env, "cwd": task.cwd, "stdin": task.stdin}
        for name, value in given.items():
            if value and name not in self.takes:
                raise InvalidTaskError(f"this category has no use for `{name}`")

    async def _run(self, params: P) -> Outcome:
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
            if not self.reports_start:
                self.started()
            return await self.run(params) or SUCCESS
        except RunnerError as error:
            self.report.exit_code = error.exit_code
            return error.outcome
        except Exception as error:  # a defect in one runner must not end the worker (R12)
            logger.exception("the runner of task %s failed", self.context.task.id)
            return InternalError(f"the runner failed: {type(error).__name__}: {error}").outcome

    def _interrupt(
        self, cause: Cause, *, by: str | None = None, reason: str | None = None, grace: float | None = None
    ) -> None:
        """Begin the end, unless it has begun: the first cause wins (R1)."""
        if self._ended or self._interruption is not None:
            return
        if self._expired:
            self._interruption = self._find_interruption()
            return
        self._interruption = Interruption(cause, self.context.grace if grace is None else grace, by, reason)
        if self._scope is not None:
            self._scope.cancel()

    @property
    def _expired(self) -> bool:
        """Whether the deadline was the first to end the run: whoever else does announces it."""
        return self._interruption is None and self._scope is not None and self._scope.cancel_called

    def _find_interruption(self) -> Interruption:
        """Name the cancellation that nobody announced: our deadline's, or one from outside."""
        return Interruption(Cause.TIMEOUT if self._expired else Cause.SHUTDOWN, self.context.grace)

    def _decide(self, outcome: Outcome | None) -> Outcome:
        """Let an interruption decide, whatever the run made of it (R1); from here on there is none."""
        in_time = self._interruption is not None or (self._expired and not self._ended)
        self._ended = True
        return self._interrupted(self.interruption) if outcome is None or in_time else outcome

    async def _clean_up(self) -> None:
        if type(self).cleanup is Runner.cleanup:
            return
        with anyio.move_on_after(CLEANUP_TIMEOUT, shield=True) as scope:
            try:
                await self.cleanup()
            except Exception as error:  # the Result is worth more than a tidy end, and tells of it
                logger.exception("the cleanup of task %s failed", self.context.task.id)
                self.report.warnings.append(f"cleanup failed: {type(error).__name__}: {error}")
        if scope.cancelled_caught:
            self.report.cleanup = "pending"

    def _settle(self, outcome: Outcome) -> Result:
        self._status = outcome.status
        self._result = self._assemble(outcome)
        return self._result

    def _interrupted(self, interruption: Interruption) -> Outcome:
        what = {
            Cause.TIMEOUT: f"the task ran longer than its time-out of {self.timeout:g} s",
            Cause.STOP: "the task was stopped",
            Cause.KILL: "the task was killed",
            Cause.SHUTDOWN: "the worker was shut down",
            Cause.LOST: "the worker lost the task",
            Cause.OUTPUT_LIMIT: "the task wrote more than its limit of output",
        }[interruption.cause]
        if self._start_time is None:
            what += " before it started"
        if interruption.by:
            what += f" by {interruption.by}"
        if self.report.stage:
            what += f" while it {self.report.stage}"
        return interrupted(interruption.cause, f"{what}: {interruption.reason}" if interruption.reason else what)

    def _assemble(self, outcome: Outcome) -> Result:
        report, task = self.report, self.context.task
        output, stdout = self._finish("stdout")
        stderr_text, stderr = self._finish("stderr")
        return Result(
            task_id=task.id or "",
            category=task.category or "",
            status=outcome.status,
            output=output,
            stderr=stderr_text,
            error=self._secrets.redact_text(outcome.message),
            start_time=self._start_time,
            end_time=utc_now(),
            duration=round((anyio.current_time() - self._start_clock) * 1000) if self._start_time else 0,
            exit_code=report.exit_code,
            error_class=outcome.error_class,
            error_code=outcome.code,
            retryable=outcome.retryable,
            retry_after=outcome.retry_after,
            signal=report.signal,
            attempt=self.context.attempt,
            redeliveries=self.context.redeliveries,
            worker=self.context.worker,
            streams=Streams(stdout=stdout, stderr=stderr),
            output_complete=report.output_complete,
            termination=self._termination(),
            limits=report.limits,
            usage=report.usage,
            http=report.http,
            docker=report.docker,
            script=report.script,
            warnings=tuple(report.warnings),
            side_effect=report.side_effect,
            cleanup=report.cleanup,
            labels=task.labels,
        )

    def _finish(self, stream: str) -> tuple[str, StreamOutput]:
        capture = self._captures.get(stream)
        return capture.finish() if capture is not None else ("", StreamOutput())

    def _termination(self) -> Termination | None:
        if self._start_time is None and self._interruption is None:
            return None
        interruption, report = self._interruption, self.report
        return Termination(
            cause=interruption.cause if interruption is not None else report.cause,
            signals=tuple(report.signals_sent),
            leaked_processes=report.leaked_processes,
            unkillable=report.unkillable,
            by=interruption.by if interruption is not None else None,
            reason=interruption.reason if interruption is not None else None,
        )
