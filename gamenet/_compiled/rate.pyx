# cython: freethreading_compatible=True
"""A session's rate: the compiled twin of `gamenet._pure.rate`.

What stays true: the credit is never above `burst`, and below 0 only by what was taken last. Time comes in as an
argument. Locking rule: the stream's thread only.
"""

cimport cython
from libc.float cimport DBL_MAX
from libc.math cimport ceil

from gamenet import errors

RESUME_CREDIT = 0.02
"""Seconds of credit for which a spent bucket waits, so that one wake-up serves more than one packet."""

SPENT = 1e-9
"""Seconds of credit that are none: ten times a tenth is not quite one."""

MANY = 1_000_000
"""Packets; `affords()` does not count further."""

cdef double RESUME = RESUME_CREDIT
cdef double NO_CREDIT = SPENT
cdef Py_ssize_t COUNTED = MANY


@cython.no_gc
cdef class RateBucket:
    """One second of credit comes in per second, up to `burst`; a packet takes what its cost and its bytes are worth.

    A packet of cost 1 takes `1 / packets_per_second` and each of its bytes `1 / bytes_per_second`; None makes that
    part free. So a session may send `packets_per_second` empty packets, or `bytes_per_second` in few large ones, or a
    mix. What is taken may be more than is there: then `is_spent` is true until it came in again. `ValueError` for a
    rate or a burst that is not above 0. Locking rule: the stream's thread only.
    """

    def __init__(self, packets_per_second, bytes_per_second, double burst=1.0, double now=0.0):
        self.per_packet = _seconds_of_one("packets_per_second", packets_per_second)
        self.per_byte = _seconds_of_one("bytes_per_second", bytes_per_second)
        if not burst > 0.0:
            raise errors.not_above_zero("burst", burst)
        self.burst = burst
        self.refilled = now
        self.credit = burst

    @property
    def is_spent(self):
        """Whether the next packet has to wait."""
        return self.credit <= NO_CREDIT

    @property
    def wait(self):
        """Seconds from the last `refill()` until it is worth to go on; 0 while there is credit."""
        return min(RESUME, self.burst) - self.credit if self.credit <= NO_CREDIT else 0.0

    def refill(self, double now):
        """Bring the credit up to `now`, in seconds."""
        self.refill_at(now)

    def take(self, double cost, Py_ssize_t size):
        """Pay for a packet of `size` bytes."""
        self.pay(cost, size)

    def affords(self, double cost, Py_ssize_t size):
        """How many packets of `size` bytes it takes to spend the credit: 0 if it is spent, at most `MANY`."""
        return self.left_for(cost, size)

    cdef bint is_empty(self) noexcept:
        return self.credit <= NO_CREDIT

    cdef void refill_at(self, double now) noexcept:
        if now > self.refilled:
            self.credit = min(self.burst, self.credit + now - self.refilled)
            self.refilled = now

    cdef void pay(self, double cost, Py_ssize_t size) noexcept:
        self.credit -= cost * self.per_packet + size * self.per_byte

    cdef Py_ssize_t left_for(self, double cost, Py_ssize_t size) noexcept:
        cdef double price, credit = self.credit - NO_CREDIT
        if credit <= 0.0:
            return 0
        price = cost * self.per_packet + size * self.per_byte
        return COUNTED if credit > price * COUNTED else <Py_ssize_t>ceil(credit / price)


cdef double _seconds_of_one(name, rate) except -1.0:
    if rate is None:
        return 0.0
    if not rate > 0:
        raise errors.not_above_zero(name, rate)
    return min(1.0 / <double>rate, DBL_MAX)  # infinity times a cost of 0 is no number
