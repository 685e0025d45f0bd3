"""HTTP servers for tests, good and hostile, on real sockets; and HttpRunners to send to them."""

import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.abc import AnyByteStream, SocketAttribute
from anyio.streams.tls import TLSListener
from msgspec import Struct

from runners.context import Context, Policy, SilentReporter
from runners.http.addresses import Address
from runners.http.resolving import Resolver, resolve
from runners.http.runner import HttpRunner
from schemas import Result, Task

OPENSSL: Final = shutil.which("openssl") or "openssl"
BROKEN: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, ssl.SSLError, OSError)


class Request(Struct):
    """A request as it came over the wire; header names are lower-case."""

    line: str
    headers: dict[str, str]
    body: bytes


class Connection:
    """One client's connection, whose request has been read."""

    def __init__(self, stream: AnyByteStream, request: Request) -> None:
        self.request = request
        self._stream = stream

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self._stream.send(data)

    async def answer(self, status: str = "200 OK", body: bytes = b"", **headers: str) -> None:
        """Send a whole response; underscores in the names of headers stand for hyphens."""
        lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        await self.send("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        try:
            while True:
                await self._stream.receive()
        except BROKEN:
            return


Handler = Callable[[Connection], Awaitable[None]]


class HttpServer:
    """Where a server listens, and what has happened there."""

    def __init__(self, port: int, scheme: str = "http") -> None:
        self.port = port
        self.scheme = scheme
        self.connections = 0
        self.requests: list[Request] = []
        self.asked = anyio.Event()
        """Set when a request has been read."""
        self.left = anyio.Event()
        """Set when a handler has ended, its client gone or answered."""

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """Return the URL of a path."""
        return f"{self.scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def serving(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[HttpServer]:
    """Have a server that gives each request to a handler, and then closes the connection."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = HttpServer(listener.extra(SocketAttribute.local_port), "http" if context is None else "https")

    async def handle(stream: AnyByteStream) -> None:
        server.connections += 1
        try:
            async with stream:
                request = await _read(stream)
                server.requests.append(request)
                server.asked.set()
                await handler(Connection(stream, request))
        except BROKEN:
            return
        finally:
            server.left.set()

    async with listener, anyio.create_task_group() as tasks:
        tls = None if context is None else TLSListener(listener, context, standard_compatible=False)
        tasks.start_soon((tls or listener).serve, handle)
        yield server
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def accepting(handler: Callable[[AnyByteStream], Awaitable[None]]) -> AsyncIterator[HttpServer]:
    """Have a server that gives each connection to a handler, nothing read."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = HttpServer(listener.extra(SocketAttribute.local_port))

    async def handle(stream: AnyByteStream) -> None:
        server.connections += 1
        async with stream:
            await handler(stream)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield server
        tasks.cancel_scope.cancel()


async def _read(stream: AnyByteStream) -> Request:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += await stream.receive()
    return Request(line, headers, body)


class Certificate(Struct):
    """A self-signed certificate for `localhost` and 127.0.0.1, and its key."""

    pem: str
    context: ssl.SSLContext


def make_certificate(directory: Path) -> Certificate:
    """Make one."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -addext"
    names = "subjectAltName=DNS:localhost,DNS:named.test,IP:127.0.0.1"
    command = [OPENSSL, "req", *options.split(), names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return Certificate(certificate.read_text(), context)


PATIENCE = 20.0
"""Seconds that no wait in these tests takes."""
LONG = 600.0
"""Seconds that no run in these tests takes."""
SHORT = 0.3
"""Seconds after which a run in these tests may be ended."""
METADATA = "169.254.169.254"
OPEN = Policy(profile="open")
STRICT = Policy(profile="strict")


class Recorder(SilentReporter):
    """Keeps what was told of the start and of the output."""

    def __init__(self) -> None:
        self.start: dict[str, Any] = {}
        self.stdout = b""
        self.wrote = anyio.Event()

    def started(self, data: Any) -> None:
        """Keep the start."""
        self.start = dict(data)

    def output(self, stream: str, offset: int, chunk: bytes | memoryview) -> None:
        """Keep some output."""
        self.stdout += bytes(chunk)
        self.wrote.set()


class Names:
    """Resolves names to addresses of a test's choice, one answer after the other, and all else as usual."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.asked: list[str] = []
        self._answers = {name.replace("_", "."): [*several] for name, several in answers.items()}

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """Answer."""
        self.asked.append(host)
        if host not in self._answers:
            return await resolve(host, port)
        return [ip_address(text) for text in self._answers[host].pop(0)]


def prepared(
    url: str,
    *,
    resolver: Resolver = resolve,
    policy: Policy | None = None,
    output_limit: int | None = None,
    seconds: float = LONG,
    trace: dict[str, str] | None = None,
    task: dict[str, Any] | None = None,
    **parameters: Any,
) -> HttpRunner:
    """Return a runner that is about to make a request."""
    runner = HttpRunner(resolver)
    runner.context = Context(
        task=Task(id="t-1", category="http", **(task or {})),
        policy=policy or Policy(),
        output_limit=output_limit,
        reporter=Recorder(),
        trace=trace or {},
    )
    runner.timeout = seconds
    runner.parse_args(url, {**parameters})
    return runner


async def finished(runner: HttpRunner) -> Result:
    """Execute."""
    with anyio.fail_after(PATIENCE):
        result = await runner.execute()
    for spool in runner.spools.values():
        spool.close()
    return result


async def fetch(url: str, **options: Any) -> Result:
    """Make a request."""
    return await finished(prepared(url, **options))


async def greet(connection: Connection) -> None:
    """Answer with a few bytes."""
    await connection.answer(body=b"hello\n")


def redirecting(to: str, status: str = "302 Found") -> Any:
    """Return a handler that redirects everything."""

    async def handle(connection: Connection) -> None:
        await connection.answer(status, Location=to)

    return handle


def raw(data: bytes) -> Any:
    """Return a handler that sends bytes, and closes."""

    async def handle(connection: Connection) -> None:
        await connection.send(data)

    return handle


@contextmanager
def full_backlog() -> Iterator[int]:
    """Have a port on which nobody accepts, and where the kernel has no room for another connection."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.settimeout(0)
            each.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])
        for each in waiting:
            each.close()


def open_descriptors() -> int:
    """Count the descriptors that this process has open."""
    return len([*Path("/proc/self/fd").iterdir()])


def closed_port() -> int:
    """Return a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
