"""Traces and metrics of tasks (OpenTelemetry); the only place that knows its libraries.

They are imported when there is something to record, not before. Everything else calls the hooks of `Telemetry`.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread

from consumer.config import Config, MetricsConfig, TracingConfig
from consumer.trace import Trace

from .hooks import SILENT, Publication, Run, Silent, Telemetry

__all__ = ["SILENT", "Publication", "Run", "Silent", "Telemetry", "opened"]


@asynccontextmanager
async def opened(
    config: Config,
    environ: Mapping[str, str],
    *,
    service: str,
    instance: str,
    ambient: Trace = Trace(),  # noqa: B008 - frozen
    slots: Mapping[str, int] | None = None,
) -> AsyncIterator[Telemetry]:
    """Record what is configured for as long as the body lasts, and 2 s at most for what is left then.

    What is published outside of any task belongs to `ambient`. Metrics are those of a worker with so many `slots` by
    category; None records none.

    Raises:
        ConfigError: metrics are to be scraped, but what it takes is not installed.
    """
    traced = _is_wanted(config.tracing, "TRACES", environ)
    pushed = slots is not None and _is_wanted(config.metrics, "METRICS", environ)
    measured = slots is not None and (pushed or config.metrics.prometheus)
    silent = Silent(ambient)
    if not traced and not measured:
        yield silent
        return
    from .export import Exporting  # noqa: PLC0415 - it takes longer than all of ours, for nothing when off

    exporting = Exporting(service, instance, environ)
    try:
        telemetry = exporting.spans(config.tracing, ambient) if traced else silent
        if measured:
            telemetry = exporting.metrics(config.metrics, slots or {}, telemetry, pushed=pushed)
        yield telemetry
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(exporting.close)


def _is_wanted(section: TracingConfig | MetricsConfig, signal: str, environ: Mapping[str, str]) -> bool:
    """Tell whether a signal goes to a collector: as configured, else if the environment names one."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if section.enabled is not None:
        return section.enabled
    if environ.get(f"OTEL_{signal}_EXPORTER", "").strip().lower() == "none":
        return False
    named = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return section.endpoint is not None or any(environ.get(name) for name in named)
