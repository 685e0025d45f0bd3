"""Reads a stream from where one likes, goes on after the last message whatever happens, and acknowledges nothing.

An ephemeral pull consumer of ours stands behind it; if it is lost, a new one begins after the last message seen. A
stream that was made anew, whose sequence lies before ours, is read from its start.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio
from nats.aio.msg import Msg

from .connection import Connection
from .jetstream import api
from .message import Position
from .puller import Puller

_WINDOW: Final = 256
_INACTIVE: Final = 60 * 1_000_000_000


class Tail:
    """Hands the messages of some subjects to `deliver`, in the stream's order, each once.

    `start` is the consumer's own way to say where to begin, such as `{"deliver_policy": "all"}` (ADR-13).
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        subjects: Sequence[str],
        deliver: Callable[[Msg], None],
        *,
        start: dict[str, Any] | None = None,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._subjects = list(subjects)
        self._deliver = deliver
        self._start = start or {"deliver_policy": "all"}
        self._name = ""
        self._last = 0
        self._delivered = 0
        self._puller = Puller(connection, stream, window=_WINDOW, ensure=self._ensure, deliver=self._receive)
        self.caught_up = anyio.Event()
        """Set once all that was stored when the tail began has been delivered."""

    async def run(self) -> None:
        """Read until cancelled."""
        await self._puller.run()

    async def _ensure(self) -> str:
        """Make a consumer anew for each epoch: what the last one has sent into the void would never come again."""
        await self._forget_older_stream()
        answer = await api(self._connection, f"CONSUMER.CREATE.{self._stream}", self._request())
        self._last = max(self._last, int(answer["delivered"]["stream_seq"]))
        if self._name:
            self._connection.send(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}")
        self._name, self._delivered = str(answer["name"]), 0
        if answer.get("num_pending", 0) == 0:
            self.caught_up.set()
        return self._name

    def _request(self) -> dict[str, Any]:
        start = {"deliver_policy": "by_start_sequence", "opt_start_seq": self._last + 1} if self._last else self._start
        return {
            "stream_name": self._stream,
            "config": {
                **start,
                "filter_subjects": self._subjects,
                "ack_policy": "none",
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": _INACTIVE,
            },
        }

    async def _forget_older_stream(self) -> None:
        state = (await api(self._connection, f"STREAM.INFO.{self._stream}"))["state"]
        if int(state["last_seq"]) < self._last:
            self._last = 0
            self._start = {"deliver_policy": "all"}

    def _receive(self, message: Msg) -> None:
        position = Position.of(message)
        self._puller.release()
        if position.consumer_seq != self._delivered + 1:  # one before it went down with a connection
            self._puller.restart()
            return
        self._delivered = position.consumer_seq
        self._last = position.stream_seq
        self._deliver(message)
        if position.pending == 0:
            self.caught_up.set()
