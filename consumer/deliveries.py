"""All tasks in the hands of a worker, by id."""

import logging

import anyio
from nats.aio.msg import Msg

from schemas import Cause, Control, Verb

from .claims import Holding, Question
from .delivery import Delivery
from .execution import Execution
from .orders import Order, Orders
from .overview import RunningTask
from .request import TaskRequest, read_request
from .services import Services
from .story import telling

logger = logging.getLogger(__name__)


class Deliveries:
    """The tasks that this worker has, and what was said to them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._orders = Orders()
        self._held: dict[str, Delivery] = {}
        self._expected = 0
        self._changed = anyio.Event()

    def __len__(self) -> int:
        """Return how many tasks are here."""
        return len(self._held)

    async def wait_idle(self) -> None:
        """Wait until no task is here."""
        while self._held or self._expected:
            await self._changed.wait()

    async def wait_stopped(self) -> None:
        """Wait until no task runs; Results may still be on their way to the server."""
        for execution in self._executions():
            await execution.ended.wait()

    def holds(self, task_id: str) -> bool:
        """Tell whether a task is here."""
        return task_id in self._held

    def answer(self, task_id: str, question: Question) -> Holding | None:
        """Return what we hold of a task, and adopt the asker's deliveries of it; None if it is not ours."""
        delivery = self._held.get(task_id)
        own = self._services.worker
        if delivery is None or question.worker == own or (delivery.asking and question.worker < own):
            return None
        if not all(map(delivery.is_about, question.deliveries)):
            return None
        if question.deliveries:
            with telling(delivery.request):
                logger.info("task %s was delivered to %s while we have it", task_id, question.worker)
            delivery.lease.adopt(*question.deliveries)
        return delivery.holding

    def control(self, task_id: str, verb: Verb, control: Control) -> bool:
        """Stop or kill a task; tell whether it is here. If it is not, it will not start here."""
        self._orders.remember(task_id, Order(verb, control))
        delivery = self._held.get(task_id)
        if delivery is not None and delivery.execution is not None:
            delivery.execution.control(verb, control)
        return delivery is not None

    def refuse(self) -> None:
        """Begin no other task: what comes goes back at once."""
        self._orders.accepting = False

    def shut_down(self, reason: str) -> None:
        """End all tasks, politely, and give them back; begin no other."""
        self.refuse()
        for execution in self._executions():
            execution.shut_down(Cause.SHUTDOWN, reason)

    def kill(self) -> None:
        """End all tasks at once."""
        for execution in self._executions():
            execution.control(Verb.KILL, Control())

    async def handle(self, message: Msg, *, doubt: float = 0.0) -> None:
        """Take a message to its end; `doubt` is the seconds for which its task may turn out to be someone else's."""
        request = read_request(message, self._services.subjects, self._services.config.reply_prefixes)
        if (held := self._held.get(request.task_id)) is not None and not held.is_about(message.reply):
            await self._until_left(request.task_id)
            held = self._held.get(request.task_id)
        if held is not None:
            with telling(held.request):
                logger.info("task %s was delivered again while we have it", request.task_id)
            held.lease.adopt(message.reply)
            return
        with self._services.telemetry.delivering(request) as traced, telling(traced):
            await self._take(traced, doubt)

    async def _until_left(self, task_id: str) -> None:
        """Wait until we have let go of a task that we put back: it is here again before we were told that it is."""
        self._expected += 1
        try:
            while task_id in self._held:
                await self._changed.wait()
        finally:
            self._expected -= 1

    async def _take(self, request: TaskRequest, doubt: float) -> None:
        lease = self._services.leases.take(request.task_id, request.delivery)
        delivery = Delivery(self._services, self._orders, request, lease, doubt=doubt)
        self._held[request.task_id] = delivery
        try:
            await delivery.run()
        except Exception:  # one message must not end the worker; the server delivers it again
            logger.exception("the delivery of task %s failed", request.task_id)
        finally:
            lease.drop()
            delivery.close()
            del self._held[request.task_id]
            self._changed.set()
            self._changed = anyio.Event()

    def running(self) -> list[RunningTask]:
        """Return the tasks at work here."""
        return [
            RunningTask(execution.request.task_id, execution.request.category, execution.since)
            for execution in self._executions()
        ]

    def _executions(self) -> list[Execution]:
        return [each.execution for each in self._held.values() if each.execution is not None]
