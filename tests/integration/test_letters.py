"""Dead letters from outside: found among many, opened, retried and removed."""

import tracemalloc
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest

from consumer.errors import ConfigError, NotFoundError
from consumer.jetstream import publish
from consumer.letters import Letter, Letters, WantedLetters
from consumer.topology import Topology, ensure_streams
from schemas import Status
from tests.integration.conftest import Probe, Site

pytestmark = pytest.mark.anyio


@pytest.fixture
async def letters(site: Site) -> Letters:
    """Have streams, and no letters yet."""
    await ensure_streams(site.connection, Topology(subjects=site.subjects))
    return Letters(site.connection, site.subjects)


async def bury(
    site: Site,
    task_id: str,
    task: object = b"{}",
    *,
    category: str = "probe",
    code: str = "worker_lost",
    headers: dict[str, str] | None = None,
    **more: str,
) -> int:
    """Store a letter as a worker does, and return its place."""
    payload = task if isinstance(task, bytes) else msgspec.json.encode(task)
    ours = {
        "Jetrunner-Task-Id": task_id,
        "Jetrunner-Error-Code": code,
        "Jetrunner-Reason": "so it is",
        "Jetrunner-Attempt": "2",
        "Jetrunner-Redeliveries": "4",
        "Jetrunner-Subject": site.subjects.task(category),
        "Jetrunner-Headers": msgspec.json.encode(headers or {}).decode(),
        **{f"Jetrunner-{name}": value for name, value in more.items()},
    }
    place = await site.stream(site.subjects.dead_stream)
    subject = site.subjects.dead(category)
    stored = await publish(site.connection, subject, payload, message_id=f"{task_id}-{place['last_seq']}", headers=ours)
    return stored.seq


async def listed(letters: Letters, **wanted: Any) -> list[str]:
    """Return the ids of letters, newest first."""
    async with aclosing(letters.newest(WantedLetters(**wanted))) as newest:
        return [letter.task_id async for letter in newest]


async def first(letters: Letters, count: int) -> list[Letter]:
    """Return the newest letters and look no further."""
    found: list[Letter] = []
    async with aclosing(letters.newest()) as newest:
        async for letter in newest:
            found.append(letter)
            if len(found) == count:
                break
    return found


async def retried(site: Site, letters: Letters, task_id: str, **fields: Any) -> dict[str, Any]:
    """Retry a task with some fields changed, and return what was published."""
    heard = await site.listen(site.subjects.task("*"))
    (letter,) = await letters.find([task_id])
    opened = await letters.open(letter.seq)
    new_id = await letters.retry(opened, {**(opened.fields or {}), **fields})
    (message,) = await heard.count(1)
    await heard.stop()
    task = msgspec.json.decode(message.data)
    assert task["id"] == new_id != task_id
    return {"subject": message.subject, "headers": dict(message.headers or {}), "task": task}


# Reading


async def test_what_a_letter_says(site: Site, letters: Letters) -> None:
    """All that the worker has written down, when it did, and the task as it came."""
    before = datetime.now(UTC)
    seq = await bury(site, "a", b'{"args":{}}', headers={"X-Mine": "yes"})
    (letter,) = await letters.find(["a"])
    opened = await letters.open(seq)
    assert letter == opened.letter
    assert abs((letter.time - before).total_seconds()) < 10
    assert msgspec.structs.replace(letter, time=before) == Letter(
        task_id="a",
        category="probe",
        error_code="worker_lost",
        reason="so it is",
        time=before,
        attempt=2,
        redeliveries=4,
        subject=site.subjects.task("probe"),
        seq=seq,
        size=11,
    )
    assert (opened.headers, opened.payload, opened.fields) == ({"X-Mine": "yes"}, b'{"args":{}}', {"args": {}})


async def test_the_newest_come_first(site: Site, letters: Letters) -> None:
    """Across windows, with every filter; letters of other categories in between do not matter."""
    await site.connection.wait_connected()
    for number in range(450):
        code = "worker_lost" if number % 3 else "infrastructure"
        await bury(site, f"t{number}", category="rare" if number % 50 == 0 else "common", code=code)
    everything = [f"t{number}" for number in reversed(range(450))]
    assert await listed(letters) == everything
    assert await listed(letters, category="rare") == everything[49::50]
    assert await listed(letters, error_code="infrastructure") == [name for name in everything if int(name[1:]) % 3 == 0]
    assert await listed(letters, category="rare", error_code="infrastructure") == ["t300", "t150", "t0"]
    assert [letter.task_id for letter in await first(letters, 3)] == everything[:3]
    (middle,) = await letters.find(["t200"])
    assert await listed(letters, since=middle.time) == everything[:250]


async def test_large_letters_are_not_held(site: Site, letters: Letters) -> None:
    """A list is made of what letters say: the tasks in them are let go of before all are read."""
    for number in range(100):
        await bury(site, f"t{number}", bytes(900_000))
    tracemalloc.start()
    try:
        assert len(await listed(letters)) == 100
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


async def test_no_letters(letters: Letters) -> None:
    """An empty stream is an empty list."""
    assert await listed(letters) == []
    with pytest.raises(NotFoundError, match="there is no dead letter of a task nobody"):
        await letters.find(["nobody"])


async def test_finding_by_the_beginning_of_an_id(site: Site, letters: Letters) -> None:
    """One that is whole counts most; else it must be the only one; of several letters of one task the newest counts."""
    for task_id in ("ab", "abc", "abd", "xyz", "xyz"):
        newest = await bury(site, task_id)
    found = await letters.find(["ab", "abc", "xy"])
    assert [letter.task_id for letter in found] == ["ab", "abc", "xyz"]
    assert found[2].seq == newest
    with pytest.raises(ConfigError, match="3 dead letters have an id that begins with a: ab, abc, abd"):
        await letters.find(["a"])
    with pytest.raises(ConfigError, match="is not a task's id"):
        await letters.find(["*"])


@pytest.mark.parametrize("headers", ["", "{", "[]", '{"a":1}', "x" * 100])
async def test_letters_that_others_wrote(site: Site, letters: Letters, headers: str) -> None:
    """Whatever is on the subject can be listed and opened."""
    subject = site.subjects.dead("probe")
    stored = await publish(
        site.connection,
        subject,
        b"\xff",
        message_id="x",
        headers={"Jetrunner-Headers": headers, "Jetrunner-Attempt": "x"},
    )
    (letter,) = await first(letters, 1)
    assert letter.task_id.startswith(f"s{stored.seq}-")
    opened = await letters.open(stored.seq)
    assert (letter.attempt, opened.headers, opened.fields) == (1, {}, None)


# Retrying


async def test_a_retry_is_a_new_task_with_fresh_budgets(site: Site, letters: Letters) -> None:
    """It keeps the trace and where to answer, whatever the case; nothing of ours, nothing of the server's."""
    headers = {
        "TraceParent": "00-a-b-01",
        "TRACESTATE": "x=y",
        "baggage": "z",
        "reply_to": "replies.me",
        "Nats-Msg-Id": "a",
        "Jetrunner-Attempt": "2",
        "Jetrunner-Redeliveries": "4",
        "Jetrunner-Reply-To": "_INBOX.gone",
        "Nats-Schedule": "@at 2030-01-01T00:00:00Z",
        "X-Other": "x",
    }
    await bury(site, "a", {"id": "a", "labels": {"team": "t", "retry_of": "older"}, "args": {}}, headers=headers)
    again = await retried(site, letters, "a", timeout="5m")
    assert again["subject"] == site.subjects.task("probe")
    assert again["headers"] == {
        "traceparent": "00-a-b-01",
        "tracestate": "x=y",
        "baggage": "z",
        "Reply-To": "replies.me",
        "Content-Type": "application/json",
        "Nats-Msg-Id": again["task"]["id"],
    }
    del again["task"]["id"], again["task"]["retry"]
    assert again["task"] == {"args": {}, "timeout": 300.0, "labels": {"team": "t", "retry_of": "a"}}


async def test_a_retry_can_go_to_another_category(site: Site, letters: Letters) -> None:
    """If the task says so."""
    await bury(site, "a")
    assert (await retried(site, letters, "a", category="other"))["subject"] == site.subjects.task("other")


async def test_a_retry_in_msgpack(site: Site, letters: Letters) -> None:
    """A task keeps its form, and with it that of its answer."""
    await bury(
        site, "a", msgspec.msgpack.encode({"id": "a", "stdin": "x"}), headers={"content-type": "application/msgpack"}
    )
    heard = await site.listen(site.subjects.task("probe"))
    opened = await letters.open((await letters.find(["a"]))[0].seq)
    new_id = await letters.retry(opened, opened.fields or {})
    (message,) = await heard.count(1)
    assert message.headers is not None
    assert message.headers["Content-Type"] == "application/msgpack"
    task = msgspec.msgpack.decode(message.data)
    assert (task["id"], task["stdin"], task["labels"]) == (new_id, "x", {"retry_of": "a"})


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"oops": 1}, "the task a cannot be retried as it is: unknown field `oops`"),
        ({"expires": "2020-01-01T00:00:00Z"}, "the task a would not start: it expired 2020-01-01T00:00:00Z"),
        ({"args": "x" * 2**20}, "the server takes"),
    ],
)
async def test_a_retry_that_would_end_here_again(
    site: Site, letters: Letters, fields: dict[str, Any], error: str
) -> None:
    """It is refused before it is published."""
    await bury(site, "a")
    with pytest.raises(ConfigError, match=error):
        await retried(site, letters, "a", **fields)
    assert await site.tasks_left() == 0


async def test_a_dead_task_that_lives_again(site: Site, probe: Probe) -> None:
    """A worker gives an invalid task up; corrected, the worker runs it."""
    letters = Letters(site.connection, site.subjects)
    async with site.worker(probe.registry):
        await site.submit("probe", "a", oops=1)
        assert (await site.result("a")).error_code == "invalid_task"
        (letter,) = await letters.find(["a"])
        opened = await letters.open(letter.seq)
        new_id = await letters.retry(opened, {"args": {"say": "alive"}})
        result = await site.result(new_id)
        await site.settled()
    assert (result.status, result.output, result.labels) == (Status.SUCCESS, "alive", {"retry_of": "a"})
    assert (result.attempt, probe.begun) == (1, [new_id])


# Removing


async def test_removing_a_task_s_letters(site: Site, letters: Letters) -> None:
    """All of the task's, no others, and only for whole ids; a second time nothing happens."""
    for task_id in ("a", "b", "a", "ab"):
        await bury(site, task_id)
    found = await letters.of(["a"])
    assert len(found) == 2
    for letter in (*found, *found):
        await letters.remove(letter.seq)
    assert await listed(letters) == ["ab", "b"]
    with pytest.raises(NotFoundError, match="of a task nobody; removing one takes the whole id"):
        await letters.of(["b", "nobody"])
    with pytest.raises(NotFoundError):
        await letters.open(found[0].seq)


async def test_removing_a_category_s_letters(site: Site, letters: Letters) -> None:
    """Those that were there when it was decided; what comes in the meantime stays."""
    for number in range(6):
        last = await bury(site, f"t{number}", category="even" if number % 2 == 0 else "odd")
    await bury(site, "late", category="even")
    assert await letters.purge("even", through=last) == 3
    assert await listed(letters) == ["late", "t5", "t3", "t1"]
    assert await letters.purge(None, through=last) == 3
    assert await listed(letters) == ["late"]


async def test_letters_are_read_while_others_come(site: Site, letters: Letters) -> None:
    """A list ends, however many letters are added to it meanwhile."""
    for number in range(150):
        await bury(site, f"t{number}")
    seen = 0
    with anyio.fail_after(20):
        async with aclosing(letters.newest()) as newest:
            async for _ in newest:
                seen += 1
                await bury(site, f"new{seen}")
    assert seen == 150


async def test_a_task_given_up_twice_is_retried_once(site: Site, letters: Letters) -> None:
    """Its newest letter says how."""
    await bury(site, "a", {"command": "old"})
    await bury(site, "a", {"command": "new"})
    assert (await retried(site, letters, "a"))["task"]["command"] == "new"
