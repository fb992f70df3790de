from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t


cdef enum:
    KEEP_FACTOR = 2  # what is kept may hold a chunk up to this many times its own size


cdef class RawPacket:
    cdef object source  # bytes or Block: keeps `data` alive
    cdef const uint8_t* data  # the body; borrowed from `source` for as long as `source` is the same
    cdef Py_ssize_t size  # bytes of the body
    cdef uint64_t id
    cdef uint64_t number  # the sequence number
    cdef bytes head  # its header, if that has extra fields; else None
    cdef object reader  # the codec that reads them

    cdef int take_body(self, body) except -1
    cdef uint8_t* own(self, Py_ssize_t size) except NULL
    cdef int make_writable(self) except -1
    cdef int move_out(self) except -1
    cdef int settle(self) except -1


cdef inline void let_go(RawPacket packet) noexcept:
    """Refer to no chunk any more: nobody but gamenet holds this packet, and it will be filled anew."""
    packet.source = None
    packet.data = NULL
    packet.size = 0
    if packet.head is not None:
        packet.head = packet.reader = None


cdef inline bint may_hold(object source, Py_ssize_t size) noexcept:
    """Whether what is kept may hold `source` for its `size` bytes: not a pool's block, nor a chunk much larger."""
    return isinstance(source, bytes) and PyBytes_GET_SIZE(source) <= KEEP_FACTOR * size


cdef inline bint is_all_of(object source, Py_ssize_t size) noexcept:
    """Whether a body of `size` bytes in `source` is the whole of an immutable object."""
    return isinstance(source, bytes) and PyBytes_GET_SIZE(source) == size


cdef uint64_t as_number(str name, object value) except? 0xFFFFFFFFFFFFFFFF
