# cython: freethreading_compatible=True
"""Framing: the compiled twin of `gamenet._pure.buffer`.

What stays true: a header is checked before anything is kept because of it, so the buffer never holds more of a
packet than `max_packet_size`, in one pooled block, and only while that packet is incomplete. No pointer of it
reaches a caller. Locking rule: one owner thread; other threads hand their bytes to it.
"""

from collections import deque

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from gamenet._compiled.refcounts cimport is_only_ours

from gamenet import errors

cdef enum:
    GATHER_SIZE = 1024  # bytes up to which chunks that wait are joined: alone, each would cost some 50 bytes more

cdef str TAIL = "an incomplete packet"


cdef class PacketBuffer:
    """Cuts packets out of a byte stream: `feed()` chunks of any size, iterate what became whole.

    Packets refer to the chunk they came in (`bytes` is not copied, anything writable is), so they and their views
    stay true. `feed()` is allowed at any time, also while iterating: what it brings is read in its turn. A header
    that cannot be true raises `InvalidPacketError` from the iteration, then and ever after, for nobody knows where
    the next packet starts; `clear()` starts anew. `ValueError` if the pool's blocks are smaller than
    `max_packet_size`.
    Locking rule: one thread at a time; others hand their bytes to it.
    """

    def __init__(self, HeaderCodec codec=None, PoolAllocator pool=None):
        self.wire = HeaderCodec() if codec is None else codec
        self.pool = PoolAllocator(self.wire.max_packet_size) if pool is None else pool
        require_room(self.pool, self.wire)

    @property
    def codec(self):
        """How packets are framed, and the largest one. May be set at any time, also while iterating: what is buffered
        is then read again under the new one. `ValueError` if the pool's blocks do not hold its packets.
        """
        return self.wire

    @codec.setter
    def codec(self, HeaderCodec codec not None):
        self.use_codec(codec)

    @property
    def buffered(self):
        """Bytes fed that are not yet part of a packet handed out."""
        return self.waiting()

    @property
    def holds_block(self):
        """Whether part of a packet waits in a pooled block."""
        return self.tail is not None

    def feed(self, chunk):
        """Add bytes in the order they arrived. Nothing is checked yet; nothing but a writable chunk is copied."""
        self.add(chunk)

    def clear(self):
        """Drop everything that is buffered and forget a broken header; returns how many bytes that was."""
        return self.drop()

    def __iter__(self):
        return self

    def __next__(self):
        cdef RawPacket packet = self.lent
        self.lent = None
        if packet is not None and not is_only_ours(packet):
            packet.settle()
            packet = None
        if not next_packet(self):
            raise StopIteration
        if packet is None:
            packet = RawPacket.__new__(RawPacket)
        self.fill(packet)
        self.lent = packet
        return packet

    cdef int fill(self, RawPacket packet) except -1:
        """Make `packet` the one that was cut last."""
        cdef const char* start
        packet.id = self.header.packet_id
        packet.number = self.header.sequence
        packet.source = self.source
        packet.data = self.body
        packet.size = self.body_size
        if self.wire.has_extras:
            start = <const char*>self.body - self.header.body_start
            packet.head = PyBytes_FromStringAndSize(start, self.header.body_start)
            packet.reader = self.wire
        return 0

    cdef int use_codec(self, HeaderCodec codec) except -1:
        cdef bytes whole
        cdef HeaderCodec _old = self.wire  # lives until nobody can be shown it any more
        require_room(self.pool, codec)
        if self.tail is not None:
            whole = PyBytes_FromStringAndSize(<const char*>self.tail.memory, self.tail_size)
            whole += (<const char*>self.cursor)[:self.end - self.cursor]
            self.drop_tail()
            self.read_from(whole)
        with cython.critical_section(self):
            self.wire = codec
        return 0

    cdef HeaderCodec shown_codec(self):
        """The codec, for any thread."""
        with cython.critical_section(self):
            return self.wire

    cdef bytes take_all(self):
        """Everything that is buffered, in order; nothing is afterwards. A broken header stays broken."""
        cdef object broken = self.broken
        cdef list taken = []
        if self.tail is not None:
            taken.append(PyBytes_FromStringAndSize(<const char*>self.tail.memory, self.tail_size))
        if self.cursor != self.end:
            taken.append(PyBytes_FromStringAndSize(<const char*>self.cursor, self.end - self.cursor))
        taken.extend(self.pending or ())
        self.drop()
        self.broken = broken
        return b"".join(taken)

    cdef int read_from(self, bytes data) except -1:
        self.chunk = data
        self.cursor = <const uint8_t*>PyBytes_AS_STRING(data)
        self.end = self.cursor + PyBytes_GET_SIZE(data)
        return 0

    cdef int add(self, object chunk) except -1:
        cdef object data = chunk if PyBytes_CheckExact(chunk) else bytes(memoryview(chunk))
        if PyBytes_GET_SIZE(data) == 0:
            return 0
        if self.cursor != self.end or self.pending_size:
            return self.wait(data)
        return self.read_from(data)

    cdef int wait(self, bytes data) except -1:
        cdef bytes last
        self.pending_size += PyBytes_GET_SIZE(data)
        if self.pending is None:
            self.pending = deque()
        if self.pending:
            last = self.pending.pop()
            if PyBytes_GET_SIZE(last) + PyBytes_GET_SIZE(data) <= GATHER_SIZE:
                data = last + data
            else:
                self.pending.append(last)
        self.pending.append(data)
        return 0

    cdef int add_block(self, Block block, Py_ssize_t size) except -1:
        """As `add` for bytes that were read into `block`; to be followed by `leave_block` before the next read."""
        if self.cursor != self.end or self.pending_size:
            return self.add(PyBytes_FromStringAndSize(<const char*>block.memory, size))
        self.chunk = block
        self.cursor = block.memory
        self.end = block.memory + size
        return 0

    cdef int leave_block(self) except -1:
        """Refer to no receive buffer any more: what is unread is copied out."""
        if isinstance(self.chunk, Block):
            self.read_from(PyBytes_FromStringAndSize(<const char*>self.cursor, self.end - self.cursor))
        self.source = None
        return 0

    cdef Run cut_run(self, Py_ssize_t min_body_size, Py_ssize_t max_packets) except *:
        """Cut what follows the packet that was cut last, lies behind it in the chunk, and has its id."""
        cdef Header header
        cdef const uint8_t* cursor = self.cursor
        cdef uint64_t packet_size = self.header.packet_size
        cdef Run run = Run(1, <Py_ssize_t>packet_size, <Py_ssize_t>packet_size if self.wire.is_fixed else 0)
        if self.source is not self.chunk:  # a completed tail lies elsewhere, and makes a run of its own
            return run
        while run.packets < max_packets and self.whole_packet(cursor, &header):
            if header.packet_id != self.header.packet_id or header.body_size < min_body_size:
                break
            if header.packet_size != packet_size:
                run.packet_size = 0
            cursor += header.packet_size
            run.packets += 1
        run.size += cursor - self.cursor
        self.cursor = cursor
        return run

    cdef bint whole_packet(self, const uint8_t* data, Header* header) except -1:
        """Whether a whole, valid packet lies there: what is wrong with it is told in its turn."""
        cdef Py_ssize_t left = self.end - data
        if self.wire.is_book:
            if left < <Py_ssize_t>sizeof(BookHeader):
                return False
            load_book(data, header)
            header.body_size = <Py_ssize_t>header.packet_size - sizeof(BookHeader)
            return fits_book(self.wire, header.packet_size) and header.packet_size <= <uint64_t>left
        try:
            if not left or not self.wire.scan(data, left, header) or header.packet_size > <uint64_t>left:
                return False
            self.wire.check_ending(data + header.packet_size)
        except errors.InvalidPacketError:
            return False
        return True

    cdef bint advance_slowly(self) except -1:
        """At the end of a chunk, inside a packet, or at an error."""
        if self.broken is not None:
            raise self.broken
        try:
            while not self.cut():
                if not self.next_chunk():
                    return False
        except errors.InvalidPacketError as error:
            self.broken = error
            raise
        return True

    cdef bint next_chunk(self) except -1:
        self.chunk = self.source = None
        self.cursor = self.end = NULL
        if not self.pending:
            self.pending = None
            return False
        chunk = self.pending.popleft()
        self.pending_size -= PyBytes_GET_SIZE(chunk)
        self.read_from(chunk)
        return True

    cdef bint cut(self) except -1:
        """Cut a packet that the tail or the chunk completes, else move the rest of the chunk to the tail."""
        cdef Py_ssize_t left = self.end - self.cursor
        if self.tail is not None:
            return self.complete_tail()
        if not left:
            return False
        self.tail_has_header = self.wire.scan(self.cursor, left, &self.tail_header)
        if self.tail_has_header and self.tail_header.packet_size <= <uint64_t>left:
            self.tail_has_header = False
            self.frame(self.chunk, self.cursor, &self.tail_header)
            self.cursor += self.header.packet_size
            return True
        self.tail = self.pool.lend_for(<Py_ssize_t>self.tail_header.packet_size if self.tail_has_header else left, TAIL)
        self.tails += 1
        self.move_to_tail(left)
        return False

    cdef bint complete_tail(self) except -1:
        cdef Py_ssize_t packet_size, wanted
        while not self.tail_has_header:
            if self.cursor == self.end:
                return False
            wanted = self.wire.step(self.tail_size, self.cursor, self.end - self.cursor)
            self.reserve_tail(self.tail_size + min(wanted, self.end - self.cursor))
            self.move_to_tail(wanted)
            self.tail_has_header = self.wire.scan_tail(self.tail.memory, self.tail_size, &self.tail_header)
        packet_size = <Py_ssize_t>self.tail_header.packet_size
        self.reserve_tail(packet_size)
        self.move_to_tail(packet_size - self.tail_size)
        if self.tail_size < packet_size:
            return False
        self.frame(self.tail, self.tail.memory, &self.tail_header)
        self.drop_tail()
        return True

    cdef int frame(self, object source, const uint8_t* start, Header* header) except -1:
        """Take the whole packet at `start` as the one that was cut."""
        self.wire.check_ending(start + header.packet_size)
        self.header = header[0]
        self.source = source
        self.body = start + header.body_start
        self.body_size = header.body_size
        return 0

    cdef int reserve_tail(self, Py_ssize_t size) except -1:
        """Have `size` bytes of room: only now it is known how many are needed."""
        cdef Block larger
        if size > self.tail.room:
            larger = self.pool.lend_for(size, TAIL)
            memcpy(larger.memory, self.tail.memory, self.tail_size)
            self.tail = larger
        return 0

    cdef void move_to_tail(self, Py_ssize_t wanted) noexcept:
        """Move up to `wanted` bytes of the chunk behind what the tail already holds."""
        cdef Py_ssize_t moved = min(wanted, self.end - self.cursor)
        if moved:
            memcpy(self.tail.memory + self.tail_size, self.cursor, moved)
            self.tail_size += moved
            self.cursor += moved

    cdef void drop_tail(self) noexcept:
        self.tail = None
        self.tail_has_header = False
        self.tail_size = 0

    cdef Py_ssize_t waiting(self) noexcept:
        return self.tail_size + (self.end - self.cursor) + self.pending_size

    cdef Py_ssize_t drop(self) except -1:
        cdef Py_ssize_t dropped = self.waiting()
        self.chunk = self.source = self.pending = self.broken = None
        self.cursor = self.end = self.body = NULL
        self.body_size = self.pending_size = 0
        self.drop_tail()
        return dropped


cdef int require_room(PoolAllocator pool, HeaderCodec codec) except -1:
    if pool.block_size < codec.max_packet_size:
        raise ValueError(f"blocks of {pool.block_size} bytes do not hold a packet of {codec.max_packet_size}")
    return 0
