"""Round trips as players see them: how long from a request to its answer.

What stays true: memory is bounded; the figures are those of the latest `window` round trips.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable


class RoundTrips:
    """The latest `window` round trips, in seconds, and how many there were in all."""

    def __init__(self, clock: Callable[[], float], window: int = 1000) -> None:
        self.clock = clock
        self.count = 0
        self._latest: deque[float] = deque(maxlen=window)

    def add(self, seconds: float) -> None:
        """Note one more."""
        self.count += 1
        self._latest.append(seconds)

    def percentile(self, share: float) -> float | None:
        """The time that `share` (0 to 1) of the latest round trips did not exceed; None before the first."""
        if not 0 <= share <= 1:
            raise ValueError(f"share {share} is outside 0 to 1")
        ordered = sorted(self._latest)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
