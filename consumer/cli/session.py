"""What commands share: where the server is, a client for it, and the options that say so."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import anyio
from cyclopts import Parameter
from msgspec import structs

from consumer.client import Client
from consumer.config import Config, load
from consumer.connection import Connection, ConnectOptions, connect
from consumer.errors import ConnectError, JetStreamError
from consumer.jetstream import NOT_FOUND, UNAVAILABLE
from consumer.nats_context import resolve
from consumer.server import data_dir, running
from schemas import Subjects

T = TypeVar("T")


@Parameter(name="*", group="Connection")
@dataclass(frozen=True, kw_only=True)
class Connecting:
    """The options of every command that talks to a server."""

    server: Annotated[str | None, Parameter(name=["--server", "-s"])] = None
    """Server URLs, separated by commas."""
    context: str | None = None
    """A context of the nats command."""
    config: Path | None = None
    """Configuration file (TOML)."""

    def load(self) -> Config:
        """Return the configuration, as the options leave it.

        Raises:
            ConfigError: the file or the environment is wrong.
        """
        config = load(self.config, os.environ)
        nats = config.nats
        if self.server is not None:
            nats = structs.replace(nats, url=self.server)
        if self.context is not None:
            nats = structs.replace(nats, context=self.context)
        return structs.replace(config, nats=nats)


@dataclass(frozen=True)
class Session:
    """A connection, and what was configured for it."""

    config: Config
    connection: Connection

    @property
    def subjects(self) -> Subjects:
        """The names in use."""
        return Subjects(self.config.subject_prefix)

    @property
    def client(self) -> Client:
        """A client for this connection."""
        return Client(self.connection, self.subjects)


@asynccontextmanager
async def open_session(connecting: Connecting) -> AsyncIterator[Session]:
    """Connect to the configured server, or to the embedded one that a worker or demo has started.

    Raises:
        ConfigError: the configuration is wrong.
        ConnectError: there is no server, or it refuses us.
    """
    config = connecting.load()
    async with connect(find_server(config)) as connection:
        yield Session(config, connection)


def find_server(config: Config) -> ConnectOptions:
    """Return where to connect to.

    Raises:
        ConnectError: no server is configured, and no embedded one runs.
    """
    options = resolve(config.nats, os.environ)
    if options is not None:
        return options
    url = running(data_dir())
    if url is None:
        raise ConnectError("no server is configured and none of ours runs: name one with --server, or start a worker")
    return ConnectOptions(servers=(url,))


def with_session(connecting: Connecting, command: Callable[[Session], Awaitable[T]]) -> T:
    """Run an asynchronous command with a session."""

    async def main() -> T:
        async with open_session(connecting) as session:
            return await command(session)
        raise AssertionError("a session swallows no exception")  # its type says it may

    return anyio.run(main)


def with_streams(connecting: Connecting, command: Callable[[Session], Awaitable[T]]) -> T:
    """Run an asynchronous command that needs our streams; if they are not there, that is the error."""

    async def explained(session: Session) -> T:
        try:
            return await command(session)
        except JetStreamError as error:
            if error.status in {NOT_FOUND, UNAVAILABLE}:
                await session.client.check()
            raise

    return with_session(connecting, explained)
