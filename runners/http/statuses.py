"""Which response statuses a task takes for a success. Pure."""

import re
from collections.abc import Sequence
from typing import Final

Expected = int | str | list[int | str]
"""A status, a range such as `200-299`, a class such as `2xx`, several of them with commas, or a list of all these."""

LOWEST: Final = 100
HIGHEST: Final = 599

_PART: Final = re.compile(r"(?P<first>[0-9]{3})(?:\s*-\s*(?P<last>[0-9]{3}))?|(?P<hundred>[1-5])xx", re.ASCII)


class StatusSet:
    """Some statuses; `str` gives them as they were written."""

    def __init__(self, ranges: Sequence[range]) -> None:
        self._ranges = tuple(ranges)

    @classmethod
    def parse(cls, expected: Expected) -> "StatusSet":
        """Read what a task expects.

        Raises:
            ValueError: it is empty, or one of its parts cannot be a status.
        """
        parts = expected if isinstance(expected, list) else [expected]
        ranges = [_range(piece.strip()) for part in parts for piece in str(part).split(",")]
        if not ranges:
            raise ValueError("`expected_status` names no status")
        return cls(ranges)

    def __contains__(self, status: int) -> bool:
        return any(status in one for one in self._ranges)

    def __str__(self) -> str:
        return ", ".join(f"{one[0]}" if len(one) == 1 else f"{one[0]}-{one[-1]}" for one in self._ranges)


def _range(text: str) -> range:
    found = _PART.fullmatch(text)
    if found is None:
        raise ValueError(f"`expected_status` has {text!r}, but must be such as 200, 200-299 or 2xx")
    if found["hundred"]:
        first = int(found["hundred"]) * 100
        return range(first, first + 100)
    first, last = int(found["first"]), int(found["last"] or found["first"])
    if not LOWEST <= first <= last <= HIGHEST:
        raise ValueError(f"`expected_status` has {text!r}, which is no status or range from {LOWEST} to {HIGHEST}")
    return range(first, last + 1)
