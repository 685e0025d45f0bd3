"""HTTP tasks by way of a worker: what it hands on to the request, and what it keeps it from."""

import hashlib
from collections.abc import AsyncIterator

import pytest

from schemas import EventType, Status
from tests.integration.conftest import Site
from tests.integration.http_support import Connection, HttpServer, serving

pytestmark = pytest.mark.anyio

LARGE = bytes(range(256)) * 2000
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def answer(connection: Connection) -> None:
    """Answer with something large, or small."""
    is_large = connection.request.line.split()[1] == "/large"
    await connection.answer(body=LARGE if is_large else b"small\n")


@pytest.fixture
async def web() -> AsyncIterator[HttpServer]:
    """Have a web server."""
    async with serving(answer) as server:
        yield server


async def test_a_request_is_a_task_like_any_other(site: Site, web: HttpServer) -> None:
    """Its events, its trace and its Result are where everybody's are."""
    async with site.worker():
        events = await site.listen(site.subjects.event("h-1", "*"))
        await site.publish("http", {"id": "h-1", "command": web.url()}, {"Traceparent": PARENT})
        result = await site.result("h-1")
        finished = await events.until(lambda: [e for e in events.events() if e.type is EventType.FINISHED])
    started = next(event for event in events.events() if event.type is EventType.STARTED)
    assert (result.status, result.output, started.data) == (Status.SUCCESS, "small\n", {"url": web.url()})
    assert finished[0].data["status"] == "success"
    assert web.requests[0].headers["traceparent"] == PARENT


async def test_a_large_body_is_kept_whole(site: Site, web: HttpServer) -> None:
    """What does not fit the Result is in the object store."""
    async with site.worker():
        result = await site.result(await site.submit("http", "h-2", args={"url": web.url("/large")}))
        assert result.streams.stdout.ref is not None
        bucket = await site.raw.jetstream().object_store(site.subjects.outputs_bucket)
        assert (await bucket.get(result.streams.stdout.ref)).data == LARGE
    assert result.streams.stdout.sha256 == hashlib.sha256(LARGE).hexdigest()


async def test_a_task_does_not_get_at_the_worker_s_own_server(site: Site) -> None:
    """Requests to it could be made to look like NATS."""
    async with site.worker():
        url = site.url.replace("nats://", "http://")
        result = await site.result(await site.submit("http", "h-3", command=url, args={"method": "POST"}))
    assert (result.status, result.error_code) == (Status.FAILED, "address_blocked")
    assert result.error.endswith(" is blocked: the worker itself is connected there")


async def test_the_lists_are_configured(site: Site, web: HttpServer) -> None:
    """As everything about a category."""
    settings = {"profile": "strict", "runners": {"http": {"allow_cidrs": ["127.0.0.0/8"]}}}
    async with site.worker(**settings):
        result = await site.result(await site.submit("http", "h-4", command=web.url()))
    assert result.status is Status.SUCCESS


async def test_another_attempt_waits_for_as_long_as_the_server_asks(site: Site) -> None:
    """`Retry-After` goes before the task's own delay; all attempts have one key."""

    async def busy_at_first(connection: Connection) -> None:
        if len(web.requests) == 1:
            await connection.answer("503 Service Unavailable", Retry_After="1")
        else:
            await connection.answer(body=b"done")

    async with serving(busy_at_first) as web, site.worker():
        events = await site.listen(site.subjects.event("h-5", EventType.RETRYING))
        retry = {"max_attempts": 2, "delay": 0.01, "on": ["http:503"]}
        await site.submit("http", "h-5", command=web.url(), args={"method": "POST"}, retry=retry)
        result = await site.result("h-5")
        await events.count(1)
    assert (result.status, result.output, result.attempt) == (Status.SUCCESS, "done", 2)
    assert [request.headers["idempotency-key"] for request in web.requests] == ["h-5", "h-5"]
    assert events.events()[0].data["delay"] >= 1
