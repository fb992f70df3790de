# cython: freethreading_compatible=True
"""A session's rate: the compiled twin of `gamenet._pure.rate`.

What stays true: the credit is never above `burst`, and below 0 only by what was taken last. Time comes in as an
argument. Locking rule: the stream's thread only.
"""

cimport cython

RESUME_CREDIT = 0.02
"""Seconds of credit for which a spent bucket waits, so that one wake-up serves more than one packet."""

cdef double RESUME = RESUME_CREDIT


@cython.no_gc
cdef class RateBucket:
    """One second of credit comes in per second, up to `burst`; a packet takes what its cost and its bytes are worth.

    A packet of cost 1 takes `1 / packets_per_second` and each of its bytes `1 / bytes_per_second`; None makes that
    part free. So a session may send `packets_per_second` empty packets, or `bytes_per_second` in few large ones, or a
    mix. What is taken may be more than is there: then `is_spent` is true until it came in again.
    """

    def __init__(self, packets_per_second, bytes_per_second, double burst=1.0, double now=0.0):
        self.per_packet = 1.0 / packets_per_second if packets_per_second else 0.0
        self.per_byte = 1.0 / bytes_per_second if bytes_per_second else 0.0
        self.burst = burst
        self.refilled = now
        self.credit = burst

    @property
    def is_spent(self):
        """Whether the next packet has to wait."""
        return self.credit <= 0.0

    @property
    def wait(self):
        """Seconds from the last `refill()` until it is worth to go on; 0 while there is credit."""
        return min(RESUME, self.burst) - self.credit if self.credit <= 0.0 else 0.0

    def refill(self, double now):
        """Bring the credit up to `now`, in seconds."""
        self.refill_at(now)

    def take(self, double cost, Py_ssize_t size):
        """Pay for a packet of `size` bytes."""
        self.pay(cost, size)

    cdef void refill_at(self, double now) noexcept:
        if now > self.refilled:
            self.credit = min(self.burst, self.credit + now - self.refilled)
            self.refilled = now

    cdef void pay(self, double cost, Py_ssize_t size) noexcept:
        self.credit -= cost * self.per_packet + size * self.per_byte
