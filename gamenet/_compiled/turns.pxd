cdef class TurnQueue:
    cdef readonly double budget  # seconds
    cdef object call_soon
    cdef object clock
    cdef double end  # of the slice that runs, or of the turn
    cdef double looked  # when somebody asked for passed() last
    cdef bint is_running  # the loop was asked for another turn
    cdef object waiting  # deque of callables

    cdef bint ends(self, double began, double now) except -1
    cdef double pass_by(self, double began, double now) noexcept
    cdef int run_soon(self) except -1
