"""One task in our hands, from its message to its end: known, ours, run, settled - in that order.

Its message is acknowledged last, so that whatever fails before leaves the task on the server.
"""

import logging
import random
from typing import Final

from msgspec import structs

from runners.errors import InvalidTaskError
from schemas import Cause, EventType, Result, Status, utc_now

from .claims import Holding, owner_within
from .errors import JetStreamError
from .execution import Execution
from .lease import Lease
from .message import Position
from .orders import Order, Orders
from .request import TaskRequest
from .schedule import schedule_of
from .services import Services
from .settle import Again, Finish, Forget, Reason, Settlement, StandIn, settle, settle_loss
from .story import ending
from .unstarted import canceled, canceled_before_start, expired, lost, refused, shut_down

WAKING_WITHIN: Final = 0.5
"""Seconds that a task's owner has to claim it once its loss is settled and counted: it may just have woken up."""

logger = logging.getLogger(__name__)


class Delivery:
    """One task in the hands of this worker.

    `doubt` is the seconds for which someone else may still claim it, though the server has never given it to anyone
    before, as far as it knows.
    """

    def __init__(
        self, services: Services, orders: Orders, request: TaskRequest, lease: Lease, *, doubt: float = 0.0
    ) -> None:
        self.request = request
        self.lease = lease
        self.asking = False
        """Whether someone else may have the task: we are asking."""
        self.execution: Execution | None = None
        self._leaving = False
        self._services = services
        self._orders = orders
        self._doubt = doubt
        self._owner_within = owner_within(services.leases.ack_wait)
        lease.on_regained.append(self._begin_contest)

    @property
    def holding(self) -> Holding:
        """What we hold."""
        request = self.request
        return Holding(
            worker=self._services.worker,
            category=request.category,
            status=self.execution.status if self.execution is not None else Status.PENDING,
            attempt=request.attempt,
            redeliveries=request.redeliveries,
        )

    def is_about(self, delivery: str) -> bool:
        """Tell whether a delivery of this id is the same task to us: not if we put it back, and this is its return."""
        return not self._leaving or Position.parse(delivery).stream_seq == self.request.position.stream_seq

    async def run(self) -> None:
        """Take the task to its end, or leave it to whoever has it."""
        services, request = self._services, self.request
        stored = await services.results.load(request.task_id)
        if stored is None and (patience := self._patience()) > 0:
            if await self._is_elsewhere(patience):
                return
            stored = await services.results.load(request.task_id, surely=True)
        if stored is not None:
            services.results.answer(stored, request.reply_to, request.content_type)
            self.lease.settle()
            return
        services.events.publish(EventType.RECEIVED, request)
        if not await self._is_scheduled():
            await self._settle(*await self._work())

    def close(self) -> None:
        """Let go of what the run has left."""
        if self.execution is not None:
            self.execution.close()

    def _patience(self) -> float:
        """Return the seconds for which someone else may claim the task."""
        if self.request.position.deliveries > 1:
            return self._owner_within
        return max(self._doubt, WAKING_WITHIN if self.request.redeliveries else 0.0)

    async def _is_elsewhere(self, patience: float) -> bool:
        """Leave the task to its owner, if it has one."""
        self.asking = True
        owner = await self._services.claims.find(
            self.request.task_id, within=patience, deliveries=self.lease.deliveries
        )
        self.asking = False
        if owner is None:
            return False
        logger.info("task %s was delivered to us, but %s has it", self.request.task_id, owner.worker)
        self.lease.drop()
        return True

    async def _is_scheduled(self) -> bool:
        """Leave a task that has its time to the server, until then."""
        request, services = self.request, self._services
        if request.error is not None or self._orders.given(request.task_id) is not None:
            return False
        schedule = schedule_of(request.task, request.submitted, utc_now())
        if schedule is None:
            return False
        try:
            await services.requeue.schedule(request, schedule)
        except JetStreamError as error:
            wrong = InvalidTaskError(f"the server does not take the schedule {schedule!r}: {error.description}")
            await self._finish(refused(request, services.worker, wrong), buried=True)
            return True
        if (order := self._orders.given(request.task_id)) is not None:
            await self._cancel(shut_down(request, services.worker), order)
            return True
        logger.info("task %s (%s) is scheduled: %s", request.task_id, request.category, schedule)
        self.lease.settle()
        return True

    async def _work(self) -> tuple[Result, Settlement]:
        """Do what is to be done now, and decide what becomes of the task."""
        services, request = self._services, self.request
        if (late := expired(request, services.worker)) is not None:
            return late, Finish()
        if request.position.deliveries > 1:
            settlement = settle_loss(request)
            if not isinstance(settlement, Again) or services.requeue.fits(request):
                return lost(request, services.worker), settlement
            request = structs.replace(request, counts=settlement.counts)  # counted for once, and run here and now
        result = await self._run(request)
        return result, settle(result, request, spread=random.uniform(-1, 1))  # noqa: S311 - spreads, guards nothing

    async def _run(self, request: TaskRequest) -> Result:
        """Have the task's work done: here and now, by someone who does the same, or not at all."""
        worker = self._services.worker
        reused = await self._services.cache.reuse(request, self._may_begin) if request.task.cache is not None else None
        if reused is not None:
            return reused
        if (order := self._orders.given(request.task_id)) is not None:
            return canceled_before_start(request, worker, order.verb, order.control)
        if not self._orders.accepting:
            return shut_down(request, worker)
        return await self._execute(request)

    def _may_begin(self) -> bool:
        return self._orders.accepting and self._orders.given(self.request.task_id) is None

    async def _execute(self, request: TaskRequest) -> Result:
        execution = self.execution = Execution(request, self._services, self.lease)
        logger.info("task %s (%s) starts", request.task_id, request.category)
        return await execution.run()

    async def _settle(self, result: Result, settlement: Settlement) -> None:
        self._services.telemetry.decided(self.request, result, settlement)
        match settlement:
            case Forget():
                self.lease.drop()
            case Finish():
                await self._finish(result, buried=settlement.buried)
            case StandIn() if self._services.requeue.fits(self.request):
                await self._stand_in(result)
            case StandIn():
                await self._finish(_told(result, "its fallback was not run"), buried=True)
            case Again() if self._services.requeue.fits(self.request):
                await self._requeue(result, settlement)
            case Again(reason=Reason.RETRY):
                await self._finish(_told(result, "it was not tried again"), buried=True)
            case Again():
                self.lease.give_back()

    async def _requeue(self, result: Result, again: Again) -> None:
        """Put the task back, unless it has been canceled; a stop may come until it is there, and after."""
        request, services = self.request, self._services
        if self._orders.given(request.task_id) is None:
            self._leaving = True
            await services.requeue.put(request, again.counts, delay=again.delay)
            services.events.publish(EventType.RETRYING, request, _tell(result, again))
        if (order := self._orders.given(request.task_id)) is not None:
            await self._cancel(result, order)
            return
        text, told = "task %s (%s) goes back into the queue: %s", ending(result, request.position.stored)
        logger.info(text, request.task_id, request.category, again.reason, extra=told)
        self.lease.settle()

    async def _stand_in(self, result: Result) -> None:
        """Put the task's fallback into the queue in its place."""
        request, services = self.request, self._services
        if (order := self._orders.given(request.task_id)) is not None:
            await self._finish(canceled(result, order.verb, order.control), buried=False)
            return
        await services.requeue.stand_in(request, result)
        data = {"reason": Reason.FALLBACK, "error_code": result.error_code, "error": result.error, "delay": 0}
        services.events.publish(EventType.RETRYING, request, data)
        text, told = "task %s (%s) has failed, and its fallback stands in", ending(result, request.position.stored)
        logger.info(text, request.task_id, request.category, extra=told)
        self.lease.settle()

    async def _cancel(self, result: Result, order: Order) -> None:
        await self._finish(canceled(result, order.verb, order.control), buried=False)
        await self._services.requeue.withdraw(self.request.task_id)

    async def _finish(self, result: Result, *, buried: bool) -> None:
        if self.request.first_error is not None:
            result = structs.replace(result, degraded=True, first_error=self.request.first_error)
        conclusions = self._services.conclusions
        stored = await conclusions.conclude(self.request, result, buried=buried, run=self.execution)
        if self.request.task.cache is not None:
            await self._services.cache.keep(self.request.task, stored)
        self.lease.settle()

    def _begin_contest(self) -> None:
        self._services.tasks.start_soon(self._contest)

    async def _contest(self) -> None:
        """Find out, back after our lease had run out, whether someone has taken our place; if so, end our copy."""
        other = await self._services.claims.find(self.request.task_id, within=self._owner_within)
        if other is None or not other.succeeds(self.holding) or self.execution is None:
            return
        logger.warning("task %s was taken over by %s while we were away", self.request.task_id, other.worker)
        self.execution.shut_down(Cause.LOST, f"{other.worker} has taken it over")


def _told(result: Result, what: str) -> Result:
    return structs.replace(result, warnings=(*result.warnings, f"{what}: the task is too large to be published again"))


def _tell(result: Result, again: Again) -> dict[str, object]:
    return {
        "delay": round(again.delay, 3),
        "error_code": result.error_code,
        "error": result.error,
        "reason": again.reason,
        "attempt": again.counts.attempt,
    }
