"""How long to wait before the next attempt: exponential back-off with full jitter.

What stays true: no delay is above `cap`, and none depends on anything but the random numbers that are handed in. No
clock, no loop: whoever waits does so by its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Up to `attempts` delays (None: without end), each anywhere from 0 to a ceiling that doubles: from `base` seconds,
    up to `cap` seconds.

    The whole delay is drawn, and not a small part of it (full jitter), for clients that lost the same server
    at the same moment would otherwise come back in waves. `ValueError` for a base that is not above 0, a cap below it,
    or fewer than 0 attempts.
    """

    base: float = 1.0
    cap: float = 30.0
    attempts: int | None = 5

    def __post_init__(self) -> None:
        if not 0 < self.base < math.inf:
            raise ValueError(f"base {self.base} is no time above 0 seconds")
        if not self.base <= self.cap < math.inf:
            raise ValueError(f"cap {self.cap} is not a time of at least the base of {self.base} seconds")
        if self.attempts is not None and self.attempts < 0:
            raise ValueError(f"attempts {self.attempts} is below 0")

    def ceilings(self) -> Iterator[float]:
        """The longest that each delay can be, in seconds."""
        ceiling, left = self.base, self.attempts
        while left is None or left > 0:
            yield ceiling
            ceiling = min(self.cap, ceiling * 2)
            left = None if left is None else left - 1

    def delays(self, random: Callable[[], float]) -> Iterator[float]:
        """One series of delays in seconds. `random()` gives numbers from 0 to 1, as `random.Random().random` does."""
        return (ceiling * random() for ceiling in self.ceilings())


def delays_of(backoff: Backoff | Iterable[float], random: Callable[[], float]) -> Iterator[float]:
    """A new series: of a `Backoff`, or the numbers of any iterable as they are. `ValueError`, when it comes to it, for
    a delay that is below 0 or not finite.
    """
    return map(_checked, backoff.delays(random) if isinstance(backoff, Backoff) else iter(backoff))


def _checked(seconds: float) -> float:
    if not 0 <= seconds < math.inf:
        raise ValueError(f"a delay of {seconds} s is no time of 0 s or more")
    return seconds
