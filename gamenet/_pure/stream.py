"""The hot path of a session: chunks in, handlers called, packets gathered, one write per turn of the loop.

What stays true: packets are handled in the order they came, one at a time; once `is_open` is false nothing is
dispatched or sent. A stream belongs to the thread that called `attach()`; sending from another raises.
Everything rare is a hook (`on_...`) that the session overrides.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gamenet import errors
from gamenet._pure.batch import MAX_PACKETS, Batch, cut_batch
from gamenet._pure.buffer import PacketBuffer
from gamenet._pure.header import HeaderCodec
from gamenet._pure.ledger import Ledger
from gamenet._pure.outbox import Outbox
from gamenet._pure.packet import RawPacket
from gamenet._pure.pool import PoolAllocator
from gamenet._pure.receiver import Receiver
from gamenet._pure.routes import Route, RouteTable

if TYPE_CHECKING:
    from asyncio import WriteTransport

    from _typeshed import ReadableBuffer

Transform = Callable[[bytes], bytes]

FLUSH_SIZE = 65536
"""An outbox above this many bytes does not wait for the end of the turn."""

WRITELINES_IS_BROKEN = sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2)
"""Before 3.12 `writelines()` joins anyway; 3.12.0-3.12.8 and 3.13.0-3.13.1 never call `pause_writing()` from it
(CVE-2024-12254)."""


class FlushQueue:
    """The streams that sent something in this turn; `call_soon(callback)` brings the turn's end."""

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

    `clock()` gives seconds; `last_received` is its value at the latest chunk. Up to `max_write_buffer` bytes may
    wait while the transport's own queue is full, then `on_overflow()` is called. `max_read_buffer` bytes may wait
    while a handler is suspended, then `on_read_full()` is called.
    """

    __slots__ = (
        "_clock", "_decode", "_encode", "_flush_queue", "_in_flush_queue", "_inbox", "_is_pumping", "_ledger",
        "_max_read_buffer", "_max_write_buffer", "_outbox", "_receiver", "_routes", "_thread", "_transport",
        "is_open", "is_suspended", "is_write_paused", "last_received",
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
        self._transport = None
        self._thread = 0
        self._in_flush_queue = False
        self._is_pumping = False
        self.is_open = False
        self.is_suspended = False
        self.is_write_paused = False
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
        self.is_open = False
        if not self._is_pumping:
            self._discard()

    def detach(self) -> None:
        """The connection is gone: drop the transport and everything that waits."""
        self.shut()
        self._transport = None
        self._outbox.clear()

    @property
    def inbox_size(self) -> int:
        """Bytes that arrived and wait: part of a packet, or everything behind a suspended handler."""
        return self._inbox.buffered

    @property
    def outbox_size(self) -> int:
        """Bytes that were sent by handlers and not yet given to the transport."""
        return self._outbox.size

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
        """
        self.check_thread()
        self.drain_to_transport()
        self._encode = encode
        waiting = self._inbox._take_all() if decode is not None else b""
        self._decode = decode
        if waiting:
            self._ledger.bytes_in -= len(waiting)
            self._feed(waiting)
            self._pump_rest()

    def _pump_rest(self) -> None:
        if self._inbox.buffered and self.is_open:
            self._pump()

    # -- in

    def data_received(self, chunk: bytes) -> None:
        """Called by the loop with what arrived."""
        self.last_received = self._clock()
        self._feed(chunk)
        self._pump()
        if self.is_suspended and self._inbox.buffered >= self._max_read_buffer:
            self.on_read_full()

    def _feed(self, chunk: bytes) -> None:
        if self._decode is not None:
            try:
                chunk = bytes(self._decode(bytes(chunk)))
            except Exception as error:
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

    def suspend(self) -> None:
        """Dispatch nothing until `resume()`; arriving bytes wait."""
        self.is_suspended = True

    def resume(self) -> None:
        """Go on with the packets that waited."""
        self.is_suspended = False
        self._pump()

    def _pump(self) -> None:
        if self._is_pumping:
            return
        inbox, ledger = self._inbox, self._ledger
        outer, ledger.pumping, outer_id = ledger.pumping, id(self), ledger.packet_id
        self._is_pumping = True
        try:
            while self.is_open and not self.is_suspended and inbox._advance():
                route = self._routes.find(inbox._header[0])
                if route is None or inbox._end - inbox._start < route.min_body_size:
                    self._reject(route)
                elif route.is_batch:
                    self._dispatch_run(route)
                else:
                    self._dispatch(route)
        except errors.InvalidPacketError as error:
            self._violated(error)
        finally:
            self._is_pumping = False
            ledger.pumping, ledger.packet_id = outer, outer_id
            if not self.is_open:
                self._discard()
            self.flush()

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

    def _dispatch_run(self, route: Route) -> None:
        """Hand the packet that was cut, and those of its id behind it, to a batch handler."""
        inbox, ledger = self._inbox, self._ledger
        packet_id, source = inbox._header[0], inbox._source
        starts = inbox._cut_run(route.min_body_size, MAX_PACKETS)
        batch = cut_batch(self, inbox.codec, route.packet_type, packet_id, source, starts)
        ledger.packets_dispatched += len(batch)
        ledger.bytes_dispatched += starts[-1] - starts[0]
        self._call_handler(route, packet_id, batch)

    def _call_handler(self, route: Route, packet_id: int, packet: RawPacket | Batch[Any]) -> None:
        """`route.handler(self, packet)`; what it raises or returns goes to the hooks."""
        self._ledger.packet_id = packet_id
        try:
            result = route.handler(self, packet)
        except errors.InvalidPacketError as error:
            self._violated(error)
        except Exception as error:
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
        self._outbox.append(packet_id, body, sequence, header)
        self._sent()
        return True

    def reply(self, request: RawPacket, response: RawPacket | None = None) -> bool:
        """Answer under the request's sequence number and extra fields: with `response`, or with the request's own id
        and body.
        """
        if not isinstance(request, RawPacket):
            raise errors.wrong_type("request", "a packet", request)
        if response is None:
            return self.send(request)
        if not isinstance(response, RawPacket):
            raise errors.wrong_type("response", "a packet", response)
        return self.send(response, sequence=request.sequence, header=self._outbox.codec.extras_of(request))

    def send_frame(self, frame: bytes) -> bool:
        """Send bytes that are whole packets already; otherwise as `send`."""
        self.check_thread()
        return self._send_frame(frame)

    def _send_frame(self, frame: bytes) -> bool:
        if not self.is_open:
            self._ledger.sends_refused += 1
            return False
        self._outbox.append_frame(frame)
        self._sent()
        return True

    def _send_run(self, batch: Batch[Any]) -> bool:
        """Every packet of the batch, as `send` would: copied in pieces that end where a limit is passed."""
        self.check_thread()
        if batch._codec is not self._outbox.codec:  # the layout has changed since: frames of the old one are none
            taken = [self.reply(packet) for packet in batch]
            return all(taken)
        first, starts = 0, batch._starts
        while first < len(batch):
            if not self.is_open:
                self._ledger.sends_refused += len(batch) - first
                return False
            limit = self._max_write_buffer if self.is_write_paused else min(FLUSH_SIZE, self._max_write_buffer)
            packets = batch._packets_above(first, limit - self._outbox.size)
            self._outbox.append_frame(batch._source[starts[first] : starts[first + packets]])
            first += packets
            self._sent(packets)
        return True

    def _sent(self, packets: int = 1) -> None:
        self._ledger.packets_out += packets
        waiting = self._outbox.size
        if waiting > FLUSH_SIZE and not self.is_write_paused:
            self.flush()
        elif waiting > self._max_write_buffer:
            self.on_overflow()
        elif not self._in_flush_queue and not self._is_pumping:
            self._in_flush_queue = True
            self._flush_queue.add(self)

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
        self._write_out()

    def _write_out(self) -> None:
        if self._transport is None:
            return
        chunks = self._outbox.take()
        if not chunks:
            return
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

    def pause_writing(self) -> None:
        """Called by the transport when its queue is above the high watermark."""
        self.is_write_paused = True

    def resume_writing(self) -> None:
        """Called by the transport when its queue is below the low watermark again."""
        self.is_write_paused = False
        self.flush()

    # -- hooks

    def on_violation(self, error: errors.InvalidPacketError) -> None:
        """The peer's bytes are no packets, or a handler says so by raising `error`; `is_open` is false already."""

    def on_rejected(self, packet_id: int, body_size: int, route: Route | None) -> None:
        """A packet was refused: nobody handles its id (`route` is None), or its body is too short for `route`."""

    def on_handler_error(self, packet_id: int, error: Exception) -> None:
        """A handler raised."""

    def on_result(self, packet_id: int, result: Any) -> None:
        """A handler returned something, probably a coroutine."""

    def on_read_full(self) -> None:
        """`max_read_buffer` bytes wait behind a suspended handler."""

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
