from libc.stdint cimport uint8_t, uint64_t

from gamenet._compiled.buffer cimport Run
from gamenet._compiled.codec cimport Field
from gamenet._compiled.header cimport Header, HeaderCodec
from gamenet._compiled.packet cimport RawPacket


cdef enum:
    MAX_RUN = 4096  # packets of a batch: the user's handler is not left for longer than these take


cdef class Batch


cdef class RunSender:
    cdef bint send_run(self, Batch batch) except -1


cdef class Batch:
    cdef RunSender sender  # who replies; None in a batch that waits to be filled
    cdef HeaderCodec codec
    cdef object packet_type
    cdef uint64_t id
    cdef object source  # bytes or Block: keeps `frames` alive
    cdef const uint8_t* frames  # the run, headers included; borrowed from `source` for as long as it is the same
    cdef Run run
    cdef Py_ssize_t* starts  # run.packets + 1 offsets in `frames`; owned; NULL unless sizes differ and it was needed
    cdef RawPacket lent  # what was handed out last
    cdef RawPacket spare  # what was handed out before it

    cdef int fill(
        self, RunSender sender, HeaderCodec codec, object packet_type, uint64_t packet_id, object source,
        const uint8_t* frames, Run run
    ) except -1
    cdef int take_back(self) except -1
    cdef int settle(self) except -1
    cdef void empty(self) noexcept
    cdef Py_ssize_t start_of(self, Py_ssize_t index) except -1
    cdef Py_ssize_t packets_above(self, Py_ssize_t first, Py_ssize_t room) except -1
    cdef int measure(self) except -1
    cdef int read_header(self, const uint8_t* frame, Py_ssize_t size, Header* header) except -1
    cdef const uint8_t* frame_of(self, Py_ssize_t index, Header* header) except NULL
    cdef RawPacket lend(self, Py_ssize_t index)
    cdef Field field(self, object name)
    cdef int require_room(self, Field field) except -1
    cdef object packed(self, Field field)


cdef class BatchIterator:
    cdef Batch batch
    cdef Py_ssize_t index  # of the next packet


cdef class Column:
    cdef object source  # what keeps `data` alive
    cdef const uint8_t* data  # the field of the first packet; borrowed from `source`
    cdef bytes format
    cdef Py_ssize_t count
    cdef Py_ssize_t itemsize
    cdef Py_ssize_t stride  # bytes from one packet's field to the next one's
