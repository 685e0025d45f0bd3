"""What becomes of a task that writes more than may be kept."""

import anyio
import pytest

from runners.base import Runner
from runners.command import CommandRunner
from runners.context import Context
from runners.script import ScriptRunner
from schemas import Cause, Result, Status, Task

LIMIT = 300_000
ENDLESS = "head -c 1000000 /dev/zero; sleep 600"


def run(runner: Runner, args: dict[str, object], limit: int = LIMIT) -> Result:
    """Run a task whose output limit is small; let go of what it has spooled."""
    runner.context = Context(task=Task(id="t"), output_limit=limit)
    runner.parse_args("", args)
    result = anyio.run(runner.execute)
    for spool in runner.spools.values():
        spool.close()
    return result


@pytest.mark.parametrize(
    ("runner", "args"),
    [(CommandRunner, {"command": "sh", "args": ["-c", ENDLESS]}), (ScriptRunner, {"script": ENDLESS})],
)
def test_a_task_that_is_to_be_ended(runner: type[Runner], args: dict[str, object]) -> None:
    """With `on_output_limit: kill` it fails, and the receipt says why."""
    result = run(runner(), {**args, "on_output_limit": "kill"})
    assert (result.status, result.error_class, result.error_code) == (Status.FAILED, "execution", "output_limit")
    assert result.error == "the task wrote more than its limit of output"
    assert result.termination is not None
    assert result.termination.cause is Cause.OUTPUT_LIMIT
    assert result.termination.signals == ("SIGTERM",)
    assert result.streams.stdout.bytes > LIMIT


def test_a_task_that_has_ended_before_its_output_was_read() -> None:
    """What a short task leaves in its pipe counts, too."""
    args = {"command": "echo", "args": ["more than may be kept"], "on_output_limit": "kill"}
    result = run(CommandRunner(), args, limit=10)
    assert (result.status, result.error_code, result.exit_code) == (Status.FAILED, "output_limit", 0)


def test_a_task_that_may_go_on() -> None:
    """By default it goes on; all it writes is counted, and what may be kept is."""
    runner = CommandRunner()
    result = run(runner, {"command": "head", "args": ["-c", "1000000", "/dev/zero"]})
    assert (result.status, result.streams.stdout.bytes) == (Status.SUCCESS, 1_000_000)
    assert runner.spools["stdout"].size == LIMIT


def test_a_task_within_the_limit() -> None:
    """Writing as much as may be kept is no excess."""
    args = {"command": "head", "args": ["-c", str(LIMIT), "/dev/zero"], "on_output_limit": "kill"}
    assert run(CommandRunner(), args).status is Status.SUCCESS
