"""`jetrunner worker`: run tasks until told to stop."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import anyio
from cyclopts import App, Parameter, validators
from msgspec import structs

from consumer.config import Config
from consumer.connection import ConnectOptions
from consumer.errors import ConfigError
from consumer.nats_context import resolve
from consumer.plugins import find_runners, start_runners
from consumer.server import attach_or_start, data_dir
from consumer.worker import Worker, serve_until_signalled
from runners.process import ORPHANS, KeeperLink, harden
from runners.process import keeper as keeper_script
from schemas import Subjects

from .logs import Level, configure
from .session import Connecting
from .signals import shed_inherited_signals

logger = logging.getLogger(__name__)


worker = App(name="worker")
_HEALTH = "Ask the worker here whether it is ready; exit with 0 if it is, else with 1."
worker.command("consumer.cli.worker_health:health", name="health", help=_HEALTH)  # imported when it is called


@worker.default
def run(
    *,
    category: Annotated[list[str] | None, Parameter(negative="")] = None,
    concurrency: Annotated[int | None, Parameter(validator=validators.Number(gte=1, lte=10_000))] = None,
    log_level: Level = "info",
    connecting: Connecting | None = None,
) -> None:
    """Run tasks until told to stop; without a server configured, start one.

    SIGTERM or Ctrl-C drains: running tasks may end, the rest goes back to the queue. A second one does not wait, a
    third one kills.

    Parameters
    ----------
    category
        Take tasks of this category only; may be repeated.
    concurrency
        Run so many tasks at once.
    log_level
        What to say on stderr: lines on a terminal, JSON anywhere else.
    """
    config = _overlay((connecting or Connecting()).load(), category, concurrency)
    keeper = KeeperLink.of(os.environ)
    if keeper is None and config.worker.keeper and sys.platform == "linux":
        _begin_again_under_a_keeper()
    configure(log_level)
    _check_user(config)
    harden()
    shed_inherited_signals()
    registry = find_runners(config)
    start_runners(registry, config.worker.categories or registry)
    with _server(config) as options:
        if keeper is not None:
            ORPHANS.adopt()
        anyio.run(serve_until_signalled, Worker(config, options, registry, keeper))
        _ignore_further_signals()
    logger.info("the worker has ended")


def _begin_again_under_a_keeper() -> NoReturn:
    """Become the keeper, under our pid; it starts the worker by the same command line."""
    again = [sys.executable, "-P", "-m", "consumer", *sys.argv[1:]]
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-E", keeper_script.__file__, *again])  # noqa: S606 - our own


def _check_user(config: Config) -> None:
    """Let the worker's user run tasks, or not.

    Raises:
        ConfigError: the profile does not allow it.
    """
    if os.geteuid() == 0 and config.profile == "strict":
        raise ConfigError("the profile `strict` lets no task run as root: start the worker as another user")


def _overlay(config: Config, categories: list[str] | None, concurrency: int | None) -> Config:
    changes = {
        "categories": tuple(dict.fromkeys(categories)) if categories else None,
        "max_concurrency": concurrency,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    return structs.replace(config, worker=structs.replace(config.worker, **given))


@contextmanager
def _server(config: Config) -> Iterator[ConnectOptions]:
    """Yield where to connect to: what is configured, or an embedded server that ends after us if we started it."""
    if (configured := resolve(config.nats, os.environ)) is not None:
        yield configured
        return
    directory = data_dir()
    url, server = attach_or_start(directory)
    try:
        did = "found ours" if server is None else "started one"
        logger.info("no server is configured: %s at %s, its store in %s", did, url, directory)
        logger.info("try: jetrunner run command -- date")
        subject = Subjects(config.subject_prefix).run("command")
        logger.info("""or: nats req -s %s %s '{"command":"date"}' --timeout 30s""", url, subject)
        yield ConnectOptions(servers=(url,))
    finally:
        if server is not None:
            server.stop()


def _ignore_further_signals() -> None:
    """The drain is over: what an impatient sender sends now would only turn exit code 0 into a crash."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
