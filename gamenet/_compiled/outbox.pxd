from libc.stdint cimport uint8_t, uint64_t

from gamenet._compiled.header cimport HeaderCodec
from gamenet._compiled.packet cimport RawPacket
from gamenet._compiled.pool cimport Block, PoolAllocator


cdef class Outbox:
    cdef readonly HeaderCodec codec
    cdef PoolAllocator pool
    cdef list chunks  # full chunks as bytes, oldest first; None while there are none
    cdef Py_ssize_t chunks_size  # their bytes together
    cdef Block block  # what is being filled; None while nothing is
    cdef Py_ssize_t used  # bytes in it

    cdef Py_ssize_t waiting(self) noexcept
    cdef uint8_t* reserve(self, Py_ssize_t size) except NULL
    cdef int seal(self) except -1
    cdef int add_chunk(self, bytes chunk) except -1
    cdef Py_ssize_t append_body(
        self, uint64_t packet_id, const uint8_t* body, Py_ssize_t size, uint64_t sequence
    ) except -1
    cdef Py_ssize_t append_bytes(self, bytes frame) except -1
    cdef list take_chunks(self)
