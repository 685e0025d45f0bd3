"""Whose story a task's is part of, in the W3C's terms (Trace Context, Baggage). Pure.

What comes with a message is anybody's text: only what is well-formed is believed and handed on.
"""

import random
import re
from collections.abc import Mapping
from typing import Final, Self

from msgspec import Struct, structs

PREVIOUS: Final = "Jetrunner-Previous-Attempt"
"""Header of ours: the `traceparent` of the attempt before this one."""

_TRACEPARENT: Final = "traceparent"
_LONGEST: Final = {_TRACEPARENT: 256, "tracestate": 512, "baggage": 8192}
"""The headers that carry a context, and how many characters of each are handed on."""
_NAMES: Final = frozenset({*_LONGEST, PREVIOUS.lower()})
_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_FLAGS: Final = slice(53, 55)
_PLAIN: Final = re.compile(r"[\t -~]+")

Carrier = Mapping[str, str]
"""Headers, by their names in lower case, that carry a context: `traceparent`, `tracestate`, `baggage`."""


class Trace(Struct, frozen=True, kw_only=True):
    """The trace that a task belongs to.

    `carrier` is the context that all attempts are children of, and `previous` the `traceparent` of the latest attempt
    before. `span_id` is the span of this attempt, if it is recorded.
    """

    carrier: Carrier = {}
    previous: str | None = None
    span_id: str | None = None

    @classmethod
    def read(cls, headers: Mapping[str, str]) -> Self:
        """Read the headers of a message, whatever the case of their names."""
        given = {low: value for name, value in headers.items() if (low := name.lower()) in _NAMES}
        if not given:
            return cls()
        previous = given.get(PREVIOUS.lower(), "")
        return cls(carrier=carrier_of(given), previous=previous if _FORM.fullmatch(previous) else None)

    @property
    def trace_id(self) -> str | None:
        """The trace's id, 32 hexadecimal digits; None if there is no trace."""
        return trace_id_of(self.carrier) if self.carrier else None

    def headers(self) -> dict[str, str]:
        """Return what `read` reads of it for the next attempt."""
        previous = self.previous if self.span_id is None else f"00-{self.trace_id}-{self.span_id}-01"
        return {**self.carrier, **({PREVIOUS: previous} if previous is not None else {})}

    def begun(self, carrier: Carrier, span_id: str) -> Self:
        """Return the trace of an attempt that has begun."""
        return structs.replace(self, carrier=carrier, span_id=span_id)


def carrier_of(given: Mapping[str, str]) -> dict[str, str]:
    """Return the well-formed context among headers with lower-case names; without a parent there is none."""
    if not _FORM.fullmatch(given.get(_TRACEPARENT, "")):
        return {}
    return {
        name: value
        for name, longest in _LONGEST.items()
        if len(value := given.get(name, "")) <= longest and _PLAIN.fullmatch(value)
    }


def carrier_from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the context that whoever has started this process has left in its environment."""
    return carrier_of({name: environ[name.upper()] for name in _LONGEST if name.upper() in environ})


def trace_id_of(carrier: Carrier) -> str | None:
    """Return the trace's id of a context."""
    found = _FORM.fullmatch(carrier.get(_TRACEPARENT, ""))
    return found[1] if found is not None else None


def is_sampled(carrier: Carrier) -> bool:
    """Tell whether whoever has begun a context records it."""
    return bool(int(carrier[_TRACEPARENT][_FLAGS], 16) & 1)


def unsampled() -> Carrier:
    """Return the context of a trace that begins here and that nobody records."""
    trace_id, span_id = random.getrandbits(128) or 1, random.getrandbits(64) or 1
    return {_TRACEPARENT: f"00-{trace_id:032x}-{span_id:016x}-00"}


def without_trace(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers without those that `Trace.read` reads."""
    return {name: value for name, value in headers.items() if name.lower() not in _NAMES}
