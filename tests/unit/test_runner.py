"""Tests of runners.base: the life of a task's run, with small runners made for the purpose."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import anyio
import msgspec
import pytest

from runners import base
from runners.base import DEFAULT_TIMEOUT, Runner
from runners.context import Context
from runners.errors import (
    CommandNotFoundError,
    InvalidTaskError,
    Outcome,
    PolicyDeniedError,
    RunnerError,
    SpawnFailedError,
    failed,
)
from schemas import Args, Base64, Cause, ErrorClass, Result, Status, Task, Usage

pytestmark = pytest.mark.anyio

PATIENCE = 10.0
"""Seconds that no wait in these tests takes."""


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


class Recorder:
    """Keeps a runner's reports in their order."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, Any]] = []

    def started(self, data: Mapping[str, Any]) -> None:
        """Keep the start."""
        self.reports.append(("started", dict(data)))

    def progress(self, data: Mapping[str, Any]) -> None:
        """Keep a step."""
        self.reports.append(("progress", dict(data)))

    def stopping(self, data: Mapping[str, Any]) -> None:
        """Keep the beginning of the end."""
        self.reports.append(("stopping", dict(data)))

    def output(self, stream: str, offset: int, chunk: bytes) -> None:
        """Keep some output."""
        self.reports.append((stream, (offset, chunk)))


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters."""


class ScriptedRunner(Runner[Nothing]):
    """Runs the coroutine function it is given, which gets the runner."""

    params_type = Nothing

    def __init__(self, work: Callable[[Any], Awaitable[Outcome | None]]) -> None:
        super().__init__()
        self.work = work
        self.running = anyio.Event()
        """Set when the work begins."""
        self.cleanups = 0
        self.parse_args("", "")

    async def run(self, params: Nothing) -> Outcome | None:
        """Do the given work."""
        self.running.set()
        return await self.work(self)

    async def cleanup(self) -> None:
        """Count the calls."""
        self.cleanups += 1


class LateRunner(ScriptedRunner):
    """Says itself when it has started."""

    reports_start = True


async def nothing(runner: Runner[Any]) -> None:
    """Work that is done at once."""


async def forever(runner: Runner[Any]) -> None:
    """Work that never ends by itself."""
    await anyio.sleep_forever()


async def execute_until_running(runner: ScriptedRunner, then: Callable[[], None]) -> Result:
    """Execute, and do something as soon as the work has begun."""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(runner.execute)
            await runner.running.wait()
            then()
    assert runner.result is not None
    return runner.result


# States


async def test_the_states_of_a_run() -> None:
    """A run is pending, then running, then what its Result says."""
    seen: list[Status] = []

    async def work(runner: ScriptedRunner) -> None:
        seen.append(runner.status)

    runner = ScriptedRunner(work)
    assert (runner.status, runner.result) == (Status.PENDING, None)
    result = await runner.execute()
    assert seen == [Status.RUNNING]
    assert runner.status is result.status is Status.SUCCESS
    assert runner.result is result


async def test_a_success() -> None:
    """A run that ends by itself is a success without an error, with its times."""
    before = datetime.now(UTC)
    result = await ScriptedRunner(nothing).execute()
    assert (result.status, result.error, result.error_class, result.error_code) == (Status.SUCCESS, "", None, None)
    assert result.start_time is not None
    assert before <= result.start_time <= result.end_time <= datetime.now(UTC)
    assert 0 <= result.duration < PATIENCE * 1000
    assert result.termination is not None
    assert (result.termination.cause, result.termination.signals) == (Cause.EXIT, ())
    assert result.exit_code is None


async def test_the_result_says_whose_it_is() -> None:
    """Task, attempt, worker and labels go from the context into the Result."""
    runner = ScriptedRunner(nothing)
    task = Task(id="t-1", category="greet", labels={"team": "a"})
    runner.context = Context(task=task, attempt=3, redeliveries=2, worker="w-1")
    result = await runner.execute()
    assert (result.task_id, result.category, result.labels) == ("t-1", "greet", {"team": "a"})
    assert (result.attempt, result.redeliveries, result.worker) == (3, 2, "w-1")


async def test_what_the_runner_found_out_goes_into_the_result() -> None:
    """The report's fields are the Result's."""
    usage = Usage(cpu_user=1.0, cpu_system=2.0, max_rss=3)

    async def work(runner: ScriptedRunner) -> None:
        runner.report.usage = usage
        runner.report.exit_code = 0
        runner.report.warnings.append("mind the gap")
        runner.report.side_effect = "unknown"

    result = await ScriptedRunner(work).execute()
    assert (result.usage, result.exit_code, result.warnings) == (usage, 0, ("mind the gap",))
    assert result.side_effect == "unknown"


async def test_a_runner_runs_once() -> None:
    """A second `execute` is refused, and the first one's Result stays."""
    runner = ScriptedRunner(nothing)
    result = await runner.execute()
    with pytest.raises(RuntimeError, match="runs once"):
        await runner.execute()
    assert runner.result is result
    assert runner.cleanups == 1


async def test_a_runner_does_not_run_twice_at_once() -> None:
    """An `execute` while another one runs is refused."""
    runner = ScriptedRunner(forever)

    def execute_again() -> None:
        with pytest.raises(RuntimeError, match="runs once"):
            runner.execute().send(None)
        runner.stop()

    assert (await execute_until_running(runner, execute_again)).status is Status.CANCELED


async def test_parameters_come_first() -> None:
    """Without `parse_args` there is nothing to execute."""
    runner = GreetRunner()
    with pytest.raises(RuntimeError, match="after parse_args"):
        await runner.execute()
    assert runner.status is Status.PENDING


async def test_runs_share_nothing() -> None:
    """What one run reports is not in the next one's Result."""

    async def work(runner: ScriptedRunner) -> None:
        runner.report.signals_sent.append("SIGTERM")
        runner.report.warnings.append("w")

    await ScriptedRunner(work).execute()
    result = await ScriptedRunner(nothing).execute()
    assert result.warnings == ()
    assert result.termination is not None
    assert result.termination.signals == ()


# Before the start


@pytest.mark.parametrize(
    ("end", "code", "cause"),
    [
        (lambda runner: runner.stop(by="ann", reason="no need"), "stopped", Cause.STOP),
        (lambda runner: runner.kill(by="ann", reason="no need"), "killed", Cause.KILL),
        (lambda runner: (runner.stop(by="ann", reason="no need"), runner.kill(by="bob")), "stopped", Cause.STOP),
    ],
    ids=["stop", "kill", "stop, then kill"],
)
@pytest.mark.parametrize("runner_type", [ScriptedRunner, LateRunner])
async def test_ended_before_it_starts(
    runner_type: type[ScriptedRunner], end: Callable[[ScriptedRunner], object], code: str, cause: Cause
) -> None:
    """A run that is ended while pending never starts; its Result says so."""
    runner = runner_type(nothing)
    runner.context = Context(reporter=(recorder := Recorder()))
    end(runner)
    assert runner.status is Status.PENDING
    result = await runner.execute()
    assert not runner.running.is_set()
    assert recorder.reports == []
    assert (result.status, result.error_code, result.start_time) == (Status.CANCELED, code, None)
    assert result.error == f"the task was {code} before it started by ann: no need"
    assert result.duration == 0
    assert result.termination is not None
    assert (result.termination.cause, result.termination.by, result.termination.reason) == (cause, "ann", "no need")
    assert runner.cleanups == 1


# The end from outside


@pytest.mark.parametrize(
    ("end", "cause", "status", "error_class", "code", "error", "retryable"),
    [
        (
            lambda runner: runner.stop(by="ann", reason="too late"),
            *(Cause.STOP, Status.CANCELED, ErrorClass.EXECUTION, "stopped"),
            *("the task was stopped by ann: too late", False),
        ),
        (
            lambda runner: runner.kill(),
            *(Cause.KILL, Status.CANCELED, ErrorClass.EXECUTION, "killed", "the task was killed", False),
        ),
        (
            lambda runner: runner.shut_down(Cause.SHUTDOWN, "drained"),
            *(Cause.SHUTDOWN, Status.ERROR, ErrorClass.SYSTEM, "worker_shutdown"),
            *("the worker was shut down: drained", True),
        ),
        (
            lambda runner: runner.shut_down(Cause.LOST, "taken over"),
            *(Cause.LOST, Status.ERROR, ErrorClass.SYSTEM, "worker_lost"),
            *("the worker lost the task: taken over", True),
        ),
    ],
    ids=["stop", "kill", "shut down", "lost"],
)
async def test_ended_while_it_runs(
    *,
    end: Callable[[ScriptedRunner], None],
    cause: Cause,
    status: Status,
    error_class: ErrorClass,
    code: str,
    error: str,
    retryable: bool,
) -> None:
    """The work is cancelled, and the cause decides the Result."""
    runner = ScriptedRunner(forever)
    result = await execute_until_running(runner, lambda: end(runner))
    assert (result.status, result.error_class, result.error_code) == (status, error_class, code)
    assert (result.error, result.retryable) == (error, retryable)
    assert result.start_time is not None
    assert result.termination is not None
    assert result.termination.cause is cause
    assert runner.cleanups == 1


async def test_a_time_out() -> None:
    """Work that takes longer than its time-out is cancelled."""
    runner = ScriptedRunner(forever)
    runner.timeout = 0.01
    result = await runner.execute()
    assert (result.status, result.error_class, result.error_code) == ("timeout", "timeout", "timeout")
    assert result.error == "the task ran longer than its time-out of 0.01 s"
    assert result.duration >= 10
    assert not result.retryable
    assert result.termination is not None
    assert result.termination.cause is Cause.TIMEOUT


async def test_the_time_out_counts_from_the_start() -> None:
    """What a runner needs before its work begins is not counted."""

    async def work(runner: ScriptedRunner) -> None:
        await anyio.sleep(0.03)
        runner.started(url="x")
        runner.ended()

    runner = LateRunner(work)
    runner.timeout = 0.01
    assert (await runner.execute()).status is Status.SUCCESS


async def test_a_late_start_has_its_time_out_too() -> None:
    """From its start on, the work of such a runner is timed."""

    async def work(runner: ScriptedRunner) -> None:
        runner.started()
        await anyio.sleep_forever()

    runner = LateRunner(work)
    runner.timeout = 0.01
    assert (await runner.execute()).status is Status.TIMEOUT


async def test_there_is_always_a_time_out() -> None:
    """Where nothing is said, it is an hour."""
    assert ScriptedRunner(nothing).timeout == DEFAULT_TIMEOUT == 3600


@pytest.mark.parametrize(("grace", "expected"), [(None, 7.0), (0.0, 0.0), (3.0, 3.0)])
async def test_the_runner_learns_what_ends_it(grace: float | None, expected: float) -> None:
    """A runner that catches the cancellation finds cause, sender and grace; the context's grace unless one is given."""
    found = []

    async def work(runner: ScriptedRunner) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            found.append(runner.interruption)

    runner = ScriptedRunner(work)
    runner.context = Context(grace=7)
    await execute_until_running(runner, lambda: runner.stop(by="ann", reason="why", grace=grace))
    (interruption,) = found
    assert (interruption.cause, interruption.grace) == (Cause.STOP, expected)
    assert (interruption.by, interruption.reason) == ("ann", "why")
    assert not interruption.impatient.is_set()


async def test_a_time_out_is_found_like_a_stop() -> None:
    """The deadline's cancellation is told from one that comes from outside."""
    found = []

    async def work(runner: ScriptedRunner) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            found.append(runner.interruption.cause)

    runner = ScriptedRunner(work)
    runner.timeout = 0.01
    await runner.execute()
    assert found == [Cause.TIMEOUT]


async def test_a_kill_after_a_stop_ends_the_grace() -> None:
    """A kill makes the stop impatient; it stays a stop."""
    patient = []

    async def work(runner: ScriptedRunner) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            patient.append(not runner.interruption.impatient.is_set())
            with anyio.fail_after(PATIENCE, shield=True):
                runner.kill(by="bob")
                await runner.interruption.impatient.wait()

    runner = ScriptedRunner(work)
    result = await execute_until_running(runner, lambda: runner.stop(by="ann"))
    assert patient == [True]
    assert result.error_code == "stopped"
    assert result.termination is not None
    assert (result.termination.cause, result.termination.by) == (Cause.STOP, "ann")


# The first cause wins (R1)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("stop", "stop", "stopped"),
        ("stop", "kill", "stopped"),
        ("kill", "stop", "killed"),
        ("kill", "kill", "killed"),
    ],
)
async def test_the_first_control_wins(first: str, second: str, code: str) -> None:
    """Of several controls the first one is the cause."""
    runner = ScriptedRunner(forever)

    def end() -> None:
        getattr(runner, first)(by="first")
        getattr(runner, second)(by="second")

    result = await execute_until_running(runner, end)
    assert result.error_code == code
    assert result.termination is not None
    assert result.termination.by == "first"


@pytest.mark.parametrize("late", ["stop", "kill"])
@pytest.mark.parametrize("asks", [True, False])
async def test_a_control_after_the_time_out_does_not_win(*, late: str, asks: bool) -> None:
    """A stop that comes while a timed out run winds down changes nothing, whether or not the runner asked why."""

    async def work(runner: ScriptedRunner) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            assert not asks or runner.interruption.cause is Cause.TIMEOUT
            getattr(runner, late)(by="late")

    runner = ScriptedRunner(work)
    runner.timeout = 0.01
    result = await runner.execute()
    assert result.status is Status.TIMEOUT
    assert result.termination is not None
    assert (result.termination.cause, result.termination.by) == (Cause.TIMEOUT, None)


async def test_a_time_out_after_a_stop_does_not_win() -> None:
    """A run that is still winding down at its deadline was stopped."""

    async def work(runner: ScriptedRunner) -> None:
        runner.stop()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(runner.timeout * 2)

    runner = ScriptedRunner(work)
    runner.timeout = 0.01
    assert (await runner.execute()).error_code == "stopped"


@pytest.mark.parametrize("late", ["stop", "kill"])
async def test_a_control_after_the_end_changes_nothing(late: str) -> None:
    """Once the work has ended by itself, nothing turns the outcome."""

    async def work(runner: ScriptedRunner) -> None:
        runner.ended()
        getattr(runner, late)()
        await anyio.lowlevel.checkpoint()

    result = await ScriptedRunner(work).execute()
    assert result.status is Status.SUCCESS
    assert result.termination is not None
    assert result.termination.cause is Cause.EXIT


async def test_no_time_out_after_the_end() -> None:
    """What a runner does after its work has ended is not timed."""

    async def work(runner: ScriptedRunner) -> None:
        runner.ended()
        await anyio.sleep(runner.timeout * 2)

    runner = ScriptedRunner(work)
    runner.timeout = 0.01
    assert (await runner.execute()).status is Status.SUCCESS


async def test_a_time_out_that_comes_too_late() -> None:
    """A deadline that passes unseen while the work ends by itself changes nothing."""

    async def work(runner: ScriptedRunner) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(runner.timeout * 2)
        runner.ended()

    runner = ScriptedRunner(work)
    runner.timeout = 0.01
    result = await runner.execute()
    assert result.status is Status.SUCCESS
    assert result.termination is not None
    assert result.termination.cause is Cause.EXIT


@pytest.mark.parametrize("late", ["stop", "kill"])
async def test_a_control_during_the_cleanup_changes_nothing(late: str) -> None:
    """A run whose work is done stays what it was, though its Result is not out yet."""

    class SlowRunner(ScriptedRunner):
        async def cleanup(self) -> None:
            getattr(self, late)()

    result = await SlowRunner(nothing).execute()
    assert (result.status, result.error_code) == (Status.SUCCESS, None)


@pytest.mark.parametrize("late", ["stop", "kill"])
async def test_a_control_after_the_result_changes_nothing(late: str) -> None:
    """A finished run ignores controls."""
    runner = ScriptedRunner(nothing)
    result = await runner.execute()
    getattr(runner, late)()
    assert runner.result is result
    assert runner.status is Status.SUCCESS


@pytest.mark.parametrize("raised", [None, ValueError("while ending"), SpawnFailedError("while ending")], ids=repr)
@pytest.mark.parametrize("by", ["stop", "time-out"])
async def test_the_cause_decides_whatever_the_run_then_does(by: str, raised: Exception | None) -> None:
    """A run that swallows its cancellation, or fails over it, was still ended from outside."""

    async def work(runner: ScriptedRunner) -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if raised is not None:
                raise raised from None

    runner = ScriptedRunner(work)
    if by == "stop":
        result = await execute_until_running(runner, runner.stop)
        assert (result.status, result.error_code) == (Status.CANCELED, "stopped")
    else:
        runner.timeout = 0.01
        result = await runner.execute()
        assert (result.status, result.error_code) == (Status.TIMEOUT, "timeout")


# Cancellation from outside


async def test_a_cancellation_from_outside_goes_on() -> None:
    """The caller's cancellation is not swallowed; the run is cleaned up and was shut down."""
    runner = ScriptedRunner(forever)
    survived = False
    async with anyio.create_task_group() as group:

        async def execute() -> None:
            nonlocal survived
            await runner.execute()
            survived = True

        group.start_soon(execute)
        await runner.running.wait()
        group.cancel_scope.cancel()
    assert not survived
    assert runner.cleanups == 1
    assert runner.result is not None
    assert runner.status is runner.result.status is Status.ERROR
    assert (runner.result.error_code, runner.result.retryable) == ("worker_shutdown", True)
    assert runner.result.termination is not None
    assert runner.result.termination.cause is Cause.SHUTDOWN


async def test_a_stopped_run_that_is_then_cancelled_was_stopped() -> None:
    """The first cause wins over a cancellation from outside, which still goes on."""
    runner = ScriptedRunner(forever)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(runner.execute)
            await runner.running.wait()
            runner.stop()
            scope.cancel()
    assert scope.cancelled_caught
    assert runner.result is not None
    assert runner.result.error_code == "stopped"


async def test_nothing_starts_under_a_cancellation() -> None:
    """A run that is executed in a cancelled scope never starts."""
    runner = ScriptedRunner(nothing)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await runner.execute()
    assert not runner.running.is_set()
    assert runner.result is not None
    assert (runner.result.error_code, runner.result.start_time) == ("worker_shutdown", None)


# Cleanup


async def test_the_cleanup_is_shielded() -> None:
    """A cancellation that comes during the cleanup waits for its end."""
    cleaned = anyio.Event()
    cleaning = anyio.Event()

    class TidyRunner(ScriptedRunner):
        async def cleanup(self) -> None:
            cleaning.set()
            await anyio.wait_all_tasks_blocked()
            cleaned.set()

    runner = TidyRunner(nothing)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(runner.execute)
            await cleaning.wait()
            group.cancel_scope.cancel()
    assert cleaned.is_set()
    assert runner.status is Status.SUCCESS


async def test_the_cleanup_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cleanup that does not end is given up, and the Result says that it is pending."""
    assert base.CLEANUP_TIMEOUT == 15
    monkeypatch.setattr(base, "CLEANUP_TIMEOUT", 0.01)

    class StuckRunner(ScriptedRunner):
        async def cleanup(self) -> None:
            await anyio.sleep_forever()

    with anyio.fail_after(PATIENCE):
        result = await StuckRunner(nothing).execute()
    assert (result.status, result.cleanup) == (Status.SUCCESS, "pending")


async def test_a_failing_cleanup_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A cleanup that fails costs no Result; the Result tells of it."""

    class ClumsyRunner(ScriptedRunner):
        async def cleanup(self) -> None:
            raise OSError("no space")

    runner = ClumsyRunner(nothing)
    runner.context = Context(task=Task(id="t-1"))
    result = await runner.execute()
    assert (result.status, result.cleanup) == (Status.SUCCESS, None)
    assert result.warnings == ("cleanup failed: OSError: no space",)
    assert "the cleanup of task t-1 failed" in caplog.text


async def test_what_the_cleanup_writes_is_in_the_result() -> None:
    """The Result is made after the cleanup."""

    class ChattyRunner(ScriptedRunner):
        async def cleanup(self) -> None:
            self.write("bye\n")

    assert (await ChattyRunner(nothing).execute()).output == "bye\n"


# Errors


@pytest.mark.parametrize(
    "error",
    [
        ValueError("oops"),
        ExceptionGroup("several", [ValueError("oops"), OSError("oops")]),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        OverflowError("oops"),
        MemoryError("oops"),
        RecursionError("oops"),
        StopAsyncIteration("oops"),
        TimeoutError("oops"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_defect_in_a_runner_is_an_internal_error(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a runner raises ends the task and not its worker; it may be tried again (R12)."""

    async def work(runner: ScriptedRunner) -> None:
        raise error

    runner = ScriptedRunner(work)
    runner.context = Context(task=Task(id="t-1"))
    result = await runner.execute()
    assert (result.status, result.error_class, result.error_code) == ("error", "system", "internal")
    assert result.retryable
    assert result.error == f"the runner failed: {type(error).__name__}: {error}"
    assert "the runner of task t-1 failed" in caplog.text
    assert runner.cleanups == 1


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(CommandNotFoundError("no x"), 127), (PolicyDeniedError("rule 1"), None), (SpawnFailedError("no room"), None)],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("runner_type", [ScriptedRunner, LateRunner])
async def test_a_runner_error_is_an_outcome(
    runner_type: type[ScriptedRunner], error: RunnerError, exit_code: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A RunnerError's status, class, code, text and exit code are the Result's, and nothing is logged."""

    async def work(runner: ScriptedRunner) -> None:
        raise error

    result = await runner_type(work).execute()
    assert (result.status, result.error_class, result.error_code) == (error.status, error.error_class, error.code)
    assert (result.error, result.retryable, result.exit_code) == (str(error), error.retryable, exit_code)
    assert (result.start_time is None) == (result.termination is None) == (runner_type is LateRunner)
    assert not caplog.records


async def test_an_outcome_is_returned_or_success() -> None:
    """What `run` returns is the outcome."""

    async def work(runner: ScriptedRunner) -> Outcome:
        return failed("http_status", "the server said 404")

    result = await ScriptedRunner(work).execute()
    assert (result.status, result.error_code, result.error) == ("failed", "http_status", "the server said 404")


async def test_the_result_says_when_to_try_again() -> None:
    """If the other end has asked for it."""

    async def work(runner: ScriptedRunner) -> Outcome:
        return Outcome(status=Status.FAILED, retryable=True, retry_after=7.5)

    result = await ScriptedRunner(work).execute()
    assert (result.retryable, result.retry_after) == (True, 7.5)


async def test_the_sentence_says_what_a_run_was_at() -> None:
    """If the runner knows; whoever ended it comes first."""

    async def work(runner: ScriptedRunner) -> None:
        runner.report.stage = "counted sheep"
        await anyio.sleep_forever()

    runner = ScriptedRunner(work)
    result = await execute_until_running(runner, lambda: runner.stop(by="me", reason="enough"))
    assert result.error == "the task was stopped by me while it counted sheep: enough"


async def test_secrets_among_the_parameters() -> None:
    """What a runner knows to be secret is in neither output nor sentence."""

    async def work(runner: ScriptedRunner) -> Outcome:
        runner.keep_secret(["hush-hush"])
        runner.write("it is hush-hush")
        return failed("exit_nonzero", "no hush-hush here")

    result = await ScriptedRunner(work).execute()
    assert (result.output, result.error) == ("it is [REDACTED]", "no [REDACTED] here")


# Parameters


class GreetParams(msgspec.Struct, forbid_unknown_fields=True):
    """Whom to greet."""

    name: str


class GreetRunner(Runner[GreetParams]):
    """The custom runner of the module's docstring."""

    params_type = GreetParams

    async def run(self, params: GreetParams) -> None:
        """Greet."""
        self.write(f"hello {params.name}\n")


class NamedGreetRunner(GreetRunner):
    """Takes the name as the task's `command`."""

    command_field = "name"


class OpenRunner(GreetRunner):
    """Has a use for everything."""

    takes: ClassVar[frozenset[str]] = frozenset({"env", "secret_env", "cwd", "stdin"})


async def test_the_runner_of_the_docstring() -> None:
    """A parameter Struct and one coroutine are a runner."""
    source = base.__doc__ or ""
    namespace: dict[str, Any] = {"msgspec": msgspec, "Runner": Runner}
    lines = [line[4:] for line in source.splitlines() if line.startswith("    ")]
    exec("\n".join(lines), namespace)
    runner: Runner[Any] = namespace["GreetRunner"]()
    runner.parse_args("", {"name": "Ann"})
    result = await runner.execute()
    assert (result.status, result.output, result.stderr) == (Status.SUCCESS, "hello Ann\n", "")
    assert len([line for line in lines if line]) <= 10


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("", "object missing required field `name`"),
        ({"nom": "Ann"}, "in `args`: unknown field `nom`"),
        ({"name": 1}, "in `args`: `name`: expected `str`, got `int`"),
        (["Ann"], "in `args`: unknown field `args`"),
        ("Ann", "`args` is a string but not JSON: JSON is malformed: invalid character (byte 0)"),
    ],
)
def test_wrong_parameters_are_refused(args: Args, sentence: str) -> None:
    """The error says what is wrong and where."""
    with pytest.raises(InvalidTaskError) as refusal:
        GreetRunner().parse_args("", args)
    assert str(refusal.value) == sentence


def test_a_command_nobody_asked_for_is_refused() -> None:
    """A runner without a main parameter takes no `command`."""
    with pytest.raises(InvalidTaskError, match=r"^this category takes no `command`$"):
        GreetRunner().parse_args("Ann", "")


@pytest.mark.parametrize(
    ("command", "args", "greeting"),
    [
        ("Ann", "", "hello Ann\n"),
        ("", {"name": "Bob"}, "hello Bob\n"),
        ("Ann", {"name": "Bob"}, "hello Bob\n"),
    ],
)
async def test_the_command_fills_its_field(command: str, args: Args, greeting: str) -> None:
    """`command` is the main parameter, where the object leaves it out."""
    runner = NamedGreetRunner()
    runner.parse_args(command, args)
    assert (await runner.execute()).output == greeting


UNUSED = [
    ("env", {"A": "b"}),
    ("secret_env", {"A": "b"}),
    ("cwd", "/"),
    ("stdin", "x"),
    ("stdin", Base64(base64="eA==")),
]


@pytest.mark.parametrize(("name", "value"), UNUSED)
def test_what_a_runner_has_no_use_for_is_refused(name: str, value: object) -> None:
    """A task that gives what would be ignored is told so."""
    runner = GreetRunner()
    runner.context = Context(task=Task(**{name: value}))
    with pytest.raises(InvalidTaskError, match=f"^this category has no use for `{name}`$"):
        runner.parse_args("", {"name": "Ann"})


@pytest.mark.parametrize(("name", "value"), UNUSED)
def test_what_a_runner_takes_it_may_be_given(name: str, value: object) -> None:
    """A runner that has a use for it gets it."""
    runner = OpenRunner()
    runner.context = Context(task=Task(**{name: value}))
    runner.parse_args("", {"name": "Ann"})


@pytest.mark.parametrize(
    ("name", "value"), [("env", {}), ("secret_env", {}), ("cwd", None), ("stdin", ""), ("stdin", None)]
)
def test_what_is_not_given_is_not_refused(name: str, value: object) -> None:
    """Nothing is fine for any runner."""
    runner = GreetRunner()
    runner.context = Context(task=Task(**{name: value}))
    runner.parse_args("", {"name": "Ann"})


# Reports


async def test_reports_reach_the_reporter() -> None:
    """Start, steps and output are told as they happen, output with its offset."""

    async def work(runner: ScriptedRunner) -> None:
        runner.write("ü\n")
        runner.progress(done=1, of=2)
        runner.write(b"more")
        runner.write("oops", "stderr")

    runner = ScriptedRunner(work)
    runner.context = Context(reporter=(recorder := Recorder()))
    result = await runner.execute()
    assert recorder.reports == [
        ("started", {}),
        ("stdout", (0, "ü\n".encode())),
        ("progress", {"done": 1, "of": 2}),
        ("stdout", (3, b"more")),
        ("stderr", (0, b"oops")),
    ]
    assert (result.output, result.stderr) == ("ü\nmore", "oops")
    assert (result.streams.stdout.bytes, result.streams.stderr.bytes) == (7, 4)


async def test_a_late_start_is_told_once() -> None:
    """A runner that says itself when it starts is not announced by the base class."""

    async def work(runner: ScriptedRunner) -> None:
        runner.started(pid=1)

    runner = LateRunner(work)
    runner.context = Context(reporter=(recorder := Recorder()))
    result = await runner.execute()
    assert recorder.reports == [("started", {"pid": 1})]
    assert result.start_time is not None


async def test_output_that_is_no_text_ends_the_task_alone() -> None:
    """A lone surrogate cannot be written; the Result says so and keeps what was."""

    async def work(runner: ScriptedRunner) -> None:
        runner.write("fine\n")
        runner.write("\ud800")

    result = await ScriptedRunner(work).execute()
    assert (result.error_code, result.output) == ("internal", "fine\n")


async def test_the_result_of_an_interrupted_run_has_its_output() -> None:
    """What was written before the end is kept."""

    async def work(runner: ScriptedRunner) -> None:
        runner.write("so far\n")
        await anyio.sleep_forever()

    runner = ScriptedRunner(work)
    result = await execute_until_running(runner, runner.stop)
    assert result.output == "so far\n"
