"""One output stream of a task: counted, hashed, handed on live, its head and tail kept for the Result."""

import base64
import codecs
import hashlib
from typing import Final, Protocol

from schemas import Encoding, StreamOutput

KEEP: Final = 64 * 1024
"""Bytes kept at each end of a stream; up to twice as much is kept whole."""

_CONTINUATION: Final = range(0x80, 0xC0)
_LONGEST_CHARACTER: Final = 4


class Feed(Protocol):
    """What takes a stream's bytes as they come; it must neither block nor keep the buffer it is given."""

    def __call__(self, stream: str, offset: int, chunk: bytes) -> None: ...


class OutputCapture:
    """Takes a stream's bytes and ends as the text and facts of its Result."""

    def __init__(self, stream: str, feed: Feed | None = None) -> None:
        self._stream = stream
        self._feed = feed
        self._total = 0
        self._hash = hashlib.sha256()
        self._head = bytearray()
        self._tail = bytearray()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if not chunk:
            return
        offset = self._total
        self._total += len(chunk)
        self._hash.update(chunk)
        if self._feed is not None:
            self._feed(self._stream, offset, chunk)
        self._keep(chunk)

    def finish(self) -> tuple[str, StreamOutput]:
        """Return the kept text, base64 where text cannot say it, and the stream's facts."""
        head, tail = bytes(self._head), bytes(self._tail[-KEEP:])
        kept = len(head) + len(tail)
        if kept < self._total:
            head, tail = _whole_characters(head, tail)
            kept = len(head) + len(tail)
        text, encoding = render(head + tail)
        return text, StreamOutput(
            bytes=self._total,
            encoding=encoding,
            truncated=kept < self._total,
            dropped_bytes=self._total - kept,
            sha256=self._hash.hexdigest(),
        )

    def _keep(self, chunk: bytes) -> None:
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


def _whole_characters(head: bytes, tail: bytes) -> tuple[bytes, bytes]:
    """Drop the characters that the cut went through, unless the stream is not text anyway."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(head)
    except UnicodeDecodeError:
        return head, tail
    pending, _ = decoder.getstate()
    start = 0
    while start < min(len(tail), _LONGEST_CHARACTER) and tail[start] in _CONTINUATION:
        start += 1
    return head[: len(head) - len(pending)], tail[start:]
