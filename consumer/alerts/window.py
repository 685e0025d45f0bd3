"""How often something happened of late, by category, in bounded memory. Pure; times are seconds."""

from collections import Counter, deque
from typing import Final

_SLICES: Final = 60
MAX_CATEGORIES: Final = 1000
"""In a slice: anybody may invent more."""


class Window:
    """Counts what happened within the last `length` seconds, give or take a sixtieth."""

    def __init__(self, length: float) -> None:
        self._length = length
        self._width = max(length / _SLICES, 0.001)
        self._slices: deque[tuple[int, Counter[str]]] = deque()

    def add(self, category: str, at: float) -> None:
        """Count once; what is older than the latest counts as the latest."""
        number = int(at / self._width)
        if not self._slices or self._slices[-1][0] < number:
            self._slices.append((number, Counter()))
        counts = self._slices[-1][1]
        if category in counts or len(counts) < MAX_CATEGORIES:
            counts[category] += 1
        self._forget(at)

    def counts(self, now: float) -> Counter[str]:
        """Return how often it happened, by category."""
        self._forget(now)
        return sum((counts for _, counts in self._slices), Counter())

    def _forget(self, now: float) -> None:
        while self._slices and (self._slices[0][0] + 1) * self._width <= now - self._length:
            self._slices.popleft()
