# cython: freethreading_compatible=True
"""What a session sends until the end of the turn: the compiled twin of `gamenet._pure.outbox`.

What stays true: nothing that is handed in is seen to change afterwards: it is copied, or immutable; an empty outbox
holds no memory. Small packets are gathered in one pooled block, so that many of them leave as one chunk; large ones,
and a frame that nothing follows, are referred to. Locking rule: one thread at a time.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from gamenet._compiled.header cimport MAX_HEADER, BookHeader, write_book, writes_book
from gamenet._compiled.packet cimport as_number

cdef str UNSENT = "what is to be sent"


cdef class Outbox:
    """Appends packets, and hands them out as few large chunks.

    Locking rule: one thread at a time.
    """

    def __init__(self, HeaderCodec codec=None, PoolAllocator pool=None):
        self.wire = HeaderCodec() if codec is None else codec
        self.pool = PoolAllocator(self.wire.max_packet_size) if pool is None else pool

    @property
    def codec(self):
        """How packets are framed, and the largest one. May be set: what is gathered already stays as it is."""
        return self.wire

    @codec.setter
    def codec(self, HeaderCodec codec not None):
        self.wire = codec

    @property
    def size(self):
        """Bytes waiting to be taken."""
        return gathered(self)

    def append(self, packet_id, body=b"", sequence=0, header=None):
        """Add one packet; returns its size with the header. `ValueError` if a number or the body does not fit."""
        cdef Py_buffer view
        cdef uint64_t id_number = as_number("packet_id", packet_id)
        cdef uint64_t sequence_number = as_number("sequence", sequence)
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            return self.append_slowly(id_number, <const uint8_t*>view.buf, view.len, sequence_number, header)
        finally:
            PyBuffer_Release(&view)

    def append_packet(self, RawPacket packet not None):
        """Add `packet` with its own id, body, sequence number and extra fields; returns its size with the header."""
        cdef object _source  # keeps `data` alive
        cdef const uint8_t* data
        cdef Py_ssize_t size
        extras = self.wire.extras_of(packet) if self.wire.has_extras else None
        with cython.critical_section(packet):
            _source = packet.source
            data = packet.data
            size = packet.size
        return self.append_slowly(packet.id, data, size, packet.number, extras)

    def append_frame(self, bytes frame not None):
        """Add bytes that are whole packets already; returns their number."""
        return self.append_bytes(frame)

    def take(self, max_size=None):
        """What was gathered, in order, as chunks to write: everything, and the outbox is empty afterwards; or the
        first `max_size` bytes, more or less, but some.
        """
        return self.take_chunks() if max_size is None else self.take_first(max_size)

    def clear(self):
        """Drop what was gathered; returns how many bytes that was."""
        cdef Py_ssize_t dropped = gathered(self)
        self.usual = self.used
        self.only = self.chunks = self.block = None
        self.chunks_size = self.used = 0
        return dropped

    cdef Py_ssize_t append_slowly(
        self, uint64_t packet_id, const uint8_t* body, Py_ssize_t size, uint64_t sequence, object extras
    ) except -1:
        """As `append_body` for any layout, and for what needs a block or chunk of its own."""
        cdef uint8_t header[MAX_HEADER]
        cdef Py_ssize_t header_size, packet_size, ending_size = PyBytes_GET_SIZE(self.wire.ending)
        cdef uint8_t* out
        if writes_book(self.wire, packet_id, size, sequence) and extras is None:
            out = self.reserve(sizeof(BookHeader) + size)
            write_book(out, packet_id, size, sequence)
            if size:
                memcpy(out + sizeof(BookHeader), body, size)
            return sizeof(BookHeader) + size
        if not self.wire.is_fixed:
            self.wire.check_body(body, size)
        header_size = self.wire.write(header, packet_id, size, sequence, extras)
        packet_size = header_size + size + ending_size
        if self.block is not None and packet_size <= self.block.room - self.used:
            out = self.block.memory + self.used
            self.used += packet_size
        else:
            out = self.reserve(packet_size)
        memcpy(out, header, header_size)
        if size:
            memcpy(out + header_size, body, size)
        if ending_size:
            memcpy(out + header_size + size, PyBytes_AS_STRING(self.wire.ending), ending_size)
        return packet_size

    cdef Py_ssize_t append_large(self, uint64_t packet_id, bytes body, uint64_t sequence, object extras) except -1:
        """Add a packet whose body is not copied."""
        cdef uint8_t header[MAX_HEADER]
        cdef Py_ssize_t header_size, size = PyBytes_GET_SIZE(body), ending_size = PyBytes_GET_SIZE(self.wire.ending)
        self.wire.check_body(<const uint8_t*>PyBytes_AS_STRING(body), size)
        header_size = self.wire.write(header, packet_id, size, sequence, extras)
        self.reserve(0)  # a block that nothing after the header can lack
        if header_size:
            memcpy(self.reserve(header_size), header, header_size)
        self.seal()
        self.add_chunk(body)
        if ending_size:
            memcpy(self.reserve(ending_size), PyBytes_AS_STRING(self.wire.ending), ending_size)
        return header_size + size + ending_size

    cdef Py_ssize_t append_bytes(self, bytes frame) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(frame)
        if not gathered(self):
            self.only = frame
            self.chunks_size = size
        elif size >= LARGE or size > self.pool.block_size:
            self.follow_only()
            self.seal()
            self.add_chunk(frame)
        elif size:
            memcpy(self.reserve(size), PyBytes_AS_STRING(frame), size)
        return size

    cdef uint8_t* reserve(self, Py_ssize_t size) except NULL:
        """`size` bytes behind what is gathered, counted as used: the caller fills them before anything else."""
        cdef bytes chunk
        cdef uint8_t* out
        self.follow_only()
        if self.block is not None and self.used + size > self.block.room:
            self.make_room(size)
        if size > self.pool.block_size:
            chunk = PyBytes_FromStringAndSize(NULL, size)
            self.add_chunk(chunk)
            return <uint8_t*>PyBytes_AS_STRING(chunk)
        if self.block is None:
            self.block = self.pool.lend_for(max(size, self.usual), UNSENT)
        out = self.block.memory + self.used
        self.used += size
        return out

    cdef int make_room(self, Py_ssize_t size) except -1:
        """The block is too small: take a larger one, or empty the largest."""
        cdef Block larger
        if self.used + size > self.pool.block_size:
            self.seal()
        if self.used + size > self.block.room and size <= self.pool.block_size:
            larger = self.pool.lend_for(self.used + size, UNSENT)
            memcpy(larger.memory, self.block.memory, self.used)
            self.block = larger
        return 0

    cdef int follow_only(self) except -1:
        """Something will follow the frame that was alone."""
        cdef bytes frame = self.only
        if frame is None:
            return 0
        self.only = None
        self.chunks_size = 0
        try:
            if PyBytes_GET_SIZE(frame) >= LARGE or PyBytes_GET_SIZE(frame) > self.pool.block_size:
                self.add_chunk(frame)
            elif frame:
                memcpy(self.reserve(PyBytes_GET_SIZE(frame)), PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
        except BaseException:  # no block is left: it stays what it was
            self.only = frame
            self.chunks_size = PyBytes_GET_SIZE(frame)
            raise
        return 0

    cdef int seal(self) except -1:
        """Move what the block holds behind the full chunks; the block stays for what comes next."""
        if self.used:
            self.add_chunk(PyBytes_FromStringAndSize(<const char*>self.block.memory, self.used))
            self.used = 0
        return 0

    cdef bytes take_single(self):
        """What was gathered if it is one frame or block, as bytes; None if it is more, or nothing."""
        cdef bytes taken = self.only
        if self.chunks is not None or not gathered(self):
            return None
        if taken is None:
            taken = PyBytes_FromStringAndSize(<const char*>self.block.memory, self.used)
        self.usual = self.used
        self.only = self.block = None
        self.chunks_size = self.used = 0
        return taken

    cdef int add_chunk(self, bytes chunk) except -1:
        if self.chunks is None:
            self.chunks = []
        self.chunks.append(chunk)
        self.chunks_size += PyBytes_GET_SIZE(chunk)
        return 0

    cdef list take_chunks(self):
        cdef list taken
        self.follow_only()
        self.usual = self.used
        self.seal()
        taken = [] if self.chunks is None else self.chunks
        self.chunks = None
        self.block = None
        self.chunks_size = 0
        return taken

    cdef list take_first(self, Py_ssize_t max_size):
        """The oldest chunks: as many as `max_size` bytes hold, but one."""
        cdef list taken
        cdef bytes chunk
        cdef Py_ssize_t count = 0, size = 0
        if self.chunks is None or gathered(self) <= max_size:
            return self.take_chunks()
        for chunk in self.chunks:
            if count and size + PyBytes_GET_SIZE(chunk) > max_size:
                break
            size += PyBytes_GET_SIZE(chunk)
            count += 1
        if size == gathered(self):
            return self.take_chunks()
        taken = self.chunks[:count]
        del self.chunks[:count]
        if not self.chunks:
            self.chunks = None
        self.chunks_size -= size
        return taken
