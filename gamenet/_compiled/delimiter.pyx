# cython: freethreading_compatible=True
"""Packets that end with a delimiter: the compiled twin of `gamenet._pure.delimiter`.

What stays true: no more than `max_packet_size` bytes are looked at, and none of them twice, however they arrive.
Locking rule: codecs never change after they are made.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp

from gamenet import errors
from gamenet.layout import DelimiterLayout


cdef Py_ssize_t find(const uint8_t* data, Py_ssize_t size, bytes wanted) noexcept:
    """Where `wanted` starts first, or -1."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(wanted)
    cdef const char* first = PyBytes_AS_STRING(wanted)
    cdef const uint8_t* at = data
    cdef const uint8_t* last = data + size - length
    while at <= last:
        at = <const uint8_t*>memchr(at, first[0], last - at + 1)
        if at is NULL:
            return -1
        if memcmp(at, first, length) == 0:
            return at - data
        at += 1
    return -1


cdef bint ends_with(const uint8_t* data, Py_ssize_t size, bytes ending) noexcept:
    cdef Py_ssize_t length = PyBytes_GET_SIZE(ending)
    return size >= length and memcmp(data + size - length, PyBytes_AS_STRING(ending), length) == 0


cdef class DelimiterCodec(HeaderCodec):
    """Finds and writes the ends of packets; their headers have no bytes, their ids and sequence numbers are 0.

    `ValueError` if `max_packet_size` does not hold a delimiter. Locking rule: never changes; any thread.
    """

    def __cinit__(self, *values, **named):
        self.delimiter = b"\n"
        self.strip = b""

    def __init__(self, layout not None: DelimiterLayout, max_packet_size=8192):
        if max_packet_size < len(layout.ending):
            raise errors.number_does_not_fit(
                "max_packet_size", max_packet_size, len(layout.ending), layout.max_packet_size
            )
        self.layout = layout
        self.header_size = 0
        self.max_packet_size = max_packet_size
        self.ending = layout.ending
        self.has_extras = False
        self.delimiter = layout.delimiter
        self.strip = layout.strip
        self.names = ()

    cdef int scan(self, const uint8_t* data, Py_ssize_t available, Header* header) except -1:
        cdef Py_ssize_t found = find(data, min(available, self.max_packet_size), self.delimiter)
        return self.framed(data, found, available, header)

    cdef int framed(self, const uint8_t* data, Py_ssize_t found, Py_ssize_t available, Header* header) except -1:
        """The packet whose delimiter starts at `found`; if that is -1 it has not come, or is too far off."""
        if found < 0:
            if available >= self.max_packet_size:
                raise errors.no_delimiter(self.delimiter, self.max_packet_size)
            return 0
        header.packet_id = header.sequence = 0
        header.packet_size = <uint64_t>(found + PyBytes_GET_SIZE(self.delimiter))
        header.body_start = 0
        header.body_size = found
        if PyBytes_GET_SIZE(self.strip) and ends_with(data, found, self.strip):
            header.body_size -= PyBytes_GET_SIZE(self.strip)
        return 1

    cdef int scan_tail(self, const uint8_t* data, Py_ssize_t size, Header* header) except -1:
        """As `scan`, but the delimiter can only be where `step` stopped."""
        cdef Py_ssize_t found = size - PyBytes_GET_SIZE(self.delimiter) if ends_with(data, size, self.delimiter) else -1
        return self.framed(data, found, size, header)

    cdef Py_ssize_t step(self, Py_ssize_t gathered, const uint8_t* data, Py_ssize_t left) noexcept:
        cdef Py_ssize_t room = self.max_packet_size - gathered
        cdef char last = PyBytes_AS_STRING(self.delimiter)[PyBytes_GET_SIZE(self.delimiter) - 1]
        cdef const uint8_t* found = <const uint8_t*>memchr(data, last, min(room, left))
        return room if found is NULL else found + 1 - data

    cdef int check_ending(self, const uint8_t* end) except -1:
        """It was found there."""
        return 0

    def _extras(self, bytes header not None):
        return {}

    cdef Py_ssize_t write(
        self, uint8_t* out, uint64_t packet_id, Py_ssize_t body_size, uint64_t sequence, object extras
    ) except -1:
        """Nothing: there is no header."""
        if packet_id:
            raise errors.number_does_not_fit("packet_id", packet_id, 0, 0)
        if sequence:
            raise errors.number_does_not_fit("sequence", sequence, 0, 0)
        for name in extras or ():
            raise errors.no_such_header_field(name, [])
        if body_size + PyBytes_GET_SIZE(self.ending) > self.max_packet_size:
            raise errors.packet_does_not_fit(body_size + PyBytes_GET_SIZE(self.ending), self.max_packet_size)
        return 0

    cdef int check_body(self, const uint8_t* body, Py_ssize_t size) except -1:
        cdef bytes whole = body[:size] + self.ending
        cdef Py_ssize_t index = find(<const uint8_t*>PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole), self.delimiter)
        if index < size:
            raise errors.body_has_delimiter(self.delimiter, index)
        return 0


def codec_for(layout, max_packet_size):
    """The codec of a layout, whatever its kind. `ValueError` if `max_packet_size` is outside what it allows."""
    if isinstance(layout, DelimiterLayout):
        return DelimiterCodec(layout, max_packet_size)
    return HeaderCodec(layout, max_packet_size)
