"""Every runner passes the conformance suite: the built-in ones, functions of both kinds, and one of ten lines."""

import subprocess
from typing import Any, ClassVar
from unittest import SkipTest

import anyio
import msgspec
import pytest

from runners import Runner, runner
from runners.command import CommandRunner
from runners.errors import Outcome, failed
from runners.script import ScriptRunner
from runners.testing import RunnerConformance
from schemas import Task
from tests.integration import work


class TestCommand(RunnerConformance):
    """An executable."""

    factory = CommandRunner
    success = Task(command="echo", args=["well done"])
    failure = Task(command="false")
    endless = Task(command="sleep", args=["600"])
    loud = Task(command="head", args=["-c", "300000", "/dev/zero"])


class TestScript(RunnerConformance):
    """A script in its task."""

    factory = ScriptRunner
    success = Task(args={"script": "echo out; echo err >&2"})
    failure = Task(args={"script": "exit 3"})
    endless = Task(args={"script": "sleep 600"})
    loud = Task(args={"script": "head -c 300000 /dev/zero"})


@runner("divide")
async def divide(number: int, by: int = 1, digits: int = 0) -> str:
    """Wait for ever rather than divide a negative number."""
    if number < 0:
        await anyio.sleep_forever()
    return f"{number / by:.1f}".zfill(digits)


class TestCoroutineFunction(RunnerConformance):
    """A coroutine function, in the worker."""

    factory = divide
    success = Task(args={"number": 3})
    failure = Task(args={"number": 3, "by": 0})
    endless = Task(args={"number": -1})
    loud = Task(args={"number": 3, "digits": 300_000})


class TestPlainFunction(RunnerConformance):
    """A plain function, in a pool of processes."""

    factory = work.conform
    success = Task(args={"how": "talk"})
    failure = Task(args={"how": "raise"})
    endless = Task(args={"how": "wait"})
    loud = Task(args={"how": "shout"})


class CountParams(msgspec.Struct, forbid_unknown_fields=True):
    """How far to count."""

    to: int


class CountRunner(Runner[CountParams]):
    """Counts, and fails at nothing; below nothing, it does not end."""

    params_type: ClassVar[type[object]] = CountParams

    async def run(self, params: CountParams) -> Outcome | None:
        if params.to == 0:
            return failed("nothing_to_count", "there is nothing to count")
        for number in range(params.to):
            self.write(f"{number}\n")
        await anyio.sleep(600 if params.to < 0 else 0)
        return None


class TestCustom(RunnerConformance):
    """A Runner of ten lines."""

    factory: ClassVar[Any] = CountRunner
    success = Task(args={"to": 3})
    failure = Task(args={"to": 0})
    endless = Task(args={"to": -1})
    loud = Task(args={"to": 50_000})


def test_what_there_is_no_task_for_is_skipped() -> None:
    """And the reason says which task is missing."""

    class Suite(RunnerConformance):
        factory = staticmethod(lambda: CountRunner())  # noqa: PLW0108 - any callable will do
        success = Task(args={"to": 1})

    Suite().test_a_success_is_told_completely()
    with pytest.raises(SkipTest, match="Suite has no endless task"):
        Suite().test_a_kill_ends_it()


# Each Runner here breaks one rule, and the suite must see it.


class Leaky(CountRunner):
    """Leaves a process."""

    async def run(self, params: CountParams) -> None:
        LEFT.append(subprocess.Popen(["sleep", "600"]))  # noqa: ASYNC220 - it takes no time


class Twice(CountRunner):
    """Tells of its start twice."""

    async def run(self, params: CountParams) -> None:
        self.started()


class Lax(CountRunner):
    """Takes any parameters."""

    params_type = dict


LEFT: list[subprocess.Popen[bytes]] = []


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Leaky, "test_nothing_is_left"),
        (Twice, "test_a_success_is_told_completely"),
        (Lax, "test_bad_parameters_are_refused_before_it_runs"),
    ],
)
def test_the_suite_sees_what_is_broken(broken: type[Runner[CountParams]], test: str) -> None:
    """A test that could not fail would be worth nothing."""

    class Suite(TestCustom):
        factory = broken

    with pytest.raises(AssertionError):
        getattr(Suite(), test)()
    while LEFT:
        LEFT[-1].kill()
        LEFT.pop().wait()
