"""Pulling from a consumer, continuously: the window, and whatever makes the messages stop coming."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest
from nats.aio.msg import Msg

from consumer.connection import Connection
from consumer.errors import JetStreamError, TopologyError
from consumer.jetstream import publish
from consumer.puller import Puller
from tests.integration.conftest import PATIENCE, Server, Site, eventually

pytestmark = pytest.mark.anyio


class Pulled:
    """A stream with one consumer, and what a Puller of it has delivered."""

    def __init__(self, site: Site, window: int) -> None:
        self.site = site
        self.name = f"PULL_{site.subjects.prefix}"
        self.subject = f"{site.subjects.prefix}.pull"
        self.ensured = 0
        self.errors: list[Exception] = []
        self.messages: list[Msg] = []
        self.puller = Puller(site.connection, self.name, window=window, ensure=self._ensure, deliver=self._deliver)
        self._news = anyio.Event()

    async def create(self) -> None:
        """Make the stream."""
        answer = await self.site.api(
            f"STREAM.CREATE.{self.name}", {"name": self.name, "subjects": [self.subject], "retention": "workqueue"}
        )
        assert "error" not in answer

    async def publish(self, *numbers: int) -> None:
        """Store messages."""
        for number in numbers:
            await publish(self.site.connection, self.subject, str(number).encode(), message_id=f"{number}")

    async def until(self, numbers: set[int]) -> None:
        """Wait until so much was delivered, and check that nothing else was."""
        with anyio.fail_after(PATIENCE):
            while {*self.numbers} < numbers:
                await self._news.wait()
        assert {*self.numbers} == numbers

    def settle(self, *numbers: int) -> None:
        """Acknowledge some messages, and give back their places."""
        for message in self.messages:
            if int(message.data) in numbers:
                self.site.connection.send(message.reply, b"+ACK")
        for _ in numbers:
            self.puller.release()

    @property
    def numbers(self) -> list[int]:
        """What was delivered, in order."""
        return [int(message.data) for message in self.messages]

    async def waiting_pulls(self, count: int) -> None:
        """Wait until the server has so many pulls of ours."""

        async def has() -> bool:
            info = await self.site.api(f"CONSUMER.INFO.{self.name}.puller")
            return int(info.get("num_waiting", -1)) == count

        await eventually(has)

    async def _ensure(self) -> str:
        self.ensured += 1
        if self.errors:
            raise self.errors.pop(0)
        config = {"durable_name": "puller", "name": "puller", "ack_policy": "explicit", "ack_wait": 1_000_000_000}
        body = {"stream_name": self.name, "config": config}
        reply = await self.site.connection.request(
            f"$JS.API.CONSUMER.CREATE.{self.name}.puller", msgspec.json.encode(body), patience=1
        )
        if "error" in msgspec.json.decode(reply.data):
            raise JetStreamError(503, 0, "not now")
        return "puller"

    def _deliver(self, message: Msg) -> None:
        self.messages.append(message)
        self._news.set()
        self._news = anyio.Event()


@asynccontextmanager
async def pulling(site: Site, *, window: int = 4, errors: tuple[Exception, ...] = ()) -> AsyncIterator[Pulled]:
    """Pull for as long as the body lasts."""
    pulled = Pulled(site, window)
    pulled.errors = [*errors]
    await pulled.create()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pulled.puller.run)
        yield pulled
        tasks.cancel_scope.cancel()


async def test_messages_that_are_there_and_that_come(site: Site) -> None:
    """What was stored before and what is stored later are delivered in order, as far as places are given back."""
    async with pulling(site) as pulled:
        for number in range(20):
            await pulled.publish(number)
            await pulled.until({*range(number + 1)})
            pulled.settle(number)
        assert pulled.numbers == [*range(20)]
        assert (pulled.ensured, pulled.puller.held) == (1, 0)


@pytest.mark.parametrize("window", [1, 3, 8])
async def test_the_window(site: Site, window: int) -> None:
    """Never more messages than the window are with us; each place given back brings the next."""
    async with pulling(site, window=window) as pulled:
        await pulled.publish(*range(20))
        for settled in range(20):
            await pulled.until({*range(min(settled + window, 20))})
            assert pulled.puller.held == min(window, 20 - settled)
            pulled.settle(settled)
        assert pulled.puller.held == 0


async def test_the_server_keeps_what_is_not_asked_for(site: Site) -> None:
    """With a full window, nothing is asked for: another worker may have the rest."""
    async with pulling(site, window=2) as pulled:
        await pulled.publish(0, 1, 2)
        await pulled.until({0, 1})
        await pulled.waiting_pulls(0)
        info = await site.api(f"CONSUMER.INFO.{pulled.name}.puller")
        assert (info["num_ack_pending"], info["num_pending"]) == (2, 1)


async def test_whether_messages_would_come(site: Site) -> None:
    """The puller knows whether it is pulling, and leaves nothing on the server when it ends."""
    pulled = Pulled(site, 2)
    await pulled.create()
    assert not pulled.puller.is_pulling
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pulled.puller.run)
        await pulled.publish(0)
        await pulled.until({0})
        assert pulled.puller.is_pulling
        tasks.cancel_scope.cancel()
    assert not pulled.puller.is_pulling
    assert site.connection.reconnected == []
    await pulled.waiting_pulls(0)


@pytest.mark.parametrize(
    "error",
    [JetStreamError(503, 10008, "no leader"), JetStreamError(408, 0, "no answer"), TopologyError("not made yet")],
    ids=["unavailable", "unanswered", "missing"],
)
async def test_a_consumer_that_cannot_be_had_yet(site: Site, error: Exception) -> None:
    """Until there is a consumer, it is tried for again."""
    async with pulling(site, errors=(error, error, error)) as pulled:
        await pulled.publish(0)
        await pulled.until({0})
        assert pulled.ensured == 4


async def test_a_consumer_that_is_deleted(site: Site) -> None:
    """A deleted consumer is made again at once; what we hold comes a second time."""
    async with pulling(site, window=3) as pulled:
        await pulled.publish(0)
        await pulled.until({0})
        await site.api(f"CONSUMER.DELETE.{pulled.name}.puller")
        await pulled.publish(1)
        await pulled.until({0, 1})
        assert pulled.ensured == 2
        assert pulled.numbers[:2] == [0, 0]


async def test_a_consumer_that_is_deleted_while_the_window_is_full(site: Site) -> None:
    """What was not noticed while nothing was asked for is noticed with the next question."""
    async with pulling(site, window=1) as pulled:
        await pulled.publish(0, 1)
        await pulled.until({0})
        await pulled.waiting_pulls(0)
        await site.api(f"CONSUMER.DELETE.{pulled.name}.puller")
        pulled.settle(0)
        with anyio.fail_after(PATIENCE):
            while pulled.puller.held == 0:  # noqa: ASYNC110 - which of the two comes next is the server's choice
                await anyio.sleep(0.01)
        assert pulled.ensured == 2


async def test_a_stream_that_is_made_again(site: Site) -> None:
    """When the stream itself was lost, its successor is pulled from."""
    async with pulling(site) as pulled:
        await pulled.publish(0)
        await pulled.until({0})
        pulled.settle(0)
        await site.api(f"STREAM.DELETE.{pulled.name}")
        await pulled.create()
        await pulled.publish(1)
        await pulled.until({0, 1})


@pytest.mark.parametrize("end", [Server.kill, Server.stop])
async def test_a_server_that_restarts(server: Server, own_site: Site, end: Callable[[Server], None]) -> None:
    """After a restart pulling goes on by itself."""
    async with pulling(own_site) as pulled:
        await pulled.publish(0)
        await pulled.until({0})
        pulled.settle(0)
        await own_site.connection.flush()
        end(server)
        server.start()
        await pulled.publish(1)
        await pulled.until({0, 1})


async def test_a_server_that_freezes(server: Server, own_site: Site) -> None:
    """Silence where heartbeats are due is noticed, though the connection stands; awake again, it serves us again."""
    async with pulling(own_site) as pulled:
        await pulled.publish(0)
        await pulled.until({0})
        pulled.settle(0)
        await own_site.connection.flush()
        server.freeze()
        with anyio.fail_after(PATIENCE):
            while pulled.puller.is_pulling:  # noqa: ASYNC110 - silence sends no event
                await anyio.sleep(0.01)
        server.wake()
        await pulled.publish(1)
        await pulled.until({0, 1})


class Silent:
    """Stands for a connection to a consumer whose statuses a test makes up."""

    def __init__(self) -> None:
        self.is_connected = True
        self.reconnected: list[object] = []
        self.pulls: list[tuple[str, int]] = []
        self.inboxes: list[str] = []
        self._callback = print
        self._news = anyio.Event()

    async def wait_connected(self) -> None:
        """Be connected."""

    def new_inbox(self) -> str:
        """Return another inbox each time."""
        self.inboxes.append(f"inbox{len(self.inboxes)}")
        return self.inboxes[-1]

    async def subscribe_once(self, subject: str, callback: object) -> str:
        """Take the callback."""
        self._callback = callback  # type: ignore[assignment]
        return subject

    async def unsubscribe(self, _: str) -> None:
        """Forget nothing."""

    def send(self, subject: str, payload: bytes, *, reply: str) -> None:
        """Note a pull."""
        self.pulls.append((reply, msgspec.json.decode(payload)["batch"]))
        self._news.set()
        self._news = anyio.Event()

    def say(self, **headers: str) -> None:
        """Answer with a status."""
        nobody: object = None
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self._callback(Msg(_client=nobody, subject=self.inboxes[-1], headers=names))  # type: ignore[arg-type]

    async def until(self, pulls: int) -> list[tuple[str, int]]:
        """Wait for so many pulls."""
        with anyio.fail_after(PATIENCE):
            while len(self.pulls) < pulls:
                await self._news.wait()
        return self.pulls


@asynccontextmanager
async def scripted() -> AsyncIterator[Silent]:
    """Pull from a consumer of the test's imagination, with a window of 8."""
    silent = Silent()

    async def ensure() -> str:
        return "consumer"

    connection: Connection = silent  # type: ignore[assignment]
    puller = Puller(connection, "STREAM", window=8, ensure=ensure, deliver=print)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(puller.run)
        await silent.until(1)
        yield silent
        tasks.cancel_scope.cancel()


async def test_a_pull_that_expires() -> None:
    """What an expired pull did not bring is asked for again, on the same inbox."""
    async with scripted() as silent:
        silent.say(Status="408", Description="Request Timeout", Nats_Pending_Messages="8")
        assert await silent.until(2) == [("inbox0", 8), ("inbox0", 8)]


@pytest.mark.parametrize(
    "headers",
    [
        {"Status": "409", "Description": "Consumer Deleted"},
        {"Status": "409", "Description": "Server Shutdown", "Nats-Pending-Messages": "8"},
        {"Status": "409", "Description": "Leadership Change", "Nats-Pending-Messages": "8"},
        {"Status": "409", "Description": "Exceeded MaxWaiting"},
        {"Status": "400", "Description": "Bad Request"},
        {"Status": "503"},
    ],
    ids=lambda headers: headers.get("Description", headers["Status"]),
)
async def test_a_status_that_ends_all_pulls(headers: dict[str, str]) -> None:
    """After a status that leaves our pulls in doubt, all is asked for anew on an inbox of its own."""
    async with scripted() as silent:
        silent.say(**{name.replace("-", "_"): value for name, value in headers.items()})
        assert await silent.until(2) == [("inbox0", 8), ("inbox1", 8)]


async def test_silence() -> None:
    """When neither message nor heartbeat comes, all is asked for anew."""
    async with scripted() as silent:
        silent.say(Status="100", Description="Idle Heartbeat")
        assert await silent.until(2) == [("inbox0", 8), ("inbox1", 8)]
