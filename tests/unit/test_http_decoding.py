"""Tests of runners.http.decoding: whole or in pieces, several members, nothing that explodes."""

import gzip
import zlib
from collections.abc import Iterable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.http.decoding import PIECE, BombError, CorruptError, Inflating, decoder_for


def decoded(encoding: str, chunks: Iterable[bytes]) -> bytes:
    """Return what chunks become."""
    decoder = decoder_for(encoding)
    assert decoder is not None
    data = b"".join(piece for chunk in chunks for piece in decoder.feed(chunk))
    decoder.finish()
    return data


def split(data: bytes, size: int) -> list[bytes]:
    """Cut data into chunks."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def bare(data: bytes) -> bytes:
    """Return data deflated without zlib's header."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4), st.integers(1, 50))
def test_gzip_is_undone_however_it_is_cut(members: list[bytes], size: int) -> None:
    """Several members are one body."""
    whole = b"".join(gzip.compress(member) for member in members)
    assert decoded("gzip", split(whole, size)) == b"".join(members)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_deflate_is_undone_with_and_without_its_header(data: bytes, size: int) -> None:
    """The standard says with; some servers leave it out."""
    assert decoded("deflate", split(zlib.compress(data), size)) == data
    assert decoded("deflate", split(bare(data), size)) == data


@given(st.binary(max_size=400))
def test_no_bytes_do_harm(data: bytes) -> None:
    """They are decoded, or said to be corrupt."""
    for encoding in ("gzip", "deflate"):
        with suppress(CorruptError):
            assert len(decoded(encoding, [data])) <= 2**20


def test_a_large_piece_comes_in_small_ones() -> None:
    """Output is never held in one piece."""
    pieces = [*Inflating("gzip").feed(gzip.compress(bytes(range(256)) * 2000))]
    assert (len(b"".join(pieces)), max(map(len, pieces))) == (512_000, PIECE)


def test_padding_after_the_last_member_is_ignored() -> None:
    """As gzip itself does."""
    assert decoded("gzip", [gzip.compress(b"a") + b"\0" * 100]) == b"a"
    assert decoded("gzip", [gzip.compress(b"a"), b"garbage", b"more"]) == b"a"
    assert decoded("deflate", [zlib.compress(b"a") + b"garbage"]) == b"a"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "", "identity"])
def test_no_body_is_no_body(encoding: str) -> None:
    """A response to HEAD names an encoding all the same."""
    assert decoded(encoding, []) == b""


def test_a_bomb_is_noticed_in_time() -> None:
    """At a hundred times its size, and not before the first mebibyte."""
    given_so_far = 0

    def explode() -> None:
        nonlocal given_so_far
        for piece in Inflating("gzip").feed(gzip.compress(b"\0" * 2**25)):
            given_so_far += len(piece)

    with pytest.raises(BombError):
        explode()
    assert 2**20 < given_so_far <= 2**22
    assert len(decoded("gzip", [gzip.compress(b"\0" * 2**20)])) == 2**20


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "deflate,gzip", "gzip;q=1"])
def test_other_encodings_are_not_ours(encoding: str) -> None:
    """Neither unknown ones nor more than one."""
    assert decoder_for(encoding) is None
