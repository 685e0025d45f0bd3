"""The worker: connect, make sure of the streams, take tasks, and at the end let go of them in order.

Two scopes make the end graceful: first no task is fetched any more, then those at work end, in their own time or ours.
"""

import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import TaskGroup, TaskStatus
from nats.aio.msg import Msg

from runners.context import Facility
from runners.process import ORPHANS, KeeperLink, end_abandoned, worker_name
from runners.registry import Registry
from schemas import Subjects

from .alerts.watch import AlertWatch
from .config import Config
from .connection import Connection, ConnectOptions, connect
from .control import Controls
from .deliveries import Deliveries
from .errors import ConfigError, ServerError
from .groups import collapsed
from .health.monitor import monitored
from .health.readiness import CategoryReadiness, Readiness
from .health.systemd import Notifier
from .intake import Intake
from .outbox import PATIENCE, Outbox
from .overview import WorkerOverview
from .pressure import Pressure
from .queues import Queues
from .request import TaskRequest, read_request
from .server import data_dir
from .service import Service
from .services import Services, assemble
from .telemetry import Telemetry, opened
from .topology import Topology, check_server, ensure_streams
from .unclaimed import Unclaimed
from .undelivered import Undelivered

_SWEEP_INTERVAL: Final = 1.0
_LAST_RESULTS: Final = 5.0
"""Seconds that the Results of ended tasks may take to the server, once the time for draining is over."""
_WITHOUT_SERVER: Final = 2 * PATIENCE
"""Seconds that they have while the server is away: by then those that have an end are on disk."""
_LAST_OUTPUT: Final = 5.0
"""Seconds that the last output may take to the server."""

SERVICE: Final = "jetrunner-worker"
"""What a worker is called in traces and metrics, unless `OTEL_SERVICE_NAME` says otherwise."""

logger = logging.getLogger(__name__)


class Worker:
    """Runs the tasks of some categories until it is told to drain."""

    def __init__(
        self, config: Config, options: ConnectOptions, registry: Registry, keeper: KeeperLink | None = None
    ) -> None:
        self.name = worker_name()
        self._config = config
        self._options = options
        self._registry = registry
        self._keeper = keeper
        self._subjects = Subjects(config.subject_prefix)
        self._topology = Topology.of(config)
        self._categories = _categories(config, registry)
        self._pressure = Pressure()
        together = config.worker.max_concurrency
        self._room = None if together is None else anyio.CapacityLimiter(together)
        self._draining = anyio.Event()
        self._hurried = anyio.Event()
        self._deliveries: Deliveries | None = None
        self._intakes: Sequence[Intake] = ()
        self._notifier = Notifier.of(os.environ)

    @property
    def categories(self) -> Sequence[str]:
        """The categories it takes tasks of."""
        return self._categories

    def drain(self) -> None:
        """Take no new tasks and end when those at work have; said again, end them; a third time, kill them."""
        if self._hurried.is_set() and self._deliveries is not None:
            self._deliveries.kill()
        if self._draining.is_set():
            self._hurried.set()
        self._draining.set()

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work until drained; `task_status` tells when the first task would be taken.

        Raises:
            ConnectError: no server can be reached.
            TopologyError: it is not as it must be.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(collapsed())
            telemetry = await stack.enter_async_context(self._telemetry())
            stack.push_async_callback(self._registry.aclose)
            connection = await stack.enter_async_context(connect(self._options))
            look = partial(self._readiness, connection)
            await stack.enter_async_context(monitored(self._config.health, look, telemetry))
            await self._prepare(connection)
            if abandoned := end_abandoned():
                logger.warning("%d processes of a dead worker's tasks were killed", len(abandoned))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            await self._work(connection, tasks, task_status, telemetry)
            tasks.cancel_scope.cancel()

    def _telemetry(self) -> AbstractAsyncContextManager[Telemetry]:
        slots = {category: self._slots(category) for category in self._categories}
        return opened(self._config, os.environ, service=SERVICE, instance=self.name, slots=slots)

    async def _prepare(self, connection: Connection) -> None:
        await check_server(connection)
        create = self._config.manage_streams
        for difference in await ensure_streams(connection, self._topology, create=create):
            logger.warning("%s", difference)

    async def _work(
        self, connection: Connection, tasks: TaskGroup, task_status: TaskStatus[None], telemetry: Telemetry
    ) -> None:
        outbox = await Outbox.open(_state_directory(), connection, self._subjects, tasks, read=self._read_request)
        services = assemble(self._config, self._registry, connection, tasks, outbox, self.name, self._keeper, telemetry)
        deliveries = self._deliveries = Deliveries(services)
        await services.claims.answer_for(deliveries)
        tasks.start_soon(services.leases.run)
        tasks.start_soon(_sweep_orphans)
        for facility in self._facilities():
            tasks.start_soon(facility.serve)
        tasks.start_soon(self._notifier.watch)
        tasks.start_soon(Queues(services, self._categories).run)
        if self._keeper is not None:
            tasks.start_soon(self._outlive, self._keeper)
        await outbox.finish_abandoned(services.conclusions.finish)
        tasks.start_soon(outbox.run, services.conclusions.finish)
        await Controls(services, deliveries).start()
        try:
            await self._take_tasks(services, deliveries, task_status)
        finally:
            outbox.close()
        with anyio.move_on_after(_LAST_OUTPUT if connection.is_connected else 0):
            await services.output.wait_stored()

    async def _take_tasks(self, services: Services, deliveries: Deliveries, task_status: TaskStatus[None]) -> None:
        service = Service(services, self._categories, self._overview)
        intakes = [self._intake(services.connection, category, deliveries) for category in self._categories]
        self._intakes = intakes
        undelivered = Undelivered(services, self._categories)
        await undelivered.look()
        async with anyio.create_task_group() as working:
            for intake in intakes:
                working.start_soon(intake.work)
            async with anyio.create_task_group() as fetching:
                for intake in intakes:
                    fetching.start_soon(intake.fetch)
                after = self._config.unknown_category_after
                fetching.start_soon(Unclaimed(services, after=after, served=self._served).run)
                fetching.start_soon(undelivered.run)
                alerts = AlertWatch(services.connection, self._subjects, self.name, self._config.alerts)
                fetching.start_soon(alerts.run)
                await service.start()
                logger.info("worker %s takes tasks of %s", self.name, ", ".join(self._categories))
                task_status.started()
                self._notifier.ready()
                await self._draining.wait()
                self._notifier.stopping()
                await service.stop()
                deliveries.refuse()
                fetching.cancel_scope.cancel()
            await self._finish_tasks(services.connection, deliveries)
            working.cancel_scope.cancel()

    async def _outlive(self, keeper: KeeperLink) -> None:
        """End our tasks and ourselves when the keeper is gone: nobody would end them for us any more."""
        keeper.watch()
        await keeper.gone.wait()
        logger.error("the keeper is gone (keeper_lost): the tasks at work are ended and given back")
        self._draining.set()
        self._hurried.set()

    async def _finish_tasks(self, connection: Connection, deliveries: Deliveries) -> None:
        """Let running tasks end within the drain time-out, then end the rest and give them back."""
        if len(deliveries):
            logger.info("draining: %d at work", len(deliveries))
        with anyio.move_on_after(self._config.worker.drain_timeout):
            await _first(deliveries.wait_idle, self._hurried.wait)
        deliveries.shut_down("the worker is drained")
        await deliveries.wait_stopped()
        with anyio.move_on_after(_LAST_RESULTS if connection.is_connected else _WITHOUT_SERVER):
            await deliveries.wait_idle()
            return
        logger.warning("the server is away: %d tasks are left to whoever gets them next", len(deliveries))

    def _overview(self) -> WorkerOverview:
        return WorkerOverview(
            draining=self._draining.is_set(),
            slots={category: self._slots(category) for category in self._categories},
            obstacles={each.category: each.obstacle for each in self._intakes if each.obstacle is not None},
            running=self._deliveries.running() if self._deliveries is not None else (),
        )

    def _readiness(self, connection: Connection) -> Readiness:
        intakes = {intake.category: intake for intake in self._intakes}
        return Readiness(
            worker=self.name,
            server=connection.server,
            connected=connection.is_connected,
            draining=self._draining.is_set(),
            busy=len(self._deliveries) if self._deliveries is not None else 0,
            categories={
                category: CategoryReadiness(
                    pulling=intakes[category].is_pulling if category in intakes else False,
                    slots=self._slots(category),
                    obstacle=intakes[category].obstacle if category in intakes else None,
                )
                for category in self._categories
            },
        )

    def _read_request(self, message: Msg) -> TaskRequest:
        return read_request(message, self._subjects, self._config.reply_prefixes)

    def _intake(self, connection: Connection, category: str, deliveries: Deliveries) -> Intake:
        return Intake(
            connection,
            self._topology,
            category,
            slots=self._slots(category),
            create=self._config.manage_streams,
            deliveries=deliveries,
            facilities=self._facilities(category),
            room=self._room,
        )

    def _served(self) -> list[str]:
        """Return the categories that it can run tasks of, as far as it knows."""
        facilities = {category: self._registry.facility(category) for category in self._categories}
        return [category for category, own in facilities.items() if own is None or own.obstacle is None]

    def _facilities(self, *categories: str) -> list[Facility]:
        """Return what categories cannot run without: the machine, and what is their own."""
        found = [self._registry.facility(category) for category in categories or self._categories]
        return [self._pressure, *(facility for facility in found if facility is not None)]

    def _slots(self, category: str) -> int:
        own, all_together = self._config.runner(category).max_concurrency, self._config.worker.max_concurrency
        return own if all_together is None else min(own, all_together)


def _state_directory() -> Path | None:
    try:
        return data_dir()
    except ServerError as error:
        logger.warning("Results that wait for the server are kept in memory alone: %s", error)
        return None


async def _sweep_orphans() -> None:
    while True:
        await anyio.sleep(_SWEEP_INTERVAL)
        ORPHANS.sweep()


async def serve_until_signalled(worker: Worker) -> None:
    """Serve; SIGTERM and SIGINT drain, a second one does not wait, a third one kills."""
    with collapsed():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_drain_on_signals, worker)
            await worker.serve()
            tasks.cancel_scope.cancel()


async def _drain_on_signals(worker: Worker) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            logger.info("got %s", signal.Signals(number).name)
            worker.drain()


def _categories(config: Config, registry: Registry) -> Sequence[str]:
    """Return the categories to serve.

    Raises:
        ConfigError: one of them has no runner.
    """
    wanted = config.worker.categories
    if wanted is None:
        return list(registry)
    for category in wanted:
        if category not in registry:
            known = ", ".join(registry)
            raise ConfigError(
                f"worker.categories names {category!r}, which no runner is registered for; there are {known}"
            )
    return wanted


async def _first(*waits: Callable[[], Awaitable[object]]) -> None:
    """Return when one of the waits does."""

    async def wait(one: Callable[[], Awaitable[object]]) -> None:
        await one()
        waiting.cancel_scope.cancel()

    async with anyio.create_task_group() as waiting:
        for one in waits:
            waiting.start_soon(wait, one)
