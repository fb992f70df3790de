from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from gamenet._compiled.header cimport BookHeader, HeaderCodec, write_book, writes_book
from gamenet._compiled.packet cimport RawPacket
from gamenet._compiled.pool cimport Block, PoolAllocator


cdef enum:
    LARGE = 4096  # bytes from which on a frame or body is referred to: that beats copying from about one page on


cdef class Outbox:
    cdef HeaderCodec wire  # how packets are framed now
    cdef PoolAllocator pool
    cdef bytes only  # a frame that is all there is so far: kept as it is, until something follows; else None
    cdef list chunks  # full chunks as bytes, oldest first; None while there are none
    cdef Py_ssize_t chunks_size  # bytes of `only` and `chunks` together
    cdef Block block  # what is being filled; None while nothing is
    cdef Py_ssize_t used  # bytes in it
    cdef Py_ssize_t usual  # bytes that were in it when it was taken last: so much is likely again

    cdef uint8_t* reserve(self, Py_ssize_t size) except NULL
    cdef int make_room(self, Py_ssize_t size) except -1
    cdef int follow_only(self) except -1
    cdef int seal(self) except -1
    cdef int add_chunk(self, bytes chunk) except -1
    cdef Py_ssize_t append_slowly(
        self, uint64_t packet_id, const uint8_t* body, Py_ssize_t size, uint64_t sequence, object extras
    ) except -1
    cdef Py_ssize_t append_large(self, uint64_t packet_id, bytes body, uint64_t sequence, object extras) except -1
    cdef Py_ssize_t append_bytes(self, bytes frame) except -1
    cdef bytes take_single(self)
    cdef list take_chunks(self)
    cdef list take_first(self, Py_ssize_t max_size)


cdef inline Py_ssize_t gathered(Outbox outbox) noexcept:
    """Bytes gathered and not yet taken."""
    return outbox.chunks_size + outbox.used


cdef inline Py_ssize_t append_body(
    Outbox outbox, uint64_t packet_id, const uint8_t* body, Py_ssize_t size, uint64_t sequence
) except -1:
    """Add one packet; returns its size with the header."""
    cdef Py_ssize_t packet_size = <Py_ssize_t>sizeof(BookHeader) + size
    cdef uint8_t* out
    if outbox.block is None or packet_size > outbox.block.room - outbox.used:
        return outbox.append_slowly(packet_id, body, size, sequence, None)
    if not writes_book(outbox.wire, packet_id, size, sequence):
        return outbox.append_slowly(packet_id, body, size, sequence, None)
    out = outbox.block.memory + outbox.used
    write_book(out, packet_id, size, sequence)
    if size:
        memcpy(out + sizeof(BookHeader), body, size)
    outbox.used += packet_size
    return packet_size
