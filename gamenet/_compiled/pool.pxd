from libc.stdint cimport uint8_t


cdef enum:
    MOST_SIZES = 8  # MAX_SIZES


cdef struct SizeClass:  # the blocks of one size
    Py_ssize_t size  # bytes of each
    Py_ssize_t outstanding
    Py_ssize_t free_count
    uint8_t* free_head  # free blocks, each with the address of the next in front of it; owned
    Py_ssize_t fallbacks
    Py_ssize_t refused


cdef class PoolAllocator:
    cdef readonly Py_ssize_t block_size  # bytes of the largest
    cdef readonly tuple sizes
    cdef readonly Py_ssize_t max_blocks
    cdef readonly str when_empty
    cdef readonly Py_ssize_t max_waiters
    cdef SizeClass classes[MOST_SIZES]  # the smallest first
    cdef Py_ssize_t count  # how many of them
    cdef SizeClass* largest  # the last of them
    cdef Py_ssize_t viewed  # blocks that somebody looks at
    cdef Py_ssize_t keeps
    cdef bint is_plain  # nobody waits for blocks, and nothing is to be debugged
    cdef bint fills
    cdef object running_loop
    cdef list queues  # of waiters, a deque for each size; None unless `when_empty` is "wait"
    cdef object debug
    cdef dict owners_by_address  # of blocks that are out; None unless tags are asked for
    cdef object __weakref__

    cdef Block lend(self)
    cdef Block lend_for(self, Py_ssize_t size, str purpose)
    cdef Block lend_of(self, SizeClass* of, str purpose)
    cdef SizeClass* class_for(self, Py_ssize_t size) except NULL
    cdef SizeClass* class_of(self, object size) except NULL
    cdef uint8_t* take_memory(self, SizeClass* of) except NULL
    cdef void count_viewed(self, Py_ssize_t change) noexcept
    cdef void take_back(self, SizeClass* of, uint8_t* memory) noexcept

    cdef Block lend_watched(self, SizeClass* of, str purpose)
    cdef str tag(self, str purpose)
    cdef int count_request(self, SizeClass* of) except -1
    cdef bint reserve(self, SizeClass* of) except -1
    cdef bint has_room(self, SizeClass* of) except -1
    cdef object queue_of(self, SizeClass* of)
    cdef Block lend_reserved(self, SizeClass* of, str who)
    cdef uint8_t* take_reserved(self, SizeClass* of) except NULL
    cdef void take_back_watched(self, SizeClass* of, uint8_t* memory) noexcept
    cdef object ask(self, SizeClass* of)
    cdef int leave(self, SizeClass* of, object waiter) except -1
    cdef int serve(self, SizeClass* of) except -1
    cdef object next_waiter(self, SizeClass* of, bint reserves)


cdef class Block:
    cdef PoolAllocator owner
    cdef SizeClass* of  # borrowed from `owner`, which it keeps alive
    cdef uint8_t* memory  # owned until released; NULL afterwards
    cdef Py_ssize_t room  # bytes of it
    cdef Py_ssize_t exports  # views that exist
    cdef object __weakref__

    cdef uint8_t* held(self) noexcept
    cdef int copy_in(self, Py_ssize_t offset, const uint8_t* data, Py_ssize_t size) except -1
