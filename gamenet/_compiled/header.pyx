# cython: freethreading_compatible=True
"""Reading and writing a packet's header: the compiled twin of `gamenet._pure.header`.

What stays true: a header that was read states a size between the header's own and `max_packet_size`.
Locking rule: codecs never change after they are made.
"""

import sys
from typing import NamedTuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from gamenet._compiled.packet cimport as_number

from gamenet import errors
from gamenet.layout import BOOK_HEADER, HeaderLayout

assert sizeof(BookHeader) == 8


class PacketHeader(NamedTuple):
    """A header as read: `packet_size` is the whole packet in bytes, whatever the wire counts."""

    packet_id: int
    packet_size: int
    sequence: int


cdef uint64_t read_number(const uint8_t* data, FieldSpec field) noexcept:
    cdef uint64_t value = 0
    cdef int index
    if field.is_big:
        for index in range(field.width):
            value = value << 8 | data[field.offset + index]
    else:
        for index in range(field.width - 1, -1, -1):
            value = value << 8 | data[field.offset + index]
    return value


cdef void write_number(uint8_t* out, FieldSpec field, uint64_t value) noexcept:
    cdef int index
    for index in range(field.width):
        if field.is_big:
            out[field.offset + field.width - 1 - index] = <uint8_t>(value & 0xFF)
        else:
            out[field.offset + index] = <uint8_t>(value & 0xFF)
        value >>= 8


cdef FieldSpec field_spec(object layout, str name) except *:
    if name not in [field.name for field in layout.fields]:
        return FieldSpec(0, 0, False, 0)
    field = layout.field(name)
    return FieldSpec(layout.offset_of(name)[0], field.width, field.byte_order == "big", field.max_value)


cdef class HeaderCodec:
    """Parses and encodes headers of one layout under one `max_packet_size` (bytes of the whole packet).

    Immutable, so any thread may use it. `ValueError` if `max_packet_size` is below the header or above what the
    layout's size field can state.
    """

    def __init__(self, layout not None: HeaderLayout = BOOK_HEADER, max_packet_size: int = 8192):
        if not layout.header_size <= max_packet_size <= layout.max_packet_size:
            raise errors.number_does_not_fit(
                "max_packet_size", max_packet_size, layout.header_size, layout.max_packet_size
            )
        self.layout = layout
        self.header_size = layout.header_size
        self.max_packet_size = max_packet_size
        self.bias = layout.size_bias
        self.is_book = layout == BOOK_HEADER and sys.byteorder == "little"
        self.id_field = field_spec(layout, "packet_id")
        self.size_field = field_spec(layout, "packet_size")
        self.sequence_field = field_spec(layout, "sequence")

    def parse(self, data, Py_ssize_t offset=0):
        """The header at `data[offset:]`.

        `ValueError` if there are not enough bytes, `InvalidPacketError` if the size it states is below the header
        or above `max_packet_size`.
        """
        cdef Py_buffer view
        cdef Header header
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not 0 <= offset <= view.len - self.header_size:
                raise errors.header_does_not_fit(max(0, view.len - max(0, offset)), self.header_size)
            read_header(self, <const uint8_t*>view.buf + offset, &header)
        finally:
            PyBuffer_Release(&view)
        return PacketHeader(header.packet_id, header.packet_size, header.sequence)

    def encode(self, packet_id, Py_ssize_t body_size, sequence=0):
        """The header of a packet with `body_size` bytes behind it.

        `ValueError` if a number does not fit its field or the packet is above `max_packet_size`. A layout without
        a sequence field takes only 0.
        """
        cdef bytes encoded = PyBytes_FromStringAndSize(NULL, self.header_size)
        write_header(
            self,
            <uint8_t*>PyBytes_AS_STRING(encoded),
            as_number("packet_id", packet_id),
            body_size,
            as_number("sequence", sequence),
        )
        return encoded

    cdef void read_fields(self, const uint8_t* data, Header* header) noexcept:
        cdef uint64_t packet_size = read_number(data, self.size_field)
        header.packet_id = read_number(data, self.id_field)
        header.sequence = read_number(data, self.sequence_field)
        # a sum above 2**64 would wrap to a small, valid size: keep it large instead
        header.packet_size = packet_size + self.bias if packet_size < <uint64_t>1 << 62 else packet_size

    cdef int refuse(self, uint64_t packet_size) except -1:
        if packet_size < <uint64_t>self.header_size:
            raise errors.packet_size_too_small(packet_size, self.header_size)
        raise errors.packet_size_too_large(packet_size, self.max_packet_size)

    cdef int write(self, uint8_t* out, uint64_t packet_id, Py_ssize_t body_size, uint64_t sequence) except -1:
        """As `write_header`, for any layout and for what does not fit."""
        cdef Py_ssize_t packet_size = body_size + self.header_size
        if body_size < 0 or packet_size > self.max_packet_size:
            raise errors.packet_does_not_fit(packet_size, self.max_packet_size)
        if packet_id > self.id_field.max_value:
            raise errors.number_does_not_fit("packet_id", packet_id, 0, self.id_field.max_value)
        if sequence > self.sequence_field.max_value:
            raise errors.number_does_not_fit("sequence", sequence, 0, self.sequence_field.max_value)
        write_number(out, self.id_field, packet_id)
        write_number(out, self.size_field, packet_size - self.bias)
        write_number(out, self.sequence_field, sequence)
        return 0
