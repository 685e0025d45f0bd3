"""A cluster of nats-servers on 127.0.0.1, to be killed, frozen and started again, for tests and by hand.

    python tests/integration/cluster.py [NODES]

prints the servers' URLs and keeps them until Ctrl-C.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from consumer import _guard
from consumer.server import find_binary

PATIENCE: Final = 30.0
"""Seconds that no wait for a cluster takes: an election needs up to 10."""

_HOST: Final = "127.0.0.1"
_POLL: Final = 0.05
_CONFIG: Final = """\
server_name: {name}
listen: "{host}:{client}"
http: "{host}:{monitor}"
jetstream {{ store_dir: "{store}", sync_interval: "1s" }}
cluster {{ name: test, listen: "{host}:{route}", routes: [{routes}] }}
"""

T = TypeVar("T")


class Node:
    """One nats-server of a cluster; its ports stay the same when it is started again."""

    def __init__(self, name: str, directory: Path, ports: tuple[int, int, int]) -> None:
        self.name = name
        self.client, self.monitor, self.route = ports
        self.log = directory / f"{name}.log"
        self._config = directory / f"{name}.conf"
        self._store = directory / name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{_HOST}:{self.client}"

    @property
    def pid(self) -> int:
        """The process, which must run."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def configure(self, routes: str) -> None:
        """Write the configuration."""
        values = {"client": self.client, "monitor": self.monitor, "route": self.route, "store": self._store}
        self._config.write_text(_CONFIG.format(name=self.name, host=_HOST, routes=routes, **values))

    def start(self) -> None:
        """Start it, with what it stored; it ends when we do."""
        command = [str(find_binary()), "-c", str(self._config), "-l", str(self.log)]
        guard = [sys.executable, "-I", "-S", _guard.__file__, "deathsig", str(os.getpid())]
        self._process = subprocess.Popen([*guard, *command], stdin=subprocess.DEVNULL)

    def end(self, number: int) -> None:
        """End it with a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait(PATIENCE)
        self._process = None

    def ask(self, path: str) -> Any:
        """Return what its monitoring says (docs.nats.io, Monitoring JetStream), or None if it says nothing."""
        try:
            with urllib.request.urlopen(f"http://{_HOST}:{self.monitor}/{path}", timeout=1) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError, ValueError):
            return None

    @property
    def is_ready(self) -> bool:
        """Whether it has a leader to turn to, and has caught up with the others."""
        health = self._process is not None and self.ask("healthz")
        return bool(health) and health["status"] == "ok"


class Cluster:
    """Some nats-servers that are one."""

    def __init__(self, directory: Path, size: int = 3) -> None:
        ports = iter(_free_ports(3 * size))
        names = [f"n{number}" for number in range(1, size + 1)]
        self.nodes: Mapping[str, Node] = {
            name: Node(name, directory, (next(ports), next(ports), next(ports))) for name in names
        }
        routes = ", ".join(f'"nats://{_HOST}:{node.route}"' for node in self.nodes.values())
        for node in self.nodes.values():
            node.configure(routes)
        self._frozen: set[str] = set()

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients connect."""
        return tuple(node.url for node in self.nodes.values())

    def start(self) -> None:
        """Start all nodes and wait until they are ready."""
        for node in self.nodes.values():
            node.start()
        self.wait_ready()

    def wait_ready(self, *names: str) -> None:
        """Wait until nodes, by default all, are ready."""
        wanted = [self.nodes[name] for name in names or self.nodes]
        _eventually(lambda: all(node.is_ready for node in wanted), self._logs)

    def leader_of(self, stream: str, consumer: str | None = None) -> str:
        """Wait until a stream, or one of its consumers, has a leader that is there, and return the node's name."""
        return _eventually(lambda: self._leader_of(stream, consumer), self._logs)

    def kill(self, name: str) -> None:
        """End a node without a chance to write anything down."""
        self.nodes[name].end(signal.SIGKILL)

    def stop(self, name: str) -> None:
        """End a node in order: it hands its leaderships on."""
        self.nodes[name].end(signal.SIGTERM)

    def freeze(self, name: str) -> None:
        """Let a node stand still, its connections open."""
        os.kill(self.nodes[name].pid, signal.SIGSTOP)
        self._frozen.add(name)

    def wake(self, name: str) -> None:
        """Let a frozen node go on."""
        self._frozen.discard(name)
        os.kill(self.nodes[name].pid, signal.SIGCONT)

    def restart(self, name: str) -> None:
        """Start a node that has ended, with what it stored; it is not ready yet."""
        self.nodes[name].start()

    def close(self) -> None:
        """End all nodes."""
        for node in self.nodes.values():
            node.end(signal.SIGKILL)

    def _leader_of(self, stream: str, consumer: str | None) -> str | None:
        awake = [node for name, node in self.nodes.items() if name not in self._frozen and node.is_ready]
        for node in awake:
            named = _find(node.ask("jsz?streams=true&consumers=true"), stream, consumer)
            leader = (named or {}).get("cluster", {}).get("leader")
            if any(leader == other.name for other in awake):
                return str(leader)
        return None

    def _logs(self) -> str:
        return "\n".join(node.log.read_text() for node in self.nodes.values() if node.log.exists())


def _find(answer: Any, stream: str, consumer: str | None) -> Any:
    """Return what a node's monitoring says of a stream or consumer."""
    accounts = (answer or {}).get("account_details") or []
    streams = [each for account in accounts for each in account.get("stream_detail") or []]
    found = next((each for each in streams if each["name"] == stream), None)
    if consumer is None or found is None:
        return found
    return next((each for each in found.get("consumer_detail") or [] if each["name"] == consumer), None)


def _eventually(condition: Callable[[], T | None], explain: Callable[[], str]) -> T:
    deadline = time.monotonic() + PATIENCE
    while not (answer := condition()):
        assert time.monotonic() < deadline, explain()
        time.sleep(_POLL)
    return answer


def _free_ports(count: int) -> Iterator[int]:
    """Return ports that nobody had a moment ago."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((_HOST, 0))
        return iter([each.getsockname()[1] for each in sockets])


@contextmanager
def running_cluster(directory: Path, size: int = 3) -> Iterator[Cluster]:
    """Have a cluster for as long as the body lasts."""
    cluster = Cluster(directory, size)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def main() -> None:
    """Run a cluster until interrupted or terminated."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    size = int(sys.argv[1]) if sys.argv[1:] else 3
    with (
        suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="cluster-") as directory,
        running_cluster(Path(directory), size) as cluster,
    ):
        sys.stdout.write(",".join(cluster.urls) + "\n")
        sys.stdout.flush()
        for node in cluster.nodes.values():
            sys.stderr.write(f"{node.name}: pid {node.pid}, log {node.log}\n")
        signal.pause()


if __name__ == "__main__":
    main()
