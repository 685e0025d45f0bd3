"""What commands share: where the server is, a client for it, and the options that say so."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeVar

import anyio
from cyclopts import Parameter
from msgspec import structs

from consumer.client import Client, whoami
from consumer.config import Config, load
from consumer.connection import Connection, ConnectOptions, connect
from consumer.errors import ConnectError, JetStreamError
from consumer.jetstream import NOT_FOUND, UNAVAILABLE
from consumer.nats_context import resolve
from consumer.server import data_dir, running
from consumer.telemetry import SILENT, Silent, Telemetry, opened
from consumer.trace import Trace, carrier_from_environment
from schemas import Subjects

SERVICE: Final = "jetrunner-cli"
"""What the command line is called in traces, unless `OTEL_SERVICE_NAME` says otherwise."""

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
    telemetry: Telemetry = SILENT

    @property
    def subjects(self) -> Subjects:
        """The names in use."""
        return Subjects(self.config.subject_prefix)

    @property
    def client(self) -> Client:
        """A client for this connection."""
        return Client(self.connection, self.subjects, self.telemetry)

    def trace_url(self, trace_id: str | None) -> str | None:
        """Return where people look at a trace; None if it is not configured, or there is no trace."""
        ui_url = self.config.tracing.ui_url
        return None if trace_id is None or ui_url is None else f"{ui_url.rstrip('/')}/trace/{trace_id}"


@asynccontextmanager
async def open_session(connecting: Connecting, *, publishes: bool = False) -> AsyncIterator[Session]:
    """Connect to the configured server, or to the embedded one that a worker or demo has started.

    What a session `publishes` is traced, if that is configured, as part of the trace in whose process we are.

    Raises:
        ConfigError: the configuration is wrong.
        ConnectError: there is no server, or it refuses us.
    """
    config = connecting.load()
    ambient = Trace(carrier=carrier_from_environment(os.environ))
    async with AsyncExitStack() as stack:
        telemetry: Telemetry = Silent(ambient)
        if publishes:
            recording = opened(config, os.environ, service=SERVICE, instance=whoami(), ambient=ambient)
            telemetry = await stack.enter_async_context(recording)
        yield Session(config, await stack.enter_async_context(connect(find_server(config))), telemetry)


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


def with_session(connecting: Connecting, command: Callable[[Session], Awaitable[T]], *, publishes: bool = False) -> T:
    """Run an asynchronous command with a session."""

    async def main() -> T:
        async with open_session(connecting, publishes=publishes) as session:
            return await command(session)
        raise AssertionError("a session swallows no exception")  # its type says it may

    return anyio.run(main)


def with_streams(connecting: Connecting, command: Callable[[Session], Awaitable[T]], *, publishes: bool = False) -> T:
    """Run an asynchronous command that needs our streams; if they are not there, that is the error."""

    async def explained(session: Session) -> T:
        try:
            return await command(session)
        except JetStreamError as error:
            if error.status in {NOT_FOUND, UNAVAILABLE}:
                await session.client.check()
            raise

    return with_session(connecting, explained, publishes=publishes)
