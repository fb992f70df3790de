from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from gamenet._compiled.packet cimport RawPacket


cdef enum Kind:
    UNSIGNED
    SIGNED
    FLOAT
    BOOLEAN
    TEXT
    RAW


cdef class Field:
    cdef readonly str name
    cdef readonly str code
    cdef readonly Py_ssize_t offset  # from the start of the body, in bytes
    cdef readonly Py_ssize_t size  # bytes
    cdef readonly str byte_order
    cdef readonly bint secret
    cdef readonly bint required
    cdef readonly object default
    cdef Kind kind
    cdef bint swaps  # the wire's byte order is not this machine's

    cdef inline int require_room(self, RawPacket packet) except -1
    cdef object read(self, const uint8_t* data)
    cdef int write(self, uint8_t* out, object value) except -1
    cdef int write_integer(self, uint8_t* out, object value) except -1
    cdef int write_float(self, uint8_t* out, object value) except -1
    cdef int write_text(self, uint8_t* out, object value) except -1
    cdef int write_padded(self, uint8_t* out, const uint8_t* data, Py_ssize_t held) except -1


cdef class Struct:
    cdef readonly tuple fields
    cdef readonly Py_ssize_t size  # bytes


cdef class TypedPacket(RawPacket):
    cdef int fill(self, Struct layout, tuple values, dict named) except -1


cdef inline void copy_bytes(uint8_t* out, const uint8_t* data, Py_ssize_t size, bint swaps) noexcept:
    cdef Py_ssize_t index
    if not swaps:
        memcpy(out, data, size)
        return
    for index in range(size):
        out[index] = data[size - 1 - index]
