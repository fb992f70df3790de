from libc.stdint cimport uint8_t

from gamenet._compiled.pool cimport Block, PoolAllocator


cdef class Receiver:
    cdef PoolAllocator pool
    cdef Block block  # what the next read goes into; None while its bytes are being parsed
    cdef object view  # the whole of `block`, as loops are given it

    cdef object lend(self)
    cdef uint8_t* memory(self) except NULL
    cdef Block take(self)
    cdef int give_back(self, Block block, object view) except -1
