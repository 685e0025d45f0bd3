"""One output stream of a task: counted, hashed, handed on live, its head and tail kept for the Result."""

import base64
import codecs
import hashlib
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from schemas import Encoding, StreamOutput

from .context import DEFAULT_OUTPUT_LIMIT
from .redaction import Redactor
from .spool import Spool

KEEP: Final = 64 * 1024
"""Bytes kept at each end of a stream; up to twice as much is kept whole."""

_NOTHING: Final = StreamOutput(sha256=hashlib.sha256().hexdigest())
_CONTINUATION: Final = range(0x80, 0xC0)
_MOST_CONTINUATIONS: Final = 3


Chunk = bytes | memoryview
"""Some bytes, in a buffer that may be used again after the call that hands them over."""


class Feed(Protocol):
    """What takes a stream's bytes as they come; it must neither block nor keep the buffer it is given."""

    def __call__(self, stream: str, offset: int, chunk: Chunk) -> None: ...


class Excess(NamedTuple):
    """Whom to tell, with each further write, that a stream has more than `limit` bytes."""

    limit: int
    report: Callable[[], None]


class OutputCapture:
    """Takes a stream's bytes and ends as the text and facts of its Result."""

    def __init__(
        self,
        stream: str,
        feed: Feed | None = None,
        *,
        redactor: Redactor | None = None,
        spool: Spool | None = None,
        excess: Excess | None = None,
        limit: int = DEFAULT_OUTPUT_LIMIT,
    ) -> None:
        self._stream = stream
        self._feed = feed
        self._redactor = redactor
        self._spool = spool
        self._excess = excess
        self._limit = limit
        self._total = 0
        self._is_cut = False
        self._hash: hashlib._Hash | None = None
        self._head = bytearray()
        self._tail = bytearray()

    def write(self, chunk: Chunk) -> None:
        """Take the next bytes."""
        self._take(chunk if self._redactor is None else self._redactor.feed(chunk))

    def close(self) -> None:
        """Take nothing more: what was held back as the possible beginning of a secret is none."""
        if self._redactor is not None:
            self._take(self._redactor.finish())

    def _take(self, chunk: Chunk) -> None:
        if not chunk:
            return
        offset = self._total
        self._total += len(chunk)
        self._digest(chunk, offset)
        if self._spool is not None and self._total > 2 * KEEP:
            self._spool_on(self._spool, offset, chunk)
        if self._feed is not None:  # after the spool, from which it may want to read the chunk again
            self._feed(self._stream, offset, chunk)
        if self._excess is not None and self._total > self._excess.limit:
            self._excess.report()
        self._keep(chunk)

    def cut(self) -> None:
        """Say that there is more of the stream than was written: nobody knows how much."""
        self._is_cut = True

    @property
    def total(self) -> int:
        """How many bytes were written."""
        return self._total

    def _spool_on(self, spool: Spool, offset: int, chunk: Chunk) -> None:
        """Spool a chunk; before the first one, what head and tail have held whole so far."""
        if offset <= 2 * KEEP:
            spool.write(bytes(self._head + self._tail))
        spool.write(chunk)

    def finish(self) -> tuple[str, StreamOutput]:
        """Return the kept text, base64 where text cannot say it, and the stream's facts."""
        if not self._total and not self._is_cut:
            return "", _NOTHING
        head, tail = bytes(self._head), bytes(self._tail[-KEEP:])
        kept = head + tail
        if len(kept) < self._total:
            kept = _join(head, tail)
        text, encoding = render(kept)
        return text, StreamOutput(
            bytes=self._total,
            encoding=encoding,
            truncated=self._is_cut or len(kept) < self._total,
            dropped_bytes=self._total - len(kept),
            sha256=self._hash.hexdigest() if self._hash is not None and not self._is_cut else None,
        )

    def _digest(self, chunk: Chunk, offset: int) -> None:
        """Hash what somebody may hold against the digest: a stream of which not all is kept has none."""
        if offset == 0:
            self._hash = hashlib.sha256()
        if self._hash is None:
            return
        self._hash.update(chunk)
        if self._total > self._limit:
            self._hash = None

    def _keep(self, chunk: Chunk) -> None:
        """Fill the head, then keep the end of all that follows.

        While head and tail hold everything, nothing is lost; the tail is cut only when it is well past its size, so
        that a stream of small chunks is not copied again for each of them.
        """
        room = KEEP - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        self._tail += chunk[-KEEP:]
        if len(self._tail) > 2 * KEEP:
            del self._tail[:-KEEP]


def render(data: bytes) -> tuple[str, Encoding]:
    """Return bytes as text and its encoding: UTF-8, or base64 where they are not valid UTF-8 or hold a NUL."""
    try:
        if b"\0" not in data:
            return data.decode(), "utf-8"
    except UnicodeDecodeError:
        pass
    return base64.b64encode(data).decode("ascii"), "base64"


def _join(head: bytes, tail: bytes) -> bytes:
    """Join both ends without the characters that the cut went through, unless the stream is not text anyway."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = 0
    while start < min(len(tail), _MOST_CONTINUATIONS) and tail[start] in _CONTINUATION:
        start += 1
    try:
        text = decoder.decode(head) + tail[start:].decode()
    except UnicodeDecodeError:
        return head + tail
    return head + tail if "\0" in text else text.encode()
