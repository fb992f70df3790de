from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef packed struct BookHeader:  # the wire form of layout.BOOK_HEADER; sizeof is asserted at import
    uint16_t packet_id
    uint16_t packet_size
    uint32_t sequence


cdef struct Header:  # any layout's header once it is read
    uint64_t packet_id
    uint64_t packet_size  # the whole packet, in bytes
    uint64_t sequence


cdef struct FieldSpec:
    Py_ssize_t offset
    int width  # 0: the layout has no such field
    bint is_big
    uint64_t max_value


cdef class HeaderCodec:
    cdef readonly object layout
    cdef readonly Py_ssize_t header_size
    cdef readonly Py_ssize_t max_packet_size
    cdef bint is_book  # the fast path: the bytes are a BookHeader
    cdef uint64_t bias  # wire size + bias = whole packet
    cdef FieldSpec id_field
    cdef FieldSpec size_field
    cdef FieldSpec sequence_field

    cdef void read_fields(self, const uint8_t* data, Header* header) noexcept
    cdef int refuse(self, uint64_t packet_size) except -1
    cdef int write(self, uint8_t* out, uint64_t packet_id, Py_ssize_t body_size, uint64_t sequence) except -1


cdef inline void load_header(HeaderCodec codec, const uint8_t* data, Header* header) noexcept:
    """Read `codec.header_size` bytes at `data`, whatever they say."""
    cdef BookHeader book
    if codec.is_book:
        memcpy(&book, data, sizeof(BookHeader))
        header.packet_id = book.packet_id
        header.packet_size = book.packet_size
        header.sequence = book.sequence
    else:
        codec.read_fields(data, header)


cdef inline bint fits(HeaderCodec codec, uint64_t packet_size) noexcept:
    """Whether a header may state this size: one comparison, for what is too small wraps around."""
    return packet_size - <uint64_t>codec.header_size <= <uint64_t>(codec.max_packet_size - codec.header_size)


cdef inline int write_header(
    HeaderCodec codec, uint8_t* out, uint64_t packet_id, Py_ssize_t body_size, uint64_t sequence
) except -1:
    """Write `codec.header_size` bytes to `out`, or raise ValueError and leave it alone."""
    cdef BookHeader book
    cdef uint64_t packet_size = <uint64_t>(body_size + codec.header_size)
    if not codec.is_book or packet_id >> 16 or sequence >> 32 or not fits(codec, packet_size):
        return codec.write(out, packet_id, body_size, sequence)
    book.packet_id = <uint16_t>packet_id
    book.packet_size = <uint16_t>packet_size
    book.sequence = <uint32_t>sequence
    memcpy(out, &book, sizeof(BookHeader))
    return 0


cdef inline int read_header(HeaderCodec codec, const uint8_t* data, Header* header) except -1:
    """Read a header; raises InvalidPacketError if the size that it states cannot be."""
    load_header(codec, data, header)
    return 0 if fits(codec, header.packet_size) else codec.refuse(header.packet_size)
