"""The OpenTelemetry SDK: where spans and metrics go, and its end, which never keeps us (2 s at most).

Endpoints, headers, samplers and batch sizes are the SDK's own `OTEL_*` variables wherever our configuration is silent.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

from consumer.config import MetricsConfig, TracingConfig
from consumer.errors import ConfigError
from consumer.trace import Trace

from .attributes import SCHEMA_URL
from .both import Both
from .hooks import Telemetry
from .metrics import Metrics, Scrape
from .sampling import Sampling
from .spans import Spans

SHUTDOWN_WITHIN: Final = 2.0
"""Seconds that the last spans and metrics may take to the collector."""

_SCOPE: Final = "jetrunner"
_LONGEST_VALUE: Final = 4096
_ONE_WARNING_PER: Final = 60.0
_LOUD: Final = (OTLPSpanExporter.__module__, OTLPMetricExporter.__module__)
"""The loggers that complain with each batch while there is no collector."""


class Exporting:
    """What is exported by one process, under one name."""

    def __init__(self, service: str, instance: str, environ: Mapping[str, str]) -> None:
        self._shutdowns: list[Callable[[], object]] = []
        self._instance = instance
        self._environ = environ
        self._version = version("jetrunner")
        self._resource = Resource.create(
            {
                **({} if "OTEL_SERVICE_NAME" in environ else {"service.name": service}),
                "service.version": self._version,
                "service.instance.id": instance,
                "host.name": socket.gethostname(),
            }
        )
        self._seldom = _Seldom()
        for name in _LOUD:
            logging.getLogger(name).addFilter(self._seldom)

    def spans(self, config: TracingConfig, ambient: Trace) -> Telemetry:
        """Begin to export spans."""
        sampling = _sampling(config, self._environ)
        provider = TracerProvider(
            sampler=None if sampling.ratio is None else ParentBased(ALWAYS_ON, remote_parent_not_sampled=ALWAYS_ON),
            resource=self._resource,
            shutdown_on_exit=False,
            span_limits=_limits(self._environ),
        )
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=_url(config.endpoint, "traces"))))
        self._shutdowns.append(provider.shutdown)
        tracer = provider.get_tracer(_SCOPE, self._version, SCHEMA_URL)
        return Spans(tracer, sampling, client=self._instance, ambient=ambient, max_parent_age=config.max_parent_age)

    def metrics(self, config: MetricsConfig, slots: Mapping[str, int], spans: Telemetry, *, pushed: bool) -> Telemetry:
        """Begin to export metrics besides spans: `pushed` to a collector, scraped, or both.

        Raises:
            ConfigError: they are to be scraped, but what it takes is not installed.
        """
        readers: list[MetricReader] = []
        scrape = None
        if pushed:
            exporter = OTLPMetricExporter(endpoint=_url(config.endpoint, "metrics"))
            interval = config.interval * 1000 if config.interval else None
            readers.append(PeriodicExportingMetricReader(exporter, interval))
        if config.prometheus:
            reader, scrape = _prometheus()
            readers.append(reader)
        provider = MeterProvider(readers, self._resource, shutdown_on_exit=False)
        self._shutdowns.append(provider.shutdown)
        meter = provider.get_meter(_SCOPE, self._version, SCHEMA_URL)
        return Both(spans, Metrics(meter, slots=slots, boundaries=sorted({*config.boundaries}), scrape=scrape))

    def close(self) -> None:
        """Export what is left, within SHUTDOWN_WITHIN; the SDK's own end takes 30 s without a collector."""
        deadline = time.monotonic() + SHUTDOWN_WITHIN
        threads = [threading.Thread(target=_quietly, args=(end,), daemon=True) for end in self._shutdowns]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))
        for name in _LOUD:
            logging.getLogger(name).removeFilter(self._seldom)


class _Seldom(logging.Filter):
    """Lets one message of a logger and level pass a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.name, record.levelno
        if record.created - self._last.get(kind, 0.0) < _ONE_WARNING_PER:
            return False
        self._last[kind] = record.created
        return True


def _prometheus() -> tuple[MetricReader, Scrape]:
    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader  # noqa: PLC0415 - an extra
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - comes with it
        from prometheus_client.exposition import CONTENT_TYPE_LATEST  # noqa: PLC0415 - comes with it
    except ImportError:
        raise ConfigError(
            "metrics.prometheus needs an extra that is not installed: pip install 'jetrunner[prometheus]'"
        ) from None
    registry = CollectorRegistry()
    return PrometheusMetricReader(registry=registry), lambda: (CONTENT_TYPE_LATEST, generate_latest(registry))


def _sampling(config: TracingConfig, environ: Mapping[str, str]) -> Sampling:
    """Return what decides: our configuration, or the SDK by `OTEL_TRACES_SAMPLER` if that is all that is given."""
    if config.sample_ratio is None and not config.ignore_remote_sampling and environ.get("OTEL_TRACES_SAMPLER"):
        return Sampling(ratio=None)
    ratio = 1.0 if config.sample_ratio is None else config.sample_ratio
    return Sampling(ratio=ratio, overruled=config.ignore_remote_sampling)


def _limits(environ: Mapping[str, str]) -> SpanLimits:
    named = any("ATTRIBUTE_VALUE_LENGTH_LIMIT" in name for name in environ)
    return SpanLimits() if named else SpanLimits(max_attribute_length=_LONGEST_VALUE)


def _url(endpoint: str | None, signal: str) -> str | None:
    """Return where a signal goes (OTLP/HTTP); None leaves it to OTEL_EXPORTER_OTLP_ENDPOINT."""
    return None if endpoint is None else f"{endpoint.rstrip('/')}/v1/{signal}"


def _quietly(end: Callable[[], object]) -> None:
    try:
        end()
    except Exception as error:  # noqa: BLE001 - we end anyway, and have said all that matters
        logging.getLogger(__name__).debug("telemetry did not end well: %s", error)
