"""Spans and metrics at once."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from consumer.request import TaskRequest
from consumer.settle import Settlement
from consumer.trace import Carrier, Trace
from schemas import EventType, Result, Verb

from .hooks import Publication, Run, Telemetry


class Both:
    """Tells spans and metrics the same; contexts are the spans' to give."""

    measures = True

    def __init__(self, spans: Telemetry, metrics: Telemetry) -> None:
        self._spans = spans
        self._metrics = metrics

    @contextmanager
    def delivering(self, request: TaskRequest) -> Iterator[TaskRequest]:
        """Tell both of a delivery."""
        with self._metrics.delivering(request), self._spans.delivering(request) as traced:
            yield traced

    def running(self, request: TaskRequest) -> AbstractContextManager[Run]:
        """Tell the spans of a run; metrics learn all of it from its Result."""
        return self._spans.running(request)

    @contextmanager
    def publishing(self, publication: Publication) -> Iterator[Carrier]:
        """Tell both of a publication."""
        with self._metrics.publishing(publication), self._spans.publishing(publication) as carrier:
            yield carrier

    def settling(self, task_id: str, operation: str) -> AbstractContextManager[None]:
        """Tell the spans of a settlement."""
        return self._spans.settling(task_id, operation)

    def told(self, type_: EventType, request: TaskRequest, data: Mapping[str, Any]) -> None:
        """Tell both of a step."""
        self._spans.told(type_, request, data)
        self._metrics.told(type_, request, data)

    def controlled(self, task_id: str, verb: Verb, trace: Trace) -> None:
        """Tell the spans of a control."""
        self._spans.controlled(task_id, verb, trace)

    def decided(self, request: TaskRequest, result: Result, settlement: Settlement) -> None:
        """Tell both of an attempt's end."""
        self._spans.decided(request, result, settlement)
        self._metrics.decided(request, result, settlement)

    def lease_lost(self, task_id: str) -> None:
        """Tell the metrics of a lost lease."""
        self._metrics.lease_lost(task_id)

    def waiting(self, category: str, pending: int, ack_pending: int) -> None:
        """Tell the metrics of a queue's length."""
        self._metrics.waiting(category, pending, ack_pending)

    def exposition(self) -> tuple[str, bytes] | None:
        """Return what the metrics say."""
        return self._metrics.exposition()
