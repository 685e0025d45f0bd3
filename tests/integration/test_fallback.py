"""What runs in place of a task that has finally failed."""

from typing import Any

import pytest

from schemas import EventType, Status, decode
from schemas import Result as ResultOf
from tests.integration.conftest import Probe, Site

pytestmark = pytest.mark.anyio


async def test_a_fallback(site: Site) -> None:
    """Its Result stands in, under the task's id and labels, with what went wrong first."""
    async with site.worker():
        answers = await site.listen("replies.me")
        task: dict[str, Any] = {
            "command": "sh",
            "args": ["-c", "exit 3"],
            "retry": {"max_attempts": 2, "delay": 0, "on": ["exit:3"]},
            "fallback": {"category": "script", "args": {"script": "echo $TASK_ID $TASK_ATTEMPT"}, "labels": {"b": "2"}},
            "labels": {"a": "1"},
            "reply_to": "replies.me",
        }
        await site.submit("command", "t", **task)
        result = await site.result("t")
        await answers.count(1)
        await site.settled()
    assert (result.status, result.output, result.category) == (Status.SUCCESS, "t 1\n", "script")
    assert (result.degraded, result.labels) == (True, {"a": "1", "b": "2"})
    assert result.first_error == {
        "category": "command",
        "status": "failed",
        "error_class": "execution",
        "error_code": "exit_nonzero",
        "exit_code": 3,
        "attempt": 2,
        "error": "the process ended with exit code 3",
    }
    assert decode(ResultOf, answers.messages[0].data) == result
    assert await site.results() == 1
    assert await site.dead("command") == []


async def test_a_chain_of_fallbacks(site: Site) -> None:
    """The first error stays the first; what fails last is the Result."""
    async with site.worker():
        last = {"command": "sh", "args": ["-c", "exit 5"]}
        second = {"command": "sh", "args": ["-c", "exit 4"], "fallback": last}
        await site.submit("command", "t", command="sh", args=["-c", "exit 3"], fallback=second)
        result = await site.result("t")
        await site.settled()
    assert (result.status, result.exit_code, result.degraded) == (Status.FAILED, 5, True)
    assert result.first_error is not None
    assert result.first_error["exit_code"] == 3


async def test_no_fallback_is_needed(site: Site, probe: Probe) -> None:
    """What succeeds, is stopped or comes too late has no fallback."""
    fallback = {"category": "probe"}
    async with site.worker(probe.registry):
        started = await site.listen(site.subjects.event("stopped", EventType.STARTED))
        await site.submit("command", "fine", command="true", fallback=fallback)
        await site.submit("command", "late", command="true", fallback=fallback, expires="2020-01-01T00:00:00Z")
        await site.submit("command", "stopped", command="sleep", args=["60"], fallback=fallback)
        await started.count(1)
        await site.control("stopped")
        ends = {task_id: await site.result(task_id) for task_id in ("fine", "late", "stopped")}
        await site.settled()
    assert {task_id: end.status for task_id, end in ends.items()} == {
        "fine": Status.SUCCESS,
        "late": Status.TIMEOUT,
        "stopped": Status.CANCELED,
    }
    assert not any(end.degraded for end in ends.values())
    assert probe.begun == []
