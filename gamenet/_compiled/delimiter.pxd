from libc.stdint cimport uint8_t

from gamenet._compiled.header cimport Header, HeaderCodec


cdef class DelimiterCodec(HeaderCodec):
    cdef bytes delimiter
    cdef bytes strip

    cdef int framed(self, const uint8_t* data, Py_ssize_t found, Py_ssize_t available, Header* header) except -1
