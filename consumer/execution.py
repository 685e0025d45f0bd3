"""One task's execution: its Runner found and prepared, its reports published, its Result made."""

import functools
import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import anyio
from msgspec import structs

from runners.base import Runner
from runners.context import DEFAULT_OUTPUT_LIMIT, Context, Policy
from runners.errors import InternalError, InvalidTaskError, PolicyDeniedError, RunnerError
from runners.registry import Registry
from runners.spool import Spool
from schemas import Cause, Control, EventType, Result, Status, Task, Verb, utc_now

from .endpoints import own_endpoints
from .errors import ServerError
from .events import Events
from .lease import Lease
from .nats_context import config_dir
from .output import OutputLog, OutputPublisher, close_all
from .request import TaskRequest
from .server import data_dir
from .services import Services
from .unstarted import refused

logger = logging.getLogger(__name__)


class TaskReporter:
    """Publishes what a Runner tells."""

    def __init__(self, request: TaskRequest, events: Events, output: OutputPublisher) -> None:
        self._request = request
        self._events = events
        self._output = output
        self._log: OutputLog | None = None
        self.spools: Mapping[str, Spool] = {}
        """What the runner spools of its output."""

    def started(self, data: Mapping[str, Any]) -> None:
        """Publish the start."""
        self._events.publish(EventType.STARTED, self._request, data)
        self._open()

    def progress(self, data: Mapping[str, Any]) -> None:
        """Publish a step of the work."""
        self._events.publish(EventType.PROGRESS, self._request, data)

    def stopping(self, data: Mapping[str, Any]) -> None:
        """Publish the beginning of the end."""
        self._events.publish(EventType.STOPPING, self._request, data)

    def output(self, stream: str, offset: int, chunk: bytes | memoryview) -> None:
        """Pass output on to its followers."""
        self._open().feed(stream, offset, chunk)

    def finish(self) -> None:
        """End the output, if there was a run to follow."""
        if self._log is not None:
            self._log.finish()

    async def wait_stored(self) -> None:
        """Wait until the output has been stored, for as long as a Result may."""
        if self._log is not None:
            await self._log.wait_patiently()

    def close(self) -> None:
        """Let go of what was spooled, once it is stored."""
        if self._log is not None:
            self._log.close()
        else:
            close_all(self.spools)

    def _open(self) -> OutputLog:
        """Return the output's log: a process may write before it is known to have started."""
        if self._log is None:
            self._log = self._output.open(self._request.task_id, self._request.attempt, self.spools)
        return self._log


class Execution:
    """One task in the hands of this worker, from its message to its Result."""

    def __init__(self, request: TaskRequest, services: Services, lease: Lease) -> None:
        self.request = request
        self.since = utc_now()
        """When the task came into our hands."""
        self.ended = anyio.Event()
        """Set when the run is over; its Result may still be on its way."""
        self._services = services
        self._config = services.config
        self._lease = lease
        self._reporter = TaskReporter(request, services.events, services.output)
        self._refusal: RunnerError = InvalidTaskError("the task was refused")
        self._runner = self._prepare(services.registry)

    @property
    def status(self) -> Status:
        """Where the execution is."""
        return self._runner.status if self._runner is not None else Status.PENDING

    async def run(self) -> Result:
        """Run the task; a refused one ends here and now."""
        try:
            if self._runner is None:
                return refused(self.request, self._services.worker, self._refusal)
            with self._bounded(), self._services.telemetry.running(self.request) as run:
                if run.carrier:
                    self._runner.context = structs.replace(self._runner.context, trace=run.carrier)
                result = await self._runner.execute()
                run.ended(result)
                return result
        finally:
            self._reporter.finish()
            self.ended.set()

    @property
    def spools(self) -> Mapping[str, Spool]:
        """What was spooled of the output, to be kept whole."""
        return self._reporter.spools

    async def output_stored(self) -> None:
        """Wait until followers can read the output, for as long as the Result may wait for that."""
        await self._reporter.wait_stored()

    def close(self) -> None:
        """Let go of what was spooled, once its followers can read it."""
        self._reporter.close()

    def control(self, verb: Verb, control: Control) -> None:
        """Stop or kill the task; before its start, it never starts."""
        if self._runner is None:
            return
        if verb is Verb.KILL:
            self._runner.kill(by=control.by, reason=control.reason)
        else:
            self._runner.stop(by=control.by, reason=control.reason, grace=control.grace)

    def shut_down(self, cause: Literal[Cause.SHUTDOWN, Cause.LOST], reason: str) -> None:
        """End the task because its worker ends, or has lost it."""
        if self._runner is not None:
            self._runner.shut_down(cause, reason)

    def _bounded(self) -> AbstractContextManager[None]:
        """Return a scope in which an exclusive task does not outlive its lease."""
        switch = self._services.switch
        if switch is None or not self.request.task.exclusive:
            return nullcontext()
        return switch.holding(self._lease, self._give_up)

    def _give_up(self) -> None:
        """Kill the task: the server may soon give it to someone else."""
        self.shut_down(Cause.LOST, "its lease could not be renewed, and it is exclusive")
        if self._runner is not None:
            self._runner.kill()

    def _prepare(self, registry: Registry) -> Runner[Any] | None:
        """Make the task's Runner; None if the task is refused."""
        try:
            return self._make_runner(registry)
        except RunnerError as error:
            self._refusal = error
        except Exception as error:  # a defect in a runner must not keep its task from a Result
            logger.exception("the runner of task %s failed", self.request.task_id)
            self._refusal = InternalError(f"the runner failed: {type(error).__name__}: {error}")
        return None

    def _make_runner(self, registry: Registry) -> Runner[Any]:
        task, category = self.request.task, self.request.category
        runner = registry.create(category)
        self._reporter.spools = runner.spools
        if self.request.error is not None:
            raise self.request.error
        runner.context = self._context(task)
        runner.timeout = self._timeout(task, category)
        runner.parse_args(task.command, task.args)
        return runner

    def _context(self, task: Task) -> Context:
        settings = self._config.runner(self.request.category)
        return Context(
            task=task,
            attempt=self.request.attempt,
            redeliveries=self.request.redeliveries,
            worker=self._services.worker,
            grace=self._config.worker.grace if task.grace is None else task.grace,
            drain_window=self._config.worker.drain_window,
            resource_limits=settings.resource_limits,
            output_limit=_first(task.limits.output, settings.resource_limits.output, DEFAULT_OUTPUT_LIMIT),
            keeper=self._services.keeper,
            policy=self._policy(),
            trace=self.request.trace.carrier,
            concurrency=settings.max_concurrency,
            pool=settings.pool,
            reporter=self._reporter,
        )

    def _policy(self) -> Policy:
        settings = self._config.runner(self.request.category)
        return Policy(
            profile=self._config.profile,
            allow=settings.allow,
            script_roots=settings.script_roots,
            volume_roots=settings.volume_roots,
            allow_hosts=settings.allow_hosts,
            allow_cidrs=settings.allow_cidrs,
            own_endpoints=own_endpoints(self._services.connection.server, os.environ),
            protected=_own_paths(),
        )

    def _timeout(self, task: Task, category: str) -> float:
        settings = self._config.runner(category)
        if task.timeout is None:
            return min(settings.default_timeout, settings.max_timeout)
        if task.timeout > settings.max_timeout:
            raise PolicyDeniedError(
                f"`timeout` is {task.timeout:g} s; runners.{category}.max_timeout allows {settings.max_timeout:g} s"
            )
        return task.timeout


@functools.cache
def _own_paths() -> tuple[str, ...]:
    """Return where we keep what no task may see: the embedded server's store, and the contexts' credentials."""
    try:
        return (str(data_dir()), str(config_dir(os.environ)))
    except ServerError:  # without a home there is neither
        return ()


def _first(*sizes: int | None) -> int | None:
    return next((size for size in sizes if size is not None), None)
