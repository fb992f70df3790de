from gamenet._compiled.mailbox cimport Mailbox


cdef class CallRunner:
    cdef Mailbox mailbox
    cdef object clock
    cdef double budget
    cdef object failed
    cdef list batch  # taken from the mailbox; of these so many were begun
    cdef Py_ssize_t begun
    cdef Py_ssize_t stride  # calls until the next look at the clock
    cdef readonly unsigned long long delivered
    cdef readonly unsigned long long discarded

    cdef bint carry_out(self, double end) except -1
    cdef int make(self, function, tuple arguments) except -1
    cdef int look_at(self, result, function) except -1
    cdef bint has_time(self, double end) except -1
    cdef int drop_batch(self) except -1
