"""The hot path of a session: chunks in, handlers called, packets gathered, one write per turn of the loop.

What stays true: packets are handled in the order they came, one at a time; once `is_open` is false nothing is
dispatched or sent. A stream belongs to the thread that called `attach()`; sending from another raises.
Everything rare is a hook (`on_...`) that the session overrides.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from gamenet import errors
from gamenet._pure.batch import MAX_PACKETS, Batch, cut_batch
from gamenet._pure.buffer import PacketBuffer
from gamenet._pure.header import HeaderCodec
from gamenet._pure.ledger import Ledger
from gamenet._pure.outbox import Outbox
from gamenet._pure.packet import RawPacket
from gamenet._pure.pool import PoolAllocator
from gamenet._pure.rate import RateBucket
from gamenet._pure.receiver import Receiver
from gamenet._pure.routes import BATCH, HANDLER, LONG_RUN, PING, PingRoute, Route, RouteTable, learn_run
from gamenet._pure.turns import TurnQueue

if TYPE_CHECKING:
    from asyncio import WriteTransport

    from _typeshed import ReadableBuffer

Transform = Callable[[bytes], bytes]


class Backlog(Protocol):
    """What waits for a slow receiver, frame by frame."""

    @property
    def size(self) -> int:
        """Bytes that wait."""

    @property
    def held_size(self) -> int:
        """Bytes of memory that they take."""

    def add(self, codec: HeaderCodec, frame: bytes) -> bool:
        """Whether the frame was taken."""

    def take(self, max_size: int) -> list[bytes]:
        """The oldest frames."""


FLUSH_SIZE = 65536
"""An outbox above this many bytes does not wait for the end of the turn.

After a pause it leaves in pieces of this size: a transport that was given more than its system takes may not tell what
leaves of that (asyncio's on Windows), or that anything waits at all (its TLS)."""

MAX_STRIDE = 256
"""Packets of quick handlers between two looks at the clock: so few looks cost nothing, so many packets take no time."""

FIRST_STRIDE = 8
"""The same before it is known how quick the handlers are."""

RUN_SHARE = 4
"""How many batches fit in a turn's budget, where their handlers take long: several sessions may flood at once."""

WRITELINES_IS_BROKEN = sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2)
"""Before 3.12 `writelines()` joins anyway; 3.12.0-3.12.8 and 3.13.0-3.13.1 never call `pause_writing()` from it
(CVE-2024-12254)."""


class FlushQueue:
    """The streams that sent something in this turn; `call_soon(callback)` brings the turn's end.

    Locking rule: the thread of the loop only.
    """

    __slots__ = ("_call_soon", "_streams")

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._streams: list[Stream] = []

    def add(self, stream: Stream) -> None:
        """Have `stream` flushed at the end of the turn."""
        if not self._streams:
            self._call_soon(self.flush)
        self._streams.append(stream)

    def flush(self) -> None:
        """Flush every stream that was added."""
        streams, self._streams = self._streams, []
        for stream in streams:
            stream.flush()


class Stream:
    """One connection's packets, both ways; the base class of `Session`.

    `clock()` gives seconds; `last_received` is its value at the latest chunk. While the transport asks to wait, more
    than `high_watermark` bytes call `on_backlog()` and more than `max_write_buffer` bytes `on_overflow()`.
    `max_read_buffer` bytes may wait while a handler is suspended, then `on_read_full()` is called. When `turns` says
    that the turn of the loop has had its time `on_yield()` is called, and the rest waits for `go_on()`.
    Locking rule: the thread that called `attach()`; sending elsewhere raises. Any may read `is_open` and `codec`.
    """

    __slots__ = (
        "_awaits_pong",
        "_awaits_turn",
        "_bucket",
        "_calm_size",
        "_clock",
        "_decode",
        "_encode",
        "_flush_queue",
        "_high_watermark",
        "_in_flush_queue",
        "_inbox",
        "_is_guarded",
        "_is_logged_in",
        "_is_partial_watched",
        "_is_pumping",
        "_is_suspended",
        "_ledger",
        "_max_read_buffer",
        "_max_write_buffer",
        "_outbox",
        "_partial_since",
        "_ping_sent",
        "_ping_sequence",
        "_receiver",
        "_round_trip",
        "_routes",
        "_stride",
        "_tails_seen",
        "_thread",
        "_transport",
        "_turns",
        "_until_look",
        "_waits_for_credit",
        "backlog",
        "is_open",
        "is_write_paused",
        "last_received",
    )

    _transport: WriteTransport | None

    def __init__(
        self,
        codec: HeaderCodec,
        pool: PoolAllocator,
        routes: RouteTable,
        ledger: Ledger,
        flush_queue: FlushQueue,
        clock: Callable[[], float],
        max_read_buffer: int = 65536,
        max_write_buffer: int = 1048576,
        receiver: Receiver | None = None,
        high_watermark: int = 65536,
        turns: TurnQueue | None = None,
    ) -> None:
        self._inbox = PacketBuffer(codec, pool)
        self._outbox = Outbox(codec, pool)
        self._routes = routes
        self._ledger = ledger
        self._flush_queue = flush_queue
        self._receiver = receiver
        self._clock = clock
        self._decode: Transform | None = None
        self._encode: Transform | None = None
        self._max_read_buffer = max_read_buffer
        self._max_write_buffer = max_write_buffer
        self._high_watermark = high_watermark
        self._calm_size = min(FLUSH_SIZE, high_watermark, max_write_buffer)
        self._turns = turns
        self._stride = self._until_look = FIRST_STRIDE
        self._bucket: RateBucket | None = None
        self._waits_for_credit = False
        self._is_logged_in = True
        self._is_guarded = False  # by a bucket or a login
        self._tails_seen = 0
        self._partial_since = 0.0
        self._is_partial_watched = False
        self._ping_sequence = 0
        self._ping_sent = 0.0
        self._awaits_pong = False
        self._round_trip = -1.0
        self._transport = None
        self._thread = 0
        self._in_flush_queue = False
        self._is_pumping = False
        self.is_open = False
        self._is_suspended = False
        self.is_write_paused = False
        self._awaits_turn = False
        self.backlog: Backlog | None = None
        self.last_received = 0.0

    # -- life

    def attach(self, transport: WriteTransport) -> None:
        """Start: packets are dispatched and sent from now on, in this thread."""
        self._transport = transport
        self._thread = threading.get_ident()
        self.last_received = self._clock()
        self.is_open = True

    def shut(self) -> None:
        """Dispatch and accept nothing more, and discard what arrived; what was sent before still leaves."""
        self.is_open = self._awaits_turn = False
        if not self._is_pumping:
            self._discard()

    def detach(self) -> None:
        """The connection is gone: drop the transport and everything that waits."""
        self.shut()
        self._transport = None
        self._outbox.clear()
        self.backlog = None

    @property
    def inbox_size(self) -> int:
        """Bytes that arrived and wait: part of a packet, or everything behind a suspended handler."""
        return self._inbox.buffered

    @property
    def outbox_size(self) -> int:
        """Bytes that were sent by handlers and not yet given to the transport."""
        return self._outbox.size + (0 if self.backlog is None else self.backlog.size)

    @property
    def unsent_size(self) -> int:
        """Bytes that were sent by handlers and not yet taken by the system: the outbox and the transport's queue."""
        return self.outbox_size + (0 if self._transport is None else self._transport.get_write_buffer_size())

    @property
    def codec(self) -> HeaderCodec:
        """How packets are framed. Set it, also in a handler, and bytes that arrived already are read again under the
        new one; what was sent already stays as it is. `ValueError` if the pool's blocks do not hold its packets.
        """
        return self._inbox.codec

    @codec.setter
    def codec(self, codec: HeaderCodec) -> None:
        self._inbox.codec = codec
        self._outbox.codec = codec
        self._pump_rest()

    def set_transform(self, decode: Transform | None = None, encode: Transform | None = None) -> None:
        """Pass what arrives through `decode(data)` and what is sent through `encode(data)`: bytes to bytes, chunk by
        chunk in order, as ciphers do; None leaves it as it is.

        Bytes that arrived already and belong to no packet yet are decoded; what was sent before leaves as it was.
        A `decode` that raises ends the session as an invalid packet does, an `encode` that raises as a failed write.
        `TypeError` for what is neither callable nor None.
        """
        self.check_thread()
        for name, function in (("decode", decode), ("encode", encode)):
            if function is not None and not callable(function):
                raise errors.wrong_type(name, "callable", function)
        self.drain_to_transport()
        self._encode = encode
        waiting = self._inbox._take_all() if decode is not None else b""
        self._decode = decode
        if waiting:
            self._ledger.bytes_in -= len(waiting)
            self._feed(waiting)
            self._pump_rest()

    def _pump_rest(self) -> None:
        if self._inbox.buffered and self.is_open and not self._is_pumping:
            self._pump_now()
            self._look_at_rest()

    # -- in

    def data_received(self, chunk: bytes) -> None:
        """Called by the loop with what arrived."""
        self.last_received = self._clock()
        self._feed(chunk)
        self._pump()
        self._look_at_rest()

    def _feed(self, chunk: bytes) -> None:
        if self._decode is not None:
            try:
                chunk = bytes(self._decode(bytes(chunk)))
            except Exception as error:
                self._ledger.bytes_in += len(chunk)
                self._ledger.bytes_rejected += len(chunk)
                self._violated(errors.cannot_decode(error))
                return
        self._ledger.bytes_in += len(chunk)
        self._inbox.feed(chunk)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by a loop that reads into our memory: a writable view to read into, at once."""
        assert self._receiver is not None
        return self._receiver._view

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop when it has read `nbytes` into what `get_buffer()` gave it."""
        assert self._receiver is not None
        self.data_received(bytes(self._receiver._view[:nbytes]))

    def _look_at_rest(self) -> None:
        """What of a chunk was not dispatched: too much behind a handler, or the first part of a packet."""
        inbox = self._inbox
        if self._is_suspended and inbox.buffered >= self._max_read_buffer:
            self.on_read_full()
        if inbox._tail is not None and inbox._tails != self._tails_seen:
            self._tails_seen = inbox._tails
            self._partial_since = self.last_received
            if not self._is_partial_watched:
                self._is_partial_watched = True
                self.on_partial()

    def partial_since(self) -> float | None:
        """When the packet that is incomplete now began to arrive; None, and `on_partial()` will be called for the
        next one, if there is none.
        """
        self._is_partial_watched = self._inbox._tail is not None
        return self._partial_since if self._is_partial_watched else None

    def heard(self) -> None:
        """Count the peer as heard of now: it could not be, for we did not listen."""
        self.last_received = self._partial_since = self._clock()

    @property
    def is_suspended(self) -> bool:
        """Whether packets wait for `resume()`."""
        return self._is_suspended

    @property
    def awaits_turn(self) -> bool:
        """Whether packets wait for `go_on()`."""
        return self._awaits_turn

    def suspend(self) -> None:
        """Dispatch nothing until `resume()`; arriving bytes wait."""
        self._is_suspended = True

    def resume(self) -> None:
        """Go on with the packets that waited."""
        self._is_suspended = False
        self._go_on()

    def hold(self) -> None:
        """Dispatch nothing until `go_on()`; arriving bytes wait."""
        self._awaits_turn = True

    def go_on(self) -> None:
        """After `on_yield()` or `hold()`: go on with the packets that wait."""
        self._awaits_turn = False
        self._go_on()

    def _go_on(self) -> None:
        if self._bucket is not None:
            self._bucket.refill(self._clock())
        self._pump_now()
        self._look_at_rest()

    def _pump_now(self) -> None:
        """What came a while ago takes its time from now on."""
        if self._turns is not None:
            self._turns.mark()
        self._pump()

    def _pump(self) -> None:
        if self._is_pumping or self._awaits_turn:
            return
        inbox, ledger, left = self._inbox, self._ledger, self._until_look
        outer, ledger.pumping, outer_id = ledger.pumping, id(self), ledger.packet_id
        self._is_pumping = True
        try:
            while self.is_open and not self._is_suspended and not self._awaits_turn and inbox._advance():
                route = self._routes.find(inbox._header[0])
                if self._is_guarded and not self._admit(route):
                    pass
                elif route is None or inbox._end - inbox._start < route.min_body_size:
                    self._reject(route)
                elif route.kind == HANDLER:
                    self._dispatch(route)
                else:
                    left -= self._dispatch_special(route)
                left -= 1
                if left <= 0:
                    left = self._look_at_clock()
        except errors.InvalidPacketError as error:
            self._violated(error)
        except (errors.PoolExhaustedError, MemoryError) as error:
            self.on_no_memory(error)
        except BaseException:
            if self.is_open and not self._awaits_turn and inbox.buffered:
                self._yield(0.0)  # a KeyboardInterrupt ends this turn, and not the session
            raise
        finally:
            self._is_pumping = False
            self._until_look = left
            ledger.pumping, ledger.packet_id = outer, outer_id
            if not self.is_open:
                self._discard()
            self.flush()

    def _look_at_clock(self) -> int:
        """Yield if this turn of the loop has had its time; how many packets until the next look.

        A stride takes a small part of the budget, for everybody has at least one in a turn.
        """
        turns = self._turns
        if turns is None:
            return MAX_STRIDE
        passed = turns.look(self._clock() - self.last_received)
        if passed > turns.budget / 32:
            self._stride = max(1, self._stride // 4)
        elif passed < turns.budget / 128:
            self._stride = min(MAX_STRIDE, self._stride * 2)
        if not turns.is_over:
            return self._stride
        if not self._inbox.buffered:
            return 1  # nothing is left for another turn; what may still come in this one is
        if not self._awaits_turn:
            self._yield(0.0)
        return self._stride

    def _yield(self, delay: float) -> None:
        self._awaits_turn = True
        self._ledger.yields += 1
        self.on_yield(delay)

    # -- who may send what, and how much

    @property
    def is_logged_in(self) -> bool:
        """False: only routes with `before_login` are dispatched, packets of others are rejected. Handlers set it."""
        return self._is_logged_in

    @is_logged_in.setter
    def is_logged_in(self, value: bool) -> None:
        self.check_thread()
        self._is_logged_in = bool(value)
        self._is_guarded = self._bucket is not None or not self._is_logged_in
        self.on_login()

    def limit_rate(self, bucket: RateBucket | None, waits: bool = True) -> None:
        """Let every packet take its cost from `bucket`. When it is spent the session waits for credit, or with
        `waits=False` packets are rejected and `on_rate_exceeded()` is called for each. None lifts the limit.
        """
        self._bucket = bucket
        self._waits_for_credit = waits
        self._is_guarded = bucket is not None or not self._is_logged_in

    def _admit(self, route: Route | None) -> bool:
        """Whether the packet that was cut may be dispatched. It is paid for in any case."""
        packet_id, packet_size, *_ = self._inbox._header
        ledger, bucket = self._ledger, self._bucket
        if bucket is not None:
            bucket.refill(self.last_received)
            if bucket.is_spent and not self._waits_for_credit:
                ledger.rejected_rate += 1
                ledger.bytes_rejected += packet_size
                self.on_rate_exceeded(packet_id)
                return False
            bucket.take(1.0 if route is None else route.cost, packet_size)
            self._wait_if_spent(bucket)
        if self._is_logged_in or route is None or route.before_login:
            return True
        ledger.rejected_login += 1
        ledger.bytes_rejected += packet_size
        self.on_early(packet_id)
        return False

    def _wait_if_spent(self, bucket: RateBucket) -> None:
        if not bucket.is_spent or not self._waits_for_credit or self._awaits_turn:
            return
        bucket.refill(self._clock())
        if bucket.is_spent:
            self._ledger.rate_waits += 1
            self._yield(bucket.wait)

    def _violated(self, error: errors.InvalidPacketError) -> None:
        self._ledger.rejected_invalid += 1
        self.is_open = False
        self.on_violation(error)

    def _reject(self, route: Route | None) -> None:
        inbox, ledger = self._inbox, self._ledger
        packet_id, packet_size, *_ = inbox._header
        if route is None:
            ledger.rejected_unknown += 1
        else:
            ledger.rejected_short += 1
        ledger.bytes_rejected += packet_size
        self.on_rejected(packet_id, inbox._end - inbox._start, route)

    def _dispatch(self, route: Route) -> None:
        inbox, ledger = self._inbox, self._ledger
        packet_id = inbox._header[0]
        packet = inbox._packet(route.packet_type)
        ledger.packets_dispatched += 1
        ledger.bytes_dispatched += inbox._header[1]
        self._call_handler(route, packet_id, packet)

    def _dispatch_special(self, route: Route) -> int:
        """How many packets it took beside the one that was cut."""
        if route.kind == BATCH:
            return self._dispatch_run(route)
        self._dispatch_heartbeat(route)
        return 0

    def _dispatch_run(self, route: Route) -> int:
        """Hand the packet that was cut, and those of its id behind it, to a batch handler."""
        inbox, ledger = self._inbox, self._ledger
        packet_id, packet_size, *_ = inbox._header
        source, bucket = inbox._source, self._bucket
        more = MAX_PACKETS if bucket is None else bucket.affords(route.cost, packet_size)
        starts = inbox._cut_run(route.min_body_size, min(route.longest_run, 1 + more))
        batch = cut_batch(self, inbox.codec, route.packet_type, packet_id, source, starts)
        ledger.packets_dispatched += len(batch)
        ledger.bytes_dispatched += starts[-1] - starts[0]
        if bucket is not None:  # for the first one it was paid
            bucket.take(route.cost * (len(batch) - 1), starts[-1] - starts[0] - packet_size)
            self._wait_if_spent(bucket)
        packets, turns = len(starts) - 1, self._turns
        if turns is None or packets < LONG_RUN:
            self._call_handler(route, packet_id, batch)
        else:
            began = turns._clock()
            self._call_handler(route, packet_id, batch)
            learn_run(route, packets, turns._clock() - began, turns.budget / RUN_SHARE)
        return packets - 1

    # -- heartbeat

    def ping(self, packet_id: int, patience: float | None = None) -> bool:
        """Send a ping, whose pong brings `round_trip_time`; False if it was not taken, or if an earlier one waits for
        its pong, and not for `patience` seconds yet (None: without end). Errors as in `send`.
        """
        self.check_thread()
        now = self._clock()
        if self._awaits_pong and (patience is None or now - self._ping_sent < patience):
            return False
        highest = self._outbox.codec.layout.max_sequence
        sequence = self._ping_sequence % highest + 1 if highest else 0
        self._awaits_pong = self.send(packet_id, b"", sequence)
        if self._awaits_pong:
            self._ping_sequence = sequence
            self._ping_sent = now
        return self._awaits_pong

    @property
    def round_trip_time(self) -> float | None:
        """Seconds from the latest ping to its pong; None before there was one."""
        return None if self._round_trip < 0.0 else self._round_trip

    def _dispatch_heartbeat(self, route: Route) -> None:
        packet = self._inbox._packet(RawPacket)
        self._ledger.packets_dispatched += 1
        self._ledger.bytes_dispatched += self._inbox._header[1]
        if route.kind == PING:
            self._answer_ping(route, packet)
        elif self._awaits_pong and packet.sequence == self._ping_sequence:
            self._round_trip = self.last_received - self._ping_sent
            self._awaits_pong = False

    def _answer_ping(self, route: Route, packet: RawPacket) -> None:
        assert isinstance(route, PingRoute)
        extras = self._outbox.codec.extras_of(packet) if self._outbox.codec.has_extras else None
        try:
            self.send(route.pong_id, packet.body, packet.sequence, extras)
        except ValueError as error:  # an id that takes more room in the header
            self._ledger.handler_errors += 1
            self.on_handler_error(packet.packet_id, error)

    def _call_handler(self, route: Route, packet_id: int, packet: RawPacket | Batch[Any]) -> None:
        """`route.handler(self, packet)`; what it raises or returns goes to the hooks."""
        self._ledger.packet_id = packet_id
        try:
            result = route.handler(self, packet)
        except errors.InvalidPacketError as error:
            self._violated(error)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a cancellation, too: of what it looked at
            self._ledger.handler_errors += 1
            self.on_handler_error(packet_id, error)
        else:
            if result is not None and result is not True and result is not False:
                self.on_result(packet_id, result)

    def _discard(self) -> None:
        ledger = self._ledger
        try:
            while self._inbox._advance():
                ledger.packets_discarded += 1
                ledger.bytes_discarded += self._inbox._header[1]
        except errors.InvalidPacketError:
            ledger.packets_discarded += 1
        except (errors.PoolExhaustedError, MemoryError):
            pass  # no block for the one that is incomplete, which is dropped with the rest
        ledger.bytes_discarded += self._inbox.clear()

    # -- out

    def send(
        self, packet: RawPacket | int, body: ReadableBuffer = b"", sequence: int | None = None,
        header: Mapping[str, int] | None = None,
    ) -> bool:
        """Send a packet, or `body` under a packet id; True if it was taken, False if the session is closed.

        The bytes are taken as they are now, and leave when the chunk being handled is done, else at the turn's end.
        `sequence` goes into the header, and so do the extra fields of the layout that `header` names; default: the
        packet's own, or 0. `ValueError` if a number or the body does not fit, `WrongThreadError` from a thread that
        does not own the session.
        """
        self.check_thread()
        if isinstance(packet, RawPacket):
            if body != b"":
                raise TypeError("a packet brings its own body")
            packet_id, body = packet.packet_id, packet.view()
            sequence = packet.sequence if sequence is None else sequence
            if header is None and self._outbox.codec.has_extras:
                header = self._outbox.codec.extras_of(packet)
        else:
            packet_id, sequence = packet, 0 if sequence is None else sequence
        if not self.is_open:
            self._ledger.sends_refused += 1
            return False
        if self.backlog is not None:
            return self._send_later(self._outbox.codec.frame(packet_id, body, sequence, header))
        self._outbox.append(packet_id, body, sequence, header)
        self._sent()
        return True

    def reply(
        self, request: RawPacket, response: RawPacket | int | None = None, body: ReadableBuffer = b""
    ) -> bool:
        """Answer under the request's sequence number and extra fields: with `response`, a packet, or `body` under a
        packet id; or with the request's own id and body. Result and errors as in `send`.
        """
        if not isinstance(request, RawPacket):
            raise errors.wrong_type("request", "a packet", request)
        if response is None:
            return self.send(request, body)
        return self.send(response, body, request.sequence, self._outbox.codec.extras_of(request))

    def send_frame(self, frame: bytes) -> bool:
        """Send bytes that are whole packets already; otherwise as `send`."""
        self.check_thread()
        return self._send_frame(frame)

    def _send_frame(self, frame: bytes) -> bool:
        if not self.is_open:
            self._ledger.sends_refused += 1
            return False
        if self.backlog is not None:
            return self._send_later(frame)
        self._outbox.append_frame(frame)
        self._sent()
        return True

    def _send_later(self, frame: bytes) -> bool:
        """Give a frame to the backlog, which may leave out this one or an older one."""
        assert self.backlog is not None
        if not isinstance(frame, bytes):
            raise errors.wrong_type("frame", "bytes", frame)
        if not self.backlog.add(self._outbox.codec, frame):
            return False
        self._ledger.packets_out += 1
        if self.backlog.held_size > self._max_write_buffer:
            self.on_overflow()
        elif self.outbox_size > self._calm_size:
            self._sent_above_limit()
        return True

    def send_waiting(self, frames: list[bytes]) -> None:
        """Send frames of the backlog, which were counted when they got there."""
        for frame in frames:
            self._outbox.append_frame(frame)
        self.flush()

    def _send_run(self, batch: Batch[Any]) -> bool:
        """Every packet of the batch, as `send` would: copied in pieces that end where a limit is passed."""
        self.check_thread()
        if batch._codec is not self._outbox.codec or self.backlog is not None:  # a new layout, or one by one
            taken = [self.reply(packet) for packet in batch]
            return all(taken)
        first, starts = 0, batch._starts
        while first < len(batch):
            if not self.is_open:
                self._ledger.sends_refused += len(batch) - first
                return False
            paused = self.is_write_paused
            room = self._max_write_buffer - self.unsent_size if paused else self._calm_size - self._outbox.size
            packets = batch._packets_above(first, room)
            self._outbox.append_frame(batch._source[starts[first] : starts[first + packets]])
            first += packets
            self._sent(packets)
        return True

    def _sent(self, packets: int = 1) -> None:
        self._ledger.packets_out += packets
        if self._outbox.size > self._calm_size:
            self._sent_above_limit()
        elif not self._in_flush_queue and not self._is_pumping:
            self._in_flush_queue = True
            self._flush_queue.add(self)

    def _sent_above_limit(self) -> None:
        if not self.is_write_paused:
            self._drop_if_broken()
            self.flush()  # at once: the end of the turn may be megabytes away
            return
        waiting = self.unsent_size
        if waiting > self._max_write_buffer:
            self.on_overflow()
        elif waiting > self._high_watermark:
            self.on_backlog()

    def _drop_if_broken(self) -> None:
        """asyncio's transports log each further write, so that one large answer to a peer that has reset would be a
        page of lines.
        """
        if self.is_broken():
            self._outbox.clear()

    def check_thread(self) -> None:
        """`WrongThreadError` unless this is the thread of `attach()`."""
        caller = threading.get_ident()
        if caller != self._thread and self._thread:
            raise errors.wrong_thread(self._thread, caller)

    def flush(self) -> None:
        """Give what was gathered to the transport, unless it asked to wait."""
        self._in_flush_queue = False
        if not self.is_write_paused:
            self._write_out()

    def drain_to_transport(self) -> None:
        """Give everything to the transport, even if it asked to wait: the last step before closing it."""
        if self.backlog is not None:
            for frame in self.backlog.take(self.backlog.size):
                self._outbox.append_frame(frame)
        self._write_out()

    def _write_out(self, max_size: int | None = None) -> bool:
        """Whether the transport took something."""
        if self._transport is None:
            return False
        chunks = self._outbox.take(max_size)
        if not chunks:
            return False
        self._ledger.bytes_out += sum(map(len, chunks))
        try:
            if self._encode is not None:
                chunks = [bytes(self._encode(b"".join(chunks)))]
            if len(chunks) == 1:
                self._transport.write(chunks[0])
            elif WRITELINES_IS_BROKEN:
                self._transport.write(b"".join(chunks))
            else:
                self._transport.writelines(chunks)
        except Exception as error:
            self.on_write_error(error)
            return False
        return True

    def pause_writing(self) -> None:
        """Called by the transport when its queue is above the high watermark."""
        self.is_write_paused = True

    def resume_writing(self) -> None:
        """Called by the transport when its queue is below the low watermark again."""
        self.is_write_paused = False
        while self._outbox.size > FLUSH_SIZE and not self.is_write_paused:
            self._drop_if_broken()
            if not self._write_out(FLUSH_SIZE):
                return
        self.flush()

    # -- hooks

    def is_broken(self) -> bool:
        """Whether the connection has failed, and `detach()` is to come: what is written goes nowhere."""
        return False

    def on_violation(self, error: errors.InvalidPacketError) -> None:
        """The peer's bytes are no packets, or a handler says so by raising `error`; `is_open` is false already."""

    def on_no_memory(self, error: Exception) -> None:
        """There is no block for a packet that is incomplete; it waits, and is tried again with the next chunk."""

    def on_rejected(self, packet_id: int, body_size: int, route: Route | None) -> None:
        """A packet was refused: nobody handles its id (`route` is None), or its body is too short for `route`."""

    def on_login(self) -> None:
        """`is_logged_in` was set."""

    def on_early(self, packet_id: int) -> None:
        """A packet was refused because the session is not logged in."""

    def on_rate_exceeded(self, packet_id: int) -> None:
        """A packet was refused because the bucket is spent."""

    def on_yield(self, delay: float) -> None:
        """Packets wait until somebody calls `go_on()`: in the loop's next turn, or after `delay` seconds."""

    def on_partial(self) -> None:
        """A packet began to arrive that is not complete: look at `partial_since()` in time."""

    def on_handler_error(self, packet_id: int, error: BaseException) -> None:
        """A handler raised."""

    def on_result(self, packet_id: int, result: Any) -> None:
        """A handler returned something, probably a coroutine."""

    def on_read_full(self) -> None:
        """`max_read_buffer` bytes wait behind a suspended handler."""

    def on_backlog(self) -> None:
        """More than `high_watermark` bytes wait for a peer that does not read; called again and again."""

    def on_overflow(self) -> None:
        """More than `max_write_buffer` bytes wait for a peer that does not read."""

    def on_write_error(self, error: Exception) -> None:
        """The transport refused a write."""


def broadcast(streams: Iterable[Stream], codec: HeaderCodec, frame: bytes, exclude: Stream | None = None) -> int:
    """Send `frame`, one packet as `codec` made it, to every stream but `exclude`; returns how many took it.

    A stream with another codec is sent the same packet in its own frame, if that can carry it.
    """
    taken = 0
    for stream in streams:
        if stream is not exclude:
            stream.check_thread()
            taken += stream._send_frame(frame) if stream._outbox.codec is codec else _send_anew(stream, codec, frame)
    return taken


def _send_anew(stream: Stream, codec: HeaderCodec, frame: bytes) -> bool:
    header = codec._scan(frame, 0, len(frame))
    assert header is not None
    packet_id, _, sequence, start, size = header
    try:
        return stream.send(packet_id, frame[start : start + size], sequence)
    except ValueError:
        stream._ledger.sends_refused += 1
        return False
