"""What a message from JetStream says of itself: its place in the stream, and its headers."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Self

from msgspec import Struct
from nats.aio.msg import Msg


class Position(Struct, frozen=True):
    """Where a message stands, as its ack subject tells (ADR-15 and its second form, which adds domain and account)."""

    stream_seq: int
    consumer_seq: int
    deliveries: int
    nanoseconds: int
    """When it was stored, since the Unix epoch."""
    pending: int

    @classmethod
    def of(cls, message: Msg) -> Self:
        """Read the position of a message that was pulled."""
        return cls.parse(message.reply)

    @classmethod
    def parse(cls, delivery: str) -> Self:
        """Read the position that an ack subject names."""
        tokens = delivery.split(".")
        shift = 2 if len(tokens) > _TOKENS else 0
        return cls(
            deliveries=int(tokens[4 + shift]),
            stream_seq=int(tokens[5 + shift]),
            consumer_seq=int(tokens[6 + shift]),
            nanoseconds=int(tokens[7 + shift]),
            pending=int(tokens[8 + shift]),
        )

    @property
    def stored(self) -> datetime:
        """When it was stored."""
        return datetime.fromtimestamp(self.nanoseconds / 1e9, UTC)

    @property
    def derived_id(self) -> str:
        """The id of a task that brought none (contract section 2)."""
        return f"s{self.stream_seq}-{self.nanoseconds // 1_000_000}"


_TOKENS = 9


def header(headers: Mapping[str, str] | None, *names: str) -> str | None:
    """Return the first header that has one of the names, in any case: not every client writes them as we do."""
    if not headers:
        return None
    for name in names:
        if name in headers:
            return headers[name]
    wanted = {name.lower() for name in names}
    return next((value for key, value in headers.items() if key.lower() in wanted), None)


def rebuilt(subject: str, delivery: str, payload: bytes, headers: Mapping[str, str]) -> Msg:
    """Return a message that was kept, as if it had just been delivered."""
    return Msg(
        _client=None,  # type: ignore[arg-type] # nobody answers by it
        subject=subject,
        reply=delivery,
        data=payload,
        headers=dict(headers),
    )
