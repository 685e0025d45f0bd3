"""RunnerConformance: the tests, each a method that pytest collects in the classes derived from it."""

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final, TypeVar
from unittest import SkipTest

import anyio
from msgspec import structs

from runners.base import Runner
from runners.context import Context
from runners.declaration import factory_of
from runners.errors import InvalidTaskError
from runners.output import KEEP
from schemas import Args, Cause, ErrorClass, Status, Task, json_schema

from .harness import LONG, Run, expect, present

Make = Callable[[Task], Run]

_BAD: Final[tuple[Args, ...]] = ({"no-such-parameter": 1}, "not JSON", '"neither list nor object"')
_AT_ONCE: Final = 8

C = TypeVar("C", bound="RunnerConformance")


def _conforming(test: Callable[[C, Make], Awaitable[None]]) -> Callable[[C], None]:
    """Let a test have an event loop, and the factory for as long as it lasts."""

    def run(self: C) -> None:
        async def main() -> None:
            with anyio.fail_after(self.patience):
                async with self.running() as factory:
                    await test(self, self.maker(factory))

        anyio.run(main)

    functools.update_wrapper(run, test)
    del run.__wrapped__  # type: ignore[attr-defined]  # or pytest would look for a fixture `make`
    return run


class RunnerConformance:
    """Derive from it, name the factory and a few tasks, and let pytest collect the class.

    The tests that need a task which is not named are skipped. `context` is what a worker's configuration says.
    """

    factory: ClassVar[Any]
    """A Runner class, any other factory, or a function that is decorated with @runner."""
    success: ClassVar[Task]
    """Ends well."""
    failure: ClassVar[Task | None] = None
    """Ends as `failed`."""
    endless: ClassVar[Task | None] = None
    """Runs until it is ended."""
    loud: ClassVar[Task | None] = None
    """Writes more than 128 KiB to stdout."""
    context: ClassVar[Context] = Context(worker="conformance", grace=LONG, concurrency=4)
    patience: ClassVar[float] = 30.0
    """Seconds that no test takes."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Callable[[], Runner[Any]]]:
        """Yield the factory, and close it in the end; override it if something has to be up while runners run."""
        declared = inspect.getattr_static(type(self), "factory")
        factory = factory_of(declared.__func__ if isinstance(declared, staticmethod) else declared)
        try:
            yield factory
        finally:
            if (aclose := getattr(factory, "aclose", None)) is not None:
                await aclose()

    def maker(self, factory: Callable[[], Runner[Any]]) -> Make:
        """Return what prepares a task."""
        return lambda task: Run(factory(), structs.replace(task, id=task.id or "t-1"), self.context)

    def task(self, name: str) -> Task:
        """Return a task of that name.

        Raises:
            SkipTest: there is none.
        """
        task: Task | None = getattr(self, name)
        if task is None:
            raise SkipTest(f"{type(self).__name__} has no {name} task")
        return task

    # What a task may be

    @_conforming
    async def test_its_parameters_have_a_json_schema(self, make: Make) -> None:
        """So that `jetrunner schema` can print it."""
        expect("whether there is a schema", bool(json_schema(make(self.success).runner.params_type)))

    @_conforming
    async def test_bad_parameters_are_refused_before_it_runs(self, make: Make) -> None:
        """A parameter that there is not, and `args` that are none."""
        for args in _BAD:
            try:
                make(Task(args=args))
            except InvalidTaskError as error:
                expect("whether the error says something", str(error) != "")
            else:
                raise AssertionError(f"the parameters {args!r} were taken")

    # How a task ends

    @_conforming
    async def test_a_success_is_told_completely(self, make: Make) -> None:
        """It has a status and a receipt, and no error."""
        run = make(self.success)
        expect("its status before it runs", run.runner.status, Status.PENDING)
        result = await run.execute()
        expect("the status", (result.status, result.error), (Status.SUCCESS, ""))
        expect("the error's class and code", (result.error_class, result.error_code), (None, None))
        run.check_end(Cause.EXIT)

    @_conforming
    async def test_a_failure_says_what_happened(self, make: Make) -> None:
        """`failed`, with a sentence for people and a code for programs."""
        run = make(self.task("failure"))
        result = await run.execute()
        expect("the status", result.status, Status.FAILED)
        expect("whether the error has class and code", bool(result.error_class and result.error_code))
        expect("how many lines the error has", len(result.error.splitlines()), 1)
        run.check_end(Cause.EXIT)

    @_conforming
    async def test_a_runner_runs_once(self, make: Make) -> None:
        """A second execution is an error of whoever asks for it, and the Result stays."""
        run = make(self.success)
        first = await run.execute()
        try:
            await run.execute()
        except RuntimeError:
            expect("whether its Result is still the first", run.result is first)
        else:
            raise AssertionError("it ran twice")

    @_conforming
    async def test_the_output_is_reported_in_order_and_kept(self, make: Make) -> None:
        """What is reported live is what the Result has, byte for byte."""
        run = make(self.success)
        result = await run.execute()
        expect("chunks of output that are out of order", run.reports.gaps, 0)
        for stream, text, facts in (
            ("stdout", result.output, result.streams.stdout),
            ("stderr", result.stderr, result.streams.stderr),
        ):
            expect(f"the size of {stream}", facts.bytes, len(run.reports.output_of[stream]))
            if facts.encoding == "utf-8" and not facts.truncated:
                expect(stream, text.encode(), bytes(run.reports.output_of[stream]))

    @_conforming
    async def test_a_loud_task_keeps_head_and_tail(self, make: Make) -> None:
        """The Result says how much there was, and how much of it is missing."""
        run = make(self.task("loud"))
        facts = (await run.execute()).streams.stdout
        expect("the size of stdout", facts.bytes, len(run.reports.output_of["stdout"]))
        expect("whether stdout is truncated", facts.truncated)
        expect("whether about 128 KiB were kept", 2 * KEEP - 6 <= facts.bytes - facts.dropped_bytes <= 2 * KEEP)

    @_conforming
    async def test_a_time_out_ends_it(self, make: Make) -> None:
        """It counts from the start."""
        run = make(self.task("endless"))
        run.runner.timeout = 0.2
        result = await run.execute()
        expect("the status", (result.status, result.error_code), (Status.TIMEOUT, "timeout"))
        run.check_end(Cause.TIMEOUT)

    @_conforming
    async def test_a_stop_ends_it(self, make: Make) -> None:
        """Who stopped it, and why, is in the receipt; a second stop changes nothing."""

        def stop(runner: Runner[Any]) -> None:
            runner.stop(by="me", reason="enough")
            runner.stop(by="you")

        run = make(self.task("endless"))
        result = await run.end(stop)
        expect("the status", (result.status, result.error_code), (Status.CANCELED, "stopped"))
        expect("by whom", result.termination and result.termination.by, "me")
        expect("the reason", result.termination and result.termination.reason, "enough")
        run.check_end(Cause.STOP)

    @_conforming
    async def test_a_kill_ends_it(self, make: Make) -> None:
        """At once, whatever the grace."""
        run = make(self.task("endless"))
        result = await run.end(lambda runner: runner.kill())
        expect("the status", (result.status, result.error_code), (Status.CANCELED, "killed"))
        run.check_end(Cause.KILL)

    @_conforming
    async def test_a_stop_before_the_start_means_that_it_never_starts(self, make: Make) -> None:
        """Nothing is reported but the end."""
        run = make(self.success)
        run.runner.stop()
        result = await run.execute()
        expect("the status", (result.status, result.start_time), (Status.CANCELED, None))
        expect("how often the start is reported", run.reports.starts, 0)

    @_conforming
    async def test_a_stop_after_the_end_changes_nothing(self, make: Make) -> None:
        """The first cause wins."""
        run = make(self.success)
        result = await run.execute()
        run.runner.stop()
        run.runner.kill()
        expect("the status", run.runner.status, Status.SUCCESS)
        expect("whether the Result is the same", run.result is result)

    # What it does to others

    @_conforming
    async def test_tasks_at_the_same_time_do_not_mix(self, make: Make) -> None:
        """Each Result is its own task's."""
        names = [f"t{number}" for number in range(_AT_ONCE)]
        runs = [make(structs.replace(self.success, id=name)) for name in names]
        async with anyio.create_task_group() as group:
            for run in runs:
                group.start_soon(run.execute)
        expect("the tasks of the Results", [run.result.task_id for run in runs], names)
        expect("the statuses", {run.result.status for run in runs}, {Status.SUCCESS})
        expect("chunks of output that are out of order", sum(run.reports.gaps for run in runs), 0)

    @_conforming
    async def test_a_cancellation_from_outside_is_a_shutdown_and_goes_on(self, make: Make) -> None:
        """The Result is made all the same."""
        run = make(self.task("endless"))
        await self._cancel(run)
        result = run.result
        expect("the error", (result.error_class, result.error_code), (ErrorClass.SYSTEM, "worker_shutdown"))
        run.check_end(Cause.SHUTDOWN)

    def test_nothing_is_left(self) -> None:
        """No process, descriptor, thread or task: not after a success, a kill or a cancellation."""
        anyio.run(self._live_twice)

    async def _live_twice(self) -> None:
        with anyio.fail_after(self.patience):
            await self._live()  # once before anyone counts: what all runners share is opened
            before = present()
            await self._live()
            expect("what is there afterwards", present(), before)

    async def _live(self) -> None:
        async with self.running() as factory:
            make = self.maker(factory)
            await make(self.success).execute()
            if self.endless is not None:
                await make(self.endless).end(lambda runner: runner.kill())
                await self._cancel(make(self.endless))

    async def _cancel(self, run: Run) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(run.execute)
            await run.reports.begun.wait()
            run.runner.context = structs.replace(run.runner.context, grace=0.1)
            group.cancel_scope.cancel()
