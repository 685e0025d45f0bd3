"""A real nats-server, and for each test a subject prefix of its own with users, listeners and workers."""

import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import msgspec
import nats
import nats.errors
import pytest
from anyio.abc import TaskStatus
from msgspec import Struct
from nats.aio.client import Client as RawClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from consumer.client import Client
from consumer.config import Config
from consumer.connection import Connection, ConnectOptions, connect
from consumer.errors import JetStreamError
from consumer.server import EmbeddedServer, find_binary
from consumer.worker import Worker
from runners.base import Runner
from runners.command import CommandRunner
from runners.registry import Registry, default_registry
from schemas import Control, Event, Result, Subjects, Verb, convert, decode

PATIENCE: Final = 20.0
"""Seconds that no wait in these tests takes."""
POLL: Final = 0.01

T = TypeVar("T")


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the worker does."""
    return "asyncio"


async def eventually(condition: Callable[[], Awaitable[T]]) -> T:
    """Ask the server until the answer is true, and return it."""
    with anyio.fail_after(PATIENCE):
        while not (answer := await condition()):  # noqa: ASYNC110 - a server's state sends no event
            await anyio.sleep(POLL)
    return answer


class Server:
    """A nats-server of a test's own, to be killed, frozen and started again on the same port."""

    def __init__(self, directory: Path, settings: str = "") -> None:
        self._directory = directory
        self._binary = find_binary()
        if settings:
            directory.mkdir(exist_ok=True)
            (directory / "more.conf").write_text(settings)
            self._binary = directory / "nats-server"
            self._binary.write_text(f'#!/bin/sh\ncat more.conf >>server.conf\nexec {find_binary()} "$@"\n')
            self._binary.chmod(0o755)
        self.start()

    def start(self) -> None:
        """Start, or start again with what was stored."""
        self._server = EmbeddedServer.start(self._directory, binary=self._binary)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self._server.url

    def kill(self) -> None:
        """End it without a chance to write anything down."""
        os.kill(self._server.pid, signal.SIGKILL)
        self._server.stop()

    def stop(self) -> None:
        """End it in order."""
        self.wake()
        self._server.stop()

    def freeze(self) -> None:
        """Let it stand still, its connections open."""
        os.kill(self._server.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{self._server.pid}/stat")
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(POLL)

    def wake(self) -> None:
        """Let it go on, if it is there."""
        try:
            os.kill(self._server.pid, signal.SIGCONT)
        except ProcessLookupError:
            return


@contextmanager
def running(directory: Path, settings: str = "") -> Iterator[Server]:
    """Have a server with settings of its own for as long as the body lasts."""
    server = Server(directory / "nats", settings)
    try:
        yield server
    finally:
        server.stop()


class Listener:
    """Keeps the messages of some subjects in the order they were published, and lets a test wait for them."""

    def __init__(self) -> None:
        self.messages: list[Msg] = []
        self.subscriptions: list[Subscription] = []
        self._news = anyio.Event()

    async def take(self, message: Msg) -> None:
        """Keep a message."""
        self.messages.append(message)
        self._news.set()
        self._news = anyio.Event()

    async def until(self, condition: Callable[[], T]) -> T:
        """Wait for messages that make a condition true."""
        with anyio.fail_after(PATIENCE):
            while not (answer := condition()):
                await self._news.wait()
        return answer

    async def count(self, number: int) -> list[Msg]:
        """Wait for so many messages."""
        await self.until(lambda: len(self.messages) >= number)
        return self.messages

    def on(self, subject: str) -> list[Msg]:
        """Return the messages on one subject."""
        return [message for message in self.messages if message.subject == subject]

    async def stop(self) -> None:
        """Listen no more."""
        for subscription in self.subscriptions:
            await subscription.unsubscribe()

    def events(self) -> list[Event]:
        """Return all messages as Events."""
        return [decode(Event, message.data) for message in self.messages]


class ProbeParams(Struct, frozen=True, forbid_unknown_fields=True):
    """`hold` makes a task last until it is released; `say` is its output."""

    hold: bool = False
    say: str = ""


class Probe:
    """The category `probe`: its tasks tell that they run, and end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self.registry = Registry()
        self.registry.register("command", CommandRunner)
        self.registry.register("probe", lambda: _ProbeRunner(self))
        self._released = anyio.Event()
        self._news = anyio.Event()

    def release(self) -> None:
        """Let all held tasks end."""
        self._released.set()

    async def until(self, *begun: str) -> None:
        """Wait until tasks have begun."""
        await self._until(lambda: set(begun) <= {*self.begun})

    async def until_begun(self, count: int) -> None:
        """Wait until so many tasks have begun."""
        await self._until(lambda: len(self.begun) >= count)

    async def until_ended(self, *ended: str) -> None:
        """Wait until the work of tasks has ended."""
        await self._until(lambda: set(ended) <= {*self.ended})

    async def until_cancelled(self, *cancelled: str) -> None:
        """Wait until tasks have been ended from outside."""
        await self._until(lambda: set(cancelled) <= {*self.cancelled})

    async def _until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE):
            while not condition():
                await self._news.wait()

    async def run(self, task_id: str, *, hold: bool) -> None:
        """Be a task."""
        self._note(self.begun, task_id)
        try:
            if hold:
                await self._released.wait()
        except anyio.get_cancelled_exc_class():
            self._note(self.cancelled, task_id)
            raise
        self._note(self.ended, task_id)

    def _note(self, where: list[str], task_id: str) -> None:
        where.append(task_id)
        self._news.set()
        self._news = anyio.Event()


class _ProbeRunner(Runner[ProbeParams]):
    params_type = ProbeParams
    takes = frozenset({"env"})

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self._probe = probe

    async def run(self, params: ProbeParams) -> None:
        self.write(params.say)
        await self._probe.run(self.context.task.id or "", hold=params.hold)


class RunningWorker(Worker):
    """A worker that says when it has ended."""

    def __init__(self, config: Config, options: ConnectOptions, registry: Registry) -> None:
        super().__init__(config, options, registry)
        self.ended = anyio.Event()

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve, and say so."""
        await super().serve(task_status=task_status)
        self.ended.set()


class Site:
    """One subject prefix on a server: what its users send, see and ask, and the workers that serve it."""

    def __init__(self, urls: Sequence[str], prefix: str, raw: RawClient, connection: Connection) -> None:
        self.urls = tuple(urls)
        self.raw = raw
        self.connection = connection
        self.subjects = Subjects(prefix)
        self.user = Client(connection, self.subjects)

    @property
    def url(self) -> str:
        """Where clients connect, first of all."""
        return self.urls[0]

    @property
    def options(self) -> ConnectOptions:
        """How a worker connects."""
        return ConnectOptions(servers=self.urls)

    def config(self, **settings: Any) -> Config:
        """Return a configuration with this prefix."""
        return convert({"subject_prefix": self.subjects.prefix, **settings}, Config)

    @asynccontextmanager
    async def worker(
        self, registry: Registry | None = None, *, via: str | None = None, **settings: Any
    ) -> AsyncIterator[RunningWorker]:
        """Have a worker for as long as the body lasts; it ends without waiting for its tasks.

        It connects `via` another URL if one is given.
        """
        options = self.options if via is None else ConnectOptions(servers=(via,))
        worker = RunningWorker(self.config(**settings), options, registry or default_registry())
        async with anyio.create_task_group() as tasks:
            with anyio.fail_after(PATIENCE):
                await tasks.start(worker.serve)
            yield worker
            worker.drain()
            worker.drain()
            with anyio.fail_after(PATIENCE):
                await worker.ended.wait()

    async def api(self, operation: str, body: object = None) -> dict[str, Any]:
        """Ask the JetStream API, as any client may."""
        return await self._ask(f"$JS.API.{operation}", b"" if body is None else msgspec.json.encode(body))

    async def publish(self, category: str, payload: object, headers: Mapping[str, str] | None = None) -> int:
        """Store a task, given as bytes or as a JSON value, and return its place in the stream."""
        data = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        ack = await self.raw.request(
            self.subjects.task(category), data, headers=dict(headers) if headers else None, timeout=PATIENCE
        )
        return int(msgspec.json.decode(ack.data)["seq"])

    async def submit(self, category: str, task_id: str, **task: Any) -> str:
        """Store a task under an id of its own, however long the server is away."""
        payload = msgspec.json.encode({"id": task_id, **task})
        await self._ask(self.subjects.task(category), payload, {"Nats-Msg-Id": task_id})
        return task_id

    async def _ask(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> dict[str, Any]:
        with anyio.fail_after(PATIENCE):
            while True:
                try:
                    reply = await self.raw.request(subject, payload, headers=headers, timeout=1)
                except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
                    await anyio.sleep(POLL)
                    continue
                answer: dict[str, Any] = msgspec.json.decode(reply.data)
                return answer

    async def control(self, task_id: str, verb: Verb = Verb.STOP, **control: Any) -> None:
        """Stop or kill a task."""
        await self.user.control(task_id, verb, convert(control, Control))

    async def listen(self, *subjects: str) -> Listener:
        """Listen to subjects from now on."""
        listener = Listener()
        for subject in subjects:
            listener.subscriptions.append(await self.raw.subscribe(subject, cb=listener.take))
        await self.fence()
        return listener

    async def refuse(self, subject: str) -> Listener:
        """Answer publications on a subject before any stream does: there is no leader just now, try again."""
        listener = Listener()

        async def refuse(message: Msg) -> None:
            await message.respond(b'{"error":{"code":503,"err_code":10008,"description":"temporarily unavailable"}}')
            await listener.take(message)

        listener.subscriptions.append(await self.raw.subscribe(subject, cb=refuse))
        await self.fence()
        return listener

    async def fence(self) -> None:
        """Return when the server has dealt with all that we sent, and we with all that it sent us until then.

        A flush of nats-py's overtakes what waits to be sent.
        """
        await self.api("INFO")

    async def result(self, task_id: str) -> Result:
        """Wait for a stored Result."""

        async def stored() -> Result | None:
            with suppress(JetStreamError):  # the server is away
                return await self.user.result(task_id)
            return None

        result = await eventually(stored)
        assert result is not None
        return result

    async def result_at(self, seq: int) -> Result:
        """Wait for the Result of a task without an id, given its place in the stream."""

        async def derived() -> str | None:
            names = (await self.stream(self.subjects.results_stream, "*")).get("subjects", {})
            ids = [self.subjects.last_token(name) for name in names]
            return next((task_id for task_id in ids if task_id.startswith(f"s{seq}-")), None)

        task_id = await eventually(derived)
        assert task_id is not None
        return await self.result(task_id)

    async def stream(self, name: str, subjects: str = "") -> dict[str, Any]:
        """Return the state of a stream, with its subjects if asked for."""
        body = {"subjects_filter": subjects and ">"}
        answer = await self.api(f"STREAM.INFO.{name}", body)
        state: dict[str, Any] = answer["state"]
        return state

    async def tasks_left(self) -> int:
        """Count the tasks that are not acknowledged."""
        return int((await self.stream(self.subjects.tasks_stream))["messages"])

    async def results(self) -> int:
        """Count the Results."""
        return int((await self.stream(self.subjects.results_stream))["messages"])

    async def settled(self) -> None:
        """Wait until no task is left."""

        async def settled() -> bool:
            return await self.tasks_left() == 0

        await eventually(settled)

    async def stored(self, stream: str, subject: str) -> list[Msg]:
        """Return the messages that a stream holds on the subjects of a filter."""
        consumer = await self.raw.jetstream().pull_subscribe(subject, stream=stream)
        waiting = (await consumer.consumer_info()).num_pending
        messages = await consumer.fetch(waiting, timeout=PATIENCE) if waiting else []
        await consumer.unsubscribe()
        return [*messages]

    async def dead(self, category: str) -> list[Msg]:
        """Return the dead letters of a category."""
        return await self.stored(self.subjects.dead_stream, self.subjects.dead(category))


_PREFIXES = (f"site{number}x" for number in itertools.count(1))


async def _ignore(_: Exception) -> None:
    return


@asynccontextmanager
async def open_site(*urls: str) -> AsyncIterator[Site]:
    """Open a site with a fresh prefix on a server, or on those of a cluster."""
    raw = await nats.connect([*urls], max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=_ignore)
    try:
        async with connect(ConnectOptions(servers=urls)) as connection:
            yield Site(urls, next(_PREFIXES), raw, connection)
            with anyio.fail_after(PATIENCE):  # nats-py leaves a socket behind if it is closed while it connects
                await connection.wait_connected()
                while not raw.is_connected:  # noqa: ASYNC110 - nor does it send an event
                    await anyio.sleep(POLL)
    finally:
        await raw.close()


async def clear(site: Site) -> None:
    """Remove a site's streams: each OUTPUT reserves its share of the disk."""
    for name in (await site.api("STREAM.NAMES"))["streams"] or []:
        if site.subjects.prefix in name.lower():
            await site.api(f"STREAM.DELETE.{name}")


@pytest.fixture(autouse=True)
def data_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what workers leave on disk apart from the user's own, and from that of other tests."""
    home = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Have one server for all tests that do it no harm."""
    with running(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
async def site(shared_server: Server) -> AsyncIterator[Site]:
    """Have a site on the shared server."""
    async with open_site(shared_server.url) as opened:
        yield opened
        await clear(opened)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Have a server of the test's own."""
    with running(tmp_path) as own:
        yield own


@pytest.fixture
async def own_site(server: Server) -> AsyncIterator[Site]:
    """Have a site on the test's own server."""
    async with open_site(server.url) as opened:
        yield opened


@pytest.fixture
def probe() -> Probe:
    """Have a category to watch."""
    return Probe()
