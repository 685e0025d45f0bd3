"""A stream's spool: what does not fit a Result, up to its limit."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.output import KEEP, OutputCapture
from runners.spool import Spool


@given(st.lists(st.integers(1, 3 * KEEP), max_size=8), st.integers(0, 8 * KEEP))
def test_the_spool_holds_the_beginning(sizes: list[int], limit: int) -> None:
    """However a long stream is cut, its spool has its first bytes; a short one needs none."""
    spool = Spool(limit)
    capture = OutputCapture("stdout", spool=spool)
    written = b""
    for number, size in enumerate(sizes):
        chunk = bytes([number % 251]) * size
        written += chunk
        capture.write(chunk)
    expected = written[:limit] if len(written) > 2 * KEEP else b""
    assert b"".join(spool.pieces()) == expected
    assert spool.size == len(expected)
    spool.close()


def test_a_full_disk_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What cannot be written is not, and the spool says why; the stream itself goes on."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    spool = Spool(2**20)
    spool.write(b"x")
    assert (spool.size, spool.error) == (0, "No such file or directory")
    assert list(spool.pieces()) == []
    spool.close()


def test_it_can_be_read_twice() -> None:
    """Storing may have to begin again."""
    spool = Spool(2**20)
    spool.write(b"abc")
    assert list(spool.pieces()) == list(spool.pieces()) == [b"abc"]
    spool.close()


def test_it_can_be_read_anywhere_while_it_grows() -> None:
    """A reader that is behind gets what is there, and nothing once it is closed."""
    spool = Spool(10)
    assert spool.read(0, 5) == b""
    spool.write(b"abc")
    assert (spool.read(1, 5), spool.read(3, 5)) == (b"bc", b"")
    spool.write(memoryview(b"defghijkl"))
    assert (spool.read(2, 4), spool.read(8, 5), spool.size) == (b"cdef", b"ij", 10)
    spool.close()
    assert spool.read(0, 5) == b""


def test_what_is_handed_on_has_been_spooled() -> None:
    """Whoever is told of bytes that a Result does not hold can read them again at once."""
    spool = Spool(4 * KEEP)
    read: list[bytes] = []

    def feed(_stream: str, offset: int, chunk: bytes | memoryview) -> None:
        read.append(spool.read(offset, len(chunk)))

    capture = OutputCapture("stdout", feed, spool=spool)
    chunks = [b"a" * 2 * KEEP, b"b" * KEEP, b"c" * 2 * KEEP]
    for chunk in chunks:
        capture.write(chunk)
    assert read == [b"", b"b" * KEEP, b"c" * KEEP]
    spool.close()
