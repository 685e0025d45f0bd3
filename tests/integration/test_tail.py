"""Following a stream: in its order, each message once, whatever happens to the consumer, the server or the stream."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from nats.aio.msg import Msg

from consumer.jetstream import publish
from consumer.tail import Tail
from tests.integration.conftest import PATIENCE, Server, Site

pytestmark = pytest.mark.anyio


class Told:
    """A stream of ours, and what a Tail of it has told."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.name = f"TAIL_{site.subjects.prefix}"
        self.numbers: list[int] = []
        self._news = anyio.Event()

    async def create(self) -> None:
        """Make the stream."""
        config = {"name": self.name, "subjects": [self.subject("*")]}
        assert "error" not in await self.site.api(f"STREAM.CREATE.{self.name}", config)

    def subject(self, token: str) -> str:
        """Return one of the stream's subjects."""
        return f"{self.site.subjects.prefix}.tail.{token}"

    async def publish(self, *numbers: int, token: str = "a") -> None:
        """Store messages."""
        for number in numbers:
            identity = f"{self.name}-{number}"
            await publish(self.site.connection, self.subject(token), str(number).encode(), message_id=identity)

    async def until(self, numbers: list[int]) -> None:
        """Wait until so much was told, and check that nothing else was."""
        with anyio.fail_after(PATIENCE):
            while len(self.numbers) < len(numbers):
                await self._news.wait()
        assert self.numbers == numbers

    async def consumers(self) -> list[str]:
        """Return the names of the stream's consumers."""
        names: list[str] = (await self.site.api(f"CONSUMER.NAMES.{self.name}"))["consumers"]
        return names

    def take(self, message: Msg) -> None:
        """Be told."""
        self.numbers.append(int(message.data))
        self._news.set()
        self._news = anyio.Event()


@pytest.fixture
async def told(site: Site) -> Told:
    """Have a stream on the shared server."""
    stream = Told(site)
    await stream.create()
    return stream


@asynccontextmanager
async def tailing(told: Told, *tokens: str, start: dict[str, Any] | None = None) -> AsyncIterator[Tail]:
    """Follow for as long as the body lasts, which begins when all that was there has been told."""
    subjects = [told.subject(token) for token in tokens or ("*",)]
    tail = Tail(told.site.connection, told.name, subjects, told.take, start=start)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tail.run)
        with anyio.fail_after(PATIENCE):
            await tail.caught_up.wait()
        yield tail
        tasks.cancel_scope.cancel()


async def test_from_the_oldest_message_on(told: Told) -> None:
    """All that is stored is told in order, then what comes; `caught_up` says when the first part is over."""
    await told.publish(*range(300))
    async with tailing(told):
        assert told.numbers == [*range(300)]
        await told.publish(300, 301)
        await told.until([*range(302)])


async def test_an_empty_stream(told: Told) -> None:
    """Where nothing is stored, there is nothing to catch up with."""
    async with tailing(told):
        assert told.numbers == []
        await told.publish(0)
        await told.until([0])


@pytest.mark.parametrize(
    ("start", "first"),
    [({"deliver_policy": "new"}, 3), ({"deliver_policy": "last"}, 2), (None, 0)],
    ids=["new", "last", "all"],
)
async def test_where_to_begin(told: Told, start: dict[str, Any] | None, first: int) -> None:
    """The caller says where to begin."""
    await told.publish(0, 1, 2)
    async with tailing(told, start=start):
        await told.publish(3)
        await told.until([*range(first, 4)])


async def test_the_beginning_does_not_move(told: Told) -> None:
    """Who begins with what is new misses nothing that comes while the consumer is made anew."""
    await told.publish(0, 1, 2)
    async with tailing(told, start={"deliver_policy": "new"}):
        (consumer,) = await told.consumers()
        await told.site.api(f"CONSUMER.DELETE.{told.name}.{consumer}")
        await told.publish(3)
        await told.until([3])


async def test_only_its_subjects(told: Told) -> None:
    """Messages on other subjects are not told."""
    await told.publish(0, token="a")
    await told.publish(1, token="b")
    await told.publish(2, token="c")
    async with tailing(told, "a", "c"):
        await told.publish(3, token="b")
        await told.publish(4, token="c")
        await told.until([0, 2, 4])


async def test_nothing_is_taken_away(told: Told) -> None:
    """Any number of tails are told everything, and the stream keeps it."""
    other = Told(told.site)
    await told.publish(0, 1)
    async with tailing(told), tailing(other):
        await told.publish(2)
        await told.until([0, 1, 2])
        await other.until([0, 1, 2])
    assert (await told.site.stream(told.name))["messages"] == 3


async def test_a_consumer_that_is_lost(told: Told) -> None:
    """When its consumer is gone, the tail goes on after the last message told: none twice, none missed."""
    await told.publish(0, 1)
    async with tailing(told):
        (consumer,) = await told.consumers()
        await told.site.api(f"CONSUMER.DELETE.{told.name}.{consumer}")
        await told.publish(2)
        await told.until([0, 1, 2])
        assert consumer not in await told.consumers()


@pytest.mark.parametrize("end", [Server.kill, Server.stop])
async def test_a_server_that_restarts(server: Server, own_site: Site, end: Callable[[Server], None]) -> None:
    """After a restart the tail goes on after the last message told."""
    told = Told(own_site)
    await told.create()
    await told.publish(0, 1)
    async with tailing(told):
        end(server)
        server.start()
        await told.publish(2)
        await told.until([0, 1, 2])


async def test_a_reconnection(told: Told) -> None:
    """Messages stored while the connection was made anew are told, and no other twice."""
    async with tailing(told):
        for number in range(0, 80, 10):
            await told.publish(*range(number, number + 10))
            await told.site.connection.force_reconnect()
        await told.publish(80)
        await told.until([*range(81)])


async def test_a_message_that_went_astray(told: Told) -> None:
    """A message that the server has sent elsewhere, such as into a connection that was lost, is told in its place."""
    async with tailing(told):
        await told.publish(0)
        await told.until([0])
        (consumer,) = await told.consumers()
        inbox = told.site.raw.new_inbox()
        astray = await told.site.listen(inbox)
        await told.site.raw.publish(f"$JS.API.CONSUMER.MSG.NEXT.{told.name}.{consumer}", b'{"batch":1}', reply=inbox)
        await told.site.fence()
        await told.publish(1, 2, 3)
        await told.until([0, 1, 2, 3])
        assert [int(message.data) for message in astray.messages] in ([1], [2], [3])


async def test_a_stream_that_is_made_anew(told: Told) -> None:
    """A stream whose sequence lies before ours is another one, and told from its start."""
    await told.publish(0, 1, 2)
    async with tailing(told):
        await told.site.api(f"STREAM.DELETE.{told.name}")
        await told.create()
        await told.publish(10)
        await told.until([0, 1, 2, 10])
