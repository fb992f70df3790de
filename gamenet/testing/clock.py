"""A clock that only the test moves.

What stays true: it never goes back.
"""

from __future__ import annotations

import math


class FakeClock:
    """Call it for the time in seconds, as `time.monotonic`; `advance()` moves it. For whatever takes a `clock`.

    It is also what a `VirtualTimeLoop` goes by.
    """

    __slots__ = ("_now",)

    def __init__(self, start: float = 0.0) -> None:
        if not math.isfinite(start):
            raise ValueError(f"a clock cannot start at {start} s")
        self._now = start

    def __call__(self) -> float:
        return self._now

    def __repr__(self) -> str:
        return f"FakeClock({self._now:g})"

    def advance(self, seconds: float) -> float:
        """Let `seconds` pass; returns the new time. `ValueError` for what is below 0 or no finite number."""
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"a clock cannot advance by {seconds} s")
        self._now += seconds
        return self._now
