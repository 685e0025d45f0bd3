"""Metrics: histograms of how long things take, and everything else read from plain counts when it is asked for.

Names are those of the semantic conventions, and our own below `jetrunner.`. No task's id is ever a label.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from consumer.request import TaskRequest
from consumer.settle import Settlement
from consumer.trace import Carrier
from schemas import EventType, Result

from . import attributes
from .counts import Counts, Labels, labels, points
from .hooks import Publication, Silent

_MEMORY: Final = tuple(2.0**power for power in range(20, 37, 2))

_BATCH: Final = 512

Scrape = Callable[[], tuple[str, bytes]]


class Metrics(Silent):
    """Counts and measures the tasks of one worker; `scrape` renders the metrics, if they are to be scraped."""

    measures = True

    def __init__(
        self, meter: Meter, *, slots: Mapping[str, int], boundaries: Sequence[float], scrape: Scrape | None = None
    ) -> None:
        super().__init__()
        self._counts = Counts(slots)
        self._scrape = scrape
        self._errors: dict[str, str] = {}

        def histogram(name: str, unit: str, description: str, bounds: Sequence[float]) -> _Buffered:
            made = meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=bounds)
            return _Buffered(made)

        self._duration = histogram("messaging.process.duration", "s", "The time in the worker's hands.", boundaries)
        self._operation = histogram("messaging.client.operation.duration", "s", "The time to the server.", boundaries)
        self._wait = histogram("jetrunner.task.queue.wait", "s", "The time in the queue.", boundaries)
        self._memory = histogram("jetrunner.task.memory.max_rss", "By", "The largest resident set.", _MEMORY)
        self._histograms = (self._duration, self._operation, self._wait, self._memory)
        self._observe(meter)

    def _observe(self, meter: Meter) -> None:
        counts = self._counts
        for name, unit, numbers in (
            ("messaging.client.consumed.messages", "{message}", counts.consumed),
            ("messaging.client.sent.messages", "{message}", counts.sent),
            ("jetrunner.task.completed", "{task}", counts.completed),
            ("jetrunner.task.redeliveries", "{delivery}", counts.redeliveries),
            ("jetrunner.task.lease.lost", "{lease}", counts.leases_lost),
            ("jetrunner.task.output.size", "By", counts.output),
            ("jetrunner.task.cpu.time", "s", counts.cpu),
        ):
            meter.create_observable_counter(name, [_reader(numbers)], unit)
        for name, unit, levels in (
            ("jetrunner.task.active", "{task}", counts.active),
            ("jetrunner.consumer.pending", "{message}", counts.pending),
            ("jetrunner.consumer.ack_pending", "{message}", counts.ack_pending),
        ):
            meter.create_observable_gauge(name, [_reader(levels)], unit)
        meter.create_observable_gauge("jetrunner.worker.slots", [self._flush, _reader(counts.slots)], "{task}")

    def _flush(self, _: CallbackOptions) -> Iterable[Observation]:
        for histogram in self._histograms:
            histogram.flush()
        return ()

    @contextmanager
    def delivering(self, request: TaskRequest) -> Iterator[TaskRequest]:
        """Measure a delivery."""
        begun = time.monotonic()
        self._counts.received(request)
        self._wait.record(attributes.queue_wait(request), dict(self._counts.category(request.category)))
        try:
            yield request
        finally:
            about = self._about("process", request.subject)
            if (error := self._errors.pop(request.task_id, None)) is not None:
                about["error.type"] = error
            self._counts.released(request, about)
            self._duration.record(time.monotonic() - begun, about)

    @contextmanager
    def publishing(self, publication: Publication) -> Iterator[Carrier]:
        """Measure a publication."""
        begun, about = time.monotonic(), self._about("publish", publication.template)
        try:
            yield {}
        except Exception as error:
            about["error.type"] = type(error).__name__
            raise
        finally:
            self._counts.sent[tuple(about.items())] += 1
            self._operation.record(time.monotonic() - begun, about)

    def told(self, type_: EventType, request: TaskRequest, data: Mapping[str, Any]) -> None:
        """Count the end of a task."""
        if type_ is EventType.FINISHED:
            self._counts.completed[self._counts.category(request.category) + labels(status=data["status"])] += 1

    def decided(self, request: TaskRequest, result: Result, _settlement: Settlement, /) -> None:
        """Count what an attempt has used, and remember its error for the end of its delivery."""
        if (error := attributes.error_type(result)) is not None:
            self._errors[request.task_id] = error
        if result.cached:
            return
        self._counts.used(result)
        if result.usage is not None and result.usage.max_rss is not None:
            self._memory.record(result.usage.max_rss, dict(self._counts.category(request.category)))

    def lease_lost(self, _task_id: str, /) -> None:
        """Count a lease that has run out."""
        self._counts.leases_lost[()] += 1

    def waiting(self, category: str, pending: int, ack_pending: int) -> None:
        """Take note of a queue's length."""
        self._counts.pending[labels(category=category)] = pending
        self._counts.ack_pending[labels(category=category)] = ack_pending

    def exposition(self) -> tuple[str, bytes] | None:
        """Return the metrics as Prometheus reads them."""
        return self._scrape() if self._scrape is not None else None

    def _about(self, operation: str, subject: str) -> dict[str, str]:
        return {
            "messaging.system": attributes.SYSTEM,
            "messaging.operation.name": operation,
            "messaging.destination.template": self._counts.template(subject),
        }


class _Buffered:
    """A histogram whose values are recorded many at a time: one alone finds nothing of the SDK in the CPU's cache.

    A value costs 10 us then instead of 40. Whoever collects flushes first, in a thread of its own.
    """

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._values: deque[tuple[float, dict[str, str]]] = deque()

    def record(self, value: float, about: dict[str, str]) -> None:
        self._values.append((value, about))
        if len(self._values) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        with suppress(IndexError):  # another thread has taken the last one
            while self._values:
                self._histogram.record(*self._values.popleft())


def _reader(
    numbers: Mapping[Labels, int] | Mapping[Labels, float],
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(number, about) for number, about in points(numbers)]

    return read
