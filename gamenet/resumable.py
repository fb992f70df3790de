"""A transport that outlives its connections, and the protocol of one connection below it.

What stays true: the session above sees one connection, from its first `connection_made()` to one `connection_lost()`;
bytes reach it once and in order, over however many links. At most one link is attached; what another brings is ignored.
No more than `max_resume_buffer` and a chunk wait for a session that does not read, however often its peer comes back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from gamenet._core import PoolAllocator, RawPacket
from gamenet.errors import CloseReason, InvalidPacketError
from gamenet.limits import Limits
from gamenet.resume import DATA, END, PING, Ack, ResumableStream, new_reader, read_ack, record
from gamenet.session import Session

_LOOKS = 3  # at a link's silence within `link_timeout`

_MAX_RECORDS = 1024  # of a link in one turn of the loop: some milliseconds, where each is as small as it can be


class ResumableTransport(asyncio.Transport):
    """What a session takes for its connection. `on_away(transport, reason)` is called when its link was lost and it
    waits for another, `on_gone(transport)` once when it will not.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        session: Session,
        on_away: Callable[[ResumableTransport, str], object],
        on_gone: Callable[[ResumableTransport], object],
    ) -> None:
        super().__init__()
        self.session = session
        self.stream = ResumableStream(limits.max_resume_buffer)
        self.link: Link | None = None
        self.seat: Any = None
        """The server's own: what it keeps this under."""
        self.is_open = False
        """Whether the session was told that it is connected."""
        self._loop = loop
        self._max_buffer = limits.max_resume_buffer
        self._on_away = on_away
        self._on_gone = on_gone
        self._socket_transport: asyncio.BaseTransport | None = None  # the link's, or the last one's
        self._pending: deque[bytes] = deque()  # arrived while the session does not read, and on this link
        self._pending_size = 0
        self._has_peer_ended = False
        self._is_eof_due = False
        self._is_closing = False
        self._is_gone = False
        self._is_read_paused = False
        self._is_write_paused = False
        self._is_delivery_due = False

    # -- links

    def attach(self, link: Link, peer_received: int, window: int) -> None:
        """Go on over `link`, whose other end has received so much, and lets `window` bytes wait. `InvalidPacketError`
        if that cannot be.
        """
        self.stream.acknowledged(peer_received)
        self.stream.window = min(window, self._max_buffer)
        self.link = link
        link.owner = self
        self._socket_transport = link.transport
        link.write(self.stream.resending())
        if self.is_open:
            self.session.peername = link.peername
            self.session.link_is_back()
            self._look_at_writing()

    def open(self) -> None:
        """Tell the session that it is connected."""
        self.is_open = True
        self.session.connection_made(self)
        self._look_at_writing()

    def detach(self) -> None:
        """Forget the link: another one takes over. What it still brings is ignored."""
        link, self.link = self.link, None
        self._forget_pending()
        if link is not None:
            link.owner = None
            link.abort()

    def lost(self, reason: str) -> None:
        """Called by the link when its connection is gone."""
        self.link = None
        if self._is_closing:
            self._gone()
        elif self._has_peer_ended:
            self._look_at_writing()  # what is still written goes nowhere
        else:
            self._forget_pending()  # it is sent again: kept, it would add up over the links of one who comes and goes
            if self.is_open:
                self.session.link_is_lost()
                self._look_at_writing()
            self._on_away(self, reason)

    # -- what the link brings

    def data(self, body: bytes) -> None:
        """Bytes for the session."""
        if self._is_closing:
            return
        if not self._is_read_paused and not self._pending:
            return self._hand_on(body)
        self._pending.append(body)
        self._pending_size += len(body)
        if self._pending_size > self._max_buffer and self.link is not None:
            self.link.pause_reading()  # the peer does not keep to our window: TCP will hold it up

    def acknowledged(self, received: int) -> None:
        """The peer has so many bytes."""
        records = self.stream.acknowledged(received)
        if records and self.link is not None:
            self.link.write(records)
        self._look_at_writing()

    def ended(self) -> None:
        """The peer ended the session in order."""
        self._has_peer_ended = self._is_eof_due = True
        self._deliver()

    def _hand_on(self, body: bytes) -> None:
        is_due = self.stream.handed_on(len(body))
        self.session.data_received(body)
        if is_due and self.link is not None:
            self.link.acknowledge()

    def _deliver(self) -> None:
        self._is_delivery_due = False
        while self._pending and not self._is_read_paused and not self._is_closing:
            body = self._pending.popleft()
            self._pending_size -= len(body)
            self._hand_on(body)
        if self._is_closing or self._pending:
            return
        if self.link is not None:
            self.link.resume_reading()
        if self._is_eof_due and not self._is_read_paused:
            self._is_eof_due = False
            if not self.session.eof_received():
                self.close()

    # -- what the session asks for

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or (self._has_peer_ended and self.link is None) or not len(data):
            return
        records = self.stream.sending(bytes(data))
        if self.link is not None:
            self.link.write(records)
        self._look_at_writing()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return self.stream.unacknowledged if self._is_write_paused else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The limit is `max_resume_buffer`."""

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self._is_read_paused = True

    def resume_reading(self) -> None:
        self._is_read_paused = False
        if not self._is_delivery_due and (self._pending or self._is_eof_due):
            self._is_delivery_due = True
            self._loop.call_soon(self._deliver)

    def is_reading(self) -> bool:
        return not self._is_read_paused and not self._is_closing

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        """Tell the peer that this is the end, behind what was written. Without a link it ends at once."""
        if self._is_closing:
            return
        self._stop()
        if self.link is None:
            self._gone()
        else:
            self.link.write(self.stream.ending())
            self.link.end()

    def abort(self) -> None:
        """End at once; the peer finds no seat when it comes back."""
        self._stop()
        if self.link is not None:
            self.link.abort()
        self._gone()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        transport = self._socket_transport
        return default if transport is None else transport.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.session

    # -- small parts

    def _stop(self) -> None:
        self._is_closing = True
        self._forget_pending()

    def _forget_pending(self) -> None:
        self._pending.clear()
        self._pending_size = 0

    def _gone(self) -> None:
        if self._is_gone:
            return
        self._is_gone = True
        self.detach()
        self._on_gone(self)
        if self.is_open:
            self._loop.call_soon(self.session.connection_lost, None)

    def _look_at_writing(self) -> None:
        """Have the session wait while there is no link, the link is full, or the peer has not acknowledged enough."""
        link = self.link
        must_wait = link.is_full if link is not None else not self._has_peer_ended
        must_wait = must_wait or self.stream.is_full
        if self._has_peer_ended and link is None:
            must_wait = False
        if must_wait == self._is_write_paused or self._is_gone or not self.is_open:
            return
        self._is_write_paused = must_wait
        if must_wait:
            self.session.pause_writing()
        else:
            self.session.resume_writing()


class Link(asyncio.Protocol):
    """One connection. `handshake(record)` is called with the first record that it brings; then its `owner` is served.

    A link that is silent for `link_timeout` seconds, though it was asked, is aborted.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits, pool: PoolAllocator) -> None:
        self.owner: ResumableTransport | None = None
        self.transport: asyncio.Transport | None = None
        self.peername: Any = None
        self.network: str | None = None  # what a server's admission counts it under
        self.is_closed = False
        self.is_full = False
        """Whether what was written waits in the socket's transport."""
        self.has_greeted = False
        self._loop = loop
        self._has_rest = False  # records that wait for the next turn of the loop
        self._timeout = limits.link_timeout
        self._reader = new_reader(pool)
        self._gathered: list[bytes] = []  # of the records of one chunk
        self._is_read_paused = False
        self._is_ack_due = False  # and waits for room
        self._last_heard = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.reason: str | None = None
        """Why it ended, or is about to."""

    def handshake(self, packet: RawPacket) -> None:
        """The first record. `InvalidPacketError` if it cannot be."""
        raise NotImplementedError

    def on_ended(self, reason: str, error: Exception | None) -> None:
        """The connection is gone, and no owner was there to be told."""

    def on_violation(self, error: InvalidPacketError) -> None:
        """What it brought cannot be, and no owner was there to be told."""

    # -- called by the loop

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.peername = transport.get_extra_info("peername") or self.peername
        self._last_heard = self._loop.time()
        self._look_later()

    def data_received(self, data: bytes) -> None:
        self._last_heard = self._loop.time()
        if self.reason is not None:
            return
        self._reader.feed(data)
        if not self._has_rest:
            self._read()

    def _read(self) -> None:
        """Take the records that arrived, or so many that who sends nothing else does not hold up the others."""
        try:
            for number, packet in enumerate(self._reader, 1):
                self._take(packet)
                if self.reason is not None:
                    return
                if number == _MAX_RECORDS:
                    self._read_on_soon()
                    break
            self._hand_over()
        except InvalidPacketError as error:
            self._violated(error)

    def _read_on_soon(self) -> None:
        self._has_rest = True
        if not self._is_read_paused and self.transport is not None:
            self.transport.pause_reading()
        self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        self._has_rest = False
        if self.reason is not None or self.transport is None:
            return
        self._read()
        if not self._has_rest and not self._is_read_paused and self.transport is not None:
            self.transport.resume_reading()

    def eof_received(self) -> None:
        while self._has_rest:  # over TLS the peer's farewell comes though reading pauses, and an END may lie before it
            self._has_rest = False
            if self.reason is None:
                self._read()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        self.transport = None
        self._reader.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        reason = self.reason or str(CloseReason.PEER_CLOSED if error is None else CloseReason.NETWORK_ERROR)
        self.reason = reason
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.lost(reason)
        self.on_ended(reason, error)

    def pause_writing(self) -> None:
        self.is_full = True
        if self.owner is not None:
            self.owner._look_at_writing()

    def resume_writing(self) -> None:
        self.is_full = False
        if self._is_ack_due:
            self.acknowledge()
        if self.owner is not None:
            self.owner._look_at_writing()

    # -- called by the owner

    def write(self, data: bytes) -> None:
        """Write records."""
        if self.transport is not None and data and not self.transport.is_closing():
            self.transport.write(data)

    def acknowledge(self) -> None:
        """Say what the owner took. While the peer reads nothing one of them waits, however often it is asked for."""
        self._is_ack_due = self.is_full
        if not self.is_full and self.owner is not None:
            self.write(self.owner.stream.ack())

    def pause_reading(self) -> None:
        """Take nothing more from the socket."""
        if not self._is_read_paused and self.transport is not None:
            self._is_read_paused = True
            if not self._has_rest:
                self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on after `pause_reading()`."""
        if self._is_read_paused and self.transport is not None:
            self._is_read_paused = False
            self._last_heard = self._loop.time()
            if not self._has_rest:
                self.transport.resume_reading()

    def end(self) -> None:
        """Say that this is the end, and close when that has left."""
        self.reason = self.reason or str(CloseReason.CLOSED)
        if self.transport is not None:
            self.write(record(END))
            self.transport.close()

    def abort(self, reason: str = CloseReason.CLOSED) -> None:
        """Close at once."""
        self.reason = self.reason or str(reason)
        if self.transport is not None:
            self.transport.abort()

    # -- records

    def _take(self, packet: RawPacket) -> None:
        if not self.has_greeted:
            self.handshake(packet)
            self.has_greeted = True
            return
        owner = self.owner
        if owner is None:
            return
        if not owner.is_open:
            owner.open()
        kind = packet.packet_id
        if kind == DATA:
            self._gathered.append(packet.body)
            return
        self._hand_over()
        if self.owner is None:
            return
        if kind == Ack._id:
            owner.acknowledged(read_ack(packet))
        elif kind == PING:
            self.acknowledge()
        elif kind == END:
            owner.ended()
        else:
            raise InvalidPacketError(f"record {kind} is none that can be here")

    def _hand_over(self) -> None:
        """Give the owner what a chunk brought for it, in one piece."""
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            if self.owner is not None:
                self.owner.data(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    def _violated(self, error: InvalidPacketError) -> None:
        owner = self.owner
        if owner is not None and owner.is_open:
            owner.session.on_violation(error)
        elif owner is not None:
            owner.abort()
        else:
            self.on_violation(error)
        self.abort(CloseReason.INVALID_PACKET)

    # -- silence

    def _look_later(self) -> None:
        if self._timeout is not None:
            self._timer = self._loop.call_later(self._timeout / _LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        assert self._timeout is not None
        silence = 0.0 if self._is_read_paused else self._loop.time() - self._last_heard
        if silence >= self._timeout:
            return self.abort(CloseReason.LINK_TIMEOUT)
        if silence >= self._timeout / _LOOKS * 0.99 and self.has_greeted and self.reason is None:
            self.write(record(PING))
        self._look_later()
