from libc.stdint cimport uint8_t, uint64_t

from gamenet._compiled.header cimport BookHeader, Header, HeaderCodec, fits_book, load_book
from gamenet._compiled.packet cimport RawPacket
from gamenet._compiled.pool cimport Block, PoolAllocator


cdef struct Run:  # consecutive packets of one id
    Py_ssize_t packets
    Py_ssize_t size  # of all of them, in bytes, headers included
    Py_ssize_t packet_size  # of each; 0 if they may differ, or their headers


cdef class PacketBuffer:
    cdef HeaderCodec wire  # how packets are framed now
    cdef PoolAllocator pool
    # what is being read
    cdef object chunk  # bytes or a receive buffer's block: keeps cursor and end alive
    cdef const uint8_t* cursor
    cdef const uint8_t* end
    cdef object pending  # deque of chunks behind it; None while there are none
    cdef Py_ssize_t pending_size  # their bytes together
    # the packet that is incomplete
    cdef Block tail  # its first bytes; None while there is none
    cdef Py_ssize_t tail_size  # bytes in it
    cdef unsigned int tails  # packets so far that were incomplete at the end of a chunk
    cdef bint tail_has_header
    cdef Header tail_header
    # the packet that was cut last
    cdef Header header
    cdef object source  # keeps `body` alive: the chunk, or the block it was completed in; None while all is read
    cdef const uint8_t* body
    cdef Py_ssize_t body_size
    cdef object broken  # the error that ended the stream
    cdef RawPacket lent  # what the iteration handed out last

    cdef int add(self, object chunk) except -1
    cdef int wait(self, bytes data) except -1
    cdef int add_block(self, Block block, Py_ssize_t size) except -1
    cdef int leave_block(self) except -1
    cdef Run cut_run(self, Py_ssize_t min_body_size, Py_ssize_t max_packets) except *
    cdef bint whole_packet(self, const uint8_t* data, Header* header) except -1
    cdef int frame(self, object source, const uint8_t* start, Header* header) except -1
    cdef int fill(self, RawPacket packet) except -1
    cdef int use_codec(self, HeaderCodec codec) except -1
    cdef HeaderCodec shown_codec(self)
    cdef bytes take_all(self)
    cdef int read_from(self, bytes data) except -1
    cdef bint advance_slowly(self) except -1
    cdef bint next_chunk(self) except -1
    cdef bint cut(self) except -1
    cdef bint complete_tail(self) except -1
    cdef int reserve_tail(self, Py_ssize_t size) except -1
    cdef void move_to_tail(self, Py_ssize_t wanted) noexcept
    cdef void drop_tail(self) noexcept
    cdef Py_ssize_t waiting(self) noexcept
    cdef Py_ssize_t drop(self) except -1


cdef inline bint next_packet(PacketBuffer buffer) except -1:
    """Cut the next packet into `header`, `source`, `body`, `body_size`. False if none is whole yet."""
    cdef Py_ssize_t left = buffer.end - buffer.cursor
    if not buffer.wire.is_book or left < <Py_ssize_t>sizeof(BookHeader):
        return buffer.advance_slowly()
    if buffer.tail is not None or buffer.broken is not None:
        return buffer.advance_slowly()
    load_book(buffer.cursor, &buffer.header)
    if not fits_book(buffer.wire, buffer.header.packet_size) or buffer.header.packet_size > <uint64_t>left:
        return buffer.advance_slowly()
    if buffer.source is not buffer.chunk:
        buffer.source = buffer.chunk
    buffer.header.body_start = sizeof(BookHeader)
    buffer.body = buffer.cursor + sizeof(BookHeader)
    buffer.body_size = <Py_ssize_t>buffer.header.packet_size - sizeof(BookHeader)
    buffer.cursor += buffer.header.packet_size
    return True
