cdef class TurnQueue:
    cdef readonly double budget  # seconds
    cdef object call_soon
    cdef object clock
    cdef double end  # of the slice that runs, or of the turn
    cdef double looked  # when somebody looked last
    cdef bint is_running  # the loop was asked for another turn
    cdef object waiting  # deque of callables

    cdef double look_now(self, double elapsed) except? -1.0
    cdef int run_soon(self) except -1
