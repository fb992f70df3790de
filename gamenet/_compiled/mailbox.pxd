cdef extern from "ring.h":
    ctypedef struct gamenet_ring:
        pass

    int gamenet_ring_open(gamenet_ring* ring, size_t max_items) noexcept nogil
    void gamenet_ring_free(gamenet_ring* ring) noexcept nogil
    size_t gamenet_ring_waiting(gamenet_ring* ring) noexcept nogil
    size_t gamenet_ring_refused(gamenet_ring* ring) noexcept nogil
    bint gamenet_ring_is_shut(gamenet_ring* ring) noexcept nogil
    int gamenet_ring_put(gamenet_ring* ring, void* item) noexcept nogil
    bint gamenet_ring_has_next(gamenet_ring* ring) noexcept nogil
    void* gamenet_ring_take(gamenet_ring* ring) noexcept nogil
    void gamenet_ring_sleep(gamenet_ring* ring) noexcept nogil
    void gamenet_ring_stay_awake(gamenet_ring* ring) noexcept nogil
    void gamenet_ring_shut(gamenet_ring* ring) noexcept nogil


cdef class Mailbox:
    cdef gamenet_ring ring  # of references that it owns
    cdef object wake
    cdef readonly Py_ssize_t max_items
    cdef unsigned long long taken  # changed in the critical section only, as the two below and the ring's head
    cdef unsigned long long discarded
    cdef object __weakref__

    cdef int call_wake(self) except -1
    cdef bint sleep(self) noexcept
    cdef Py_ssize_t collect(self, list items, Py_ssize_t held) except -1
