"""What a case of the benchmark has measured, and its table."""

from collections.abc import Iterator, Sequence
from statistics import median, quantiles
from typing import Literal

from msgspec import Struct


class Figure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measured value, and what it should be; without a target it only explains the others."""

    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    below: float | None = None

    @property
    def target(self) -> str:
        """What it should be, in words."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.below is None else f"< {self.below:g}"

    @property
    def verdict(self) -> Literal["", "ok", "missed"]:
        """Whether it is what it should be."""
        if self.at_least is None and self.below is None:
            return ""
        reached = self.at_least is None or self.value >= self.at_least
        reached = reached and (self.below is None or self.value < self.below)
        return "ok" if reached else "missed"


def ratio(name: str, ours: Sequence[float], bare: Sequence[float], *, at_least: float | None = None) -> Figure:
    """Return the median of the ratios, each within one round."""
    value = median(mine / other for mine, other in zip(ours, bare, strict=True))
    return Figure(name=name, value=value, unit="x", at_least=at_least)


def both(name: str, ours: Sequence[float], bare: Sequence[float], unit: str) -> Iterator[Figure]:
    """Yield the medians that a ratio is made of."""
    yield Figure(name=f"{name}, jetrunner", value=median(ours), unit=unit)
    yield Figure(name=f"{name}, bare loop", value=median(bare), unit=unit)


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile of at least two values, interpolated."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def table(measured: dict[str, list[Figure]]) -> Iterator[str]:
    """Yield the lines of an aligned table."""
    rows = [("case", "figure", "value", "unit", "target", "verdict")]
    for case, figures in measured.items():
        for index, figure in enumerate(figures):
            value = f"{figure.value:,.3g}" if abs(figure.value) < 100 else f"{figure.value:,.0f}"
            rows.append((case if index == 0 else "", figure.name, value, figure.unit, figure.target, figure.verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        if number and row[0]:
            yield ""
        cells = [
            cell.rjust(width) if at == 2 else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
