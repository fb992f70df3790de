cdef class RateBucket:
    cdef double per_packet  # seconds that a cost of 1 takes
    cdef double per_byte
    cdef double burst
    cdef double refilled  # when
    cdef readonly double credit

    cdef bint is_empty(self) noexcept
    cdef void refill_at(self, double now) noexcept
    cdef void pay(self, double cost, Py_ssize_t size) noexcept
    cdef Py_ssize_t left_for(self, double cost, Py_ssize_t size) noexcept
