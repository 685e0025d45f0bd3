"""What tests of the command line need: a real nats-server, the `jetrunner` command, and a worker, each a process."""

import itertools
import os
import pty
import subprocess
import sysconfig
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Self, TypeVar

import anyio
import msgspec
import pytest

from consumer.client import Client
from consumer.connection import Connection, ConnectOptions, connect
from consumer.jetstream import api
from consumer.server import find_binary
from consumer.topology import Topology, ensure_streams
from schemas import Subjects

PATIENCE: Final = 20.0
"""Seconds that no wait in these tests takes."""
COMMAND: Final = str(Path(sysconfig.get_path("scripts"), "jetrunner"))
READY: Final = "takes tasks of"
"""What a worker says when the first task would be taken."""

_AT_ONCE: Final = 4

T = TypeVar("T")

_PREFIXES: Final = (f"acceptance{number}" for number in itertools.count(1))


class Server:
    """A nats-server, to be killed and started again where it was."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = options or ("-js",)
        self._port = "-1"
        self.start()

    def start(self) -> None:
        """Start it, with what it stored."""
        command = [find_binary(), *self._options, "-a", "127.0.0.1", "-p", self._port, "-sd", str(self._directory)]
        command += ["--ports_file_dir", str(self._directory), "-l", str(self._directory / "log")]
        self._process = subprocess.Popen(command)
        file = self._directory / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + PATIENCE
        while not (ports := _read(file)):
            assert time.monotonic() < deadline, (self._directory / "log").read_text()
            time.sleep(0.005)
        self.url = msgspec.json.decode(ports)["nats"][0]
        self._port = self.url.rpartition(":")[2]

    def kill(self) -> None:
        """End it without a chance to write anything down."""
        self._process.kill()
        self._process.wait(PATIENCE)


class Running:
    """A `jetrunner` process at work."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.said = b""
        """What it has said on stderr and we have read."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.communicate(timeout=PATIENCE)

    def read_until(self, text: str) -> str:
        """Read stderr up to and with the line that holds a text, and return that line."""
        for line in _pipe(self.process.stderr):
            self.said += line
            if text in line.decode():
                return line.decode()
        raise AssertionError(f"it ended without {text!r}: {self.said.decode()}")

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and stdout."""
        output, rest = self.process.communicate(timeout=PATIENCE)
        self.said += rest
        return self.process.returncode, output.decode()


class Done(msgspec.Struct):
    """A `jetrunner` command that has ended."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def out(self) -> str:
        """Its stdout as text."""
        return self.stdout.decode()

    @property
    def lines(self) -> list[str]:
        """The lines of its stdout."""
        return self.out.splitlines()


class Site:
    """One subject prefix on a server, and how `jetrunner` is called there."""

    def __init__(self, server: Server, directory: Path, prefix: str = "jetrunner") -> None:
        self.server = server
        self.subjects = Subjects(prefix)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "JETRUNNER_"))}
        self.environ = {
            **kept,
            "XDG_DATA_HOME": str(directory),
            "XDG_CONFIG_HOME": str(directory),
            "JETRUNNER_NATS_URL": server.url,
            "JETRUNNER_WORKER_DRAIN_TIMEOUT": "0",
            "JETRUNNER_SUBJECT_PREFIX": prefix,
        }
        self._directory = directory

    def jetrunner(self, *args: str, stdin: bytes = b"", **environ: str) -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            [COMMAND, *args],
            input=stdin,
            capture_output=True,
            cwd=self._directory,
            env={**self.environ, **environ},
            timeout=PATIENCE,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    def jetrunner_each(self, *calls: Sequence[str]) -> list[Done]:
        """Run several commands at the same time."""
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return [*threads.map(lambda args: self.jetrunner(*args), calls)]

    def start(self, *args: str, **environ: str) -> Running:
        """Start a command; it is killed at the end of the `with` block."""
        process = subprocess.Popen(
            [COMMAND, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._directory,
            env={**self.environ, **environ},
        )
        return Running(process)

    def call(self, function: Callable[[Client], Awaitable[T]]) -> T:
        """Do something with a client in this process, which takes less time than a command."""
        return self.connected(lambda connection: function(Client(connection, self.subjects)))

    def connected(self, function: Callable[[Connection], Awaitable[T]]) -> T:
        """Do something with a connection in this process."""

        async def main() -> T:
            async with connect(ConnectOptions(servers=(self.server.url,))) as connection:
                return await function(connection)
            raise AssertionError

        return anyio.run(main)

    @contextmanager
    def worker(self, *args: str, **environ: str) -> Iterator[Running]:
        """Have a worker for as long as the body lasts; it ends without waiting for its tasks."""
        with self.start("worker", *args, **environ) as worker:
            worker.read_until(READY)
            drain = threading.Thread(target=_drain, args=(worker,))
            drain.start()
            yield worker
            worker.process.terminate()
            worker.process.wait(PATIENCE)
            drain.join(PATIENCE)


def _read(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _drain(worker: Running) -> None:
    for line in _pipe(worker.process.stderr):
        worker.said += line


@contextmanager
def on_terminal(site: Site, *args: str, **environ: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Have a command with a terminal for its standard streams, which is read and written at the other end."""
    ours, theirs = pty.openpty()
    environment = {**site.environ, "TERM": "xterm", **environ}
    process = subprocess.Popen([COMMAND, *args], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait(PATIENCE)
        os.close(ours)


def read_terminal(terminal: int, text: str | None = None) -> str:
    """Read what a terminal shows, up to a text or to the end."""
    shown = b""
    while text is None or text.encode() not in shown:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            assert text is None, shown.decode()
            break
    return shown.decode().replace("\r\n", "\n")


def processes(mark: str) -> list[int]:
    """Return the live processes that have a text in their environment or arguments."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended; a zombie has neither
            if mark.encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Have one server for all tests that do it no harm."""
    server = Server(tmp_path_factory.mktemp("nats"))
    yield server
    server.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Have a server of the test's own."""
    own = Server(tmp_path)
    yield own
    own.kill()


@pytest.fixture(scope="session")
def site(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Have a site with a worker, shared by all tests."""
    shared = Site(shared_server, tmp_path_factory.mktemp("site"))
    with shared.worker():
        yield shared


@pytest.fixture
def empty_site(shared_server: Server, tmp_path: Path) -> Site:
    """Have a site of the test's own, with nothing there."""
    return Site(shared_server, tmp_path, next(_PREFIXES))


@pytest.fixture
def idle_site(empty_site: Site) -> Iterator[Site]:
    """Have a site of the test's own with streams, but no worker yet."""
    topology = Topology(subjects=empty_site.subjects)

    async def delete_streams(connection: Connection) -> None:
        for stream in topology.streams():
            await api(connection, f"STREAM.DELETE.{stream['name']}")

    empty_site.connected(lambda connection: ensure_streams(connection, topology))
    yield empty_site
    empty_site.connected(delete_streams)
