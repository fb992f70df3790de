# cython: freethreading_compatible=True
"""A packet: the compiled twin of `gamenet._pure.packet`.

What stays true: `source` keeps the bytes of the body alive and is never written to while anyone else can see it,
so neither a kept packet nor a view of one can dangle or change. Locking rule: one thread at a time, and gamenet's:
a handler may give a packet to another thread, and only when the handler has returned is it seen that the packet was
kept, and its body moved out of the chunk. So `source`, `data` and `size` are read and changed together in the packet's
critical section (which is nothing where there is a GIL), and who does more there than to copy holds `source`.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsUnsignedLongLong
from libc.string cimport memcmp, memcpy

from gamenet._compiled.pool cimport Block
from gamenet._compiled.refcounts cimport is_only_ours

import operator

from gamenet import errors

MAX_NUMBER = (1 << 64) - 1


cdef uint64_t as_number(str name, object value) except? 0xFFFFFFFFFFFFFFFF:
    """`value` as a number of the wire; TypeError or ValueError if it is none."""
    try:
        number = operator.index(value) if not isinstance(value, int) else value
    except TypeError:
        raise errors.wrong_type(name, "an int", value) from None
    try:
        return PyLong_AsUnsignedLongLong(number)
    except OverflowError:
        raise errors.number_does_not_fit(name, number, 0, MAX_NUMBER) from None


@cython.no_gc
cdef class RawPacket:
    """A packet without declared fields, as handlers of a bare packet id and `PacketBuffer` see it.

    Handlers may keep a packet: its bytes are then its own. Compares by class, packet id and body.
    Locking rule: one thread at a time.
    """

    __hash__ = None

    def __cinit__(self, *values, **named):
        self.source = b""
        self.data = <const uint8_t*>PyBytes_AS_STRING(self.source)

    def __init__(self, packet_id, body=b"", sequence=0):
        self.id = as_number("packet_id", packet_id)
        self.number = as_number("sequence", sequence)
        self.take_body(body)

    @property
    def packet_id(self):
        """The id that chose the handler."""
        return self.id

    @property
    def sequence(self):
        """The header's sequence number; an answer carries the one of its request. May be set."""
        return self.number

    @sequence.setter
    def sequence(self, value):
        self.number = as_number("sequence", value)

    @property
    def header(self):
        """The numbers of its header that have no meaning to gamenet, by name; empty unless the layout has some."""
        return {} if self.head is None else self.reader._extras(self.head)

    @property
    def body(self):
        """The bytes behind the header."""
        with cython.critical_section(self):
            return PyBytes_FromStringAndSize(<const char*>self.data, self.size)

    @property
    def body_size(self):
        """Bytes behind the header."""
        return self.size

    def view(self):
        """A read-only view of the body, made without copying it. It stays true after the handler returned."""
        cdef object source
        cdef const uint8_t* data
        cdef Py_ssize_t start, size
        with cython.critical_section(self):
            source = self.source
            data = self.data
            size = self.size
        if isinstance(source, bytes):
            start = data - <const uint8_t*>PyBytes_AS_STRING(source)
            return memoryview(source)[start:start + size]
        start = data - (<Block>source).memory
        return memoryview(source).toreadonly()[start:start + size]

    def __eq__(self, other):
        cdef RawPacket that
        if not isinstance(other, RawPacket) or type(self) is not type(other):
            return NotImplemented
        that = <RawPacket>other
        with cython.critical_section(self, that):
            return self.id == that.id and self.size == that.size and memcmp(self.data, that.data, self.size) == 0

    def __reduce__(self):
        return type(self), (self.id, self.body, self.number)

    def __repr__(self):
        return f"{type(self).__name__}(packet_id={self.id}, body_size={self.size}, sequence={self.number})"

    cdef int take_body(self, body) except -1:
        """Refer to `body` if it cannot change, else copy it."""
        cdef Py_buffer view
        if PyBytes_CheckExact(body):
            self.source = body
            self.data = <const uint8_t*>PyBytes_AS_STRING(body)
            self.size = PyBytes_GET_SIZE(body)
            return 0
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            memcpy(self.own(view.len), view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        return 0

    cdef uint8_t* own(self, Py_ssize_t size) except NULL:
        """A new body of `size` bytes, content undefined, that only this packet refers to."""
        # one byte is shared by CPython when its value is known; from NULL it never is
        fresh = PyBytes_FromStringAndSize(NULL, size)
        self.source = fresh
        self.data = <const uint8_t*>PyBytes_AS_STRING(fresh)
        self.size = size
        return <uint8_t*>self.data

    cdef int make_writable(self) except -1:
        """After this, writing to `data` is seen by nobody else, while the critical section lasts."""
        if not isinstance(self.source, bytes) or not is_only_ours(self.source):
            self.move_out()
        return 0

    cdef int move_out(self) except -1:
        """Copy the body, so that the chunk it came in is not kept because of it."""
        cdef object _held = self.source  # until the bytes are copied, and nothing shows it any more
        cdef const uint8_t* data = self.data
        memcpy(self.own(self.size), data, self.size)
        return 0

    cdef int settle(self) except -1:
        """The handler kept this packet: do not let it hold a chunk much larger than itself, or a pool's block."""
        with cython.critical_section(self):
            return 0 if may_hold(self.source, self.size) else self.move_out()
