"""One message's way: read, leased, run, its Result stored, answered and acknowledged - in that order."""

import logging
from typing import Any, Final

import anyio
from msgspec import Struct, structs
from nats.aio.msg import Msg

from runners.context import Watcher
from runners.errors import interrupted
from runners.registry import Registry
from schemas import Cause, Control, ErrorClass, EventType, Result, Status, Subjects, Termination, Verb, utc_now

from .config import Config
from .connection import Connection
from .dead import DeadLetters
from .events import Events
from .execution import Execution, ended_without_start
from .lease import Lease, Leases
from .output import OutputPublisher
from .request import TaskRequest, read_request
from .results import Results
from .settle import Settlement, settle
from .whole import WholeOutputs

_MAX_CONTROLS: Final = 100_000

logger = logging.getLogger(__name__)


class Services(Struct, frozen=True, kw_only=True):
    """What a worker's deliveries share."""

    config: Config
    registry: Registry
    subjects: Subjects
    worker: str
    connection: Connection
    leases: Leases
    results: Results
    dead: DeadLetters
    events: Events
    output: OutputPublisher
    whole: WholeOutputs
    keeper: Watcher | None = None


class Deliveries:
    """All tasks in the hands of this worker, by id; and the controls that came before their tasks."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._executions: dict[str, Execution] = {}
        self._controls: dict[str, tuple[Verb, Control]] = {}
        self._active = 0
        self._running = 0
        self._changed = anyio.Event()
        self._shut_down = False

    def __len__(self) -> int:
        """Return how many messages are on their way."""
        return self._active

    async def wait_idle(self) -> None:
        """Wait until no message is on its way."""
        while self._active:
            self._changed = anyio.Event()
            await self._changed.wait()

    async def wait_stopped(self) -> None:
        """Wait until no task runs; Results may still be on their way to the server."""
        while self._running:
            self._changed = anyio.Event()
            await self._changed.wait()

    def holds(self, task_id: str) -> bool:
        """Tell whether a task is in our hands."""
        return task_id in self._executions

    def status(self, task_id: str) -> dict[str, Any] | None:
        """Return where a task of ours is, or None if it is not ours."""
        execution = self._executions.get(task_id)
        if execution is None:
            return None
        return {"worker": self._services.worker, "category": execution.request.category, "status": execution.status}

    def control(self, task_id: str, verb: Verb, control: Control) -> bool:
        """Stop or kill a task; tell whether it is ours. If it is not, it will not start here."""
        self._remember(task_id, verb, control)
        execution = self._executions.get(task_id)
        if execution is not None:
            execution.control(verb, control)
        return execution is not None

    def shut_down(self, reason: str) -> None:
        """End all tasks, politely, and give them back; begin no other."""
        self._shut_down = True
        for execution in list(self._executions.values()):
            execution.shut_down(reason)

    def kill(self) -> None:
        """End all tasks at once."""
        for execution in list(self._executions.values()):
            execution.control(Verb.KILL, Control())

    async def handle(self, message: Msg) -> None:
        """Take a message to its end. It is acknowledged last; whatever fails before leaves it on the server."""
        self._active += 1
        try:
            await self._take(message)
        except Exception:  # one message must not end the worker; the server delivers it again
            logger.exception("the delivery of a message on %s failed", message.subject)
        finally:
            self._active -= 1
            self._changed.set()

    async def _take(self, message: Msg) -> None:
        services = self._services
        request = read_request(message, services.subjects, services.config.reply_prefixes)
        lease = services.leases.take(request.task_id, message.reply)
        if lease is None:
            return
        try:
            await self._handle(request, lease)
        finally:
            execution = self._executions.pop(request.task_id, None)
            if execution is not None:
                execution.close()
            services.leases.forget(request.task_id, lease)

    async def _handle(self, request: TaskRequest, lease: Lease) -> None:
        services = self._services
        services.events.publish(EventType.RECEIVED, request)
        stored = await services.results.load(request.task_id)  # the server may have forgotten that we had this task
        if stored is None and self._shut_down:
            lease.give_back()
            return
        if stored is None:
            result = await self._execute(request)
            if settle(result) is Settlement.GIVE_BACK:
                lease.give_back()
                return
            stored = await self._conclude(request, result)
        services.results.answer(stored, request.reply_to, request.content_type)
        lease.settle()

    async def _execute(self, request: TaskRequest) -> Result:
        task_id = request.task_id
        if (given := self._controls.get(task_id)) is not None:
            return canceled_before_start(request, self._services.worker, *given)
        if (late := self._expired(request)) is not None:
            return late
        services = self._services
        execution = self._executions[task_id] = Execution(
            request,
            registry=services.registry,
            config=services.config,
            worker=services.worker,
            events=services.events,
            output=services.output,
            keeper=services.keeper,
        )
        logger.info("task %s (%s) starts", task_id, request.category)
        self._running += 1
        try:
            return await execution.run()
        finally:
            self._running -= 1
            self._changed.set()

    def _remember(self, task_id: str, verb: Verb, control: Control) -> None:
        """Keep a control for its task, which may come later; the newest so many are enough."""
        if len(self._controls) >= _MAX_CONTROLS:
            del self._controls[next(iter(self._controls))]
        self._controls.setdefault(task_id, (verb, control))

    def _expired(self, request: TaskRequest) -> Result | None:
        expires = request.task.expires
        if expires is None or request.error is not None or utc_now() < expires.moment(request.position.stored):
            return None
        return structs.replace(
            ended_without_start(request, self._services.worker),
            status=Status.TIMEOUT,
            error_class=ErrorClass.TIMEOUT,
            error_code="expired",
            error=f"the task expired before it started: `expires` was {expires.to_wire()}",
        )

    async def _conclude(self, request: TaskRequest, result: Result) -> Result:
        """Store the Result and tell of it, unless someone else's came first; return the one that counts."""
        services = self._services
        if (execution := self._executions.get(request.task_id)) is not None:
            result = await services.whole.keep(result, execution.spools)
        buried = settle(result) is Settlement.BURY
        if buried:
            await services.dead.keep(request, result)
        stored, is_ours = await services.results.save(result)
        if is_ours:
            services.events.publish(EventType.FINISHED, request, summary(stored))
            if buried:
                services.events.publish(EventType.DEAD, request, {"reason": stored.error})
            _log_end(stored)
        return stored


def canceled_before_start(request: TaskRequest, worker: str, verb: Verb, control: Control) -> Result:
    """Return the Result of a task that was stopped or killed before it started."""
    return canceled(ended_without_start(request, worker), verb, control)


def canceled(result: Result, verb: Verb, control: Control) -> Result:
    """Return a Result as that of a task stopped or killed before it started."""
    cause = Cause.KILL if verb is Verb.KILL else Cause.STOP
    by = f" by {control.by}" if control.by else ""
    because = f": {control.reason}" if control.reason else ""
    what = "killed" if verb is Verb.KILL else "stopped"
    outcome = interrupted(cause, f"the task was {what} before it started{by}{because}")
    return structs.replace(
        result,
        status=outcome.status,
        error_class=outcome.error_class,
        error_code=outcome.code,
        error=outcome.message,
        termination=Termination(cause=cause, by=control.by, reason=control.reason),
    )


def summary(result: Result) -> dict[str, Any]:
    """Return what a `finished` event tells of a Result."""
    return {
        "status": result.status,
        "exit_code": result.exit_code,
        "duration": result.duration,
        "error_code": result.error_code,
        "started": result.start_time is not None,
    }


def _log_end(result: Result) -> None:
    level = logging.INFO if result.status is Status.SUCCESS else logging.WARNING
    logger.log(
        level,
        "task %s (%s) ended: %s after %d ms%s",
        result.task_id,
        result.category,
        result.status,
        result.duration,
        f": {result.error}" if result.error else "",
    )
