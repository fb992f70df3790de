from libc.stdint cimport uint8_t, uint64_t

from gamenet._compiled.batch cimport Batch, RunSender
from gamenet._compiled.buffer cimport PacketBuffer
from gamenet._compiled.ledger cimport Ledger
from gamenet._compiled.outbox cimport Outbox
from gamenet._compiled.packet cimport RawPacket
from gamenet._compiled.pool cimport Block
from gamenet._compiled.rate cimport RateBucket
from gamenet._compiled.receiver cimport Receiver
from gamenet._compiled.routes cimport PingRoute, Route, RouteTable
from gamenet._compiled.turns cimport TurnQueue


cdef class FlushQueue:
    cdef object call_soon
    cdef list streams

    cdef int push(self, Stream stream) except -1


cdef class DirectTransport:
    cdef int write_memory(self, const uint8_t* data, Py_ssize_t size) except -1
    cdef int write_bytes(self, bytes data) except -1
    cdef int write_chunks(self, list chunks) except -1


cdef class Stream(RunSender):
    cdef PacketBuffer inbox
    cdef Outbox outbox
    cdef RouteTable routes
    cdef Ledger ledger
    cdef FlushQueue flush_queue
    cdef Receiver receiver  # None: chunks come by data_received()
    cdef object decode  # of what arrives, and of what is sent: functions of bytes; None while there are none
    cdef object encode
    cdef object clock
    cdef object transport  # None before attach() and after detach()
    cdef object write  # transport.write
    cdef DirectTransport direct  # the transport, if it is one; else None
    cdef RateBucket bucket  # None: packets and bytes are not limited
    cdef public object backlog  # takes what is sent while it is not None
    cdef Py_ssize_t max_read_buffer
    cdef Py_ssize_t max_write_buffer
    cdef Py_ssize_t high_watermark
    cdef Py_ssize_t calm_size  # up to so many bytes no limit of the outbox is passed
    cdef TurnQueue turns  # None: packets are dispatched as they come
    cdef Py_ssize_t until_look  # packets until the next look at the clock
    cdef int stride  # packets between two of them
    cdef unsigned long thread  # who may send; 0 before attach()
    # times, in seconds
    cdef public double last_received
    cdef double partial_began  # when the packet that is incomplete began to arrive
    cdef double ping_sent
    cdef double round_trip  # below 0 before the first pong
    cdef uint64_t ping_sequence
    cdef unsigned int tails_seen  # the inbox's count at `partial_began`
    # flags
    cdef public bint is_open
    cdef public bint is_write_paused
    cdef unsigned char stops  # why nothing is dispatched: bits; 0 when packets are
    cdef unsigned char in_flush_queue
    cdef unsigned char is_pumping
    cdef unsigned char is_guarded  # packets are admitted one by one: by the bucket, or because nobody is logged in
    cdef unsigned char is_not_logged_in
    cdef unsigned char waits_for_credit
    cdef unsigned char is_partial_watched
    cdef unsigned char awaits_pong

    cdef int pump_rest(self) except -1
    cdef int feed(self, chunk) except -1
    cdef int received(self, Py_ssize_t nbytes, double now) except -1
    cdef int pump(self) except -1
    cdef inline int look_at_rest(self) except -1
    cdef int look_at_partial(self) except -1
    cdef int pump_again(self) except -1
    cdef int pump_now(self) except -1
    cdef int look_at_clock(self) except -1
    cdef int give_way(self, double delay) except -1
    cdef bint admit(self, Route route) except -1
    cdef int wait_if_spent(self) except -1
    cdef Py_ssize_t dispatch_special(self, Route route, PacketBuffer inbox) except -1
    cdef int dispatch_heartbeat(self, Route route, PacketBuffer inbox) except -1
    cdef int answer_ping(self, PingRoute route, PacketBuffer inbox) except -1
    cdef Py_ssize_t dispatch_run(self, Route route, PacketBuffer inbox) except -1
    cdef int stopped_by(self, error) except -1
    cdef int violated(self, error) except -1
    cdef int reject(self, Route route) except -1
    cdef int handler_raised(self, uint64_t packet_id) except -1
    cdef int discard(self) except -1
    cdef inline object extras_of(self, RawPacket packet)
    cdef object reply_with_body(self, RawPacket request, response, body)
    cdef inline bint send_packet(self, RawPacket packet, uint64_t sequence, object extras) except -1
    cdef bint send_body(
        self, uint64_t packet_id, const uint8_t* body, Py_ssize_t size, uint64_t sequence, object extras
    ) except -1
    cdef bint send_large(self, uint64_t packet_id, bytes body, uint64_t sequence, object extras) except -1
    cdef bint send_bytes(self, bytes frame) except -1
    cdef bint send_later(self, bytes frame) except -1
    cdef Py_ssize_t waiting_size(self) except -1
    cdef int sent_above_limit(self) except -1
    cdef int drop_if_broken(self) except -1
    cdef int await_flush(self) except -1
    cdef inline int require_thread(self) except -1
    cdef int flush_now(self) except -1
    cdef int write_out(self) except -1
    cdef bint write_chunks(self, list chunks, bytes chunk) except -1
    cdef int flush_in_pieces(self) except -1
    cdef int write_direct(self) except -1
