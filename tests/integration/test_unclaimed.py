"""Tasks of categories that nobody serves: answered in time, without getting in the way of those who might."""

import asyncio
import itertools

import anyio
import pytest

from consumer.topology import Topology, ensure_consumer, ensure_streams
from schemas import Result, Status, decode
from tests.integration.conftest import Probe, Site, eventually

pytestmark = pytest.mark.anyio

SOON = 0.2
"""Seconds, instead of ten."""


async def said(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    """Tell whether something was logged."""
    return text in caplog.text


async def are_left(site: Site, count: int) -> bool:
    """Tell whether so many tasks are left."""
    return await site.tasks_left() == count


async def test_an_unknown_category(site: Site, probe: Probe) -> None:
    """A task that no worker could ever take ends in an `unknown_category` Result and a dead letter."""
    answers = await site.listen("replies.me")
    async with site.worker(probe.registry, unknown_category_after=SOON):
        seq = await site.publish("nobody", {"labels": {"a": "b"}, "reply_to": "replies.me"})
        result = await site.result_at(seq)
        await site.settled()
        (answer,) = await answers.count(1)
    assert (result.status, result.error_class, result.error_code) == ("error", "parameter", "unknown_category")
    assert result.error == "no worker has served the category 'nobody' for 0.2 s"
    assert (result.category, result.labels, result.start_time) == ("nobody", {"a": "b"}, None)
    assert decode(Result, answer.data) == result
    (letter,) = await site.dead("nobody")
    assert (letter.headers or {})["Jetrunner-Error-Code"] == "unknown_category"
    assert await site.results() == 1


async def test_many_tasks_of_unknown_categories(site: Site, probe: Probe) -> None:
    """All tasks of all such categories are answered, malformed ones as well."""
    async with site.worker(probe.registry, unknown_category_after=SOON):
        for number in range(5):
            for category in ("one", "two"):
                await site.submit(category, f"{category}{number}")
        malformed = await site.publish("two", b"{")
        for number in range(5):
            for category in ("one", "two"):
                assert (await site.result(f"{category}{number}")).error_code == "unknown_category"
        assert (await site.result_at(malformed)).status is Status.ERROR
        await site.settled()
    assert (len(await site.dead("one")), len(await site.dead("two"))) == (5, 6)


async def test_a_task_as_large_as_may_be(site: Site, probe: Probe) -> None:
    """A task that leaves no room for a dead letter's headers is answered, and the worker lives on."""
    async with site.worker(probe.registry, unknown_category_after=SOON):
        seq = await site.publish("nobody", b'"' + b"x" * (2**20 - 2) + b'"')
        assert (await site.result_at(seq)).status is Status.ERROR
        await site.submit("probe", "a")
        assert (await site.result("a")).status is Status.SUCCESS
        await site.settled()


async def test_a_category_with_a_consumer(site: Site, probe: Probe) -> None:
    """A category whose worker is away has a consumer, and its tasks wait."""
    await ensure_streams(site.connection, Topology(subjects=site.subjects))
    await ensure_consumer(site.connection, Topology(subjects=site.subjects), "away")
    async with site.worker(probe.registry, unknown_category_after=SOON):
        await site.submit("away", "a")
        await site.submit("nobody", "b")
        await site.result("b")
        await eventually(lambda: are_left(site, 1))
        assert await site.user.result("a") is None


async def test_a_category_that_is_served_later(site: Site, probe: Probe) -> None:
    """A worker that begins to serve a category gets its tasks, however many were answered for want of one before."""
    late = Probe()
    late.registry.register("late", lambda: late.registry.create("probe"))
    ids = (f"t{number}" for number in itertools.count())

    async def submit() -> None:
        while True:
            await site.submit("late", next(ids))
            await anyio.sleep(0.02)

    async with site.worker(probe.registry, unknown_category_after=1), anyio.create_task_group() as submitting:
        submitting.start_soon(submit)
        assert (await site.result("t0")).error_code == "unknown_category"
        async with site.worker(late.registry):
            await late.until_begun(1)
            submitting.cancel_scope.cancel()


async def test_a_store_that_refuses_dead_letters(site: Site, probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be kept is tried for again; it ends neither the worker nor its other tasks."""
    name = site.subjects.dead_stream
    async with site.worker(probe.registry, unknown_category_after=SOON):
        settings = (await site.api(f"STREAM.INFO.{name}"))["config"]
        await site.api(f"STREAM.UPDATE.{name}", {**settings, "max_msg_size": 1})
        await site.submit("nobody", "a")
        await eventually(lambda: said(caplog, "the delivery of task a failed"))
        await site.submit("probe", "b")
        assert (await site.result("b")).status is Status.SUCCESS
        await site.api(f"STREAM.UPDATE.{name}", settings)
        assert (await site.result("a")).error_code == "unknown_category"
        await site.settled()
    assert len(await site.dead("nobody")) == 1


async def test_nothing_is_answered_too_early(site: Site, probe: Probe) -> None:
    """Before its time is over, a category may still find its worker."""
    late = Probe()
    late.registry.register("late", lambda: late.registry.create("probe"))
    async with site.worker(probe.registry, unknown_category_after=600):
        await site.submit("late", "a")
        async with site.worker(late.registry):
            assert (await site.result("a")).status is Status.SUCCESS
    assert late.begun == ["a"]


async def test_our_consumer_does_not_stay(site: Site, probe: Probe) -> None:
    """What took the unclaimed tasks is gone afterwards."""
    async with site.worker(probe.registry, unknown_category_after=SOON):
        await site.submit("nobody", "a")
        await site.result("a")

        async def gone() -> bool:
            names = (await site.api(f"CONSUMER.NAMES.{site.subjects.tasks_stream}"))["consumers"]
            return sorted(names) == ["command", "probe"]

        await eventually(gone)


@pytest.mark.parametrize("token", ["a/b", "a\\b", "ä", "x" * 300, "a=b;c", "100%"])
async def test_a_category_that_is_no_name(site: Site, probe: Probe, token: str) -> None:
    """What cannot name a consumer can be a subject's token all the same, and is answered, too."""
    async with site.worker(probe.registry, unknown_category_after=SOON):
        await site.submit(token, "a")
        result = await site.result("a")
        await site.settled()
    assert (result.error_code, result.category) == ("unknown_category", token)


@pytest.mark.parametrize("token", [b"*", b">", b"\xff"])
async def test_a_category_that_cannot_be_selected(site: Site, probe: Probe, token: bytes) -> None:
    """What the server stores against its own rules stays where it is, and keeps nobody from an answer."""
    host, _, port = site.url.removeprefix("nats://").partition(":")
    async with site.worker(probe.registry, unknown_category_after=SOON):
        reader, writer = await asyncio.open_connection(host, int(port))
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false}\r\n')
        writer.write(b"PUB %b.tasks.%b 2\r\n{}\r\nPING\r\n" % (site.subjects.prefix.encode(), token))
        await reader.readuntil(b"PONG\r\n")
        writer.close()
        await writer.wait_closed()
        for number in range(3):
            await site.submit(f"nobody{number}", f"t{number}")
        for number in range(3):
            assert (await site.result(f"t{number}")).error_code == "unknown_category"
        await site.submit("probe", "a")
        assert (await site.result("a")).status is Status.SUCCESS
        await eventually(lambda: are_left(site, 1))
