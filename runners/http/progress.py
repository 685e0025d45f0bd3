"""How far a request has come: the phase it is in, the seconds each one took, and whether anything was sent."""

import time
from typing import Final, Literal

Phase = Literal["dns", "connect", "tls", "request", "response", "body"]

STAGES: Final[dict[Phase, str]] = {
    "dns": "resolved the host's name",
    "connect": "connected",
    "tls": "made the connection secure",
    "request": "sent the request",
    "response": "waited for the response",
    "body": "received the body",
}
"""Each phase in words that follow "while it"."""


class Progress:
    """Begins with a request's first phase. Redirects go through the phases again; their times are added up."""

    def __init__(self) -> None:
        self.phase: Phase = "dns"
        self.sent = False
        """Whether the server may know of the request."""
        self.closed_by_server = False
        self._begin = self._since = time.monotonic()
        self._seconds: dict[Phase, float] = {}

    def enter(self, phase: Phase) -> None:
        """Note that the next phase begins."""
        now = time.monotonic()
        self._seconds[self.phase] = self._seconds.get(self.phase, 0.0) + now - self._since
        self.phase, self._since = phase, now

    @property
    def stage(self) -> str:
        """The phase in words."""
        return STAGES[self.phase]

    @property
    def elapsed(self) -> dict[str, float]:
        """Seconds of each phase so far, and in all."""
        self.enter(self.phase)
        seconds: dict[str, float] = {
            phase: round(self._seconds[phase], 6) for phase in STAGES if phase in self._seconds
        }
        return {**seconds, "total": round(time.monotonic() - self._begin, 6)}
