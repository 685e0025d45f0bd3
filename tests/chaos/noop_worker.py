"""A worker with one category, `noop`, whose tasks do nothing but say so in a file: `python noop_worker.py LEDGER`."""

import os
import sys

import anyio
from msgspec import Struct

from consumer.cli.logs import configure
from consumer.config import load
from consumer.connection import ConnectOptions
from consumer.worker import Worker, serve_until_signalled
from runners.base import Runner
from runners.registry import Registry


class Nothing(Struct, frozen=True):
    """What a no-op needs to know."""


class NoopRunner(Runner[Nothing]):
    """Starts and ends."""

    params_type = Nothing

    def __init__(self, ledger: int) -> None:
        super().__init__()
        self._ledger = ledger

    async def run(self, params: Nothing) -> None:
        """Tell that it ran, in one write."""
        os.write(self._ledger, "start {0} {1}\nend {0} {1}\n".format(self.context.task.id, os.getpid()).encode())


def main(path: str) -> None:
    """Work until signalled."""
    ledger = os.open(path, os.O_WRONLY | os.O_APPEND)
    registry = Registry()
    registry.register("noop", lambda: NoopRunner(ledger))
    config = load(None, os.environ)
    configure("info")
    options = ConnectOptions(servers=(config.nats.url or "",))
    anyio.run(serve_until_signalled, Worker(config, options, registry))


if __name__ == "__main__":
    main(*sys.argv[1:])
