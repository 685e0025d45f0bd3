"""Spans: one for each delivery, and below it its run, its Result's publication and its settlement.

A delivery's span is a child of the publisher's and linked to it, so that whoever follows parents and whoever follows
links finds the way; attempts are siblings, each linked to the one before. A task that has waited for longer than
`max_parent_age`, or that a recurring schedule has made, gets a trace of its own that is linked alone.

What is not sampled is not even begun: the SDK takes some 40 us to find out what a look at the context tells.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

from msgspec import Struct, structs
from opentelemetry.context import Context
from opentelemetry.trace import (
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)

from consumer.request import Counts, TaskRequest
from consumer.schedule import is_firing
from consumer.settle import Settlement
from consumer.trace import Carrier, Trace, unsampled
from schemas import EventType, Result, Verb

from . import attributes
from .contexts import as_carrier, current, extract, inject, links, silenced, span_context, span_id_of
from .hooks import Publication, Run, Silent, Unrecorded
from .sampling import Sampling

_MAX_CONTROLS: Final = 1000
"""Controls of tasks that are not here yet, whose contexts are remembered: the newest."""
_TOLD: Final = {
    EventType.STARTED: "task.started",
    EventType.STOPPING: "task.stopping",
    EventType.RETRYING: "task.retrying",
    EventType.DEAD: "task.dead",
}
"""The steps that become events of the delivery's span."""
_UNBEGUN: Final = Counts()


class _Control(Struct, frozen=True):
    verb: Verb
    context: SpanContext


class _Delivery:
    """One task in our hands."""

    def __init__(self, span: Span, context: Context, subject: str, carrier: Carrier) -> None:
        self.span = span
        self.context = context
        self.subject = subject
        self.carrier = carrier
        self.run: Span | None = None


class _Run:
    def __init__(self, span: Span, carrier: Carrier) -> None:
        self._span = span
        self.carrier = carrier

    def ended(self, result: Result) -> None:
        """Take how it ended."""
        self._span.set_attributes(attributes.outcome(result))
        if attributes.error_type(result) is not None:
            self._span.set_status(Status(StatusCode.ERROR, result.error))


class Spans(Silent):
    """Records the spans of one worker or client, whose name is `client`."""

    def __init__(
        self, tracer: Tracer, sampling: Sampling, *, client: str, ambient: Trace, max_parent_age: float
    ) -> None:
        super().__init__(ambient)
        self._sampling = sampling
        self._tracer = tracer
        self._client = client
        self._max_parent_age = max_parent_age
        self._deliveries: dict[str, _Delivery | None] = {}
        """What is in our hands, by task; None if it is not recorded."""
        self._controls: dict[str, _Control] = {}

    @contextmanager
    def delivering(self, request: TaskRequest) -> Iterator[TaskRequest]:
        """Record a delivery, if it is sampled, and yield the request with its own trace."""
        parent = {} if self._has_waited(request) else request.trace.carrier
        control = self._controls.pop(request.task_id, None)
        delivery = self._begin(request, parent) if self._sampling.takes(parent) else None
        self._deliveries[request.task_id] = delivery
        try:
            if delivery is None:
                yield request.with_trace(structs.replace(request.trace, carrier=parent or unsampled()))
                return
            if control is not None:
                _note_control(delivery.span, control)
            yield request.with_trace(request.trace.begun(parent or delivery.carrier, span_id_of(delivery.span)))
        finally:
            self._deliveries.pop(request.task_id, None)
            if delivery is not None:
                delivery.span.end()

    def _begin(self, request: TaskRequest, parent: Carrier) -> _Delivery:
        came_with, context = request.trace.carrier, extract(parent)
        span = self._tracer.start_span(
            f"process {request.subject}",
            context=context,
            kind=SpanKind.CONSUMER,
            links=links(publisher=came_with, previous_attempt=as_carrier(request.trace.previous)),
            attributes=attributes.delivery(request, self._client),
        )
        return _Delivery(span, set_span_in_context(span, context), request.subject, inject(span, came_with))

    def running(self, request: TaskRequest) -> AbstractContextManager[Run]:
        """Record a run; what is not recorded hands on the context that came, to libraries in this process too."""
        delivery = self._deliveries.get(request.task_id)
        return self._running(request, delivery) if delivery is not None else _unrecorded(request.trace.carrier)

    @contextmanager
    def _running(self, request: TaskRequest, delivery: _Delivery) -> Iterator[Run]:
        span = delivery.run = self._tracer.start_span(
            f"run {request.category}",
            context=delivery.context,
            kind=SpanKind.CLIENT,
            attributes=attributes.run(request),
        )
        try:
            with current(set_span_in_context(span, delivery.context)):
                yield _Run(span, inject(span, delivery.carrier))
        finally:
            span.end()

    def publishing(self, publication: Publication) -> AbstractContextManager[Carrier]:
        """Record a publication, if it is sampled, and yield its context."""
        carrier = publication.trace.carrier or self._ambient.carrier
        if publication.task_id in self._deliveries:
            delivery = self._deliveries[publication.task_id]
            return (
                nullcontext(carrier) if delivery is None else self._publishing(publication, delivery.context, carrier)
            )
        if not self._sampling.takes(carrier):
            return nullcontext(carrier or unsampled())
        return self._publishing(publication, extract(carrier), carrier)

    @contextmanager
    def _publishing(self, publication: Publication, context: Context, carrier: Carrier) -> Iterator[Carrier]:
        span = self._tracer.start_span(
            f"publish {publication.template}",
            context=context,
            kind=SpanKind.PRODUCER,
            links=links(cause=publication.cause.carrier),
            attributes=attributes.publication(publication.template, publication.task_id),
        )
        try:
            yield inject(span, carrier)
        except Exception as error:
            span.set_status(Status(StatusCode.ERROR, str(error)))
            span.set_attribute("error.type", type(error).__name__)
            raise
        finally:
            span.end()

    def settling(self, task_id: str, operation: str) -> AbstractContextManager[None]:
        """Record what the server is told of a delivery."""
        delivery = self._deliveries.get(task_id)
        return self._settling(delivery, operation) if delivery is not None else nullcontext()

    @contextmanager
    def _settling(self, delivery: _Delivery, operation: str) -> Iterator[None]:
        span = self._tracer.start_span(
            f"{operation} {delivery.subject}",
            context=delivery.context,
            kind=SpanKind.CLIENT,
            attributes=attributes.operation(operation, "settle", delivery.subject),
        )
        try:
            yield
        finally:
            span.end()

    def told(self, type_: EventType, request: TaskRequest, data: Mapping[str, Any]) -> None:
        """Make an event of a step."""
        delivery = self._deliveries.get(request.task_id)
        if type_ not in _TOLD or delivery is None:
            return
        delivery.span.add_event(_TOLD[type_], {name: str(value) for name, value in data.items() if value is not None})
        if delivery.run is not None and isinstance(pid := data.get("pid"), int):
            delivery.run.set_attribute("process.pid", pid)

    def controlled(self, task_id: str, verb: Verb, trace: Trace) -> None:
        """Link a task to who has stopped it, now or when it comes."""
        control = _Control(verb, span_context(trace.carrier))
        delivery = self._deliveries.get(task_id)
        if delivery is not None:
            _note_control(delivery.span, control)
            return
        if len(self._controls) >= _MAX_CONTROLS:
            del self._controls[next(iter(self._controls))]
        self._controls[task_id] = control

    def decided(self, request: TaskRequest, result: Result, settlement: Settlement) -> None:
        """Say how an attempt has ended."""
        delivery = self._deliveries.get(request.task_id)
        if delivery is None:
            return
        span, end = delivery.span, result.termination
        span.set_attributes(attributes.settled(result, settlement))
        if end is not None and end.signals:
            span.add_event("task.signaled", {"signals": ", ".join(end.signals), "cause": end.cause})
        if attributes.error_type(result) is None:
            return
        span.set_status(Status(StatusCode.ERROR, attributes.sentence(request, result, settlement)))
        if tail := attributes.stderr_tail(result):
            span.add_event("task.output", {"stream": "stderr", "text": tail})

    def _has_waited(self, request: TaskRequest) -> bool:
        """Tell whether a task begins too long after its publication to be shown below it; attempts stay together."""
        if request.counts != _UNBEGUN or request.position.deliveries > 1:
            return False
        return is_firing(request.headers) or time.time() - request.submitted.timestamp() > self._max_parent_age


def _note_control(span: Span, control: _Control) -> None:
    span.add_event(f"task.{control.verb}_requested")
    if control.context.is_valid:
        span.add_link(control.context, {"task.link": control.verb})


@contextmanager
def _unrecorded(carrier: Carrier) -> Iterator[Run]:
    if not carrier:
        yield Unrecorded(carrier)
        return
    with current(silenced(carrier)):
        yield Unrecorded(carrier)
