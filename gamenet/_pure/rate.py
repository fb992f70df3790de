"""A session's rate: packets, bytes and the cost of packet ids in one token bucket, whose tokens are seconds.

What stays true: the credit is never above `burst`, and below 0 only by what was taken last. Time comes in as an
argument.
"""

from __future__ import annotations

import math
import sys

from gamenet import errors

RESUME_CREDIT = 0.02
"""Seconds of credit for which a spent bucket waits, so that one wake-up serves more than one packet."""


SPENT = 1e-9
"""Seconds of credit that are none: ten times a tenth is not quite one."""

MANY = 1_000_000
"""Packets; `affords()` does not count further."""


class RateBucket:
    """One second of credit comes in per second, up to `burst`; a packet takes what its cost and its bytes are worth.

    A packet of cost 1 takes `1 / packets_per_second` and each of its bytes `1 / bytes_per_second`; None makes that
    part free. So a session may send `packets_per_second` empty packets, or `bytes_per_second` in few large ones, or a
    mix. What is taken may be more than is there: then `is_spent` is true until it came in again. `ValueError` for a
    rate or a burst that is not above 0. Locking rule: the stream's thread only.
    """

    __slots__ = ("_burst", "_per_byte", "_per_packet", "_refilled", "credit")

    def __init__(
        self, packets_per_second: float | None, bytes_per_second: float | None, burst: float = 1.0, now: float = 0.0
    ) -> None:
        self._per_packet = _seconds_of_one("packets_per_second", packets_per_second)
        self._per_byte = _seconds_of_one("bytes_per_second", bytes_per_second)
        if not burst > 0.0:
            raise errors.not_above_zero("burst", burst)
        self._burst = float(burst)
        self._refilled = now
        self.credit = self._burst

    @property
    def is_spent(self) -> bool:
        """Whether the next packet has to wait."""
        return self.credit <= SPENT

    @property
    def wait(self) -> float:
        """Seconds from the last `refill()` until it is worth to go on; 0 while there is credit."""
        return min(RESUME_CREDIT, self._burst) - self.credit if self.credit <= SPENT else 0.0

    def refill(self, now: float) -> None:
        """Bring the credit up to `now`, in seconds."""
        if now > self._refilled:
            self.credit = min(self._burst, self.credit + now - self._refilled)
            self._refilled = now

    def take(self, cost: float, size: int) -> None:
        """Pay for a packet of `size` bytes."""
        self.credit -= cost * self._per_packet + size * self._per_byte

    def affords(self, cost: float, size: int) -> int:
        """How many packets of `size` bytes it takes to spend the credit: 0 if it is spent, at most `MANY`."""
        credit = self.credit - SPENT
        if credit <= 0.0:
            return 0
        price = cost * self._per_packet + size * self._per_byte
        return MANY if credit > price * MANY else math.ceil(credit / price)


def _seconds_of_one(name: str, rate: float | None) -> float:
    if rate is None:
        return 0.0
    if not rate > 0:
        raise errors.not_above_zero(name, rate)
    return min(1.0 / rate, sys.float_info.max)  # infinity times a cost of 0 is no number
