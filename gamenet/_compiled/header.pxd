from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from gamenet._compiled.packet cimport RawPacket


cdef packed struct BookHeader:  # the wire form of layout.BOOK_HEADER; sizeof is asserted at import
    uint16_t packet_id
    uint16_t packet_size
    uint32_t sequence


cdef struct Header:  # what frames a packet, whatever its layout
    uint64_t packet_id
    uint64_t packet_size  # the whole packet, in bytes
    uint64_t sequence
    Py_ssize_t body_start  # bytes from the start of the packet
    Py_ssize_t body_size


cdef enum Role:
    PACKET_ID
    PACKET_SIZE
    SEQUENCE
    EXTRA


cdef enum Counts:  # what a size on the wire counts
    COUNTS_PACKET  # or that less `bias`
    COUNTS_AFTER
    COUNTS_BODY


cdef enum:
    MAX_HEADER = 256  # bytes of the longest header and trailer; layout.MAX_HEADER_SIZE


cdef struct FieldSpec:
    Role role
    Py_ssize_t gap  # meaningless bytes in front of it
    Py_ssize_t offset  # from the start of the shortest header
    int width  # bytes; of a VarInt the most
    bint is_varint
    bint is_big
    bint swaps  # the wire's byte order is not this machine's
    bint is_signed
    int64_t min_value
    uint64_t max_value


cdef class HeaderCodec:
    cdef readonly object layout
    cdef readonly Py_ssize_t header_size  # of the shortest header
    cdef readonly Py_ssize_t max_packet_size
    cdef readonly bytes ending
    cdef readonly bint has_extras
    cdef bint is_book  # the fast path: the bytes are a BookHeader
    cdef bint is_fixed  # every header has `header_size` bytes, every ending is `ending`
    cdef Py_ssize_t min_packet_size
    cdef Counts counts
    cdef Py_ssize_t bias  # what a packet has more than its size says; without a size all it has
    cdef uint64_t max_id
    cdef uint64_t max_sequence
    cdef bint size_is_signed
    cdef bint has_gaps  # bytes without a meaning, sent as 0
    cdef int size_index  # of the size in `specs`; -1: frames of one size
    cdef Py_ssize_t behind_size  # bytes of the shortest header behind the size field
    cdef tuple names  # of the fields
    cdef FieldSpec* specs  # of the same; owned
    cdef int spec_count

    cdef int scan(self, const uint8_t* data, Py_ssize_t available, Header* header) except -1
    cdef int scan_tail(self, const uint8_t* data, Py_ssize_t size, Header* header) except -1
    cdef Py_ssize_t step(self, Py_ssize_t gathered, const uint8_t* data, Py_ssize_t left) noexcept
    cdef int check_ending(self, const uint8_t* end) except -1
    cdef int check_body(self, const uint8_t* body, Py_ssize_t size) except -1
    cdef bytes join(self, packet_id, const uint8_t* body, Py_ssize_t size, sequence, extras)
    cdef Py_ssize_t write(
        self, uint8_t* out, uint64_t packet_id, Py_ssize_t body_size, uint64_t sequence, object extras
    ) except -1
    cdef describe_fields(self, layout)
    cdef int wait(self, Py_ssize_t available) except -1
    cdef int check_size(self, Py_ssize_t packet_size) except -1
    cdef int scan_varying(self, const uint8_t* data, Py_ssize_t available, Header* header) except -1
    cdef int check_rest(self, uint64_t counted) except -1
    cdef object as_counted(self, uint64_t counted)
    cdef inline int take_size(self, Header* header, uint64_t counted, Py_ssize_t more) except -1
    cdef int refuse(self, packet_size, Py_ssize_t smallest) except -1
    cdef Py_ssize_t write_varying(
        self, uint8_t* out, uint64_t packet_id, Py_ssize_t body_size, uint64_t sequence, dict numbers
    ) except -1
    cdef Py_ssize_t write_fields(
        self, uint8_t* out, int first, int last, uint64_t packet_id, uint64_t sequence, dict numbers
    ) except -1
    cdef int write_size(self, uint8_t* out, Py_ssize_t body_size, Py_ssize_t after) except -1
    cdef int check_names(self, dict extras) except -1


cdef inline void load_book(const uint8_t* data, Header* header) noexcept:
    """Read a `BookHeader`, whatever it says."""
    cdef BookHeader book
    memcpy(&book, data, sizeof(BookHeader))
    header.packet_id = book.packet_id
    header.packet_size = book.packet_size
    header.sequence = book.sequence


cdef inline bint fits_book(HeaderCodec codec, uint64_t packet_size) noexcept:
    """Whether a book header may state this size: one comparison, for what is too small wraps around."""
    return packet_size - sizeof(BookHeader) <= <uint64_t>codec.max_packet_size - sizeof(BookHeader)


cdef inline bint writes_book(HeaderCodec codec, uint64_t packet_id, Py_ssize_t body_size, uint64_t sequence) noexcept:
    """Whether this can go into a `BookHeader`."""
    return (
        codec.is_book and packet_id >> 16 == 0 and sequence >> 32 == 0
        and fits_book(codec, <uint64_t>body_size + sizeof(BookHeader))
    )


cdef inline void write_book(uint8_t* out, uint64_t packet_id, Py_ssize_t body_size, uint64_t sequence) noexcept:
    """Write what `writes_book` allowed."""
    cdef BookHeader book
    book.packet_id = <uint16_t>packet_id
    book.packet_size = <uint16_t>(body_size + sizeof(BookHeader))
    book.sequence = <uint32_t>sequence
    memcpy(out, &book, sizeof(BookHeader))
