"""Tests of runners.output: what is kept of a stream, counted, hashed, and handed on."""

import base64
import hashlib
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.output import KEEP, OutputCapture, render
from schemas import StreamOutput

WHOLE = 2 * KEEP
SIZES = st.integers(0, 3 * WHOLE) | st.integers(WHOLE - 20, WHOLE + 20)


def captured(*chunks: bytes) -> tuple[str, StreamOutput]:
    """Return the text and facts of a stream of these chunks."""
    capture = OutputCapture("stdout")
    for chunk in chunks:
        capture.write(chunk)
    return capture.finish()


def cut(data: bytes, points: Sequence[int]) -> list[bytes]:
    """Return data in pieces, cut at the points that it reaches."""
    edges = [0, *sorted(min(point, len(data)) for point in points), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def expected_text(data: bytes) -> tuple[bytes, str]:
    """Return what is kept of valid UTF-8, in bytes and as text."""
    if len(data) <= WHOLE:
        return data, data.decode()
    text = data[:KEEP].decode(errors="ignore") + data[-KEEP:].decode(errors="ignore")
    return text.encode(), text


def test_a_stream_nobody_wrote_to() -> None:
    """No output is an empty text, with the digest of nothing."""
    text, facts = captured()
    assert text == ""
    assert facts == StreamOutput(sha256=hashlib.sha256().hexdigest())


@pytest.mark.parametrize("size", [1, KEEP - 1, KEEP, KEEP + 1, WHOLE - 1, WHOLE])
@pytest.mark.parametrize("step", [1000, KEEP, 10 * KEEP])
def test_up_to_128_kib_is_kept_whole(size: int, step: int) -> None:
    """Up to 128 KiB nothing is dropped, however the bytes arrive."""
    data = (b"0123456789\n" * WHOLE)[:size]
    text, facts = captured(*cut(data, range(0, size, step)))
    assert text.encode() == data
    assert (facts.bytes, facts.truncated, facts.dropped_bytes) == (size, False, 0)


@pytest.mark.parametrize("excess", [1, 7, KEEP, 5 * KEEP])
@pytest.mark.parametrize("step", [1000, KEEP, 10 * KEEP])
def test_of_more_the_first_and_last_64_kib_are_kept(excess: int, step: int) -> None:
    """Past 128 KiB the head and the tail remain, joined without a mark; the rest is counted."""
    data = b"".join(b"%08d\n" % number for number in range(WHOLE))[: WHOLE + excess]
    text, facts = captured(*cut(data, range(0, len(data), step)))
    assert text.encode() == data[:KEEP] + data[-KEEP:]
    assert (facts.bytes, facts.truncated, facts.dropped_bytes) == (len(data), True, excess)


def test_the_digest_is_over_all_bytes() -> None:
    """The sha256 covers what was dropped, too."""
    data = b"ab" * WHOLE
    _, facts = captured(*cut(data, [10, 70_000]))
    assert facts.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("character", ["é", "€", "😀"])
def test_a_character_split_between_chunks_is_whole_again(character: str) -> None:
    """A character whose bytes come one by one is text, not base64."""
    data = f"a{character}b".encode()
    text, facts = captured(*cut(data, range(len(data))))
    assert (text, facts.encoding) == (f"a{character}b", "utf-8")


@pytest.mark.parametrize("character", ["é", "€", "😀"])
@pytest.mark.parametrize("offset", range(4))
def test_a_character_at_the_cut_is_dropped_whole(character: str, offset: int) -> None:
    """A character that the cut goes through is dropped and counted, and the text stays text."""
    data = b"x" * offset + character.encode() * WHOLE
    text, facts = captured(data)
    kept, expected = expected_text(data)
    assert (text, facts.encoding) == (expected, "utf-8")
    assert "�" not in text
    assert facts.bytes == len(data)
    assert facts.dropped_bytes == len(data) - len(kept)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"a\0b", id="NUL"),
        pytest.param(b"\xff\xfe", id="no UTF-8"),
        pytest.param(b"caf\xe9", id="Latin-1"),
        pytest.param("é".encode()[:1], id="unfinished character"),
        pytest.param(b"\xed\xa0\x80", id="surrogate"),
        pytest.param(b"\xc0\x80", id="overlong"),
    ],
)
def test_what_is_not_text_is_base64(data: bytes) -> None:
    """Bytes that are not valid UTF-8, or hold a NUL, come back exactly, as base64."""
    text, facts = captured(data)
    assert facts.encoding == "base64"
    assert base64.b64decode(text) == data


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        pytest.param(b"\xff", b"\x80\x80", id="head"),
        pytest.param(b"text", b"\x80\x80text\xff", id="tail"),
        pytest.param(b"te\0xt", b"\x80\x80text", id="NUL in the head"),
        pytest.param(b"text", b"\x80\x80\x80\x80text", id="more than a character can have"),
    ],
)
def test_what_is_not_text_is_cut_at_exactly_64_kib(head: bytes, tail: bytes) -> None:
    """Where either end is no text there are no characters to spare: 64 KiB of each are kept."""
    data = head.ljust(KEEP, b"h") + b"lost" + tail.ljust(KEEP, b"t")
    text, facts = captured(data)
    assert facts.encoding == "base64"
    assert base64.b64decode(text) == data[:KEEP] + data[-KEEP:]
    assert facts.dropped_bytes == len(b"lost")


@pytest.mark.parametrize("text", ["", "plain", "tab\tand\x1b[31mescape", "\ufeffmark", "é€😀", "\ufffd"])
def test_text_is_rendered_as_it_is(text: str) -> None:
    """All valid text but NUL stays readable, a replacement character included."""
    assert render(text.encode()) == (text, "utf-8")


def test_the_feed_gets_all_bytes_with_their_offsets() -> None:
    """The live feed gets every chunk, also what the Result drops, at its place in the stream."""
    fed: list[tuple[str, int, bytes]] = []
    capture = OutputCapture("stderr", lambda *call: fed.append(call))
    chunks = [b"abc", b"", b"d" * WHOLE, b"e"]
    for chunk in chunks:
        capture.write(chunk)
    assert fed == [("stderr", 0, b"abc"), ("stderr", 3, b"d" * WHOLE), ("stderr", 3 + WHOLE, b"e")]


@given(
    pattern=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
    size=SIZES,
    points=st.lists(st.integers(0, 3 * WHOLE), max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_any_chunking_of_text_ends_the_same(pattern: str, size: int, points: list[int]) -> None:
    """However text is chunked, the same of it is kept, and kept and dropped bytes add up."""
    data = (pattern * (size // len(pattern.encode()))).encode()
    text, facts = captured(*cut(data, points))
    kept, expected = expected_text(data)
    assert (text, facts.encoding) == (expected, "utf-8")
    assert facts.bytes == len(data) == len(kept) + facts.dropped_bytes
    assert facts.truncated == (facts.dropped_bytes > 0)
    assert facts.sha256 == hashlib.sha256(data).hexdigest()


@given(
    pattern=st.binary(min_size=1, max_size=20),
    size=SIZES,
    points=st.lists(st.integers(0, 3 * WHOLE), max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_any_chunking_of_bytes_ends_the_same(pattern: bytes, size: int, points: list[int]) -> None:
    """However any bytes are chunked, base64 holds exactly the head and the tail, and the counts add up."""
    data = (b"\xff" + pattern * (size // len(pattern)) + b"\xff")[:size]
    text, facts = captured(*cut(data, points))
    kept = data if len(data) <= WHOLE else data[:KEEP] + data[-KEEP:]
    assert (base64.b64decode(text) if facts.encoding == "base64" else text.encode()) == kept
    assert facts.bytes == len(data) == len(kept) + facts.dropped_bytes


@given(
    chunks=st.lists(st.binary(max_size=3 * KEEP), max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_the_feed_never_misses_or_repeats_a_byte(chunks: list[bytes]) -> None:
    """The feed's chunks, laid at their offsets, are the stream."""
    stream = bytearray()

    def feed(_stream: str, offset: int, chunk: bytes) -> None:
        assert offset == len(stream)
        stream.extend(chunk)

    capture = OutputCapture("stdout", feed)
    for chunk in chunks:
        capture.write(chunk)
    assert bytes(stream) == b"".join(chunks)
    assert capture.finish()[1].bytes == len(stream)


def test_a_stream_that_nobody_can_have_whole_has_no_digest() -> None:
    """Beyond the limit of what is kept there is nothing to hold a digest against; the bytes are counted."""
    capture = OutputCapture("stdout", limit=10)
    capture.write(b"x" * 10)
    assert capture.finish()[1].sha256 == hashlib.sha256(b"x" * 10).hexdigest()
    capture.write(b"x")
    facts = capture.finish()[1]
    assert (facts.bytes, facts.sha256) == (11, None)


def test_a_stream_that_is_cut() -> None:
    """All that was written is there, and that it is not all there was."""
    capture = OutputCapture("stdout")
    capture.write(b"beginning")
    capture.cut()
    capture.close()
    text, facts = capture.finish()
    assert (text, facts.bytes, facts.truncated, facts.dropped_bytes, facts.sha256) == ("beginning", 9, True, 0, None)


def test_a_buffer_that_is_used_again() -> None:
    """What is kept of a chunk is a copy: its buffer may change after the call."""
    buffer = bytearray(b"abc")
    capture = OutputCapture("stdout")
    capture.write(memoryview(buffer))
    buffer[:] = b"xyz"
    capture.write(memoryview(buffer)[:1])
    assert capture.finish()[0] == "abcx"
