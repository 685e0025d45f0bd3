"""A collector of traces and metrics for tests: takes OTLP over HTTP, and answers as Jaeger does (`/api/v3`).

With JAEGER_URL set, the traces go to that Jaeger and are asked of it, by the same questions.
"""

import base64
import gzip
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import urlopen

from google.protobuf.json_format import MessageToDict
from msgspec import Struct
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATIENCE: Final = 15.0
"""Seconds that no span takes to the collector."""
POLL: Final = 0.02
SOON: Final = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "200"}
"""The environment of a process that exports at once."""
CLIENT: Final = 3
PRODUCER: Final = 4
CONSUMER: Final = 5
ERROR: Final = 2

_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})


class Span(Struct, frozen=True, kw_only=True):
    """A span as Jaeger tells it; `links` and `parent` are ids of spans."""

    service: str
    trace_id: str
    span_id: str
    parent: str
    name: str
    kind: int
    status: int
    message: str
    links: tuple[tuple[str, str], ...]
    """Trace and span of each."""
    attributes: dict[str, Any]
    events: dict[str, dict[str, Any]]


class Trace:
    """The spans of one trace, in the order of their starts."""

    def __init__(self, spans: list[Span]) -> None:
        self.spans = spans

    def having(self, attributes: Mapping[str, str]) -> "Trace":
        """Return the spans of the traces that have a span with such attributes."""
        chosen = {span.trace_id for span in self.spans if attributes.items() <= span.attributes.items()}
        return Trace([span for span in self.spans if span.trace_id in chosen])

    def named(self, name: str) -> list[Span]:
        """Return the spans of a name."""
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Span:
        """Return the only span of a name."""
        (span,) = self.named(name)
        return span

    def names(self) -> list[str]:
        """Return the names of all spans, sorted."""
        return sorted(span.name for span in self.spans)


class Collector:
    """Where spans go, and where they are asked for."""

    def __init__(self, otlp: str, query: str, metrics: list[ExportMetricsServiceRequest], sink: str) -> None:
        self.otlp = otlp
        self.sink = sink
        """Where metrics go: Jaeger takes none."""
        self._query = query
        self._metrics = metrics

    def trace(self, trace_id: str | None, until: Callable[[Trace], object]) -> Trace:
        """Wait until a trace is as a test wants it, and return it."""
        assert trace_id is not None
        return self._wait(f"traces/{trace_id}", until)

    def search(self, service: str, attributes: Mapping[str, str], until: Callable[[Trace], object]) -> Trace:
        """Wait for the spans of the traces that have a span with such attributes.

        Jaeger before 2.20 has another name for the depth, and overlooks the attributes: so we look at them again.
        """
        moment = "%Y-%m-%dT%H:%M:%S.000000000Z"
        query = {
            "query.service_name": service,
            "query.attributes": json.dumps(attributes),
            "query.search_depth": "1000",
            "query.num_traces": "1000",
            "query.start_time_min": time.strftime(moment, time.gmtime(time.time() - 3600)),
            "query.start_time_max": time.strftime(moment, time.gmtime(time.time() + 60)),
        }
        return self._wait(f"traces?{urlencode(query)}", lambda trace: until(trace.having(attributes))).having(
            attributes
        )

    def spans_of(self, trace_id: str) -> list[Span]:
        """Return what is there of a trace now."""
        return self._ask(f"traces/{trace_id}").spans

    def metric(self, name: str, until: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
        """Wait until the latest points of a metric are as a test wants them, and return them."""
        deadline = time.monotonic() + PATIENCE
        while not until(points := self._points(name)):
            assert time.monotonic() < deadline, points
            time.sleep(POLL)
        return points

    def metrics_so_far(self) -> list[ExportMetricsServiceRequest]:
        """Return all metrics, as they came."""
        return [*self._metrics]

    def _points(self, name: str) -> list[dict[str, Any]]:
        for request in reversed([*self._metrics]):
            for resource in MessageToDict(request)["resourceMetrics"]:
                for metric in (metric for scope in resource["scopeMetrics"] for metric in scope["metrics"]):
                    if metric["name"] == name:
                        kind = next(metric[kind] for kind in ("sum", "gauge", "histogram") if kind in metric)
                        return [{**point, "attributes": _attributes(point)} for point in kind["dataPoints"]]
        return []

    def _wait(self, path: str, until: Callable[[Trace], object]) -> Trace:
        deadline = time.monotonic() + PATIENCE
        while not _holds(until, trace := self._ask(path)):
            assert time.monotonic() < deadline, trace.names()
            time.sleep(POLL)
        return trace

    def _ask(self, path: str) -> Trace:
        try:
            with urlopen(f"{self._query}/api/v3/{path}", timeout=PATIENCE) as answer:
                found = json.load(answer)["result"]["resourceSpans"]
        except HTTPError as error:
            if error.code != HTTPStatus.NOT_FOUND:
                raise
            return Trace([])
        return Trace([span for _, span in sorted(_spans(found), key=lambda pair: pair[0])])


def _holds(until: Callable[[Trace], object], trace: Trace) -> bool:
    try:
        return bool(until(trace))
    except ValueError:  # the only span of a name is not there yet
        return False


def _spans(resources: list[dict[str, Any]]) -> Iterator[tuple[int, Span]]:
    for resource in resources:
        service = _attributes(resource["resource"]).get("service.name", "")
        for span in (span for scope in resource["scopeSpans"] for span in scope["spans"]):
            status = span.get("status", {})
            yield (
                int(span["startTimeUnixNano"]),
                Span(
                    service=service,
                    trace_id=span["traceId"],
                    span_id=span["spanId"],
                    parent=span.get("parentSpanId", ""),
                    name=span["name"],
                    kind=span.get("kind", 0),
                    status=status.get("code", 0),
                    message=status.get("message", ""),
                    links=tuple((link["traceId"], link["spanId"]) for link in span.get("links", [])),
                    attributes=_attributes(span),
                    events={event["name"]: _attributes(event) for event in span.get("events", [])},
                ),
            )


def _attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for pair in holder.get("attributes", []):
        ((kind, value),) = pair["value"].items() or (("stringValue", ""),)
        found[pair["key"]] = int(value) if kind == "intValue" else value
    return found


def _with_hex_ids(value: Any) -> Any:
    """Return OTLP as JSON has it: ids are hexadecimal there, not base64."""
    if isinstance(value, list):
        return [_with_hex_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: base64.b64decode(item).hex() if name in _IDS else _with_hex_ids(item) for name, item in value.items()}


class _Sink(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []

    def resources(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Return the traces that have a span of which something is true, as Jaeger returns them."""
        resources = [
            resource
            for request in [*self.traces]
            for resource in _with_hex_ids(MessageToDict(request, use_integers_for_enums=True))["resourceSpans"]
        ]
        chosen = {span["traceId"] for resource in resources for span in _spans_in(resource) if wanted(span)}
        found = []
        for resource in resources:
            scopes = [
                {**scope, "spans": [span for span in scope["spans"] if span["traceId"] in chosen]}
                for scope in resource["scopeSpans"]
            ]
            found.append({**resource, "scopeSpans": scopes})
        return found if chosen else []


def _spans_in(resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (span for scope in resource["scopeSpans"] for span in scope["spans"])


class _Handler(BaseHTTPRequestHandler):
    server: _Sink

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/traces":
            self.server.traces.append(ExportTraceServiceRequest.FromString(body))
        else:
            self.server.metrics.append(ExportMetricsServiceRequest.FromString(body))
        self._answer(HTTPStatus.OK, b"", "application/x-protobuf")

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        given = parse_qs(url.query)
        if url.path == "/api/v3/traces":
            wanted = json.loads(given["query.attributes"][0]).items()
            found = self.server.resources(lambda span: wanted <= _attributes(span).items())
        else:
            trace_id = url.path.rpartition("/")[2]
            found = self.server.resources(lambda span: bool(span["traceId"] == trace_id))
        status = HTTPStatus.OK if found else HTTPStatus.NOT_FOUND
        self._answer(status, json.dumps({"result": {"resourceSpans": found}}).encode(), "application/json")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@contextmanager
def collecting() -> Iterator[Collector]:
    """Have a collector for as long as the body lasts; its metrics are always our own sink's."""
    sink = _Sink()
    thread = threading.Thread(target=sink.serve_forever, args=(POLL,))
    thread.start()
    own = f"http://127.0.0.1:{sink.server_address[1]}"
    jaeger = os.environ.get("JAEGER_URL")
    otlp = os.environ.get("JAEGER_OTLP_URL", "http://127.0.0.1:4318") if jaeger else own
    try:
        yield Collector(otlp, jaeger or own, sink.metrics, own)
    finally:
        sink.shutdown()
        thread.join()
        sink.server_close()
