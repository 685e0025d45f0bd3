"""`jetrunner schedule` as a process, and what other commands say of tasks that wait for their time."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from consumer.client import Client
from consumer.connection import Connection
from consumer.jetstream import stored_subjects
from consumer.queued import QueuedTask
from schemas import Duration, Retry, Status, Task, utc_now
from tests.acceptance.conftest import PATIENCE, Site

TASKS = {
    "delayed": Task(id="delayed", command="true", delay=Duration(3600)),
    "recurring": Task(id="recurring", command="true", schedule="@every 100s"),
    "cron": Task(id="cron", command="true", schedule="0 0 1 1 *"),
    "again": Task(
        id="again", command="false", retry=Retry(max_attempts=2, delay=Duration(200), jitter=0, on=("failed",))
    ),
}


async def _submit(client: Client) -> None:
    for task in TASKS.values():
        await client.submit("command", task)
    for task_id in TASKS:
        await _scheduled(client, task_id)


async def _scheduled(client: Client, task_id: str) -> QueuedTask:
    """Wait until a worker has left a task to the server."""
    with anyio.fail_after(PATIENCE):
        while (waiting := await client.scheduled(task_id)) is None:
            continue
    return waiting


@pytest.fixture
def waiting_site(idle_site: Site) -> Iterator[Site]:
    """Have a worker, and tasks that wait for their time."""
    with idle_site.worker():
        idle_site.call(_submit)
        yield idle_site


def told(site: Site, *args: str) -> Any:
    """Return what a command prints as JSON."""
    done = site.jetrunner(*args, "-o", "json")
    assert (done.code, done.stderr) == (0, "")
    return json.loads(done.out)


def test_ls_lists_what_waits_for_its_time(waiting_site: Site) -> None:
    """The next one first, with what is known of it, in every form; crons last, of which only the server knows."""
    kept = told(waiting_site, "schedule", "ls")
    assert [task["task_id"] for task in kept] == ["recurring", "again", "delayed", "cron"]
    assert [task["attempt"] for task in kept] == [1, 2, 1, 1]
    assert kept[0]["schedule"] == "@every 100s"
    assert re.fullmatch(r"@at \S+Z", kept[1]["schedule"])
    assert (kept[3]["schedule"], kept[3]["next"]) == ("0 0 0 1 1 *", None)
    assert {task["category"] for task in kept} == {"command"}
    ids, table, none = waiting_site.jetrunner_each(
        ["schedule", "ls", "-o", "id"], ["schedule", "ls"], ["schedule", "ls", "--category", "other", "-o", "jsonl"]
    )
    assert ids.lines == ["recurring", "again", "delayed", "cron"]
    assert table.lines[0].split() == ["ID", "CATEGORY", "SCHEDULE", "NEXT", "ATTEMPT", "AGE"]
    assert re.match(r"delayed +command +@at \S+ +in (1 h|60 min) +1 ", table.lines[3])
    assert none.lines == []


def test_ls_and_status_say_that_a_task_is_scheduled(waiting_site: Site) -> None:
    """And for when; its status in JSON is pending, as the contract's statuses go."""
    states = {state["task_id"]: state for state in told(waiting_site, "ls")}
    assert {state["status"] for state in states.values()} == {"pending"}
    assert states["cron"]["schedule"] == "0 0 0 1 1 *"
    state = told(waiting_site, "status", "again")
    assert (state["status"], state["next"]) == ("pending", states["again"]["next"])
    table, status = waiting_site.jetrunner_each(["ls"], ["status", "again"])
    rows = "\n".join(table.lines)
    assert re.search(r"^delayed +command +scheduled, in (1 h|60 min) ", rows, re.MULTILINE)
    assert re.search(r"^cron +command +scheduled, 0 0 0 1 1 \* ", rows, re.MULTILINE)
    assert re.search(r"^status +scheduled\nstarts +\S+ \S+, in 3 min\nschedule +@at ", status.out, re.MULTILINE)


def test_rm_ends_what_waits(waiting_site: Site) -> None:
    """Each is canceled; nothing waits any more, and nothing is removed if one of them does not."""
    wrong = waiting_site.jetrunner("schedule", "rm", "delayed", "recurr")
    assert wrong.code == 5
    assert wrong.stderr == "jetrunner: no task recurr waits for its time; removing one takes the whole id\n"
    assert len(told(waiting_site, "schedule", "ls")) == len(TASKS)
    done = waiting_site.jetrunner("schedule", "rm", *TASKS, "--reason", "enough")
    assert (done.code, done.out, done.stderr) == (0, "", "removed 4 tasks from the schedule\n")
    assert told(waiting_site, "schedule", "ls") == []
    for task_id in TASKS:
        result = waiting_site.call(lambda client, task_id=task_id: client.wait(task_id))  # type: ignore[misc]
        assert (result.status, result.termination and result.termination.reason) == (Status.CANCELED, "enough")
    assert waiting_site.jetrunner("schedule", "rm", "cron").code == 5


def test_rm_needs_no_worker(idle_site: Site) -> None:
    """What it removes has its Result once there is a worker again."""
    with idle_site.worker():
        idle_site.call(_submit)
    assert idle_site.jetrunner("schedule", "rm", "delayed").code == 0
    assert "delayed" not in idle_site.jetrunner("schedule", "ls", "-o", "id").lines
    with idle_site.worker():
        assert idle_site.call(lambda client: client.wait("delayed")).status is Status.CANCELED


def test_the_next_firing_is_as_the_server_has_it(idle_site: Site) -> None:
    """What is told of an interval is when it fires."""
    with idle_site.worker():
        submit = ("submit", "command", "--id", "tick", "--schedule", "@every 2s", "--", "true")
        assert idle_site.jetrunner(*submit).code == 0

        waiting = idle_site.call(lambda client: _scheduled(client, "tick"))
        fired = idle_site.connected(lambda connection: _first_firing(connection, idle_site))
    assert waiting.next is not None
    assert abs(fired - waiting.next) < timedelta(seconds=1)


async def _first_firing(connection: Connection, site: Site) -> datetime:
    """Return when a recurring task began for the first time, as the id of its Result tells."""
    stream, pattern = site.subjects.results_stream, site.subjects.result("*")
    with anyio.fail_after(PATIENCE):
        while not (found := await stored_subjects(connection, stream, pattern, limit=9)):
            continue
    return datetime.fromtimestamp(int(min(found).rpartition("-")[2]) / 1000, UTC)


def test_options_give_a_task_its_time(site: Site) -> None:
    """It is run then; a recurring task has no end that could be followed."""
    begun = utc_now()
    done = site.jetrunner("run", "command", "--delay", "1s", "--exclusive", "-o", "json", "--", "true")
    assert (done.code, json.loads(done.out)["status"]) == (0, "success")
    assert utc_now() - begun >= timedelta(seconds=1)
    done = site.jetrunner("run", "command", "--schedule", "@hourly", "--", "true")
    assert (done.code, done.stderr) == (
        2,
        "jetrunner: a recurring task has no end to wait for: hand it in with submit\n",
    )
