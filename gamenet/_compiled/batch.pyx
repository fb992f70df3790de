# cython: freethreading_compatible=True
"""Batches: the compiled twin of `gamenet._pure.batch`.

What stays true: `source` keeps the frames alive and nobody writes to it, so a batch, its packets and its columns
can be kept. Packets are handed out from two objects in turn: while a loop's variable still shows one, the other is
filled, unless somebody kept it. Locking rule: one thread at a time, and gamenet's when the handler has returned, as
in `packet`: what is handed out, and the run, are changed and read in the batch's critical section.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_ANY_CONTIGUOUS, PyBUF_C_CONTIGUOUS, PyBUF_F_CONTIGUOUS, PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc

from gamenet._compiled.codec cimport BOOLEAN, RAW, TEXT, TypedPacket, copy_bytes
from gamenet._compiled.header cimport BookHeader, Header, load_book
from gamenet._compiled.packet cimport let_go, may_hold
from gamenet._compiled.refcounts cimport is_only_ours

import operator
from types import GenericAlias

from gamenet import errors

MAX_PACKETS = MAX_RUN
"""The most packets of one batch; a longer run makes several."""

cdef enum:
    CONTIGUOUS = (PyBUF_C_CONTIGUOUS | PyBUF_F_CONTIGUOUS | PyBUF_ANY_CONTIGUOUS) & ~PyBUF_STRIDES


cdef class RunSender:
    """Who answers a batch: the stream, which lies above this module.

    Locking rule: the thread of the loop only.
    """

    cdef bint send_run(self, Batch batch) except -1:
        raise NotImplementedError


@cython.no_gc_clear  # `frames` must not outlive `source`
cdef class Batch:
    """A run of consecutive packets of one id, as a batch handler gets it.

    Iterating or indexing gives packets of the handler's class; they, the batch and its columns may be kept.
    Locking rule: the thread of the loop; one that was kept may be read in any other, one at a time.
    """

    __class_getitem__ = classmethod(GenericAlias)

    def __init__(self):
        raise TypeError("batches are made for batch handlers")

    def __dealloc__(self):
        PyMem_Free(self.starts)

    @property
    def packet_id(self):
        """The id of every packet."""
        return self.id

    def __len__(self):
        return self.run.packets

    def __iter__(self):
        cdef BatchIterator iterator = BatchIterator.__new__(BatchIterator)
        iterator.batch = self
        return iterator

    def __getitem__(self, index):
        number = operator.index(index)
        if not -self.run.packets <= number < self.run.packets:
            raise errors.no_such_packet(number, self.run.packets)
        return self.lend(number if number >= 0 else number + self.run.packets)

    def reply(self):
        """Answer every packet with itself: the same id, sequence number and body.

        True if all were taken, False if the session is closed. `WrongThreadError` as `Stream.send`.
        """
        return self.run.packets != 0 and self.sender.send_run(self)

    def column(self, name):
        """The field `name` of every packet, in order, as a read-only memoryview of one dimension.

        Its format is `struct`'s, text and raw fields are `"<size>s"`. Nothing is copied when all packets have the
        same size and the field is in the machine's byte order; else, and for bools (made 0 or 1), it is a packed
        copy. `AttributeError` if the class has no such field, `ValueError` if a body is too short for it.
        """
        cdef Field field = self.field(name)
        cdef Column column = Column.__new__(Column)
        cdef bint as_it_is = self.run.packet_size and field.kind != BOOLEAN and not (field.swaps and field.size > 1)
        cdef object source
        cdef const uint8_t* frames
        with cython.critical_section(self):
            self.require_room(field)
            source = self.source
            frames = self.frames
        column.count = self.run.packets
        column.itemsize = field.size
        column.format = (f"{field.size}s" if field.kind == TEXT or field.kind == RAW else field.code).encode()
        if as_it_is:
            # a block is told of its views, for it is read into again when it has none
            column.source = source if isinstance(source, bytes) else memoryview(source)
            column.data = frames + self.codec.header_size + field.offset
            column.stride = self.run.packet_size
        else:
            with cython.critical_section(self):
                column.source = self.packed(field)
            column.data = <const uint8_t*>PyBytes_AS_STRING(column.source)
            column.stride = field.size
        return memoryview(column)

    def __repr__(self):
        return f"Batch(packet_id={self.id}, packets={self.run.packets})"

    # -- the stream's side

    cdef int fill(
        self, RunSender sender, HeaderCodec codec, object packet_type, uint64_t packet_id, object source,
        const uint8_t* frames, Run run
    ) except -1:
        self.sender = sender
        self.codec = codec
        self.packet_type = packet_type
        self.id = packet_id
        self.source = source
        self.frames = frames
        self.run = run
        return 0

    cdef int take_back(self) except -1:
        """The handler returned: keep the packet objects that it did not, settle the others."""
        cdef RawPacket packet
        with cython.critical_section(self):
            packet = self.lent
            self.lent = None
            self.lent = reusable(packet)
            packet = self.spare
            self.spare = None
            self.spare = reusable(packet)
        return 0

    cdef int settle(self) except -1:
        """The handler kept this batch: do not let it hold a chunk much larger than itself, or a block."""
        cdef bytes own
        cdef object _held = self.source  # until nothing shows it any more
        with cython.critical_section(self):
            if not may_hold(self.source, self.run.size):
                own = PyBytes_FromStringAndSize(<const char*>self.frames, self.run.size)
                self.source = own
                self.frames = <const uint8_t*>PyBytes_AS_STRING(own)
        return 0

    cdef void empty(self) noexcept:
        """Refer to no chunk and no session any more: nobody but gamenet holds this batch."""
        self.sender = None
        self.source = None
        self.frames = NULL
        self.run.packets = 0
        PyMem_Free(self.starts)
        self.starts = NULL

    # -- frames

    cdef Py_ssize_t start_of(self, Py_ssize_t index) except -1:
        """Where the frame of packet `index` starts; that of `run.packets` is the end of the run."""
        if self.run.packet_size:
            return index * self.run.packet_size
        if self.starts is NULL:
            self.measure()
        return self.starts[index]

    cdef Py_ssize_t packets_above(self, Py_ssize_t first, Py_ssize_t room) except -1:
        """How many packets from `first` on are just above `room` bytes together; all the rest if they fit."""
        cdef Py_ssize_t left = self.run.packets - first
        cdef Py_ssize_t end, packets = 1
        if self.run.packet_size:
            return min(left, room // self.run.packet_size + 1 if room >= 0 else 1)
        end = self.start_of(first) + room
        while packets < left and self.starts[first + packets] <= end:
            packets += 1
        return packets

    cdef int measure(self) except -1:
        cdef Header header
        cdef Py_ssize_t index, start = 0
        self.starts = <Py_ssize_t*>PyMem_Malloc((self.run.packets + 1) * sizeof(Py_ssize_t))
        if self.starts is NULL:
            raise MemoryError(f"no memory for the offsets of {self.run.packets} packets")
        for index in range(self.run.packets):
            self.starts[index] = start
            self.read_header(self.frames + start, self.run.size - start, &header)
            start += <Py_ssize_t>header.packet_size
        self.starts[self.run.packets] = start
        return 0

    cdef int read_header(self, const uint8_t* frame, Py_ssize_t size, Header* header) except -1:
        """What frames the packet at `frame`: it was valid and whole when the run was cut."""
        if not self.codec.is_book:
            return self.codec.scan(frame, size, header)
        load_book(frame, header)
        header.body_start = sizeof(BookHeader)
        header.body_size = <Py_ssize_t>header.packet_size - sizeof(BookHeader)
        return 1

    cdef const uint8_t* frame_of(self, Py_ssize_t index, Header* header) except NULL:
        """Packet `index` with its header, and what that says."""
        cdef Py_ssize_t start = self.start_of(index)
        self.read_header(self.frames + start, self.run.size - start, header)
        return self.frames + start

    cdef RawPacket lend(self, Py_ssize_t index):
        """Packet `index`, in an object that nobody else shows any more."""
        cdef Header header
        cdef const uint8_t* frame
        cdef RawPacket packet
        with cython.critical_section(self):
            packet = self.spare
            self.spare = self.lent
            self.lent = None
            if packet is None or not is_only_ours(packet):
                if packet is not None:
                    packet.settle()
                packet = new_packet(self.packet_type)
            # from here on nothing lets another thread in: `frame` lies in what is `source`
            packet.source = self.source
            frame = self.frame_of(index, &header)
            packet.data = frame + header.body_start
            packet.size = header.body_size
            packet.id = self.id
            packet.number = header.sequence
            if self.codec.has_extras:
                packet.head = PyBytes_FromStringAndSize(<const char*>frame, header.body_start)
                packet.reader = self.codec
            self.lent = packet
        return packet

    # -- columns

    cdef Field field(self, object name):
        cdef Field field
        if issubclass(self.packet_type, TypedPacket):
            for field in self.packet_type._struct.fields:
                if field.name == name:
                    return field
        raise errors.no_such_field(self.packet_type.__name__, name)

    cdef int require_room(self, Field field) except -1:
        """`ValueError` if the field is not in every body: the route may ask for less than the struct."""
        cdef Header header
        cdef Py_ssize_t needed = field.offset + field.size
        cdef Py_ssize_t index
        for index in range(1 if self.run.packet_size else self.run.packets):
            self.frame_of(index, &header)
            if header.body_size < needed:
                raise errors.body_too_short(self.packet_type.__name__, header.body_size, needed)
        return 0

    cdef object packed(self, Field field):
        """The field of every packet, one behind the other in the machine's byte order."""
        cdef Py_ssize_t size = field.size
        cdef bytes items = PyBytes_FromStringAndSize(NULL, self.run.packets * size)
        cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(items)
        cdef const uint8_t* data
        cdef Header header
        cdef Py_ssize_t index
        for index in range(self.run.packets):
            data = self.frame_of(index, &header) + header.body_start + field.offset
            if field.kind == BOOLEAN:
                out[index] = data[0] != 0
            else:
                copy_bytes(out + index * size, data, size, field.swaps)
        return items


cdef RawPacket new_packet(object packet_type):
    return packet_type.__new__(packet_type)


cdef RawPacket reusable(RawPacket packet):
    """The packet, emptied, if only the caller holds it; None, and the packet settled, if somebody kept it."""
    if packet is None:
        return None
    if is_only_ours(packet):  # the caller's variable: an argument is borrowed
        let_go(packet)
        return packet
    packet.settle()
    return None


cdef class BatchIterator:
    """The packets of a batch, in order.

    Locking rule: one thread at a time.
    """

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t index = self.index
        if self.batch is None or index >= self.batch.run.packets:
            raise StopIteration
        self.index = index + 1
        return self.batch.lend(index)


@cython.no_gc
cdef class Column:
    """What a column's memoryview shows: read-only items at equal distances.

    Locking rule: it never changes; any thread may look at it.
    """

    def __getbuffer__(self, Py_buffer* view, int flags):
        cdef bint is_packed = self.stride == self.itemsize
        if self.data is NULL:
            raise BufferError("columns are made by Batch.column()")
        if flags & PyBUF_WRITABLE:
            raise BufferError("a column is read-only")
        if not is_packed and ((flags & PyBUF_STRIDES) != PyBUF_STRIDES or flags & CONTIGUOUS):
            raise BufferError("a column's items do not lie one behind the other")
        view.buf = <void*>self.data
        view.obj = self
        view.len = self.count * self.itemsize
        view.itemsize = self.itemsize
        view.readonly = 1
        view.ndim = 1
        view.format = PyBytes_AS_STRING(self.format) if flags & PyBUF_FORMAT else NULL
        view.shape = &self.count if flags & PyBUF_ND else NULL
        view.strides = &self.stride if (flags & PyBUF_STRIDES) == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL
