"""What a worker counts of its tasks: plain numbers, added to on the way and read when metrics are collected. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from consumer.request import TaskRequest
from schemas import Result

OTHER: Final = "_other"
"""The label of all categories that the worker does not serve, whose tasks it only answers."""

Labels = tuple[tuple[str, str], ...]
"""Attributes of a number, by name."""


def labels(**given: str) -> Labels:
    """Return attributes; `__` stands for the dot in a name."""
    return tuple((name.replace("__", "."), value) for name, value in given.items())


class Counts:
    """The numbers of one worker since its start, each by its labels."""

    def __init__(self, slots: Mapping[str, int]) -> None:
        self.slots = {labels(category=category): number for category, number in slots.items()}
        self.active: Counter[Labels] = Counter(dict.fromkeys(self.slots, 0))
        self.consumed: Counter[Labels] = Counter()
        self.sent: Counter[Labels] = Counter()
        self.completed: Counter[Labels] = Counter()
        self.redeliveries: Counter[Labels] = Counter()
        self.leases_lost: Counter[Labels] = Counter({(): 0})
        self.output: Counter[Labels] = Counter()
        self.cpu: dict[Labels, float] = {}
        self.pending: dict[Labels, int] = {}
        self.ack_pending: dict[Labels, int] = {}

    def category(self, name: str) -> Labels:
        """Return a category as a label: those that are not ours are anybody's invention, and have one for all."""
        return known if (known := labels(category=name)) in self.slots else labels(category=OTHER)

    def template(self, subject: str) -> str:
        """Return a subject that ends with a category, or `*`, in the same way."""
        head, _, last = subject.rpartition(".")
        return subject if labels(category=last) in self.slots else f"{head}.*"

    def received(self, request: TaskRequest) -> None:
        """Count a delivery."""
        category = self.category(request.category)
        self.active[category] += 1
        if request.position.deliveries > 1:
            self.redeliveries[category] += 1

    def released(self, request: TaskRequest, consumed: Mapping[str, Any]) -> None:
        """Count the end of a delivery."""
        self.active[self.category(request.category)] -= 1
        self.consumed[tuple(consumed.items())] += 1

    def used(self, result: Result) -> None:
        """Add what a run has written and used."""
        category = self.category(result.category)
        for stream, facts in (("stdout", result.streams.stdout), ("stderr", result.streams.stderr)):
            self.output[category + labels(stream=stream)] += facts.bytes
        if (usage := result.usage) is not None:
            for mode, seconds in (("user", usage.cpu_user), ("system", usage.cpu_system)):
                key = category + labels(cpu__mode=mode)
                self.cpu[key] = self.cpu.get(key, 0.0) + seconds


def points(numbers: Mapping[Labels, int] | Mapping[Labels, float]) -> Iterable[tuple[float, dict[str, str]]]:
    """Yield each number with its attributes; a copy, since another thread reads than counts."""
    return [(number, dict(key)) for key, number in [*numbers.items()]]
