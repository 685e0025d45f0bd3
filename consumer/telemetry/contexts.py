"""Contexts, from and to the headers that carry them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from consumer.trace import Carrier

EMPTY: Final = Context()
_CONTEXT: Final = TraceContextTextMapPropagator()
_BAGGAGE: Final = W3CBaggagePropagator()


@contextmanager
def current(context: Context) -> Iterator[None]:
    """Let instrumented libraries find the span."""
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


def span_id_of(span: Span) -> str:
    """Return a span's id, 16 hexadecimal digits."""
    return f"{span.get_span_context().span_id:016x}"


def links(**carriers: Carrier) -> Sequence[Link]:
    """Return a link to each context, with its name; one to a span that two of them are bears the last one's."""
    found = {}
    for name, carrier in carriers.items():
        if carrier:
            context = span_context(carrier)
            found[context.span_id] = Link(context, {"task.link": name.replace("_", " ")})
    return [*found.values()]


def as_carrier(text: str | None) -> Carrier:
    """Return a `traceparent` as the headers that it is part of."""
    return {} if text is None else {"traceparent": text}


def span_context(carrier: Carrier) -> SpanContext:
    """Return the span that a context names."""
    return get_current_span(extract(carrier)).get_span_context()


def extract(carrier: Carrier) -> Context:
    """Read a context; none is an empty one."""
    if not carrier:
        return EMPTY
    context = _CONTEXT.extract(carrier, EMPTY)
    return _BAGGAGE.extract(carrier, context) if "baggage" in carrier else context


def inject(span: Span, came_with: Carrier) -> Carrier:
    """Return the context of a span; baggage travels on as it came."""
    context = span.get_span_context()
    carrier = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    if context.trace_state:
        carrier["tracestate"] = context.trace_state.to_header()
    if "baggage" in came_with:
        carrier["baggage"] = came_with["baggage"]
    return carrier


def silenced(carrier: Carrier) -> Context:
    """Return a context in which no library begins a trace of its own: this one is not recorded."""
    _, trace_id, span_id, _ = carrier["traceparent"].split("-", 3)
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True)
    return set_span_in_context(NonRecordingSpan(context), EMPTY)
