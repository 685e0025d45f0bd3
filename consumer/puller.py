"""Pulls messages from a consumer, continuously (ADR-37), and notices by itself when they stop coming.

Messages that were asked for or are being worked on fill a window; whoever is done with one calls `release`, and the
window is filled again. All that was asked for belongs to an epoch with an inbox of its own. Whatever makes the answers
doubtful - a reconnection, an error, silence where heartbeats are due - ends the epoch: its inbox goes, the server drops
its pulls for lack of interest, and a new epoch begins.
"""

import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import msgspec
from msgspec import Struct
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from .connection import Connection
from .errors import JetStreamError, TopologyError
from .jetstream import TIMED_OUT

HEARTBEAT: Final = 0.5
"""Seconds between the server's heartbeats on a pull."""
SILENCE: Final = 2 * HEARTBEAT + 0.2
"""Seconds without a byte, while a pull is open, after which an epoch is over."""
EXPIRES: Final = 30.0
"""Seconds that a pull stays open, if nothing else is said."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_DEAF_EPOCHS: Final = 3
"""Epochs in a row that heard nothing, after which the connection itself is under suspicion."""

logger = logging.getLogger(__name__)


class _PullRequest(Struct):
    batch: int
    expires: int
    idle_heartbeat: int = int(HEARTBEAT * 1e9)


_ENCODER: Final = msgspec.json.Encoder()


class Puller:
    """Keeps up to `window` messages of one consumer asked for or in work.

    `deliver` takes each message and must neither block nor raise. `ensure` makes sure that the consumer exists and
    returns its name; it is called at the start of each epoch. A pull ends after `expires` seconds, at least two
    heartbeats: so long may the server give messages to us though we show no life. With `drains`, each epoch ends with
    all that the server has sent. `silent` is told for how many seconds nothing was heard, before what then came is
    delivered: it may be as old, if it is us who showed no life.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        *,
        window: int,
        ensure: Callable[[], Awaitable[str]],
        deliver: Callable[[Msg], None],
        silent: Callable[[float], None] | None = None,
        expires: float = EXPIRES,
        drains: bool = False,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._window = window
        self._ensure = ensure
        self._deliver = deliver
        self._silent = silent
        self._expires = int(max(expires, 2 * HEARTBEAT) * 1e9)
        self._drains = drains
        self._refill_at = max(1, window // 4)
        self._requested = 0
        self._held = 0
        self._inbox = ""
        self._subject = ""
        self._subscription: Subscription | None = None
        self._heard = 0.0
        self._deaf_epochs = 0
        self._pause = 0.0
        self._over = anyio.Event()
        self._pulling = False

    @property
    def is_pulling(self) -> bool:
        """Whether messages would come now, as far as we know."""
        return self._pulling and self._connection.is_connected

    @property
    def held(self) -> int:
        """How many messages are with us and not yet released."""
        return self._held

    async def run(self) -> None:
        """Pull until cancelled. What was delivered stays with whoever has it."""
        self._connection.reconnected.append(self._end_epoch)
        try:
            while True:
                await self._run_epoch()
                await anyio.sleep(self._pause)
        finally:
            self._connection.reconnected.remove(self._end_epoch)
            await self._end_pulls()

    def release(self) -> None:
        """Give back one message's place in the window."""
        self._held -= 1
        self._refill()

    def restart(self) -> None:
        """Ask for everything anew: something was lost."""
        self._end_epoch()

    async def _run_epoch(self) -> None:
        await self._connection.wait_connected()
        try:
            consumer = await self._ensure()
        except JetStreamError as error:
            logger.debug("%s cannot be pulled from: %s", self._stream, error)
            if error.status == TIMED_OUT:
                await self._suspect()
            self._lengthen_pause()
            return
        except TopologyError as error:
            logger.warning("%s", error)
            self._lengthen_pause()
            return
        await self._end_pulls()
        self._over = anyio.Event()
        self._requested = 0
        inbox = self._inbox = self._connection.new_inbox()
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}"
        self._subscription = await self._connection.subscribe_once(inbox, functools.partial(self._receive, inbox))
        try:
            self._heard = time.monotonic()
            self._pulling = True
            self._refill()
            await self._watch()
        finally:
            self._pulling = False
            if not self._drains:
                await self._end_pulls()

    async def _end_pulls(self) -> None:
        """End the last epoch's; with `drains`, only when the server has shown life again, and with all it has sent."""
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        if self._drains:
            await self._connection.drain(subscription)
        else:
            await self._connection.unsubscribe(subscription)

    async def _watch(self) -> None:
        """Return when the epoch is over: someone said so, or nothing was heard while a pull was open."""
        while not self._over.is_set():
            patience = self._heard + SILENCE - time.monotonic()
            if patience <= 0 and self._requested > 0:
                await self._suspect()
                return
            with anyio.move_on_after(max(patience, HEARTBEAT)):
                await self._over.wait()

    async def _suspect(self) -> None:
        self._deaf_epochs += 1
        logger.debug("nothing heard from %s for %.1f s", self._stream, SILENCE)
        if self._deaf_epochs % _DEAF_EPOCHS == 0 and self._connection.is_connected:
            logger.warning("the server is silent; connecting again")
            await self._connection.force_reconnect()
        self._lengthen_pause()

    def _refill(self) -> None:
        free = self._window - self._requested - self._held
        if not self._pulling or free <= 0 or (self._requested > 0 and free < self._refill_at):
            return
        if self._requested == 0:
            self._heard = time.monotonic()
        self._requested += free
        self._connection.send(self._subject, _ENCODER.encode(_PullRequest(free, self._expires)), reply=self._inbox)

    def _receive(self, inbox: str, message: Msg) -> None:
        is_late = inbox != self._inbox
        if message.subject == inbox:
            if not is_late:
                self._receive_status(message)
            return
        if not is_late:
            self._alive()
            self._requested -= 1
        self._held += 1
        self._deliver(message)

    def _receive_status(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status")
        description = headers.get("Description", "")
        pending = headers.get("Nats-Pending-Messages")
        if status == "100":
            self._alive()
        elif pending is not None and description not in _FATAL_DESCRIPTIONS:
            self._alive()
            self._requested -= int(pending)
            self._refill()
        else:
            logger.debug("pulling from %s: %s %s", self._stream, status, description)
            self._lengthen_pause()
            self._end_epoch()

    def _alive(self) -> None:
        now = time.monotonic()
        if self._silent is not None and now - self._heard > SILENCE:
            self._silent(now - self._heard)
        self._heard = now
        self._deaf_epochs = 0
        self._pause = 0.0

    def _lengthen_pause(self) -> None:
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)

    def _end_epoch(self) -> None:
        self._over.set()


_FATAL_DESCRIPTIONS: Final = frozenset({"Consumer Deleted", "Server Shutdown", "Leadership Change"})
