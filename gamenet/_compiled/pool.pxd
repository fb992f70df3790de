from libc.stdint cimport uint8_t


cdef class PoolAllocator:
    cdef readonly Py_ssize_t block_size  # bytes of each block
    cdef readonly Py_ssize_t max_blocks
    cdef readonly str when_empty
    cdef readonly Py_ssize_t outstanding
    cdef readonly Py_ssize_t fallbacks
    cdef readonly Py_ssize_t refused
    cdef Py_ssize_t viewed  # blocks that somebody looks at
    cdef uint8_t* free_head  # free blocks, each beginning with the address of the next; owned
    cdef Py_ssize_t free_count
    cdef Py_ssize_t keeps

    cdef Block lend(self)
    cdef uint8_t* take_memory(self) except NULL
    cdef void count_viewed(self, Py_ssize_t change) noexcept
    cdef void take_back(self, uint8_t* memory) noexcept


cdef class Block:
    cdef PoolAllocator owner
    cdef uint8_t* memory  # owned until released; NULL afterwards
    cdef Py_ssize_t exports  # views that exist
    cdef object __weakref__

    cdef int copy_in(self, Py_ssize_t offset, const uint8_t* data, Py_ssize_t size) except -1
