"""A session: one connection from `opened` to `closed`, around the stream that moves its packets.

What stays true: `opened` once, then `closed` once with one reason, and nothing is dispatched or sent after it. The
first reason given wins. Everything here happens rarely; what happens per packet is in the stream below.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gamenet._core import (
    FlushQueue,
    HeaderCodec,
    Ledger,
    PoolAllocator,
    Receiver,
    Route,
    RouteTable,
    Stream,
    codec_for,
)
from gamenet.errors import CloseReason, InvalidPacketError
from gamenet.layout import Layout
from gamenet.limits import Limits
from gamenet.logs import LimitedLogger
from gamenet.timeouts import Deadline
from gamenet.timer import LoopTimer, clock_of

if TYPE_CHECKING:
    from gamenet.manager import Room

_HOLD_HANDLER = 1  # reading pauses: too much waits behind a suspended handler
_HOLD_WRITING = 2  # reading pauses: the peer does not read what we send

_ids = itertools.count(1)


class SessionOwner(Protocol):
    """Who is told of a session's beginning and end: a server or a client."""

    def session_opened(self, session: Session) -> None: ...
    def session_closed(self, session: Session, reason: str) -> None: ...


context_watchers: list[Callable[[SessionContext], object]] = []
"""Called with every context that is made: `gamenet.testing` asks them at the end what a test has left behind."""


class SessionContext:
    """What all sessions of one owner share while its loop runs. `policy` answers bad packets and failing handlers."""

    def __init__(
        self,
        owner: SessionOwner,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        codec: HeaderCodec,
        pool: PoolAllocator,
        routes: RouteTable,
        ledger: Ledger,
        logger: logging.Logger,
        unknown_packets: Literal["reject", "close"] = "reject",
        handler_errors: Literal["continue", "close"] = "continue",
    ) -> None:
        self.owner = owner
        self.loop = loop
        self.limits = limits
        self.codec = codec
        self.pool = pool
        self.routes = routes
        self.ledger = ledger
        self.log = LimitedLogger(logger, loop.time)
        self.timer = LoopTimer(loop)
        self.clock = clock_of(loop)
        self.flush_queue = FlushQueue(loop.call_soon)
        self.receiver = Receiver()
        self._codecs = {codec.layout: codec}
        self.unknown_packets = unknown_packets
        self.handler_errors = handler_errors
        for watcher in context_watchers:
            watcher(self)

    def codec_for(self, layout: Layout) -> HeaderCodec:
        """The codec of a layout that a session changes to; made once."""
        if layout not in self._codecs:
            self._codecs[layout] = codec_for(layout, min(self.limits.max_packet_size, layout.max_packet_size))
        return self._codecs[layout]


class Session(Stream, asyncio.Protocol):
    """One connected peer. `data` is the user's own object; `id` is unique in this process; `peername` is the
    address as the transport gives it. A session is used from its loop's thread only.
    """

    __slots__ = (
        "__weakref__",
        "_close_deadline",
        "_context",
        "_eof",
        "_holds",
        "_idle_deadline",
        "_rooms",
        "_socket_transport",
        "_task",
        "close_reason",
        "data",
        "id",
        "is_closed",
        "peername",
    )

    def __init__(self, context: SessionContext) -> None:
        limits = context.limits
        super().__init__(
            context.codec,
            context.pool,
            context.routes,
            context.ledger,
            context.flush_queue,
            context.clock,
            limits.max_read_buffer,
            limits.max_write_buffer,
            context.receiver,
        )
        self._context = context
        self._socket_transport: asyncio.Transport | None = None
        self._idle_deadline: Deadline | None = None
        self._close_deadline: Deadline | None = None
        self._task: asyncio.Future[Any] | None = None
        self._holds = 0
        self._eof = False
        self.id = next(_ids)
        self.data: Any = None
        self.peername: Any = None
        self._rooms: set[Room] | None = None  # most sessions are in none, and there are many
        self.is_closed = False
        self.close_reason: str | None = None

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open" if self.is_open else "closing"
        return f"<Session {self.id} {self.peername} {state}>"

    @property
    def transport(self) -> asyncio.Transport | None:
        """The asyncio transport below, for what gamenet has no call for; None once the session is closed."""
        return self._socket_transport

    @property
    def rooms(self) -> set[Room]:
        """The rooms it is in; `room.add(session)` and `room.discard(session)` change that."""
        return set() if self._rooms is None else set(self._rooms)

    def entered(self, room: Room) -> None:
        """Called by a room that took it in."""
        self._rooms = self._rooms or set()
        self._rooms.add(room)

    def left(self, room: Room) -> None:
        """Called by a room that it leaves."""
        if self._rooms is not None:
            self._rooms.discard(room)
            self._rooms = self._rooms or None

    @property
    def layout(self) -> Layout:
        """How its packets are framed. Set it at any time, also in a handler: bytes that arrived already are read
        again under the new layout, what was sent before stays as it is. `ValueError` if the layout's packets are
        all above `max_packet_size`.
        """
        return self.codec.layout

    @layout.setter
    def layout(self, layout: Layout) -> None:
        self.check_thread()
        self.codec = self._context.codec_for(layout)

    # -- ending

    def close(self, reason: str = CloseReason.CLOSED) -> None:
        """End the session in order: what was sent still leaves, for up to `close_timeout` seconds.

        Nothing more is dispatched, not even what arrived already, and nothing more can be sent. Closing again does
        nothing. `reason` is a `CloseReason` or a text of your own; `stats()` counts each.
        """
        self.check_thread()
        if self.close_reason is not None:
            return
        self.close_reason = str(reason)
        self.drain_to_transport()
        self.shut()
        if self._socket_transport is not None:
            self._socket_transport.close()
            started = self._context.loop.time()
            self._close_deadline = Deadline(self._context.limits.close_timeout, lambda: started, self._drop)
            self._context.timer.arm(self._close_deadline)

    def abort(self, reason: str = CloseReason.CLOSED) -> None:
        """End the session at once; what was not sent yet is lost."""
        self.check_thread()
        if self.close_reason is None:
            self.close_reason = str(reason)
        self.shut()
        self._drop()

    def _drop(self) -> None:
        if self._socket_transport is not None:
            self._socket_transport.abort()

    # -- called by the loop

    # uvloop's transports have every method of asyncio.Transport, but do not derive from it
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        limits = self._context.limits
        self._socket_transport = transport
        self.peername = transport.get_extra_info("peername")
        transport.set_write_buffer_limits(high=limits.high_watermark, low=limits.low_watermark)
        self.attach(transport)
        if limits.idle_timeout is not None:
            self._idle_deadline = Deadline(limits.idle_timeout, self._last_active, self._idle)
            self._context.timer.arm(self._idle_deadline)
        self._context.owner.session_opened(self)

    def eof_received(self) -> bool | None:
        if self.is_suspended and self.is_open:
            self._eof = True  # its packets are answered first
            return True
        self.close(CloseReason.PEER_CLOSED)
        return None

    def connection_lost(self, error: Exception | None) -> None:
        if self.close_reason is None:
            self.close_reason = CloseReason.PEER_CLOSED if error is None else CloseReason.NETWORK_ERROR
        if error is not None:
            level = logging.DEBUG if isinstance(error, ConnectionError) else logging.WARNING
            self._log(level, "connection lost: %s", str(error) or type(error).__name__)
        for deadline in (self._idle_deadline, self._close_deadline):
            if deadline is not None:
                self._context.timer.disarm(deadline)
        self._idle_deadline = self._close_deadline = None
        self.detach()
        self._socket_transport = None
        self.is_closed = True
        if self._task is not None:
            self._task.cancel()
        self._context.owner.session_closed(self, self.close_reason)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._hold_reading(_HOLD_WRITING)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.is_write_paused:
            self._release_reading(_HOLD_WRITING)

    def resume_reading(self) -> None:
        """After `suspend()`: go on with the packets that waited, and read again."""
        self.resume()
        if not self.is_suspended:
            self._release_reading(_HOLD_HANDLER)
            if self._eof:
                self.close(CloseReason.PEER_CLOSED)

    # -- rare events of the stream

    def on_violation(self, error: InvalidPacketError) -> None:
        self._log(logging.WARNING, "closing: %s", str(error))
        self.close(CloseReason.INVALID_PACKET)

    def on_rejected(self, packet_id: int, body_size: int, route: Route | None) -> None:
        if route is None:
            self._log(logging.WARNING, "no handler for packet id %d with a body of %d bytes", packet_id, body_size)
            if self._context.unknown_packets == "close":
                self.close(CloseReason.UNKNOWN_PACKET)
        else:
            needed = (route.packet_type.__name__, route.min_body_size, body_size)
            self._log(logging.WARNING, "%s needs a body of %d bytes, got %d", *needed)

    def on_handler_error(self, packet_id: int, error: Exception) -> None:
        self._log(logging.ERROR, "the handler of packet id %d raised", packet_id, error=error)
        if self._context.handler_errors == "close":
            self.close(CloseReason.HANDLER_ERROR)

    def on_result(self, packet_id: int, result: Any) -> None:
        if inspect.isawaitable(result):
            self._wait_for(packet_id, result)

    def on_read_full(self) -> None:
        self._hold_reading(_HOLD_HANDLER)

    def on_overflow(self) -> None:
        self._log(logging.WARNING, "closing: %d bytes wait for a peer that does not read", self.outbox_size)
        self.abort(CloseReason.SLOW_RECEIVER)

    def on_write_error(self, error: Exception) -> None:
        self._log(logging.WARNING, "cannot write: %s", str(error))
        self.abort(CloseReason.NETWORK_ERROR)

    # -- handlers that wait

    def _wait_for(self, packet_id: int, awaitable: Awaitable[Any]) -> None:
        """Run an `async def` handler: at once as far as it goes, later packets wait for the rest."""
        task = _start(self._context.loop, awaitable)
        if task.done():
            self._report(packet_id, task)
            return
        self._task = task
        self.suspend()
        task.add_done_callback(partial(self._handler_done, packet_id))

    def _handler_done(self, packet_id: int, task: asyncio.Future[Any]) -> None:
        self._task = None
        self._report(packet_id, task)
        self.resume_reading()

    def _report(self, packet_id: int, task: asyncio.Future[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, InvalidPacketError):
            self._context.ledger.rejected_invalid += 1
            self.on_violation(error)
        elif isinstance(error, Exception):
            self._context.ledger.handler_errors += 1
            self.on_handler_error(packet_id, error)

    # -- small parts

    def _last_active(self) -> float:
        # while a handler is awaited we do not listen: that is no silence of the peer's
        return self._context.loop.time() if self.is_suspended else self.last_received

    def _idle(self) -> None:
        self._log(logging.INFO, "closing: nothing received for %g s", self._context.limits.idle_timeout)
        self.close(CloseReason.IDLE_TIMEOUT)

    def _hold_reading(self, hold: int) -> None:
        transport = self._socket_transport
        if not self._holds and transport is not None and not transport.is_closing():
            transport.pause_reading()
        self._holds |= hold

    def _release_reading(self, hold: int) -> None:
        held, self._holds = self._holds, self._holds & ~hold
        transport = self._socket_transport
        if held and not self._holds and transport is not None and not transport.is_closing():
            transport.resume_reading()

    def _log(self, level: int, message: str, *values: object, error: Exception | None = None) -> None:
        extra = {"session_id": self.id, "peer": self.peername}
        who = (self.id, str(self.peername))
        self._context.log.log(level, "session %d %s " + message, *who, *values, extra=extra, error=error)


class BufferedSession(Session, asyncio.BufferedProtocol):
    """A session for loops that read into memory of ours: one buffer for all of them, and no copy."""

    __slots__ = ()


def _start(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
    """A task for `awaitable` that has run up to its first real wait, where Python can do that (3.12)."""
    if not inspect.iscoroutine(awaitable):
        return asyncio.ensure_future(awaitable, loop=loop)
    coroutine: Coroutine[Any, Any, Any] = awaitable
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    return loop.create_task(coroutine)
