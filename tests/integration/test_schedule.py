"""Tasks that have their time: kept by the server's own scheduler until then."""

from datetime import timedelta

import pytest
from msgspec import json, msgpack

from schemas import Status, utc_now
from tests.integration.conftest import Probe, Site, eventually

pytestmark = pytest.mark.anyio


async def scheduled(site: Site) -> list[str]:
    """Return the ids that the server's scheduler keeps."""
    body = {"subjects_filter": site.subjects.schedule("*")}
    info = await site.api(f"STREAM.INFO.{site.subjects.tasks_stream}", body)
    return [site.subjects.last_token(subject) for subject in info["state"].get("subjects") or {}]


@pytest.mark.parametrize("content_type", ["application/json", "application/msgpack"])
async def test_a_delay(site: Site, content_type: str) -> None:
    """A task with a delay starts when it is over, with all that it asked for, under its own id."""
    async with site.worker():
        before = utc_now()
        task = {"id": "a", "command": "sh", "args": ["-c", "echo $A"], "env": {"A": "1"}, "delay": "1s"}
        payload = (json if content_type.endswith("json") else msgpack).encode(task)
        await site.publish("command", payload, {"Content-Type": content_type, "Reply-To": "replies.me"})
        answers = await site.listen("replies.me")
        result = await site.result("a")
        await answers.count(1)
        await site.settled()
    assert (result.status, result.output, result.attempt) == (Status.SUCCESS, "1\n", 1)
    assert result.start_time is not None
    assert result.start_time - before >= timedelta(seconds=1)


async def test_not_before(site: Site, probe: Probe) -> None:
    """A task whose time is past starts at once; one whose time is to come is kept, without any worker's doing."""
    async with site.worker(probe.registry):
        await site.submit("probe", "late", not_before="2020-01-01T00:00:00Z")
        await site.submit("probe", "early", not_before=(utc_now() + timedelta(hours=1)).isoformat())
        assert (await site.result("late")).status is Status.SUCCESS
        await eventually(lambda: _has(site, "early"))
    assert probe.begun == ["late"]
    assert await site.tasks_left() == 1


async def _has(site: Site, task_id: str) -> bool:
    return task_id in await scheduled(site)


async def test_a_task_without_an_id_keeps_its_first(site: Site) -> None:
    """The id that a delayed task is known by is that of its submission."""
    async with site.worker():
        seq = await site.publish("command", {"command": "true", "delay": 0.5})
        result = await site.result_at(seq)
        await site.settled()
    assert result.task_id.startswith(f"s{seq}-")
    assert await site.results() == 1


async def test_a_recurring_task(site: Site) -> None:
    """Each firing is a task of its own, named after the schedule; a stop of the schedule's id ends it."""
    async with site.worker():
        await site.submit("command", "tick", command="printenv", args=["TASK_ID"], schedule="@every 1s", expires="1s")
        ids = await eventually(lambda: _firings(site, 2))
        results = [await site.result(task_id) for task_id in ids]
        await site.control("tick", reason="enough")
        assert (await site.result("tick")).status is Status.CANCELED
        await site.settled()
    assert await scheduled(site) == []
    assert all(task_id.startswith("tick-") for task_id in ids)
    assert [result.output.strip() for result in results] == ids
    assert {result.status for result in results} == {Status.SUCCESS}


async def _firings(site: Site, count: int) -> list[str]:
    subjects = (await site.stream(site.subjects.results_stream, "*")).get("subjects", {})
    ids = [site.subjects.last_token(name) for name in subjects]
    return sorted(ids) if len(ids) >= count else []


async def test_a_stop_before_its_time(site: Site, probe: Probe) -> None:
    """A task that waits for its time is canceled within 2 s, and is gone."""
    async with site.worker(probe.registry):
        await site.submit("probe", "a", delay=3600)
        await eventually(lambda: _has(site, "a"))
        await site.control("a")
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.error_code) == (Status.CANCELED, "stopped")
    assert probe.begun == []


@pytest.mark.parametrize("schedule", ["61 * * * *", "* * * * * * *", "a b c d e", "@every 5y"])
async def test_a_schedule_that_is_none(site: Site, probe: Probe, schedule: str) -> None:
    """What the server cannot read is refused in words, and makes a dead letter."""
    async with site.worker(probe.registry):
        await site.submit("probe", "a", schedule=schedule)
        result = await site.result("a")
        await site.settled()
    assert (result.status, result.error_code) == (Status.ERROR, "invalid_task")
    assert schedule in result.error
    assert len(await site.dead("probe")) == 1
    assert probe.begun == []
