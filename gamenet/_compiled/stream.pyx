# cython: freethreading_compatible=True
"""The hot path of a session: the compiled twin of `gamenet._pure.stream`.

What stays true: packets are handled in the order they came, one at a time; once `is_open` is false nothing is
dispatched or sent. Everything rare is a hook (`on_...`) that the session overrides.
Locking rule: a stream belongs to the thread that called `attach()`; sending from another raises.
"""

import sys

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.string cimport memcpy

from gamenet._compiled.batch cimport MAX_RUN
from gamenet._compiled.buffer cimport Run, next_packet
from gamenet._compiled.header cimport Header, HeaderCodec
from gamenet._compiled.outbox cimport LARGE, append_body, gathered
from gamenet._compiled.packet cimport as_number, is_all_of, let_go
from gamenet._compiled.pool cimport PoolAllocator
from gamenet._compiled.rate cimport RateBucket
from gamenet._compiled.refcounts cimport is_only_ours
from gamenet._compiled.routes cimport (
    BATCH, HANDLER, PING, TIMED_RUN, PingRoute, find_route, take_batch, take_packet,
)
from gamenet._compiled.turns cimport TurnQueue

from gamenet import errors

cdef extern from "Python.h":
    PyObject* PyObject_Vectorcall(PyObject* function, PyObject** args, size_t count, PyObject* names)

cdef extern from *:
    """
    #define GAMENET_CHECKED(result) (result)
    """
    object checked "GAMENET_CHECKED"(PyObject* result)  # an owned result as an object; NULL raises what is set

cdef enum:
    FLUSH_LIMIT = 65536
    LONGEST_STRIDE = 256
    STRIDE_AT_FIRST = 8
    SHARE_OF_RUN = 4
    SUSPENDED = 1  # why nothing is dispatched
    AWAITS_TURN = 2

FLUSH_SIZE = FLUSH_LIMIT
"""An outbox above this many bytes does not wait for the end of the turn.

After a pause it leaves in pieces of this size: a transport that was given more than its system takes may not tell what
leaves of that (asyncio's on Windows), or that anything waits at all (its TLS)."""

MAX_STRIDE = LONGEST_STRIDE
"""Packets of quick handlers between two looks at the clock: so few looks cost nothing, so many packets take no time."""

FIRST_STRIDE = STRIDE_AT_FIRST
"""The same before it is known how quick the handlers are."""

RUN_SHARE = SHARE_OF_RUN
"""How many batches fit in a turn's budget, where their handlers take long: several sessions may flood at once."""

WRITELINES_IS_BROKEN = sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2)
"""Before 3.12 `writelines()` joins anyway; 3.12.0-3.12.8 and 3.13.0-3.13.1 never call `pause_writing()` from it
(CVE-2024-12254)."""

cdef bint JOINS = WRITELINES_IS_BROKEN

# what reading the next packet raises where the session must end; in one clause, for each costs every call of `pump()`
cdef tuple ENDINGS = (errors.InvalidPacketError, errors.PoolExhaustedError, MemoryError)


cdef class DirectTransport:
    """A transport that takes bytes from where they lie: one whose code lies above this module.

    What goes wrong is told to the protocol as asyncio's transports do, and not raised.
    Locking rule: the thread of the loop only.
    """

    cdef int write_memory(self, const uint8_t* data, Py_ssize_t size) except -1:
        """Send, or copy what the socket does not take."""
        raise NotImplementedError

    cdef int write_bytes(self, bytes data) except -1:
        """Send, or keep `data` until the socket takes it."""
        raise NotImplementedError

    cdef int write_chunks(self, list chunks) except -1:
        """Send pieces of `bytes` in one go, or keep them until the socket takes them."""
        raise NotImplementedError


cdef class FlushQueue:
    """The streams that sent something in this turn; `call_soon(callback)` brings the turn's end.

    Locking rule: the thread of the loop only.
    """

    def __init__(self, call_soon):
        self.call_soon = call_soon
        self.streams = []

    def add(self, Stream stream not None):
        """Have `stream` flushed at the end of the turn."""
        self.push(stream)

    def flush(self):
        """Flush every stream that was added."""
        cdef list streams = self.streams
        cdef Stream stream
        self.streams = []
        for stream in streams:
            stream.flush_now()

    cdef int push(self, Stream stream) except -1:
        if not self.streams:
            self.call_soon(self.flush)
        self.streams.append(stream)
        return 0


cdef class Stream(RunSender):
    """One connection's packets, both ways; the base class of `Session`.

    `clock()` gives seconds; `last_received` is its value at the latest chunk. While the transport asks to wait, more
    than `high_watermark` bytes call `on_backlog()` and more than `max_write_buffer` bytes `on_overflow()`.
    `max_read_buffer` bytes may wait while a handler is suspended, then `on_read_full()` is called. When `turns` says
    that the turn of the loop has had its time `on_yield()` is called, and the rest waits for `go_on()`.
    Locking rule: the thread that called `attach()`; sending elsewhere raises. Any may read `is_open` and `codec`.
    """

    def __init__(
        self,
        HeaderCodec codec not None,
        PoolAllocator pool not None,
        RouteTable routes not None,
        Ledger ledger not None,
        FlushQueue flush_queue not None,
        clock,
        Py_ssize_t max_read_buffer=65536,
        Py_ssize_t max_write_buffer=1048576,
        Receiver receiver=None,
        Py_ssize_t high_watermark=65536,
        TurnQueue turns=None,
    ):
        self.inbox = PacketBuffer(codec, pool)
        self.outbox = Outbox(codec, pool)
        self.routes = routes
        self.ledger = ledger
        self.flush_queue = flush_queue
        self.receiver = receiver
        self.clock = clock
        self.max_read_buffer = max_read_buffer
        self.max_write_buffer = max_write_buffer
        self.high_watermark = high_watermark
        self.calm_size = min(FLUSH_LIMIT, high_watermark, max_write_buffer)
        self.turns = turns
        self.stride = self.until_look = STRIDE_AT_FIRST
        self.round_trip = -1.0

    # -- life

    def attach(self, transport):
        """Start: packets are dispatched and sent from now on, in this thread."""
        self.transport = transport
        self.write = transport.write
        self.direct = transport if isinstance(transport, DirectTransport) else None
        self.thread = PyThread_get_thread_ident()
        self.last_received = self.clock()
        self.is_open = True

    def shut(self):
        """Dispatch and accept nothing more, and discard what arrived; what was sent before still leaves."""
        self.is_open = False
        self.stops &= ~AWAITS_TURN
        if not self.is_pumping:
            self.discard()

    def detach(self):
        """The connection is gone: drop the transport and everything that waits."""
        self.shut()
        self.transport = self.write = self.direct = None
        self.outbox.clear()
        self.backlog = None

    @property
    def inbox_size(self):
        """Bytes that arrived and wait: part of a packet, or everything behind a suspended handler."""
        return self.inbox.waiting()

    @property
    def outbox_size(self):
        """Bytes that were sent by handlers and not yet given to the transport."""
        return self.waiting_size()

    @property
    def unsent_size(self):
        """Bytes that were sent by handlers and not yet taken by the system: the outbox and the transport's queue."""
        return self.waiting_size() + (0 if self.transport is None else self.transport.get_write_buffer_size())

    cdef Py_ssize_t waiting_size(self) except -1:
        return gathered(self.outbox) + (0 if self.backlog is None else <Py_ssize_t>self.backlog.size)

    @property
    def codec(self):
        """How packets are framed. Set it, also in a handler, and bytes that arrived already are read again under the
        new one; what was sent already stays as it is. `ValueError` if the pool's blocks do not hold its packets.
        """
        return self.inbox.shown_codec()

    @codec.setter
    def codec(self, HeaderCodec codec not None):
        self.inbox.use_codec(codec)
        self.outbox.wire = codec
        self.pump_rest()

    def set_transform(self, decode=None, encode=None):
        """Pass what arrives through `decode(data)` and what is sent through `encode(data)`: bytes to bytes, chunk by
        chunk in order, as ciphers do; None leaves it as it is.

        Bytes that arrived already and belong to no packet yet are decoded; what was sent before leaves as it was.
        A `decode` that raises ends the session as an invalid packet does, an `encode` that raises as a failed write.
        `TypeError` for what is neither callable nor None.
        """
        cdef bytes unread
        self.require_thread()
        for name, function in (("decode", decode), ("encode", encode)):
            if function is not None and not callable(function):
                raise errors.wrong_type(name, "callable", function)
        self.drain_to_transport()
        self.encode = encode
        unread = self.inbox.take_all() if decode is not None else b""
        self.decode = decode
        if unread:
            self.ledger.bytes_in -= len(unread)
            self.feed(unread)
            self.pump_rest()

    cdef int pump_rest(self) except -1:
        if not self.is_open or self.is_pumping or not self.inbox.waiting():
            return 0
        self.pump_now()
        return self.look_at_rest()

    # -- in

    def data_received(self, chunk):
        """Called by the loop with what arrived."""
        self.last_received = self.clock()
        self.feed(chunk)
        self.pump()
        self.look_at_rest()

    cdef int feed(self, chunk) except -1:
        if self.decode is not None:
            try:
                chunk = bytes(self.decode(bytes(chunk)))
            except Exception as error:
                self.ledger.bytes_in += len(chunk)
                self.ledger.bytes_rejected += len(chunk)
                return self.violated(errors.cannot_decode(error))
        self.ledger.bytes_in += len(chunk)
        self.inbox.add(chunk)
        return 0

    def get_buffer(self, sizehint):
        """Called by a loop that reads into our memory: a writable view to read into, at once."""
        return self.receiver.lend()

    def buffer_updated(self, Py_ssize_t nbytes):
        """Called by the loop when it has read `nbytes` into what `get_buffer()` gave it."""
        self.received(nbytes, self.clock())

    cdef int received(self, Py_ssize_t nbytes, double now) except -1:
        """The receiver's block was read into, `nbytes` at `now`."""
        cdef object view = self.receiver.view
        cdef Block block = self.receiver.take()
        self.last_received = now
        try:
            if self.decode is None:
                self.ledger.bytes_in += nbytes
                self.inbox.add_block(block, nbytes)
            else:
                self.feed(PyBytes_FromStringAndSize(<const char*>block.memory, nbytes))
            self.pump()
        finally:
            self.inbox.leave_block()
            self.receiver.give_back(block, view)
        return self.look_at_rest()

    cdef inline int look_at_rest(self) except -1:
        """What of a chunk was not dispatched: too much behind a handler, or the first part of a packet."""
        if self.stops & SUSPENDED and self.inbox.waiting() >= self.max_read_buffer:
            self.on_read_full()
        if self.inbox.tail is not None and self.inbox.tails != self.tails_seen:
            self.look_at_partial()
        return 0

    cdef int look_at_partial(self) except -1:
        self.tails_seen = self.inbox.tails
        self.partial_began = self.last_received
        if not self.is_partial_watched:
            self.is_partial_watched = True
            self.on_partial()
        return 0

    def partial_since(self):
        """When the packet that is incomplete now began to arrive; None, and `on_partial()` will be called for the
        next one, if there is none.
        """
        self.is_partial_watched = self.inbox.tail is not None
        return self.partial_began if self.is_partial_watched else None

    def heard(self):
        """Count the peer as heard of now: it could not be, for we did not listen."""
        self.last_received = self.partial_began = self.clock()

    @property
    def is_suspended(self):
        """Whether packets wait for `resume()`."""
        return self.stops & SUSPENDED != 0

    @property
    def awaits_turn(self):
        """Whether packets wait for `go_on()`."""
        return self.stops & AWAITS_TURN != 0

    def suspend(self):
        """Dispatch nothing until `resume()`; arriving bytes wait."""
        self.stops |= SUSPENDED

    def resume(self):
        """Go on with the packets that waited."""
        self.stops &= ~SUSPENDED
        self.pump_again()

    def hold(self):
        """Dispatch nothing until `go_on()`; arriving bytes wait."""
        self.stops |= AWAITS_TURN

    def go_on(self):
        """After `on_yield()` or `hold()`: go on with the packets that wait."""
        self.stops &= ~AWAITS_TURN
        self.pump_again()

    cdef int pump_again(self) except -1:
        if self.bucket is not None:
            self.bucket.refill_at(self.clock())
        self.pump_now()
        return self.look_at_rest()

    cdef int pump_now(self) except -1:
        """What came a while ago takes its time from now on."""
        if self.turns is not None:
            self.turns.mark()
        return self.pump()

    cdef int pump(self) except -1:
        cdef PacketBuffer inbox = self.inbox
        cdef Ledger ledger = self.ledger
        cdef uint64_t outer = ledger.pumping
        cdef uint64_t outer_id = ledger.packet_id
        cdef Route route
        cdef Py_ssize_t left = self.until_look
        if self.is_pumping or self.stops & AWAITS_TURN:
            return 0
        self.is_pumping = True
        ledger.pumping = <uint64_t><size_t><PyObject*>self
        try:
            while self.is_open and not self.stops and next_packet(inbox):
                route = find_route(self.routes, inbox.header.packet_id)
                if self.is_guarded and not self.admit(route):
                    pass
                elif route is None or inbox.body_size < route.min_body_size:
                    self.reject(route)
                elif route.kind == HANDLER:
                    dispatch(self, route, inbox)
                else:
                    left -= self.dispatch_special(route, inbox)
                left -= 1
                if left <= 0:
                    left = self.look_at_clock()
        except ENDINGS as error:
            self.stopped_by(error)
        except BaseException:
            if self.is_open and not self.stops & AWAITS_TURN and inbox.waiting():
                self.give_way(0.0)  # a KeyboardInterrupt ends this turn, and not the session
            raise
        finally:
            self.is_pumping = False
            self.until_look = left
            ledger.pumping = outer
            ledger.packet_id = outer_id
            if not self.is_open:
                self.discard()
            self.flush_now()
        return 0

    cdef int look_at_clock(self) except -1:
        """Yield if this turn of the loop has had its time; how many packets until the next look.

        A stride takes a small part of the budget, for everybody has at least one in a turn.
        """
        cdef TurnQueue turns = self.turns
        cdef double passed
        if turns is None:
            return LONGEST_STRIDE
        passed = turns.look_now(<double>self.clock() - self.last_received)
        if passed > turns.budget / 32:
            self.stride = max(1, self.stride // 4)
        elif passed < turns.budget / 128:
            self.stride = min(LONGEST_STRIDE, self.stride * 2)
        if turns.looked < turns.end:
            return self.stride
        if not self.inbox.waiting():
            return 1  # nothing is left for another turn; what may still come in this one is
        if not self.stops & AWAITS_TURN:
            self.give_way(0.0)
        return self.stride

    cdef int give_way(self, double delay) except -1:
        self.stops |= AWAITS_TURN
        self.ledger.yields += 1
        self.on_yield(delay)
        return 0

    # -- who may send what, and how much

    @property
    def is_logged_in(self):
        """False: only routes with `before_login` are dispatched, packets of others are rejected. Handlers set it."""
        return not self.is_not_logged_in

    @is_logged_in.setter
    def is_logged_in(self, value):
        self.require_thread()
        self.is_not_logged_in = not value
        self.is_guarded = self.bucket is not None or self.is_not_logged_in
        self.on_login()

    def limit_rate(self, RateBucket bucket, bint waits=True):
        """Let every packet take its cost from `bucket`. When it is spent the session waits for credit, or with
        `waits=False` packets are rejected and `on_rate_exceeded()` is called for each. None lifts the limit.
        """
        self.bucket = bucket
        self.waits_for_credit = waits
        self.is_guarded = bucket is not None or self.is_not_logged_in

    cdef bint admit(self, Route route) except -1:
        """Whether the packet that was cut may be dispatched. It is paid for in any case."""
        cdef RateBucket bucket = self.bucket
        cdef uint64_t packet_id = self.inbox.header.packet_id, packet_size = self.inbox.header.packet_size
        if bucket is not None:
            bucket.refill_at(self.last_received)
            if bucket.is_empty() and not self.waits_for_credit:
                self.ledger.rejected_rate += 1
                self.ledger.bytes_rejected += packet_size
                self.on_rate_exceeded(packet_id)
                return False
            bucket.pay(1.0 if route is None else route.cost, <Py_ssize_t>packet_size)
            self.wait_if_spent()
        if not self.is_not_logged_in or route is None or route.before_login:
            return True
        self.ledger.rejected_login += 1
        self.ledger.bytes_rejected += packet_size
        self.on_early(packet_id)
        return False

    cdef int wait_if_spent(self) except -1:
        if not self.bucket.is_empty() or not self.waits_for_credit or self.stops & AWAITS_TURN:
            return 0
        self.bucket.refill_at(self.clock())
        if self.bucket.is_empty():
            self.ledger.rate_waits += 1
            self.give_way(self.bucket.wait)
        return 0

    cdef int stopped_by(self, error) except -1:
        """One of `ENDINGS`."""
        if isinstance(error, errors.InvalidPacketError):
            self.violated(error)
        else:
            self.on_no_memory(error)
        return 0

    cdef int violated(self, error) except -1:
        self.ledger.rejected_invalid += 1
        self.is_open = False
        self.on_violation(error)
        return 0

    cdef int reject(self, Route route) except -1:
        if route is None:
            self.ledger.rejected_unknown += 1
        else:
            self.ledger.rejected_short += 1
        self.ledger.bytes_rejected += self.inbox.header.packet_size
        self.on_rejected(self.inbox.header.packet_id, self.inbox.body_size, route)
        return 0

    cdef Py_ssize_t dispatch_special(self, Route route, PacketBuffer inbox) except -1:
        """How many packets it took beside the one that was cut."""
        if route.kind == BATCH:
            return self.dispatch_run(route, inbox)
        return self.dispatch_heartbeat(route, inbox)

    cdef Py_ssize_t dispatch_run(self, Route route, PacketBuffer inbox) except -1:
        """Hand the packet that was cut, and those of its id behind it, to a batch handler."""
        cdef uint64_t packet_id = inbox.header.packet_id
        cdef Py_ssize_t packet_size = <Py_ssize_t>inbox.header.packet_size
        cdef Batch batch = take_batch(route)
        cdef const uint8_t* frames = inbox.body - inbox.header.body_start
        cdef RateBucket bucket = self.bucket
        cdef Py_ssize_t more = MAX_RUN if bucket is None else bucket.left_for(route.cost, packet_size)
        cdef Run run = inbox.cut_run(route.min_body_size, min(route.longest_run, 1 + more))
        cdef TurnQueue turns = None if run.packets < TIMED_RUN else self.turns
        cdef double began
        batch.fill(self, inbox.wire, route.packet_type, packet_id, inbox.source, frames, run)
        self.ledger.packets_dispatched += run.packets
        self.ledger.bytes_dispatched += run.size
        if bucket is not None:  # for the first one it was paid
            bucket.pay(route.cost * (run.packets - 1), run.size - packet_size)
            self.wait_if_spent()
        self.ledger.packet_id = packet_id
        try:
            began = 0.0 if turns is None else turns.clock()
            call_handler(self, route, packet_id, <PyObject*>batch)
            if turns is not None:
                route.learn_from(run.packets, <double>turns.clock() - began, turns.budget / SHARE_OF_RUN)
        finally:
            batch.take_back()
            if is_only_ours(batch):
                batch.empty()
                route.spare_batch = batch
            else:
                batch.settle()
        return run.packets - 1

    # -- heartbeat

    def ping(self, packet_id, patience=None):
        """Send a ping, whose pong brings `round_trip_time`; False if it was not taken, or if an earlier one waits for
        its pong, and not for `patience` seconds yet (None: without end). Errors as in `send`.
        """
        cdef double now
        cdef uint64_t highest, sequence
        self.require_thread()
        now = self.clock()
        if self.awaits_pong and (patience is None or now - self.ping_sent < patience):
            return False
        highest = self.outbox.wire.layout.max_sequence
        sequence = self.ping_sequence % highest + 1 if highest else 0
        self.awaits_pong = self.send(packet_id, b"", sequence)
        if self.awaits_pong:
            self.ping_sequence = sequence
            self.ping_sent = now
        return self.awaits_pong != 0

    @property
    def round_trip_time(self):
        """Seconds from the latest ping to its pong; None before there was one."""
        return None if self.round_trip < 0.0 else self.round_trip

    cdef int dispatch_heartbeat(self, Route route, PacketBuffer inbox) except -1:
        self.ledger.packets_dispatched += 1
        self.ledger.bytes_dispatched += inbox.header.packet_size
        if route.kind == PING:
            self.answer_ping(<PingRoute>route, inbox)
        elif self.awaits_pong and inbox.header.sequence == self.ping_sequence:
            self.round_trip = self.last_received - self.ping_sent
            self.awaits_pong = False
        return 0

    cdef int answer_ping(self, PingRoute route, PacketBuffer inbox) except -1:
        cdef RawPacket packet = RawPacket.__new__(RawPacket)
        inbox.fill(packet)
        packet.id = route.pong_id
        try:
            self.send_packet(packet, packet.number, self.extras_of(packet))
        except ValueError as error:  # an id that takes more room in the header
            self.ledger.handler_errors += 1
            self.on_handler_error(inbox.header.packet_id, error)
        return 0

    cdef int handler_raised(self, uint64_t packet_id) except -1:
        """Take the exception that is set: ours to report, unless it ends the program."""
        try:
            checked(NULL)
        except errors.InvalidPacketError as error:
            self.violated(error)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a cancellation, too: of what it looked at
            self.ledger.handler_errors += 1
            self.on_handler_error(packet_id, error)
        return 0

    cdef int discard(self) except -1:
        try:
            while next_packet(self.inbox):
                self.ledger.packets_discarded += 1
                self.ledger.bytes_discarded += self.inbox.header.packet_size
        except errors.InvalidPacketError:
            self.ledger.packets_discarded += 1
        except (errors.PoolExhaustedError, MemoryError):
            pass  # no block for the one that is incomplete, which is dropped with the rest
        self.ledger.bytes_discarded += self.inbox.drop()
        return 0

    # -- out

    def send(self, packet, body=b"", sequence=None, header=None):
        """Send a packet, or `body` under a packet id; True if it was taken, False if the session is closed.

        The bytes are taken as they are now, and leave when the chunk being handled is done, else at the turn's end.
        `sequence` goes into the header, and so do the extra fields of the layout that `header` names; default: the
        packet's own, or 0. `ValueError` if a number or the body does not fit, `WrongThreadError` from a thread that
        does not own the session.
        """
        cdef Py_buffer view
        cdef RawPacket held
        cdef uint64_t id_number
        cdef uint64_t sequence_number = 0
        self.require_thread()
        if sequence is not None:
            sequence_number = as_number("sequence", sequence)
        if isinstance(packet, RawPacket):
            if body != b"":
                raise TypeError("a packet brings its own body")
            held = <RawPacket>packet
            if sequence is None:
                sequence_number = held.number
            return self.send_packet(held, sequence_number, self.extras_of(held) if header is None else header)
        id_number = as_number("packet_id", packet)
        if PyBytes_CheckExact(body):
            if PyBytes_GET_SIZE(body) >= LARGE:
                return self.send_large(id_number, <bytes>body, sequence_number, header)
            return self.send_body(
                id_number, <const uint8_t*>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), sequence_number, header
            )
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            return self.send_body(id_number, <const uint8_t*>view.buf, view.len, sequence_number, header)
        finally:
            PyBuffer_Release(&view)

    def reply(self, request, response=None, body=b""):
        """Answer under the request's sequence number and extra fields: with `response`, a packet, or `body` under a
        packet id; or with the request's own id and body. Result and errors as in `send`.
        """
        if not isinstance(request, RawPacket):
            raise errors.wrong_type("request", "a packet", request)
        if response is None:
            response = request
        if body is not b"" or not isinstance(response, RawPacket):
            return self.reply_with_body(<RawPacket>request, response, body)
        self.require_thread()
        return self.send_packet(<RawPacket>response, (<RawPacket>request).number, self.extras_of(<RawPacket>request))

    cdef object reply_with_body(self, RawPacket request, response, body):
        return self.send(response, body, request.number, self.extras_of(request))

    def send_frame(self, bytes frame not None):
        """Send bytes that are whole packets already; otherwise as `send`."""
        self.require_thread()
        return self.send_bytes(frame)

    cdef inline object extras_of(self, RawPacket packet):
        return self.outbox.wire.extras_of(packet) if self.outbox.wire.has_extras else None

    cdef inline bint send_packet(self, RawPacket packet, uint64_t sequence, object extras) except -1:
        cdef object source  # keeps `data` alive, whatever `extras` or another thread does to the packet
        cdef const uint8_t* data
        cdef Py_ssize_t size
        with cython.critical_section(packet):
            source = packet.source
            data = packet.data
            size = packet.size
        # a body that fills an immutable object of its own stays as it is: changing the packet makes a new one
        if size >= LARGE and is_all_of(source, size):
            return self.send_large(packet.id, <bytes>source, sequence, extras)
        return self.send_body(packet.id, data, size, sequence, extras)

    cdef bint send_large(self, uint64_t packet_id, bytes body, uint64_t sequence, object extras) except -1:
        if not self.is_open:
            self.ledger.sends_refused += 1
            return False
        if self.backlog is not None:
            return self.send_later(self.outbox.wire.frame(packet_id, body, sequence, extras))
        self.outbox.append_large(packet_id, body, sequence, extras)
        sent(self, 1)
        return True

    cdef bint send_body(
        self, uint64_t packet_id, const uint8_t* body, Py_ssize_t size, uint64_t sequence, object extras
    ) except -1:
        if not self.is_open:
            self.ledger.sends_refused += 1
            return False
        if self.backlog is not None:
            return self.send_later(self.outbox.wire.frame(packet_id, (<const char*>body)[:size], sequence, extras))
        if extras is None:
            append_body(self.outbox, packet_id, body, size, sequence)
        else:
            self.outbox.append_slowly(packet_id, body, size, sequence, extras)
        sent(self, 1)
        return True

    cdef bint send_bytes(self, bytes frame) except -1:
        if not self.is_open:
            self.ledger.sends_refused += 1
            return False
        if self.backlog is not None:
            return self.send_later(frame)
        self.outbox.append_bytes(frame)
        sent(self, 1)
        return True

    cdef bint send_later(self, bytes frame) except -1:
        """Give a frame to the backlog, which may leave out this one or an older one."""
        if not self.backlog.add(self.outbox.wire, frame):
            return False
        self.ledger.packets_out += 1
        if <Py_ssize_t>self.backlog.held_size > self.max_write_buffer:
            self.on_overflow()
        elif self.waiting_size() > self.calm_size:
            self.sent_above_limit()
        return True

    def send_waiting(self, list frames not None):
        """Send frames of the backlog, which were counted when they got there."""
        cdef bytes frame
        for frame in frames:
            self.outbox.append_bytes(frame)
        self.flush_now()

    cdef bint send_run(self, Batch batch) except -1:
        """Every packet of the batch, as `send_body` would: copied in pieces that end where a limit is passed."""
        cdef Py_ssize_t first = 0, packets, start, size, room
        self.require_thread()
        if batch.codec is not self.outbox.wire or self.backlog is not None:  # a new layout, or one by one
            return all([self.reply(packet) for packet in batch])
        while first < batch.run.packets:
            if not self.is_open:
                self.ledger.sends_refused += batch.run.packets - first
                return False
            if self.is_write_paused:
                room = self.max_write_buffer - <Py_ssize_t>self.unsent_size
            else:
                room = self.calm_size - gathered(self.outbox)
            packets = batch.packets_above(first, room)
            start = batch.start_of(first)
            size = batch.start_of(first + packets) - start
            memcpy(self.outbox.reserve(size), batch.frames + start, size)
            first += packets
            sent(self, packets)
        return True

    cdef int sent_above_limit(self) except -1:
        cdef Py_ssize_t waiting
        if not self.is_write_paused:
            self.drop_if_broken()
            return self.flush_now()  # at once: the end of the turn may be megabytes away
        waiting = self.unsent_size
        if waiting > self.max_write_buffer:
            self.on_overflow()
        elif waiting > self.high_watermark:
            self.on_backlog()
        return 0

    cdef int drop_if_broken(self) except -1:
        """asyncio's transports log each further write, so that one large answer to a peer that has reset would be a
        page of lines.
        """
        if self.direct is None and self.is_broken():
            self.outbox.clear()
        return 0

    cdef int await_flush(self) except -1:
        """Have the outbox flushed when the chunk being handled is done, else at the end of the turn."""
        if not self.in_flush_queue and not self.is_pumping:
            self.in_flush_queue = True
            self.flush_queue.push(self)
        return 0

    def check_thread(self):
        """`WrongThreadError` unless this is the thread of `attach()`."""
        self.require_thread()

    cdef inline int require_thread(self) except -1:
        cdef unsigned long caller = PyThread_get_thread_ident()
        if caller != self.thread and self.thread:
            raise errors.wrong_thread(self.thread, caller)
        return 0

    def flush(self):
        """Give what was gathered to the transport, unless it asked to wait."""
        self.flush_now()

    def drain_to_transport(self):
        """Give everything to the transport, even if it asked to wait: the last step before closing it."""
        cdef bytes frame
        if self.backlog is not None:
            for frame in self.backlog.take(self.backlog.size):
                self.outbox.append_bytes(frame)
        self.write_out()

    cdef int flush_now(self) except -1:
        self.in_flush_queue = False
        if not self.is_write_paused:
            self.write_out()
        return 0

    cdef int write_out(self) except -1:
        cdef bytes chunk
        cdef Py_ssize_t size = gathered(self.outbox)
        if self.transport is None or not size:
            return 0
        self.ledger.bytes_out += size
        if self.direct is not None and self.encode is None:
            return self.write_direct()
        chunk = self.outbox.take_single()
        self.write_chunks(self.outbox.take_chunks() if chunk is None else None, chunk)
        return 0

    cdef bint write_chunks(self, list chunks, bytes chunk) except -1:
        """Give the transport `chunks`, or `chunk` if that is None; False if it failed."""
        try:
            if self.encode is not None:
                self.write(bytes(self.encode(b"".join(chunks) if chunk is None else chunk)))
            elif chunk is not None:
                self.write(chunk)
            elif JOINS:
                self.write(b"".join(chunks))
            else:
                self.transport.writelines(chunks)
        except Exception as error:
            self.on_write_error(error)
            return False
        return True

    cdef int flush_in_pieces(self) except -1:
        """As `flush_now()`, so that the transport tells when what it was given is more than its system takes."""
        cdef Py_ssize_t before
        cdef list chunks
        while self.direct is None and gathered(self.outbox) > FLUSH_LIMIT and not self.is_write_paused:
            if self.transport is None:
                return 0
            self.drop_if_broken()
            before = gathered(self.outbox)
            if not before:
                return 0
            chunks = self.outbox.take_first(FLUSH_LIMIT)
            self.ledger.bytes_out += before - gathered(self.outbox)
            if not self.write_chunks(chunks, None):
                return 0
        return self.flush_now()

    cdef int write_direct(self) except -1:
        """Let the transport take what was gathered from where it lies."""
        cdef Block block = self.outbox.block
        cdef Py_ssize_t used = self.outbox.used
        if self.outbox.chunks is not None:
            return self.direct.write_chunks(self.outbox.take_chunks())
        if not used:
            return self.direct.write_bytes(self.outbox.take_single())
        self.outbox.clear()
        return self.direct.write_memory(block.memory, used)

    def pause_writing(self):
        """Called by the transport when its queue is above the high watermark."""
        self.is_write_paused = True

    def resume_writing(self):
        """Called by the transport when its queue is below the low watermark again."""
        self.is_write_paused = False
        self.flush_in_pieces()

    # -- hooks

    def is_broken(self):
        """Whether the connection has failed, and `detach()` is to come: what is written goes nowhere."""
        return False

    def on_violation(self, error):
        """The peer's bytes are no packets, or a handler says so by raising `error`; `is_open` is false already."""

    def on_no_memory(self, error):
        """There is no block for a packet that is incomplete; it waits, and is tried again with the next chunk."""

    def on_rejected(self, packet_id, body_size, route):
        """A packet was refused: nobody handles its id (`route` is None), or its body is too short for `route`."""

    def on_login(self):
        """`is_logged_in` was set."""

    def on_early(self, packet_id):
        """A packet was refused because the session is not logged in."""

    def on_rate_exceeded(self, packet_id):
        """A packet was refused because the bucket is spent."""

    def on_yield(self, delay):
        """Packets wait until somebody calls `go_on()`: in the loop's next turn, or after `delay` seconds."""

    def on_partial(self):
        """A packet began to arrive that is not complete: look at `partial_since()` in time."""

    def on_handler_error(self, packet_id, error):
        """A handler raised."""

    def on_result(self, packet_id, result):
        """A handler returned something, probably a coroutine."""

    def on_read_full(self):
        """`max_read_buffer` bytes wait behind a suspended handler."""

    def on_backlog(self):
        """More than `high_watermark` bytes wait for a peer that does not read; called again and again."""

    def on_overflow(self):
        """More than `max_write_buffer` bytes wait for a peer that does not read."""

    def on_write_error(self, error):
        """The transport refused a write."""


cdef inline int dispatch(Stream stream, Route route, PacketBuffer inbox) except -1:
    """Hand the packet that was cut to its handler."""
    cdef uint64_t packet_id = inbox.header.packet_id  # the handler may bring the inbox its next packet
    cdef RawPacket packet = take_packet(route)
    stream.ledger.packets_dispatched += 1
    stream.ledger.bytes_dispatched += inbox.header.packet_size
    stream.ledger.packet_id = packet_id
    packet.id = packet_id
    packet.number = inbox.header.sequence
    packet.source = inbox.source
    packet.data = inbox.body
    packet.size = inbox.body_size
    if inbox.wire.has_extras:
        inbox.fill(packet)
    call_handler(stream, route, packet_id, <PyObject*>packet)
    if is_only_ours(packet):
        let_go(packet)
        route.spare = packet
    else:
        packet.settle()
    return 0


cdef inline int call_handler(Stream stream, Route route, uint64_t packet_id, PyObject* packet) except -1:
    """`route.handler(stream, packet)`; what it raises or returns goes to the stream's hooks."""
    cdef PyObject* arguments[2]
    cdef PyObject* result
    arguments[0] = <PyObject*>stream
    arguments[1] = packet
    result = PyObject_Vectorcall(<PyObject*>route.handler, arguments, 2, NULL)
    if result is NULL:
        return stream.handler_raised(packet_id)
    returned = checked(result)
    if returned is not None and returned is not True and returned is not False:
        stream.on_result(packet_id, returned)
    return 0


cdef inline int sent(Stream stream, Py_ssize_t packets) except -1:
    """Packets were added to the outbox."""
    stream.ledger.packets_out += packets
    if gathered(stream.outbox) > stream.calm_size:
        return stream.sent_above_limit()
    return stream.await_flush()


def broadcast(streams, HeaderCodec codec not None, bytes frame not None, exclude=None):
    """Send `frame`, one packet as `codec` made it, to every stream but `exclude`; returns how many took it.

    A stream with another codec is sent the same packet in its own frame, if that can carry it.
    """
    cdef Stream stream
    cdef Py_ssize_t taken = 0
    for stream in streams:
        if stream is not exclude:
            stream.require_thread()
            taken += stream.send_bytes(frame) if stream.outbox.wire is codec else send_anew(stream, codec, frame)
    return taken


cdef bint send_anew(Stream stream, HeaderCodec codec, bytes frame) except -1:
    cdef Header header
    codec.scan(<const uint8_t*>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), &header)
    try:
        return stream.send(
            header.packet_id, frame[header.body_start:header.body_start + header.body_size], header.sequence
        )
    except ValueError:
        stream.ledger.sends_refused += 1
        return False
