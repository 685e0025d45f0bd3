"""The trace that a task belongs to: what is believed of what comes with a message, and what is handed on."""

import pytest

from consumer.trace import PREVIOUS, Trace, carrier_from_environment, trace_id_of, without_trace

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
PREVIOUS_ATTEMPT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


@pytest.mark.parametrize("name", ["traceparent", "Traceparent", "TRACEPARENT", "TraceParent"])
def test_headers_are_read_in_any_case(name: str) -> None:
    """Go's clients canonicalise header names."""
    assert Trace.read({name: PARENT}) == Trace(carrier={"traceparent": PARENT})


def test_all_that_carries_a_context_is_kept() -> None:
    """State and baggage go on with their parent."""
    headers = {"traceparent": PARENT, "Tracestate": "a=1", "Baggage": "user=me", PREVIOUS: PREVIOUS_ATTEMPT, "X": "y"}
    trace = Trace.read(headers)
    assert trace.carrier == {"traceparent": PARENT, "tracestate": "a=1", "baggage": "user=me"}
    assert trace.previous == PREVIOUS_ATTEMPT
    assert trace.trace_id == TRACE_ID
    assert without_trace(headers) == {"X": "y"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        PARENT.upper(),
        PARENT[:-1],
        f" {PARENT}",
        f"{PARENT}\n",
        f"ff{PARENT[2:]}",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
    ],
)
def test_a_malformed_parent_is_none(text: str) -> None:
    """Nothing of such a context is handed on: no child process sees it."""
    trace = Trace.read({"traceparent": text, "tracestate": "a=1", "baggage": "user=me"})
    assert trace == Trace()
    assert trace.trace_id is None


def test_a_parent_of_a_later_version_is_read() -> None:
    """What it has after its flags is left to those who know it (W3C Trace Context, 2.2.3)."""
    assert trace_id_of({"traceparent": f"01{PARENT[2:]}-more"}) == TRACE_ID


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "ä", "", "x" * 8193])
def test_what_no_header_or_environment_may_hold_is_dropped(text: str) -> None:
    """A NUL would keep a child process from being started; a flood would cost every retry."""
    assert Trace.read({"traceparent": PARENT, "baggage": text}).carrier == {"traceparent": PARENT}


def test_a_malformed_previous_attempt_is_none() -> None:
    """It is a header like any other, and anybody's text."""
    assert Trace.read({"traceparent": PARENT, PREVIOUS: "nonsense"}).previous is None


def test_an_attempt_becomes_the_previous_one_of_the_next() -> None:
    """All attempts have the same parent; each knows the one before."""
    first = Trace.read({"traceparent": PARENT}).begun({"traceparent": PARENT}, "00f067aa0ba902b7")
    assert first.headers() == {"traceparent": PARENT, PREVIOUS: PREVIOUS_ATTEMPT}
    assert Trace.read(first.headers()) == Trace(carrier={"traceparent": PARENT}, previous=PREVIOUS_ATTEMPT)


def test_what_is_not_recorded_is_handed_on_as_it_came() -> None:
    """A worker that does not trace keeps the story of those that do."""
    headers = {"traceparent": PARENT, PREVIOUS: PREVIOUS_ATTEMPT}
    assert Trace.read(headers).headers() == headers
    assert Trace().headers() == {}


def test_a_process_s_own_context_is_in_its_environment() -> None:
    """OpenTelemetry's names for variables are the upper-cased headers."""
    environ = {"TRACEPARENT": PARENT, "BAGGAGE": "user=me", "PATH": "/bin"}
    assert carrier_from_environment(environ) == {"traceparent": PARENT, "baggage": "user=me"}
    assert carrier_from_environment({"BAGGAGE": "user=me"}) == {}
