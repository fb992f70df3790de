"""What was measured, ready to be shown.

What stays true: a ratio is a contender's time as a multiple of the compiled twin's, from measurements side by side; a
bare time says what a machine did in one moment.
"""

import statistics
from dataclasses import dataclass

from bench.timing import Measured

COMPILED, PURE = "compiled", "pure"


@dataclass(frozen=True)
class Ratio:
    """How many times as long as the compiled twin: in the middle, and from `low` to `high`."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        decimals = _decimals(self.median)
        return f"{self.median:,.{decimals}f} ({self.low:,.{decimals}f}-{self.high:,.{decimals}f})"


@dataclass(frozen=True)
class Row:
    """One workload: nanoseconds per `unit` by contender, and the ratios of all but the compiled twin."""

    name: str
    title: str
    unit: str
    ns: dict[str, float]
    ratios: dict[str, Ratio]


def row_of(name: str, title: str, unit: str, count: int, measured: dict[str, Measured]) -> Row:
    """From contenders that took turns: a ratio per round. `count` units per call."""
    compiled = measured[COMPILED]
    others = {contender: one.ratios_to(compiled) for contender, one in measured.items() if one is not compiled}
    return Row(
        name, title, unit,
        {contender: one.median / count * 1e9 for contender, one in measured.items()},
        {contender: Ratio(statistics.median(all), min(all), max(all)) for contender, all in others.items()},
    )


def figures(value: float) -> str:
    """Three significant figures, and no fewer of a large number."""
    return f"{value:,.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
