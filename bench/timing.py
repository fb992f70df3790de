"""Fair timing on a noisy machine: every contender once per round, ratios per round, medians of the ratios.

A bare time says what the machine did in that moment; the ratio of two times of one round says how they compare.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Measured:
    """Seconds per call of one contender, a value per round."""

    name: str
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def ratios_to(self, other: "Measured") -> list[float]:
        """How many times as long as `other` it took, per round."""
        return [ours / theirs for ours, theirs in zip(self.seconds, other.seconds, strict=True)]


@dataclass
class CoreTime:
    """How much of the time spent measuring this process really had a core."""

    passed: float = 0.0
    ran: float = 0.0

    @property
    def lost(self) -> float:
        """The share that other programs took, 0 to 1."""
        return max(0.0, 1 - self.ran / self.passed) if self.passed else 0.0

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Count what passes and what runs inside."""
        passed, ran = time.perf_counter(), time.process_time()
        yield
        self.passed += time.perf_counter() - passed
        self.ran += time.process_time() - ran


def alternate(contenders: dict[str, Callable[[], object]], rounds: int, calls: int = 3) -> dict[str, Measured]:
    """Time every contender `rounds` times in turn; each time is the best of `calls`."""
    measured = {name: Measured(name, []) for name in contenders}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in contenders.items():
                measured[name].seconds.append(min(_seconds(run) for _ in range(calls)))
    finally:
        gc.enable()
    return measured


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def spread(ratios: list[float]) -> str:
    """Median and range, as `2.13 (2.05-2.30)`."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
