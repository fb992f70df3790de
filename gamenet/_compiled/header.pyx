# cython: freethreading_compatible=True
"""Reading and writing what frames a packet: the compiled twin of `gamenet._pure.header`.

What stays true: a header that was read states a size between the smallest packet's and `max_packet_size`, and its
body lies inside the packet. Locking rule: codecs never change after they are made.
"""

import operator
import sys
from typing import NamedTuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memcmp, memset

from gamenet._compiled.packet cimport as_number

from gamenet import errors
from gamenet.layout import BOOK_HEADER, MAX_HEADER_SIZE, RESERVED, HeaderField, HeaderLayout, VarIntField

assert sizeof(BookHeader) == 8
assert MAX_HEADER_SIZE == MAX_HEADER

cdef dict ROLES = {"packet_id": PACKET_ID, "packet_size": PACKET_SIZE, "sequence": SEQUENCE}
cdef object MASK = (1 << 64) - 1
cdef uint64_t HUGE_SIZE = <uint64_t>1 << 62


class PacketHeader(NamedTuple):
    """A header as read: `packet_size` is the whole packet in bytes, whatever the wire counts."""

    packet_id: int
    packet_size: int
    sequence: int


cdef inline uint64_t read_number(const uint8_t* data, FieldSpec* field) noexcept:
    """A fixed field; a negative number as its two's complement."""
    cdef uint16_t half
    cdef uint32_t word
    cdef uint64_t value = 0
    cdef int index
    if field.width == 1:
        value = data[0]
    elif field.width == 2:
        memcpy(&half, data, 2)
        value = <uint16_t>(half >> 8 | half << 8) if field.swaps else half
    elif field.width == 4:
        memcpy(&word, data, 4)
        value = swapped(word) if field.swaps else word
    elif field.is_big:
        for index in range(field.width):
            value = value << 8 | data[index]
    else:
        for index in range(field.width - 1, -1, -1):
            value = value << 8 | data[index]
    if field.is_signed and field.width < 8 and value >> (8 * field.width - 1):
        value |= ~<uint64_t>0 << 8 * field.width
    return value


cdef inline uint32_t swapped(uint32_t word) noexcept:
    return word >> 24 | (word >> 8 & 0xFF00) | (word << 8 & 0xFF0000) | word << 24


cdef inline int write_number(uint8_t* out, FieldSpec* field, uint64_t value) noexcept:
    """Write a field; returns its bytes."""
    cdef uint16_t half = <uint16_t>(value & 0xFFFF)
    cdef uint32_t word = <uint32_t>(value & <uint32_t>~0)
    cdef int index = 0
    if field.is_varint:
        while value >= 0x80:
            out[index] = <uint8_t>(value & 0x7F | 0x80)
            value >>= 7
            index += 1
        out[index] = <uint8_t>value
        return index + 1
    if field.width == 2:
        half = <uint16_t>(half >> 8 | half << 8) if field.swaps else half
        memcpy(out, &half, 2)
    elif field.width == 4:
        word = swapped(word) if field.swaps else word
        memcpy(out, &word, 4)
    else:
        for index in range(field.width):
            out[field.width - 1 - index if field.is_big else index] = <uint8_t>(value & 0xFF)
            value >>= 8
    return field.width


cdef int read_varint(const uint8_t* data, Py_ssize_t available, FieldSpec* field, str name, uint64_t* value) except -1:
    """A VarInt's bytes; 0 if some are missing."""
    cdef uint64_t number = 0
    cdef int index
    for index in range(field.width):
        if index == available:
            return 0
        if index == 9 and 1 < data[index] < 0x80:  # bits above 64
            raise errors.varint_too_large(name, field.max_value)
        number |= <uint64_t>(data[index] & 0x7F) << 7 * index
        if data[index] < 0x80:
            if index and not data[index]:
                raise errors.varint_is_overlong(name, index + 1)
            if number > field.max_value:
                raise errors.varint_too_large(name, field.max_value)
            value[0] = number
            return index + 1
    raise errors.varint_does_not_end(name, field.width)


cdef class HeaderCodec:
    """Parses and encodes headers of one layout under one `max_packet_size` (bytes of the whole packet).

    Locking rule: immutable, so any thread may use it. `ValueError` if `max_packet_size` is outside what the layout
    allows.
    """

    def __cinit__(self, *values, **named):  # until it is initialised it refuses everything
        self.ending = b""
        self.names = ()
        self.min_packet_size = 1

    def __init__(self, layout not None=BOOK_HEADER, max_packet_size=8192):
        if not isinstance(layout, HeaderLayout):
            raise errors.wrong_type("layout", "a HeaderLayout", layout)
        if not layout.min_packet_size <= max_packet_size <= layout.max_packet_size:
            raise errors.number_does_not_fit(
                "max_packet_size", max_packet_size, layout.min_packet_size, layout.max_packet_size
            )
        self.layout = layout
        self.header_size = layout.header_size
        self.max_packet_size = max_packet_size
        self.ending = layout.trailer
        self.has_extras = bool(layout.extra_fields)
        self.is_book = layout == BOOK_HEADER and sys.byteorder == "little"
        self.is_fixed = layout.is_fixed
        self.min_packet_size = layout.min_packet_size
        self.bias = layout.size_bias
        self.has_gaps = layout.last_gap > 0 or any(gap for gap, _ in layout.pieces)
        self.size_index = -1
        self.names = tuple([field.name for field in layout.fields])
        if layout.frame_size is not None:
            self.counts = COUNTS_PACKET
            self.bias = layout.frame_size
        else:
            self.counts = {"after": COUNTS_AFTER, "body": COUNTS_BODY}.get(layout.size_counts, COUNTS_PACKET)
            self.behind_size = layout.header_size - layout.offset_of("packet_size")[1]
        self.describe_fields(layout)

    def __dealloc__(self):
        PyMem_Free(self.specs)

    cdef describe_fields(self, layout):
        cdef int index = 0
        if self.specs is not NULL:
            raise ValueError("a codec cannot be initialised twice")
        self.specs = <FieldSpec*>PyMem_Calloc(len(layout.fields) + 1, sizeof(FieldSpec))
        if self.specs is NULL:
            raise MemoryError(f"no memory for {len(layout.fields)} header fields")
        for gap, field in layout.pieces:
            self.specs[index].role = ROLES.get(field.name, EXTRA)
            self.specs[index].gap = gap
            self.specs[index].offset = layout.offset_of(field.name)[0]
            self.specs[index].min_value = field.min_value
            self.specs[index].max_value = field.max_value
            if field.name == "packet_id":
                self.max_id = field.max_value
            elif field.name == "sequence":
                self.max_sequence = field.max_value
            elif field.name == "packet_size":
                self.size_index = index
                self.size_is_signed = isinstance(field, HeaderField) and field.signed
            if isinstance(field, VarIntField):
                self.specs[index].is_varint = True
                self.specs[index].width = field.max_bytes
            else:
                self.specs[index].width = field.width
                self.specs[index].is_big = field.byte_order == "big"
                self.specs[index].swaps = field.byte_order != sys.byteorder
                self.specs[index].is_signed = field.signed
            index += 1
        self.spec_count = index

    # -- reading

    def parse(self, data, Py_ssize_t offset=0):
        """The header at `data[offset:]`.

        `ValueError` if there are not enough bytes, `InvalidPacketError` if the header cannot be: its size is below
        the smallest packet's or above `max_packet_size`, a VarInt is longer than needed or does not end.
        """
        cdef Py_buffer view
        cdef Header header
        cdef bint is_whole = False
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if 0 <= offset <= view.len:
                is_whole = self.scan(<const uint8_t*>view.buf + offset, view.len - offset, &header)
            if not is_whole:
                raise errors.header_does_not_fit(max(0, view.len - max(0, offset)), self.header_size)
        finally:
            PyBuffer_Release(&view)
        return PacketHeader(header.packet_id, header.packet_size, header.sequence)

    def locate(self, bytes frame not None):
        """Of the packet that `frame` starts with: its id, where its body starts and ends, where the packet ends.

        `ValueError` if it is not whole, `InvalidPacketError` as `parse`.
        """
        cdef Header header
        cdef Py_ssize_t size = PyBytes_GET_SIZE(frame)
        cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(frame)
        if not self.scan(start, size, &header) or header.packet_size > <uint64_t>size:
            raise errors.frame_is_not_whole(size)
        return header.packet_id, header.body_start, header.body_start + header.body_size, header.packet_size

    cdef int scan(self, const uint8_t* data, Py_ssize_t available, Header* header) except -1:
        """Read what frames the packet at `data`: 1, or 0 if more bytes than are available would tell."""
        cdef uint64_t value, counted = 0
        cdef int index
        if not self.is_fixed:
            return self.scan_varying(data, available, header)
        if available < self.header_size:
            return 0
        header.packet_id = header.sequence = 0
        for index in range(self.spec_count):
            value = read_number(data + self.specs[index].offset, &self.specs[index])
            if self.specs[index].role == PACKET_ID:
                header.packet_id = value
            elif self.specs[index].role == SEQUENCE:
                header.sequence = value
            elif self.specs[index].role == PACKET_SIZE:
                counted = value
        header.body_start = self.header_size
        return self.take_size(header, counted, self.bias)

    cdef int scan_varying(self, const uint8_t* data, Py_ssize_t available, Header* header) except -1:
        """As `scan` for a header with VarInts, which ends where its last field says."""
        cdef Py_ssize_t at = 0, size_end = 0
        cdef uint64_t value = 0, counted = 0
        cdef FieldSpec* field
        cdef int index, length
        header.packet_id = header.sequence = 0
        for index in range(self.spec_count):
            field = &self.specs[index]
            at += field.gap
            length = 0
            if field.is_varint and at < available:
                length = read_varint(data + at, available - at, field, <str>self.names[index], &value)
            elif not field.is_varint and at + field.width <= available:
                value = read_number(data + at, field)
                length = field.width
            if length == 0:
                return self.wait(available)
            at += length
            if field.role == PACKET_ID:
                header.packet_id = value
            elif field.role == SEQUENCE:
                header.sequence = value
            elif field.role == PACKET_SIZE:
                counted = value
                size_end = at
                self.check_rest(counted)
        header.body_start = at
        if self.counts == COUNTS_AFTER:
            return self.take_size(header, counted, size_end)
        if self.counts == COUNTS_BODY:
            return self.take_size(header, counted, at + PyBytes_GET_SIZE(self.ending))
        return self.take_size(header, 0, self.bias)

    cdef int check_rest(self, uint64_t counted) except -1:
        """Refuse a size that ends inside the header before the rest of that is awaited."""
        if self.counts != COUNTS_AFTER:
            return 0
        number = self.as_counted(counted)
        if number < self.behind_size:
            raise errors.packet_size_too_small(self.header_size - self.behind_size + number, self.header_size)
        return 0

    cdef object as_counted(self, uint64_t counted):
        return <object><int64_t>counted if self.size_is_signed else counted

    cdef inline int take_size(self, Header* header, uint64_t counted, Py_ssize_t more) except -1:
        """The packet has as many bytes as it counted and some more: 1 if that can be."""
        cdef Py_ssize_t ending_size = PyBytes_GET_SIZE(self.ending)
        cdef Py_ssize_t smallest = max(self.min_packet_size, header.body_start + ending_size)
        cdef Py_ssize_t packet_size = <Py_ssize_t>counted + more
        if counted >= HUGE_SIZE or packet_size < smallest or packet_size > self.max_packet_size:
            return self.refuse(self.as_counted(counted) + more, smallest)
        header.packet_size = <uint64_t>packet_size
        header.body_size = packet_size - header.body_start - ending_size
        return 1

    cdef int refuse(self, packet_size, Py_ssize_t smallest) except -1:
        if packet_size < smallest:
            raise errors.packet_size_too_small(packet_size, smallest)
        raise errors.packet_size_too_large(packet_size, self.max_packet_size)

    cdef int wait(self, Py_ssize_t available) except -1:
        if available >= self.max_packet_size:
            raise errors.header_too_long(self.max_packet_size)
        return 0

    cdef int scan_tail(self, const uint8_t* data, Py_ssize_t size, Header* header) except -1:
        """As `scan` for a packet of which `size` bytes are gathered, none of them behind its header."""
        return self.scan(data, size, header)

    cdef Py_ssize_t step(self, Py_ssize_t gathered, const uint8_t* data, Py_ssize_t left) noexcept:
        """How many of the `left` bytes at `data` to gather before `scan_tail` may know more."""
        return max(1, self.header_size - gathered)

    cdef int check_ending(self, const uint8_t* end) except -1:
        """Refuse a whole packet that ends at `end` without its trailer."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.ending)
        if size and memcmp(end - size, PyBytes_AS_STRING(self.ending), size):
            raise errors.wrong_trailer(PyBytes_FromStringAndSize(<const char*>end - size, size), self.ending)
        return 0

    def _extras(self, bytes header not None):
        """The extra fields of a header."""
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(header)
        cdef dict found = {}
        cdef uint64_t value = 0
        cdef Py_ssize_t at = 0
        cdef FieldSpec* field
        cdef int index
        for index in range(self.spec_count):
            field = &self.specs[index]
            at += field.gap
            if field.is_varint:
                at += read_varint(data + at, PyBytes_GET_SIZE(header) - at, field, <str>self.names[index], &value)
            else:
                value = read_number(data + at, field)
                at += field.width
            if field.role == EXTRA:
                found[self.names[index]] = <object><int64_t>value if field.is_signed else value
        return found

    def extras_of(self, RawPacket packet not None):
        """The extra fields of `packet` that this layout has too."""
        if not self.has_extras:
            return {}
        known = {field.name for field in self.layout.extra_fields}
        return {name: number for name, number in packet.header.items() if name in known}

    # -- writing

    def encode(self, packet_id, Py_ssize_t body_size, sequence=0, header=None):
        """The header of a packet with `body_size` bytes behind it, and `ending` behind those.

        `header` gives the extra fields; those that are missing are 0. `ValueError` if a number does not fit its
        field, a name is none of them, or the packet is not within the sizes that are allowed. A layout without a
        field takes only 0 for it.
        """
        cdef uint8_t out[MAX_HEADER]
        cdef uint64_t id_number = as_number("packet_id", packet_id)
        cdef uint64_t sequence_number = as_number("sequence", sequence)
        cdef Py_ssize_t size = self.write(out, id_number, body_size, sequence_number, header)
        return PyBytes_FromStringAndSize(<const char*>out, size)

    def frame(self, packet_id, body=b"", sequence=0, header=None):
        """A whole packet. `ValueError` as `encode`."""
        cdef Py_buffer view
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            self.check_body(<const uint8_t*>view.buf, view.len)
            encoded = self.encode(packet_id, view.len, sequence, header)
            return b"".join((encoded, PyBytes_FromStringAndSize(<const char*>view.buf, view.len), self.ending))
        finally:
            PyBuffer_Release(&view)

    cdef int check_body(self, const uint8_t* body, Py_ssize_t size) except -1:
        """`ValueError` if the layout could not tell where this body ends."""
        return 0

    cdef Py_ssize_t write(
        self, uint8_t* out, uint64_t packet_id, Py_ssize_t body_size, uint64_t sequence, object extras
    ) except -1:
        """Write a header of at most `MAX_HEADER` bytes to `out` and return its size, or raise ValueError."""
        cdef dict numbers = None
        cdef FieldSpec* field
        cdef Py_ssize_t at, ending_size = PyBytes_GET_SIZE(self.ending)
        cdef uint64_t value
        cdef int index
        if extras is not None:
            numbers = {name: operator.index(number) for name, number in extras.items()}
            self.check_names(numbers)
        self.check_size(body_size + self.header_size + ending_size)
        if packet_id > self.max_id:
            raise errors.number_does_not_fit("packet_id", packet_id, 0, self.max_id)
        if sequence > self.max_sequence:
            raise errors.number_does_not_fit("sequence", sequence, 0, self.max_sequence)
        if not self.is_fixed:
            at = self.write_varying(out, packet_id, body_size, sequence, numbers)
            self.check_size(at + body_size + ending_size)
            return at
        if self.has_gaps:
            memset(out, 0, self.header_size)
        for index in range(self.spec_count):
            field = &self.specs[index]
            if field.role == PACKET_ID:
                write_number(out + field.offset, field, packet_id)
            elif field.role == SEQUENCE:
                write_number(out + field.offset, field, sequence)
            elif field.role == PACKET_SIZE:
                self.write_size(out + field.offset, body_size, self.behind_size + body_size + ending_size)
            else:
                value = 0 if numbers is None else extra_value(numbers, self.names[index], field)
                write_number(out + field.offset, field, value)
        return self.header_size

    cdef Py_ssize_t write_varying(
        self, uint8_t* out, uint64_t packet_id, Py_ssize_t body_size, uint64_t sequence, dict numbers
    ) except -1:
        """What stands behind the size first and aside: the size may count it, and it says where that begins."""
        cdef uint8_t behind[MAX_HEADER]
        cdef Py_ssize_t at, behind_size
        cdef int size_index = self.size_index if self.size_index >= 0 else self.spec_count
        at = self.write_fields(out, 0, size_index, packet_id, sequence, numbers)
        behind_size = self.write_fields(behind, size_index + 1, self.spec_count, packet_id, sequence, numbers)
        if self.size_index >= 0:
            memset(out + at, 0, self.specs[size_index].gap)
            at += self.specs[size_index].gap
            at += self.write_size(out + at, body_size, behind_size + body_size + PyBytes_GET_SIZE(self.ending))
        memcpy(out + at, behind, behind_size)
        return at + behind_size

    cdef Py_ssize_t write_fields(
        self, uint8_t* out, int first, int last, uint64_t packet_id, uint64_t sequence, dict numbers
    ) except -1:
        """Write these fields, none of them the size; returns where they end."""
        cdef FieldSpec* field
        cdef Py_ssize_t at = 0
        cdef int index
        cdef uint64_t value
        for index in range(first, last):
            field = &self.specs[index]
            if field.gap:
                memset(out + at, 0, field.gap)
                at += field.gap
            if field.role == PACKET_ID:
                value = packet_id
            elif field.role == SEQUENCE:
                value = sequence
            else:
                value = 0 if numbers is None else extra_value(numbers, self.names[index], field)
            at += write_number(out + at, field, value)
        return at

    cdef int write_size(self, uint8_t* out, Py_ssize_t body_size, Py_ssize_t after) except -1:
        """Write the size field; returns its bytes."""
        cdef FieldSpec* field = &self.specs[self.size_index]
        cdef Py_ssize_t counted = self.header_size + body_size + PyBytes_GET_SIZE(self.ending) - self.bias
        if self.counts == COUNTS_AFTER:
            counted = after
        elif self.counts == COUNTS_BODY:
            counted = body_size
        if counted < field.min_value or (counted > 0 and <uint64_t>counted > field.max_value):
            raise errors.number_does_not_fit("packet_size", counted, field.min_value, field.max_value)
        return write_number(out, field, <uint64_t>counted)

    cdef int check_size(self, Py_ssize_t packet_size) except -1:
        if packet_size > self.max_packet_size:
            raise errors.packet_does_not_fit(packet_size, self.max_packet_size)
        if packet_size < self.min_packet_size:
            raise errors.packet_falls_short(packet_size, self.min_packet_size)
        return 0

    cdef int check_names(self, dict extras) except -1:
        cdef list known = [name for name in self.names if name not in RESERVED]
        for name in extras:
            if name not in known:
                raise errors.no_such_header_field(name, known)
        return 0


cdef uint64_t extra_value(dict numbers, name, FieldSpec* field) except? 0:
    """An extra field's number as bits; 0 if it was not given."""
    number = numbers.get(name, 0)
    if not field.min_value <= number <= field.max_value:
        raise errors.number_does_not_fit(name, number, field.min_value, field.max_value)
    return <uint64_t>(number & MASK)
