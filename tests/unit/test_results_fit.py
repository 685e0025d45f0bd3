"""A Result is cut until it fits a message: first its output, at last its labels."""

import base64
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.results import fit
from runners.output import OutputCapture
from schemas import Cause, HttpResponse, Result, Status, Streams, Termination, encode

BUDGET = 8 * 1024
"""Bytes: the smallest that a server with a `max_payload` of 24 KiB leaves."""

LETTERS = 'aä€😀\n\x01"\\'
"""Characters of one to four bytes, and some that JSON writes as up to six."""
STREAMS = st.one_of(
    st.just(b""),
    st.binary(max_size=64),
    st.builds(lambda unit, times: unit * times, st.binary(min_size=1, max_size=8), st.integers(1, 60_000)),
    st.builds(lambda unit, times: unit.encode() * times, st.text(LETTERS, min_size=1), st.integers(1, 20_000)),
)


def ended(stdout: bytes = b"", stderr: bytes = b"", **fields: Any) -> Result:
    """Return the Result of a task with this output."""
    captures = {"stdout": OutputCapture("stdout"), "stderr": OutputCapture("stderr")}
    captures["stdout"].write(stdout)
    captures["stderr"].write(stderr)
    (output, out), (errors, err) = captures["stdout"].finish(), captures["stderr"].finish()
    return Result(
        **{
            "task_id": "t-1",
            "category": "command",
            "status": Status.SUCCESS,
            "end_time": datetime(2030, 1, 1, tzinfo=UTC),
            "output": output,
            "stderr": errors,
            "streams": Streams(stdout=out, stderr=err),
            **fields,
        }
    )


def kept(result: Result, stream: str) -> bytes:
    """Return the bytes that a Result keeps of a stream."""
    text = result.output if stream == "stdout" else result.stderr
    facts = getattr(result.streams, stream)
    return base64.b64decode(text) if facts.encoding == "base64" else text.encode()


def test_what_fits_is_left_alone() -> None:
    """A Result within the budget is not touched."""
    result = ended(b"out\n", b"err\n", labels={"a": "b"})
    assert fit(result, BUDGET) == result


@settings(deadline=None)
@given(stdout=STREAMS, stderr=STREAMS)
def test_any_output_fits(stdout: bytes, stderr: bytes) -> None:
    """Whatever was printed, the Result fits, and its facts are those of what is kept: the stream's two ends."""
    result = ended(stdout, stderr)
    fitted = fit(result, BUDGET)
    assert len(encode(fitted)) <= BUDGET
    for stream, data in (("stdout", stdout), ("stderr", stderr)):
        facts, whole, left = getattr(fitted.streams, stream), getattr(result.streams, stream), kept(fitted, stream)
        assert (facts.bytes, facts.sha256) == (len(data), whole.sha256)
        assert facts.dropped_bytes == len(data) - len(left)
        assert facts.truncated == (left != data)
        assert any(data.startswith(left[:at]) and data.endswith(left[at:]) for at in range(len(left) + 1))


def test_the_longer_stream_is_cut() -> None:
    """A flood on stdout does not cost the few words on stderr."""
    fitted = fit(ended(b"x" * 100_000, b"the reason\n"), BUDGET)
    assert fitted.stderr == "the reason\n"
    assert not fitted.streams.stderr.truncated
    assert fitted.streams.stdout.truncated
    assert len(fitted.output) > BUDGET // 4


def test_a_long_error_is_cut() -> None:
    """A sentence that is a book is cut and says so."""
    fitted = fit(ended(error="x" * 100_000), BUDGET)
    assert fitted.error.endswith("x…")
    assert len(encode(fitted)) <= BUDGET


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": {str(number): "x" * 100 for number in range(1000)}},
        {"labels": {"x": "ä" * 100_000}},
        {"http": HttpResponse(status_code=200, headers={"x": "y" * 100_000}, url="http://a", elapsed={})},
        {"first_error": {"error": "x" * 100_000}},
        {"error": "\x01" * 5000},
        {"error": "😀" * 5000},
        {"warnings": ("x" * 100_000,)},
        {"termination": Termination(cause=Cause.STOP, by="ä" * 50_000, reason="x" * 100_000)},
        {"http": HttpResponse(status_code=200, headers={}, url=f"http://a/{'x' * 100_000}", elapsed={})},
    ],
    ids=["labels", "label", "headers", "first error", "controls", "emoji", "warnings", "termination", "url"],
)
def test_what_is_too_long_without_its_output(fields: dict[str, Any]) -> None:
    """The rest is cut too if it must be: a Result that finds no room would never be stored."""
    fitted = fit(ended(b"x" * 10_000, b"y" * 10_000, status=Status.CANCELED, **fields), BUDGET)
    assert len(encode(fitted)) <= BUDGET
    assert (fitted.task_id, fitted.status, fitted.streams.stdout.bytes) == ("t-1", Status.CANCELED, 10_000)


def test_what_was_left_out_is_said() -> None:
    """Labels that find no room leave a warning."""
    fitted = fit(ended(labels={"x": "y" * 100_000}), BUDGET)
    assert fitted.labels == {}
    assert fitted.warnings == ("labels and headers are left out: the Result would not fit a message",)
