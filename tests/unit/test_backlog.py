"""What a stream's backlog hands out: all bytes in order, in pieces, from memory or the spool, and the end last."""

import logging
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.backlog import MAX_HELD, PIECE, WINDOW, Backlog, Piece
from runners.output import OutputCapture
from runners.spool import Spool

LIMIT = 64 * 2**20


class Stream:
    """A stream that is captured, spooled, and handed to a backlog."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.backlog = Backlog("stdout")
        self.spool = Spool(limit)
        self.is_full = False
        self._capture = OutputCapture("stdout", self._feed, spool=self.spool)

    def write(self, data: bytes) -> None:
        """Write to the stream."""
        self._capture.write(data)

    def _feed(self, _stream: str, offset: int, chunk: bytes | memoryview) -> None:
        self.is_full = self.backlog.feed(offset, chunk, self.spool)


def take(backlog: Backlog) -> list[Piece]:
    """Take what can be sent."""
    return list(iter(backlog.next_piece, None))


def store(backlog: Backlog, pieces: list[Piece]) -> list[Piece]:
    """Let the server have pieces, and all that can follow; return them all."""
    stored = []
    while pieces:
        stored += pieces
        for piece in pieces:
            backlog.stored(piece)
        pieces = take(backlog)
    return stored


def text(pieces: list[Piece]) -> bytes:
    """Put pieces together, each where it says that it belongs."""
    data = b""
    for piece in pieces:
        assert piece.offset == len(data)
        assert len(piece.data) <= PIECE
        data += piece.data
    return data


@given(st.lists(st.tuples(st.integers(1, 3 * MAX_HELD), st.booleans()), max_size=8), st.integers(0, 5 * MAX_HELD))
def test_all_bytes_up_to_the_limit(writes: list[tuple[int, bool]], limit: int) -> None:
    """However a stream is written, and however far its sender is behind, its pieces are its bytes, and the end."""
    stream, written, pieces = Stream(limit), b"", []
    for number, (size, is_server_quick) in enumerate(writes):
        data = bytes([number]) * size
        stream.write(data)
        written += data
        if is_server_quick:
            pieces += store(stream.backlog, take(stream.backlog))
    stream.backlog.finish()
    pieces += store(stream.backlog, take(stream.backlog))
    end = pieces.pop()
    assert (end.is_end, end.offset, stream.backlog.is_stored) == (True, len(written), True)
    assert text(pieces) == written[:limit]
    stream.spool.close()


def test_less_than_a_piece_waits_for_more() -> None:
    """It goes out with what follows, or when its time has come."""
    stream = Stream()
    stream.write(b"a" * (PIECE - 1))
    assert (stream.is_full, take(stream.backlog)) == (False, [])
    stream.write(b"ab")
    assert stream.is_full
    assert take(stream.backlog) == [Piece(0, b"a" * PIECE)]
    stream.backlog.flush()
    assert take(stream.backlog) == [Piece(PIECE, b"b")]


def test_only_so_much_is_under_way() -> None:
    """The rest waits in the spool for the server's word."""
    stream = Stream()
    stream.write(bytes(2 * WINDOW))
    pieces = take(stream.backlog)
    assert len(text(pieces)) == WINDOW
    stream.backlog.stored(pieces[7])
    assert take(stream.backlog) == [Piece(WINDOW, bytes(PIECE))]
    stream.spool.close()


def test_the_end_waits_for_all_pieces() -> None:
    """It is the last that the server gets."""
    stream = Stream()
    stream.write(bytes(2 * PIECE))
    stream.backlog.finish()
    first, second = take(stream.backlog)
    stream.backlog.stored(second)
    assert take(stream.backlog) == []
    stream.backlog.stored(first)
    assert take(stream.backlog) == [Piece(2 * PIECE, b"", is_end=True)]
    assert not stream.backlog.is_stored


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a spool only so much is held in memory; what the sender is too far behind for is a gap, and told of."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    stream = Stream()
    stream.write(b"a" * MAX_HELD)
    stream.write(b"b" * MAX_HELD + b"c" * PIECE)
    stream.backlog.finish()
    with caplog.at_level(logging.WARNING):
        pieces = take(stream.backlog)
    assert pieces[0].offset == MAX_HELD + PIECE
    assert b"".join(piece.data for piece in pieces) == b"b" * (MAX_HELD - PIECE) + b"c" * PIECE
    assert f"{MAX_HELD + PIECE} bytes of stdout are lost to its followers" in caplog.text


def test_a_spool_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What a broken disk does not give back is a gap; the end still comes."""
    stream = Stream()
    stream.write(bytes(2 * MAX_HELD))
    stream.backlog.finish()

    def fail(*_: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(stream.spool, "read", fail)
    assert take(stream.backlog) == [Piece(2 * MAX_HELD, b"", is_end=True)]
    assert "Input/output error" in caplog.text
    stream.spool.close()


def test_giving_up() -> None:
    """What was not sent is forgotten; what was, is waited for, and then the end comes."""
    stream = Stream()
    stream.write(bytes(2 * WINDOW))
    stream.backlog.finish()
    pieces = take(stream.backlog)
    stream.backlog.give_up()
    assert take(stream.backlog) == []
    assert store(stream.backlog, pieces)[-1] == Piece(2 * WINDOW, b"", is_end=True)
    stream.spool.close()


def test_a_stream_without_a_spool() -> None:
    """It has no limit, only so much memory."""
    backlog = Backlog("stdout")
    backlog.feed(0, b"a" * PIECE, None)
    assert take(backlog) == [Piece(0, b"a" * PIECE)]
