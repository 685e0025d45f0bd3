"""The store of Results, and publishing for sure: what is stored is stored once, and the first Result wins."""

import logging
from typing import Any

import anyio
import pytest

from consumer.connection import connect
from consumer.errors import JetStreamError
from consumer.jetstream import PubAck, api, last_message, publish, publish_once
from consumer.results import Results
from consumer.topology import Topology, ensure_streams
from schemas import ContentType, Result, Status, decode, encode, utc_now
from tests.integration.conftest import PATIENCE, Server, Site, open_site, running

pytestmark = pytest.mark.anyio


def ended(task_id: str = "a", **fields: Any) -> Result:
    """Return a Result."""
    return Result(
        **{"task_id": task_id, "category": "probe", "status": Status.SUCCESS, "end_time": utc_now(), **fields}
    )


@pytest.fixture
async def results(site: Site) -> Results:
    """Have a store on the shared server."""
    return await store(site)


async def store(site: Site) -> Results:
    """Make the store of a site."""
    await ensure_streams(site.connection, Topology(subjects=site.subjects))
    return Results(site.connection, site.subjects)


# Results


async def test_save_and_load(site: Site, results: Results) -> None:
    """What was stored is read back as it was; where nothing is, there is None."""
    result = ended(output="hi\n", labels={"a": "b"})
    assert await results.load("a") is None
    assert await results.save(result) == (result, True)
    assert await results.load("a") == result
    assert await results.load("b") is None
    (message,) = await site.stored(site.subjects.results_stream, site.subjects.result("*"))
    assert message.subject == f"{site.subjects.prefix}.results.a"
    assert message.data == encode(result)


async def test_the_first_result_wins(site: Site, results: Results) -> None:
    """Whoever comes later learns what is stored, and changes nothing."""
    first, second = ended(output="first"), ended(output="second")
    assert await results.save(first) == (first, True)
    assert await results.save(second) == (first, False)
    assert await results.load("a") == first
    assert await site.results() == 1


async def test_two_at_the_same_time(site: Site, results: Results) -> None:
    """Of several Results that are stored at the same time one wins, and all learn which."""
    outcomes: list[tuple[Result, bool]] = []

    async def save(number: int) -> None:
        async with connect(site.options) as connection:
            outcomes.append(await Results(connection, site.subjects).save(ended(output=str(number))))

    async with anyio.create_task_group() as saving:
        for number in range(5):
            saving.start_soon(save, number)
    assert len({stored.output for stored, _ in outcomes}) == 1
    assert sorted(is_ours for _, is_ours in outcomes) == [False] * 4 + [True]
    assert await site.results() == 1


async def test_a_full_store(site: Site, results: Results, caplog: pytest.LogCaptureFixture) -> None:
    """A store that is full is told from one that has a Result already, and waited for."""
    name = site.subjects.results_stream
    settings = (await site.api(f"STREAM.INFO.{name}"))["config"]
    await results.save(ended("first"))
    await site.api(f"STREAM.UPDATE.{name}", {**settings, "max_msgs": 1})
    outcome: list[tuple[Result, bool]] = []

    async def save() -> None:
        outcome.append(await results.save(ended("a")))

    async with anyio.create_task_group() as saving:
        saving.start_soon(save)
        with anyio.fail_after(PATIENCE):
            while "the Result of task a finds no room" not in caplog.text:  # noqa: ASYNC110 - a log sends no event
                await anyio.sleep(0.01)
        assert outcome == []
        await site.api(f"STREAM.UPDATE.{name}", settings)
    assert [(stored.task_id, is_ours) for stored, is_ours in outcome] == [("a", True)]
    assert await site.results() == 2


async def test_a_result_that_is_too_large(results: Results) -> None:
    """What does not fit a message is cut, and what is stored is what is returned."""
    saved, is_ours = await results.save(ended(output="x" * 3_000_000))
    assert is_ours
    assert 0 < len(saved.output) < 2**20
    assert await results.load("a") == saved


@pytest.mark.parametrize("content_type", list(ContentType))
async def test_an_answer(site: Site, results: Results, content_type: ContentType) -> None:
    """A copy goes to each reply subject, in the form that the task came in."""
    answers = await site.listen("replies.>")
    result = ended(output="hi")
    results.answer(result, ["replies.a", "replies.b"], content_type)
    messages = await answers.count(2)
    assert [message.subject for message in messages] == ["replies.a", "replies.b"]
    assert {(message.headers or {})["Content-Type"] for message in messages} == {content_type}
    assert [decode(Result, message.data, content_type) for message in messages] == [result, result]


# Publishing


async def test_publish(site: Site, results: Results) -> None:
    """The server says where a message was stored; an identity is stored once."""
    subject, stream = site.subjects.dead("a"), site.subjects.dead_stream
    assert await publish(site.connection, subject, b"1", message_id="x") == PubAck(stream, 1, duplicate=False)
    assert await publish(site.connection, subject, b"1", message_id="x") == PubAck(stream, 1, duplicate=True)
    assert await publish(site.connection, subject, b"2", message_id="y") == PubAck(stream, 2, duplicate=False)
    assert [message.data for message in await site.stored(stream, subject)] == [b"1", b"2"]


async def test_a_word_of_the_server_that_is_lost(server: Server, own_site: Site) -> None:
    """A message that was stored, though the server died before it could say so, is sent again and stored once."""
    await store(own_site)
    subject, stream = own_site.subjects.dead("a"), own_site.subjects.dead_stream
    lost = {"Nats-Msg-Id": "x"}
    assert (await publish_once(own_site.connection, subject, b"1", lost)).seq == 1
    server.kill()
    acks: list[PubAck] = []

    async def send() -> None:
        acks.append(await publish(own_site.connection, subject, b"1", message_id="x"))

    async with anyio.create_task_group() as sending:
        sending.start_soon(send)
        server.start()
    assert acks == [PubAck(stream, 1, duplicate=True)]
    assert len(await own_site.stored(stream, subject)) == 1


async def test_a_server_that_is_away_for_a_while(site: Site, results: Results) -> None:
    """What is refused for the moment is sent again under the same identity until it is stored."""
    subject = site.subjects.dead("a")
    settings = (await site.api(f"STREAM.INFO.{site.subjects.dead_stream}"))["config"]
    await site.api(f"STREAM.DELETE.{site.subjects.dead_stream}")
    tries = await site.refuse(subject)
    acks: list[PubAck] = []

    async def send() -> None:
        acks.append(await publish(site.connection, subject, b"1", message_id="x", headers={"A": "b"}))

    async with anyio.create_task_group() as sending:
        sending.start_soon(send)
        await tries.count(3)
        await site.api(f"STREAM.CREATE.{site.subjects.dead_stream}", settings)
        await tries.stop()
    assert acks[0].seq == 1
    assert {tuple((message.headers or {}).items()) for message in tries.messages} == {
        (("A", "b"), ("Nats-Msg-Id", "x"))
    }
    assert (await site.stream(site.subjects.dead_stream))["messages"] == 1


async def test_what_the_server_refuses_for_good(site: Site, results: Results) -> None:
    """A refusal that another try would not change is an error, with the server's codes."""
    name = site.subjects.dead_stream
    settings = (await site.api(f"STREAM.INFO.{name}"))["config"]
    await site.api(f"STREAM.UPDATE.{name}", {**settings, "max_msg_size": 100})
    with anyio.fail_after(PATIENCE), pytest.raises(JetStreamError, match="message size exceeds maximum") as caught:
        await publish(site.connection, site.subjects.dead("a"), bytes(1000), message_id="x")
    assert (caught.value.status, caught.value.err_code) == (400, 10054)


async def test_what_can_never_be_sent(site: Site, results: Results) -> None:
    """A message larger than the server takes is refused before it is sent."""
    with pytest.raises(ValueError, match="over the server's"):
        await publish(site.connection, site.subjects.dead("a"), bytes(2**20), message_id="x")
    assert site.connection.is_connected


async def test_the_api_says_no(site: Site) -> None:
    """An error of the JetStream API has its status, code and words."""
    with pytest.raises(JetStreamError, match="stream not found") as caught:
        await api(site.connection, "STREAM.INFO.NO_SUCH_STREAM")
    assert (caught.value.status, caught.value.err_code) == (404, 10059)


async def test_the_last_message(site: Site, results: Results) -> None:
    """The newest message of a subject is read without a consumer; a stream that is not there is unavailable."""
    subject, stream = site.subjects.event("a", "progress"), site.subjects.events_stream
    assert await last_message(site.connection, stream, subject) is None
    for number in (b"1", b"2"):
        await publish(site.connection, subject, number, message_id=number.decode(), headers={"A": "b"})
    stored = await last_message(site.connection, stream, subject)
    assert stored is not None
    assert (stored.subject, stored.seq, stored.data, stored.headers["A"]) == (subject, 2, b"2", "b")
    with pytest.raises(JetStreamError) as caught:
        await last_message(site.connection, "NO_SUCH_STREAM", subject)
    assert caught.value.status == 503


async def test_small_messages(tmp_path: Any) -> None:
    """On a server that takes little, Results are cut to what it takes."""
    with running(tmp_path, "max_payload: 24576\n") as server:
        async with open_site(server.url) as site:
            results = await store(site)
            saved, _ = await results.save(ended(output="x" * 100_000, labels={"a": "b" * 10_000}, error="e" * 10_000))
            assert await results.load("a") == saved
            logging.getLogger(__name__).info("%d bytes", len(encode(saved)))
