from libc.stdint cimport uint8_t, uint64_t


cdef class RawPacket:
    cdef object source  # bytes or Block: keeps `data` alive
    cdef const uint8_t* data  # the body; borrowed from `source` for as long as `source` is the same
    cdef Py_ssize_t size  # bytes of the body
    cdef uint64_t id
    cdef uint64_t number  # the sequence number

    cdef uint8_t* own(self, Py_ssize_t size) except NULL
    cdef int make_writable(self) except -1
    cdef int move_out(self) except -1
    cdef int settle(self) except -1


cdef inline void let_go(RawPacket packet) noexcept:
    """Refer to no chunk any more: nobody but gamenet holds this packet, and it will be filled anew."""
    packet.source = None
    packet.data = NULL
    packet.size = 0


cdef uint64_t as_number(str name, object value) except? 0xFFFFFFFFFFFFFFFF
