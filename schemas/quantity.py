"""Durations, sizes and moments as people write them: `"1m30s"`, `"64MiB"`, RFC 3339."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Self

import msgspec

MAX_DURATION: Final = 10 * 365 * 86400.0
"""Ten years, in seconds: longer than any task, short enough for every clock it is added to."""
MAX_SIZE: Final = 2**53
"""Bytes: the largest whole number every JSON reader keeps exactly."""

_DURATION_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)")
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h|d))+", re.ASCII)
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s?(B|[kK]B|MB|GB|TB|KiB|MiB|GiB|TiB)", re.ASCII)
_SIZE_UNITS: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Duration(float):
    """A span of time in seconds, zero or more; on the wire a number or a string such as `"1m30s"`."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a number of seconds or a string of numbers with units (ns, us, ms, s, m, h, d).

        Raises:
            ValueError: `value` is neither, or outside 0 to ten years.
        """
        seconds = _seconds(value)
        if not 0 <= seconds <= MAX_DURATION:
            raise ValueError(f"expected a duration between 0 and ten years, got {value!r}")
        return cls(seconds)


class Size(int):
    """A number of bytes, zero or more; on the wire a number or a string such as `"64MiB"`."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a number of bytes or a string with a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB).

        Raises:
            ValueError: `value` is neither, or outside 0 to 2**53.
        """
        size = _bytes(value)
        if not 0 <= size <= MAX_SIZE:
            raise ValueError(f"expected a size between 0 and 2**53 bytes, got {value!r}")
        return cls(size)


class Expiry:
    """The end of a task's usefulness: a moment, or a duration since the task was submitted."""

    __slots__ = ("_after", "_at")

    def __init__(self, *, at: datetime | None = None, after: Duration | None = None) -> None:
        self._at = at
        self._after = after

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read an RFC 3339 time with its offset, or a duration.

        Raises:
            ValueError: `value` is neither.
        """
        if isinstance(value, str) and (at := _moment(value)) is not None:
            return cls(at=at)
        try:
            return cls(after=Duration.parse(value))
        except ValueError:
            raise ValueError(f"expected an RFC 3339 time with its offset or a duration, got {value!r}") from None

    def moment(self, submitted: datetime) -> datetime:
        """Return the moment the task expires, given when it was submitted."""
        if self._at is not None:
            return self._at
        return submitted + timedelta(seconds=self._after or 0.0)

    def to_wire(self) -> str | float:
        """Return what `parse` reads back."""
        if self._at is not None:
            return self._at.isoformat().replace("+00:00", "Z")
        return float(self._after or 0.0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expiry) and self.to_wire() == other.to_wire()

    def __hash__(self) -> int:
        return hash(self.to_wire())

    def __repr__(self) -> str:
        return f"Expiry({self.to_wire()!r})"


def utc_now() -> datetime:
    """Return the current moment, in UTC."""
    return datetime.now(UTC)


def _seconds(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if 0 <= value <= MAX_DURATION else -1.0  # not all numbers fit a float
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return sum(float(number) * _DURATION_UNITS[unit] for number, unit in _DURATION_PART.findall(value))
    raise ValueError(f'expected a duration in seconds or such as "1m30s", got {value!r}')


def _bytes(value: object) -> int:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1:
        return int(value)
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        size = float(match[1]) * _SIZE_UNITS[match[2]]
        return int(size) if size <= MAX_SIZE else -1
    raise ValueError(f'expected a size in bytes or such as "64MiB", got {value!r}')


def _moment(value: str) -> datetime | None:
    try:
        return msgspec.convert(value, _Moment).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        return None
