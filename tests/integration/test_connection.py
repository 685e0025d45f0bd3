"""The connection, with a real server that refuses, restarts, freezes and sends what it should not."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import nats.errors
import pytest
from nats.aio.client import Client as RawClient
from nats.aio.msg import Msg

from consumer.connection import (
    MAX_QUEUED,
    Connection,
    ConnectOptions,
    NoReplyError,
    NoRespondersError,
    connect,
    message_size,
)
from consumer.errors import ConnectError
from tests.integration.conftest import PATIENCE, Server, Site, running

pytestmark = pytest.mark.anyio


class Heard:
    """Keeps what a subscription or a callback of ours hears, and lets a test wait for it."""

    def __init__(self) -> None:
        self.count = 0
        self.messages: list[Msg] = []
        self._news = anyio.Event()

    def message(self, message: Msg) -> None:
        """Hear a message."""
        self.messages.append(message)
        self.call()

    def call(self) -> None:
        """Hear that something happened."""
        self.count += 1
        self._news.set()
        self._news = anyio.Event()

    async def until(self, count: int) -> None:
        """Wait until so much was heard."""
        with anyio.fail_after(PATIENCE):
            while self.count < count:
                await self._news.wait()


@asynccontextmanager
async def echo(connection: Connection, subject: str) -> AsyncIterator[None]:
    """Answer requests on a subject with what they say."""
    await connection.subscribe(subject, lambda message: connection.send(message.reply, message.data))
    yield


async def speak(url: str, protocol: bytes) -> None:
    """Say something in the NATS protocol that no library would."""
    host, _, port = url.removeprefix("nats://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n' + protocol + b"PING\r\n")
    await reader.readuntil(b"PONG\r\n")
    writer.close()
    await writer.wait_closed()


def options(url: str, **more: object) -> ConnectOptions:
    """Return how to connect, for once."""
    return ConnectOptions(servers=(url,), **more)  # type: ignore[arg-type]


# Connecting


async def test_nobody_listens() -> None:
    """A server that is not there is one clear error, which says where it was looked for and keeps the password."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectError, match=f"cannot connect to nats://127.0.0.1:{port}: Connection refused") as caught:
        async with connect(options(f"nats://ann:secret@127.0.0.1:{port}")):
            pass
    assert "secret" not in str(caught.value)


async def test_a_server_that_says_nothing() -> None:
    """Where something listens that is no server, we give up in time."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        with pytest.raises(ConnectError, match=r"no answer from nats://127\.0\.0\.1:\d+ within 0\.3 s"):
            async with connect(options(f"nats://127.0.0.1:{port}", timeout=0.3)):
                pass


async def test_a_server_that_refuses_us(tmp_path: Path) -> None:
    """Wrong credentials are an error at once, with the server's word; the right ones are taken, and not shown."""
    with running(tmp_path, "authorization { user: ann, password: secret }\n") as server:
        with pytest.raises(ConnectError, match=r"(?i)authorization violation|connection reset"):
            async with connect(options(server.url)):
                pass
        address = server.url.removeprefix("nats://")
        async with connect(options(f"nats://ann:secret@{address}")) as connection:
            assert connection.is_connected
            assert connection.server == address


async def test_what_is_known_of_the_server(site: Site) -> None:
    """The connection knows the server's version and what it takes."""
    assert site.connection.server_version >= (2, 14)
    assert site.connection.max_payload == 2**20
    assert site.connection.server == site.url.removeprefix("nats://")


# Sending and asking


async def test_messages_keep_their_order(site: Site) -> None:
    """What is sent arrives, in order."""
    listener = await site.listen("numbers")
    for number in range(5000):
        site.connection.send("numbers", str(number).encode())
    messages = await listener.count(5000)
    assert [int(message.data) for message in messages] == [*range(5000)]


async def test_request(site: Site) -> None:
    """A request brings its own reply, whatever else is asked at the same time."""
    answers = {}

    async def ask(number: int) -> None:
        reply = await site.connection.request("echo", str(number).encode(), headers={"A": "b"})
        answers[number] = int(reply.data)

    async with echo(site.connection, "echo"), anyio.create_task_group() as asking:
        for number in range(100):
            asking.start_soon(ask, number)
    assert answers == {number: number for number in range(100)}


async def test_nobody_answers(site: Site) -> None:
    """Where nobody listens, a request fails at once."""
    with anyio.fail_after(PATIENCE), pytest.raises(NoRespondersError, match="nobody answers on nowhere"):
        await site.connection.request("nowhere", patience=2 * PATIENCE)


async def test_an_answer_that_does_not_come(site: Site) -> None:
    """Where someone listens and does not answer, a request fails after its patience; a late answer does no harm."""
    questions = await site.listen("mute")
    with pytest.raises(NoReplyError):
        await site.connection.request("mute", patience=0.05)
    (question,) = await questions.count(1)
    await question.respond(b"late")
    async with echo(site.connection, "echo"):
        assert (await site.connection.request("echo", b"hi")).data == b"hi"


async def test_a_message_that_is_too_large(site: Site) -> None:
    """What the server would not take is refused to the byte, headers included: sent, it would end the connection."""
    listener = await site.listen("large")
    headers = {"Name": "välue", "Other": "x" * 100}
    room = site.connection.max_payload - message_size(b"", headers)
    with pytest.raises(ValueError, match="a message of 1048577 bytes on large is over the server's 1048576"):
        site.connection.send("large", bytes(room + 1), headers=headers)
    with pytest.raises(ValueError, match="1048577 bytes"):
        site.connection.send("large", bytes(site.connection.max_payload + 1))
    with pytest.raises(ValueError, match="1048577 bytes"):
        await site.connection.request("large", bytes(room + 1), headers=headers)
    site.connection.send("large", bytes(room), headers=headers)
    site.connection.send("large", bytes(site.connection.max_payload))
    with_headers, without = await listener.count(2)
    assert (len(with_headers.data), with_headers.headers) == (room, headers)
    assert len(without.data) == site.connection.max_payload
    assert site.connection.is_connected


async def test_what_was_sent_last_arrives(site: Site) -> None:
    """Closing hands over what is queued."""
    listener = await site.listen("last")
    async with connect(site.options) as connection:
        for number in range(1000):
            connection.send("last", str(number).encode())
    assert len(await listener.count(1000)) == 1000


# What a subscription hears


async def test_a_callback_that_fails(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A defect in a callback is logged, and the next message heard all the same."""
    heard = Heard()

    def fail_once(message: Msg) -> None:
        heard.message(message)
        if heard.count == 1:
            raise RuntimeError("a defect")

    await site.connection.subscribe("fragile", fail_once)
    site.connection.send("fragile", b"1")
    site.connection.send("fragile", b"2")
    await heard.until(2)
    assert "the handler of a message on fragile failed" in caplog.text


@pytest.mark.parametrize(
    ("subject", "headers"),
    [
        (b"bad.x", b"x"),
        (b"bad.x", b"NATS/1.0"),
        (b"bad.x", b"NATS/1.0 503 \xff\r\n\r\n"),
        (b"bad.x", b"NATS/1.0\r\n\xff: x\r\n: y\r\nz\r\n\r\n"),
        (b"bad.\xff", b""),
        (b"bad.x reply.\xff", b""),
    ],
    ids=["one byte of headers", "no headers", "status", "header name", "subject", "reply"],
)
async def test_a_message_that_cannot_be_read(site: Site, subject: bytes, headers: bytes) -> None:
    """A message whose headers or subject are no text, which anyone may publish, is heard and does no harm."""
    heard = Heard()
    async with echo(site.connection, "echo"):
        await site.connection.subscribe("bad.*", heard.message)
        await site.connection.request("echo")
    await speak(site.url, b"HPUB %b %d %d\r\n%bhi\r\n" % (subject, len(headers), len(headers) + 2, headers))
    site.connection.send("bad.end")
    await heard.until(2)
    assert [message.data for message in heard.messages] == [b"hi", b""]


# Losing the server


async def test_a_server_that_restarts(server: Server, own_site: Site) -> None:
    """Subscriptions outlive the server; what waited for an answer fails at once, and who wants to know is told."""
    connection, back, asked = own_site.connection, Heard(), Heard()
    connection.reconnected.append(back.call)
    await connection.subscribe("mute", asked.message)
    async with echo(connection, "echo"), anyio.create_task_group() as asking:

        async def ask() -> None:
            with pytest.raises(NoReplyError):
                await connection.request("mute", patience=2 * PATIENCE)

        asking.start_soon(ask)
        await asked.until(1)
        server.kill()
        with anyio.fail_after(PATIENCE):
            while connection.is_connected:  # noqa: ASYNC110 - a lost connection sends no event
                await anyio.sleep(0.01)
        server.start()
        with anyio.fail_after(PATIENCE):
            await connection.wait_connected()
        await back.until(1)
        assert (await connection.request("echo", b"hi")).data == b"hi"


async def test_a_connection_that_is_closed_for_good(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An error of the server that ends nats-py's client costs us nothing: another one takes its place."""
    back, attached = Heard(), Heard()
    clients: list[RawClient] = []

    async def attach(client: RawClient) -> None:
        clients.append(client)
        attached.call()

    with running(tmp_path, "max_payload: 256\n") as server:
        async with connect(options(server.url)) as connection, echo(connection, "echo"):
            connection.reconnected.append(back.call)
            await connection.attach(attach)
            await clients[0].publish("any", bytes(250), headers={"one": "too many"})
            await back.until(1)
            assert (attached.count, [client.is_closed for client in clients]) == (2, [True, False])
            assert (await connection.request("echo", b"hi")).data == b"hi"
    assert "maximum payload violation; opening a new one" in caplog.text.lower()


async def test_a_connection_that_is_closed_while_the_server_is_away(server: Server, own_site: Site) -> None:
    """The new client is tried for until the server is back."""
    connection, back = own_site.connection, Heard()
    attached: list[RawClient] = []

    async def attach(client: RawClient) -> None:
        attached.append(client)

    await connection.attach(attach)
    connection.reconnected.append(back.call)
    server.stop()
    await attached[0].close()
    server.start()
    await back.until(1)
    async with echo(connection, "echo"):
        assert (await connection.request("echo", b"hi")).data == b"hi"


async def test_a_forced_reconnection(site: Site) -> None:
    """A connection that seems dead is made anew, and nobody has to subscribe again."""
    back = Heard()
    site.connection.reconnected.append(back.call)
    async with echo(site.connection, "echo"):
        await site.connection.force_reconnect()
        await back.until(1)
        assert (await site.connection.request("echo", b"hi")).data == b"hi"


async def test_a_subscription_that_ends(site: Site) -> None:
    """What is unsubscribed is not heard; with a client that is gone, there is nothing left to end."""
    heard, other = Heard(), Heard()
    await site.connection.subscribe("sign", other.message)
    subscription = await site.connection.subscribe_once("sign", heard.message)
    site.connection.send("sign")
    await heard.until(1)
    await site.connection.unsubscribe(subscription)
    site.connection.send("sign")
    await other.until(2)
    assert heard.count == 1
    await site.connection.unsubscribe(subscription)


async def test_what_was_sent_is_heard_before_a_subscription_ends(site: Site) -> None:
    """A subscription that is drained hears all that the server has sent to it."""
    heard = Heard()
    subscription = await site.connection.subscribe_once("flood", heard.message)
    await site.connection.request(f"$JS.API.STREAM.INFO.{site.subjects.tasks_stream}")  # we have subscribed
    for _ in range(2000):
        await site.raw.publish("flood", b"x")
    await site.fence()
    await site.connection.drain(subscription)
    assert heard.count == 2000


async def test_a_flush_is_a_fence(site: Site) -> None:
    """What was subscribed before a flush is known to the server after it."""
    clients = list[RawClient]()

    async def attach(client: RawClient) -> None:
        clients.append(client)

    await site.connection.attach(attach)
    for number in range(300):
        future = asyncio.get_running_loop().create_future()
        await clients[0].subscribe(f"fence.{number}", future=future)
        await clients[0].flush()
        await site.raw.publish(f"fence.{number}")
        with anyio.fail_after(PATIENCE):
            await future


async def test_a_subscription_that_ends_without_a_server(server: Server, own_site: Site) -> None:
    """A subscription is drained at once where nothing more can come."""
    subscription = await own_site.connection.subscribe_once("sign", print)
    server.kill()
    with anyio.fail_after(PATIENCE):
        while own_site.connection.is_connected:  # noqa: ASYNC110 - a lost connection sends no event
            await anyio.sleep(0.01)
        await own_site.connection.drain(subscription)
    server.start()


async def test_a_late_answer_to_a_flush(server: Server, own_site: Site) -> None:
    """A server that wakes after a flush has given up is heard again, over the same connection."""
    connection, clients, back = own_site.connection, list[RawClient](), Heard()
    connection.reconnected.append(back.call)

    async def attach(client: RawClient) -> None:
        clients.append(client)

    await connection.attach(attach)
    async with echo(connection, "echo"):
        server.freeze()
        with pytest.raises(nats.errors.FlushTimeoutError):
            await clients[0].flush(timeout=0.1)  # type: ignore[arg-type]
        server.wake()
        assert (await connection.request("echo", b"hi")).data == b"hi"
    assert back.count == 0


async def test_a_server_that_does_not_read(server: Server, own_site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Sending never waits and memory is bounded: what a frozen server leaves no room for is dropped, and said."""
    connection, chunk = own_site.connection, bytes(2**19)
    server.freeze()
    with anyio.fail_after(PATIENCE):
        for _ in range(2 * MAX_QUEUED // len(chunk)):
            connection.send("flood", chunk)
            await anyio.lowlevel.checkpoint()
    assert "the queue to the server is full: a message on flood is dropped" in caplog.text
    server.wake()
    async with echo(connection, "echo"):
        await connection.flush()
        assert (await connection.request("echo", b"hi", patience=PATIENCE)).data == b"hi"


async def test_closing_when_the_server_is_frozen(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A server that neither reads nor closes does not keep us."""
    caplog.set_level(logging.DEBUG, logger="consumer.connection")
    with anyio.fail_after(PATIENCE):
        async with connect(options(server.url)) as connection:
            server.freeze()
            connection.send("last", b"words")
    assert "the last flush failed" in caplog.text
