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
from collections.abc import Awaitable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from gamenet._core import RawPacket, Route, Stream, send_frame_to
from gamenet.backlog import Backlog
from gamenet.context import SessionContext
from gamenet.deadlines import SessionDeadlines
from gamenet.errors import CloseReason, InvalidPacketError
from gamenet.frames import frame_of
from gamenet.gone import GoneTransport
from gamenet.layout import Layout
from gamenet.limits import check_above_zero
from gamenet.unacknowledged import unacknowledged

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from gamenet.manager import Room

_HOLD_HANDLER = 1  # reading pauses: too much waits behind a suspended handler
_HOLD_WRITING = 2  # the peer does not read what we send
_HOLD_TURN = 4  # its packets have had their turn
_HOLD_RATE = 8  # it has to wait for credit
_HOLD_END = 16  # it ends when its handler has finished
_HOLD_LINK = 32  # its link was lost, and another may come

_PIECE = 65_536  # bytes of a backlog that are handed over at once: what lies in the transport cannot be left out

_MAX_BURST = 16  # times `max_write_buffer`, sent in one turn to a peer that had taken everything before

_TLS_QUEUE = 16_384  # bytes; uvloop keeps the handshake's last ones until we read, and they are no backlog

_ids = itertools.count(1)


class Session(Stream, asyncio.Protocol):
    """One connected peer. `data` is the user's own object; `id` is unique in this process; `peername` is the
    address as the transport gives it. `is_open`: packets are dispatched and sent; `is_closed`: its end is complete;
    `close_reason`: why it ends, None before. What it has for handlers, and what is gamenet's own: docs/sessions.md.
    Locking rule: the thread of its loop only, but for `send_threadsafe()`.
    """

    __slots__ = (
        "__weakref__",
        "_burst",
        "_context",
        "_credit_timer",
        "_deadlines",
        "_end",
        "_eof",
        "_holds",
        "_idle_timeout",
        "_is_halted",
        "_is_overdue",
        "_is_queued",
        "_rooms",
        "_running",
        "_socket_transport",
        "_stuck",
        "_suspended_at",
        "_task",
        "close_reason",
        "data",
        "id",
        "is_closed",
        "network",
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
            limits.high_watermark,
            context.turns,
        )
        self._context = context
        self._socket_transport: asyncio.Transport | None = None
        self._deadlines = SessionDeadlines(context.timer)
        self._idle_timeout = limits.idle_timeout
        self._stuck = (0.0, (0, 0))  # since when nothing was taken, and of how many bytes here and in the system
        self._task: asyncio.Future[Any] | None = None
        self._running: int | None = None  # the packet id of the `async def` handler that runs
        self._suspended_at = 0.0
        self._is_overdue = False  # that handler was cancelled: its time was over
        self._is_halted = False  # by `suspend()`
        self._credit_timer: asyncio.TimerHandle | None = None
        self._is_queued = False  # for the next turn
        self._holds = 0
        self._burst: int | None = 0  # bytes; None while the turn that sends them lasts
        self._end: tuple[str, float | None] | None = None  # how to close when the handler has finished
        self._eof = False
        self.id = next(_ids)
        self.data: Any = None
        self.peername: Any = None
        self.network: str | None = None  # what it is counted under while it is admitted, see `admission`
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

    @property
    def idle_timeout(self) -> float | None:
        """Seconds of silence after which it is closed, or None; may be set for this session alone."""
        return self._idle_timeout

    @idle_timeout.setter
    def idle_timeout(self, seconds: float | None) -> None:
        self.check_thread()
        if seconds is not None:
            check_above_zero("idle_timeout", seconds)
        self._idle_timeout = seconds
        self._deadlines.lift("idle")
        if self.is_open:
            self._deadlines.watch("idle", seconds, self._last_heard, self._on_idle)

    def is_of(self, context: SessionContext | None) -> bool:
        """Whether it was made for this context."""
        return self._context is context

    def is_run_by(self, task: asyncio.Future[Any] | None) -> bool:
        """Whether `task` is its handler that waits."""
        return task is not None and self._task is task

    @property
    def running_handler(self) -> asyncio.Future[Any] | None:
        """Its `async def` handler that waits, or has been cancelled and has not ended yet."""
        return self._task

    def send_threadsafe(
        self,
        packet: RawPacket | int,
        body: ReadableBuffer = b"",
        sequence: int | None = None,
        header: Mapping[str, int] | None = None,
    ) -> bool:
        """As `send()`, from any thread: the bytes are taken now and sent in the loop's thread, in this thread's order.

        True if they were accepted; if the session is closed when their turn comes they are discarded, and counted.
        False, and counted, if it is closed already, or if `max_mailbox` calls and sends wait. Errors as `send()`.
        """
        codec = self.codec
        frame = frame_of(codec, packet, body, sequence, header)
        mailbox = self._context.mailbox
        return (self.is_open and mailbox.put((send_frame_to, (self, codec, frame)))) or mailbox.refuse()

    # -- ending

    def finish(self, reason: str = CloseReason.CLOSED, *, timeout: float | None = None) -> None:
        """As `close()`, but an `async def` handler that runs may finish first, and its answers still leave.

        Nothing more is dispatched; `handler_timeout` limits the wait.
        """
        self.check_thread()
        _check_timeout(timeout)
        if self._running is None:
            self.close(reason, timeout=timeout)
        elif self._end is None and self.close_reason is None:
            self._end = str(reason), timeout
            self._hold_reading(_HOLD_END)

    def close(self, reason: str = CloseReason.CLOSED, *, timeout: float | None = None) -> None:
        """End the session in order: what was sent still leaves, for up to `timeout` seconds (None: `close_timeout`).

        Nothing more is dispatched, not even what arrived already, and nothing more can be sent. Closing again does
        nothing. `reason` is a `CloseReason` or a text of your own; `stats()` counts each. `ValueError` for a timeout
        that is not above 0.
        """
        self.check_thread()
        _check_timeout(timeout)
        if self.close_reason is not None:
            return
        self.close_reason = str(reason)
        self.drain_to_transport()
        self.backlog = None
        self.shut()
        if self._socket_transport is not None:
            self._release_reading(self._holds)  # TLS waits for the peer's farewell
            self._socket_transport.close()
            self._deadlines.lift_all()
            started, seconds = self._now(), timeout or self._context.limits.close_timeout
            self._deadlines.watch("close", seconds, lambda: started, self._drop)

    def abort(self, reason: str = CloseReason.CLOSED) -> None:
        """End the session at once; what was not sent yet is lost."""
        self.check_thread()
        if self.close_reason is None:
            self.close_reason = str(reason)
        self.shut()
        self._deadlines.lift_all()
        self._drop()

    def _drop(self) -> None:
        if self._socket_transport is not None:
            self._socket_transport.abort()

    # -- called by the loop

    # uvloop's transports have every method of asyncio.Transport, but do not derive from it
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._socket_transport = transport
        # what accept() gave stands where the transport does not know: the peer may have reset the connection since
        self.peername = transport.get_extra_info("peername") or self.peername
        # what the system does not take at once waits in our outbox: there it is counted, and may be left out
        transport.set_write_buffer_limits(high=_TLS_QUEUE if self._is_tls() else 1, low=0)
        self.attach(transport)
        self._deadlines.watch("idle", self._idle_timeout, self._last_heard, self._on_idle)
        self._watch_by_option()
        self._context.owner.session_opened(self)

    def _watch_by_option(self) -> None:
        context = self._context
        bucket = context.bucket(self.last_received)
        if bucket is not None:
            self.limit_rate(bucket, context.rate_exceeded == "wait")
        if context.login_required:
            self.is_logged_in = False
        if context.heartbeat is not None:
            self._beat()

    def eof_received(self) -> bool | None:
        if self.is_open and self._must_go_on():
            self._eof = True
            if not self._is_tls():
                return True  # its packets are answered first
            self._end_connection_in_time()
            return None
        self._close_at_eof()
        return None

    def _must_go_on(self) -> bool:
        """Whether something waits that came before the peer's end."""
        if self.is_suspended and not self._is_tls():
            return True
        # over TLS a peer's end is the end of both ways: a handler that waits has nobody to answer
        waits = self.awaits_turn or (self._is_halted and self._running is None)
        return waits and self.inbox_size > 0

    def _end_connection_in_time(self) -> None:
        """Over TLS the transport ends itself now, and what waits is dispatched without it."""
        ended, timeout = self._now(), self._context.limits.close_timeout
        self._deadlines.watch("close", timeout, lambda: ended, self._drop)

    def _close_at_eof(self) -> None:
        self.close(self._reason_of_eof())

    def _reason_of_eof(self) -> CloseReason:
        is_in_packet = self.inbox_size and not self.is_suspended and not self.awaits_turn
        return CloseReason.INCOMPLETE_PACKET if is_in_packet else CloseReason.PEER_CLOSED

    def _is_tls(self) -> bool:
        transport = self._socket_transport
        return transport is not None and transport.get_extra_info("sslcontext") is not None

    def connection_lost(self, error: Exception | None) -> None:
        transport = self._socket_transport
        if self._eof and self.is_open and transport is not None and self._is_tls():
            return self._outlive(transport)
        if self.close_reason is None:
            self.close_reason = str(self._reason_of_eof() if error is None else CloseReason.NETWORK_ERROR)
        if error is not None:
            level = logging.DEBUG if isinstance(error, ConnectionError) else logging.WARNING
            self._log(level, "connection lost: %s", str(error) or type(error).__name__)
        self._deadlines.lift_all()
        if self._credit_timer is not None:
            self._credit_timer.cancel()
        self.detach()
        self._socket_transport = None
        self.is_closed = True
        if self._task is not None:
            self._task.cancel()
        self._context.owner.session_closed(self, self.close_reason)

    def _outlive(self, transport: asyncio.Transport) -> None:
        """The peer ended in order: what came before waits for its turn, and is dispatched like all the rest."""
        self._deadlines.lift("close")
        self._socket_transport = GoneTransport(self._context.loop, transport, self)
        self.attach(self._socket_transport)
        if self.is_write_paused:
            self.resume_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        context = self._context
        if self.backlog is None and context.slow_policies and self.is_open:
            limits = context.limits
            self.backlog = Backlog(context.slow_policies, limits.high_watermark, context.ledger, limits.max_backlog)
        if self._burst == 0:
            self._burst = None
            context.loop.call_soon(self._end_burst)
        self._stuck = (self._now(), self._left_to_take())
        self._deadlines.watch("write", context.limits.write_timeout, self._last_taken, self._on_stuck)
        if self.unsent_size > context.limits.high_watermark:
            self.on_backlog()

    def resume_writing(self) -> None:
        super().resume_writing()
        backlog = self.backlog
        while isinstance(backlog, Backlog) and len(backlog) and not self.is_write_paused:
            self.send_waiting(backlog.take(_PIECE))
        if not self.is_write_paused:
            self.backlog = None
        unsent = self.unsent_size
        if not unsent:
            self._burst = 0
        elif self._burst:
            self._burst = min(self._burst, self._held_size())
        if self._holds & _HOLD_WRITING and unsent <= self._context.limits.low_watermark:
            self._go_on_after_writing()

    def _end_burst(self) -> None:
        self._burst = self._held_size()

    def _go_on_after_writing(self) -> None:
        if self.awaits_turn and not self._holds & _HOLD_RATE:
            self._hold_reading(_HOLD_TURN)
            self._await_turn()
        self._release_reading(_HOLD_WRITING)

    def suspend(self) -> None:
        """Dispatch nothing until `resume_reading()`; arriving bytes wait. Handlers that run do not change that."""
        self._is_halted = True
        self._stop_dispatching()

    def resume_reading(self) -> None:
        """After `suspend()`: go on with the packets that waited, and read again; an `async def` handler that runs
        finishes first.
        """
        self._is_halted = False
        if self._running is None:
            self._dispatch_again()

    def resume(self) -> None:
        """The same as `resume_reading()`."""
        self.resume_reading()

    def _stop_dispatching(self) -> None:
        if not self.is_suspended:
            self._suspended_at = self._now()
        super().suspend()

    def _dispatch_again(self) -> None:
        if not self.is_suspended:
            return
        self.heard()  # the peer may have waited for us
        try:
            super().resume()
        finally:
            if not self.is_suspended:
                self._release_reading(_HOLD_HANDLER)
        self._end_if_peer_did()

    def _end_if_peer_did(self) -> None:
        if self._eof and not self.is_suspended and not self.awaits_turn:
            self._close_at_eof()

    # -- called by a transport that outlives its connections

    @property
    def is_away(self) -> bool:
        """Whether its connection was lost and its peer may come back; what is sent waits. Only with `resume`."""
        return bool(self._holds & _HOLD_LINK)

    def link_is_lost(self) -> None:
        """Nothing arrives or leaves until `link_is_back()`; that is no silence of the peer's."""
        self._hold_reading(_HOLD_LINK)

    def link_is_back(self) -> None:
        """After `link_is_lost()`: go on."""
        self._release_reading(_HOLD_LINK)

    # -- rare events of the stream

    def is_broken(self) -> bool:
        return self._socket_transport is not None and self._socket_transport.is_closing()

    def on_violation(self, error: InvalidPacketError) -> None:
        self._log(logging.WARNING, "closing: %s", str(error))
        self.close(CloseReason.INVALID_PACKET)

    def on_no_memory(self, error: Exception) -> None:
        self._log(logging.ERROR, "closing: %s", str(error) or type(error).__name__)
        self.abort(CloseReason.OUT_OF_MEMORY)

    def on_rejected(self, packet_id: int, body_size: int, route: Route | None) -> None:
        if route is None:
            text = "no handler for packet id %d with a body of %d bytes"
            self._log(logging.WARNING, text, packet_id, body_size, packet_id=packet_id)
            if self._context.unknown_packets == "close":
                self.close(CloseReason.UNKNOWN_PACKET)
        else:
            needed = (route.packet_type.__name__, route.min_body_size, body_size)
            self._log(logging.WARNING, "%s needs a body of %d bytes, got %d", *needed, packet_id=packet_id)

    def on_login(self) -> None:
        if self.is_logged_in:
            self._deadlines.lift("login")
        elif self.is_open and self._context.login_required:
            self._await_login()

    def on_early(self, packet_id: int) -> None:
        self._log(logging.WARNING, "packet id %d before the login", packet_id)

    def on_rate_exceeded(self, packet_id: int) -> None:
        self._log(logging.WARNING, "packet id %d is above the session's rate", packet_id)
        if self._context.rate_exceeded == "close":
            self.close(CloseReason.RATE_EXCEEDED)

    def on_yield(self, delay: float) -> None:
        if delay:
            self._hold_reading(_HOLD_RATE)
            self._credit_timer = self._context.loop.call_later(delay, self._credit_came)
        else:
            self._hold_reading(_HOLD_TURN)
            self._await_turn()

    def _await_turn(self) -> None:
        if not self._is_queued:
            self._is_queued = True
            self._context.turns.add(self._next_turn)

    def _next_turn(self) -> None:
        self._is_queued = False
        self._take_turn()

    def _credit_came(self) -> None:
        self._holds = self._holds & ~_HOLD_RATE | _HOLD_TURN
        self._take_turn()

    def _take_turn(self) -> None:
        if self.is_closed or self._holds & (_HOLD_RATE | _HOLD_WRITING):
            return
        try:
            self.go_on()
        finally:
            if not self.awaits_turn:
                self._release_reading(_HOLD_TURN)
        self._end_if_peer_did()

    def on_partial(self) -> None:
        self._deadlines.watch("assembly", self._context.limits.assembly_timeout, self._last_began, self._on_unfinished)

    def on_handler_error(self, packet_id: int, error: BaseException) -> None:
        self._log(logging.ERROR, "the handler of packet id %d raised", packet_id, packet_id=packet_id, error=error)
        if self._context.handler_errors == "close":
            self.close(CloseReason.HANDLER_ERROR)

    def on_result(self, packet_id: int, result: Any) -> None:
        if inspect.isawaitable(result):
            self._wait_for(packet_id, result)

    def on_read_full(self) -> None:
        self._hold_reading(_HOLD_HANDLER)

    def on_backlog(self) -> None:
        if self._context.reads_on:
            return
        self._hold_reading(_HOLD_WRITING)
        self.hold()  # what it asks for adds to what it does not take

    def on_overflow(self) -> None:
        limit = self._context.limits.max_write_buffer
        burst = _MAX_BURST * limit
        if self._burst is not None:
            burst = limit + min(burst, self._burst)
        if self._held_size() <= burst:
            return self.on_backlog()
        text = "closing: %d bytes wait for a peer that does not read, limit %d"
        self._log(logging.WARNING, text, self._held_size(), burst)
        self.abort(CloseReason.SLOW_RECEIVER)

    def _held_size(self) -> int:
        """Bytes that the peer did not take, with what keeping them frame by frame takes."""
        backlog = self.backlog
        return self.unsent_size + (0 if backlog is None else backlog.held_size - backlog.size)

    def on_write_error(self, error: Exception) -> None:
        self._log(logging.WARNING, "cannot write: %s", str(error))
        self.abort(CloseReason.NETWORK_ERROR)

    # -- handlers that wait

    def _wait_for(self, packet_id: int, awaitable: Awaitable[Any]) -> None:
        """Run an `async def` handler: at once as far as it goes, later packets wait for the rest."""
        self._running = packet_id
        try:
            task = _start(self._context.loop, awaitable)
        except BaseException as error:
            self._running = None
            self._end_if_asked()
            if not isinstance(error, Exception):
                raise
            return self._failed(packet_id, error)  # what it returned cannot be awaited here
        if task.done():
            self._running = None
            self._report(packet_id, task)
            self._end_if_asked()
            return
        if inspect.iscoroutine(awaitable) and isinstance(task, asyncio.Task):  # a task of ours, not of the user's
            task.set_name(handler_task_name(self.id, packet_id))
        self._task = task
        self._context.tasks.add(task)
        self._stop_dispatching()
        self._deadlines.watch("handler", self._context.limits.handler_timeout, self._handler_since, self._on_overdue)
        task.add_done_callback(partial(self._handler_done, packet_id))

    def _handler_done(self, packet_id: int, task: asyncio.Future[Any]) -> None:
        self._task = self._running = None
        self._context.tasks.discard(task)
        if self._is_overdue:
            self._is_overdue = False
            self._deadlines.lift("handler")
            if not task.cancelled():
                task.exception()  # seen, and counted when its time was over
        else:
            self._report(packet_id, task)
        self._end_if_asked()
        if not self._is_halted:
            self._dispatch_again()

    def _end_if_asked(self) -> None:
        if self._end is not None:
            reason, timeout = self._end
            self.close(reason, timeout=timeout)

    def _report(self, packet_id: int, task: asyncio.Future[Any]) -> None:
        error: BaseException | None = None
        if not task.cancelled():
            error = task.exception()
        elif not self.is_closed:
            error = _error_of_cancelled(task)
        if isinstance(error, InvalidPacketError):
            self._context.ledger.rejected_invalid += 1
            self.on_violation(error)
        elif error is not None and not isinstance(error, (KeyboardInterrupt, SystemExit)):  # these the loop has raised
            self._failed(packet_id, error)

    def _failed(self, packet_id: int, error: BaseException) -> None:
        self._context.ledger.handler_errors += 1
        self.on_handler_error(packet_id, error)

    # -- what deadlines look at: time in which we did not listen is no silence of the peer's

    def _now(self) -> float:
        return self._context.loop.time()

    def _is_listening(self) -> bool:
        return not self._holds and not self.is_suspended

    def _last_heard(self) -> float:
        return self.last_received if self._is_listening() else self._now()

    def _on_idle(self) -> None:
        self._log(logging.INFO, "closing: nothing received for %g s", self._idle_timeout)
        self.close(CloseReason.IDLE_TIMEOUT)

    def _last_began(self) -> float | None:
        since = self.partial_since()
        return since if since is None or self._is_listening() else self._now()

    def _on_unfinished(self) -> None:
        timeout = self._context.limits.assembly_timeout
        self._log(logging.WARNING, "closing: %d bytes of a packet, incomplete for %g s", self.inbox_size, timeout)
        self.close(CloseReason.ASSEMBLY_TIMEOUT)

    def _last_taken(self) -> float | None:
        if not self.is_write_paused:
            return None
        if self.is_away:
            return self._now()
        left = self._left_to_take()
        if left != self._stuck[1]:
            self._stuck = (self._now(), left)
        if self._context.reads_on:  # a server that has much for us reads when we took it
            return max(self._stuck[0], self._last_heard())
        return self._stuck[0]

    def _left_to_take(self) -> tuple[int, int]:
        sock = None if self._socket_transport is None else self._socket_transport.get_extra_info("socket")
        return self.unsent_size - self.outbox_size, 0 if sock is None else unacknowledged(sock)

    def _on_stuck(self) -> None:
        timeout = self._context.limits.write_timeout
        self._log(logging.WARNING, "closing: the peer took none of %d bytes in %g s", self.unsent_size, timeout)
        self.abort(CloseReason.WRITE_TIMEOUT)

    def _handler_since(self) -> float | None:
        return None if self._task is None or self._task.done() else self._suspended_at

    def _on_overdue(self) -> None:
        task, timeout = self._task, self._context.limits.handler_timeout
        assert task is not None
        assert self._running is not None
        cancelled_at, self._is_overdue = self._now(), True
        task.cancel()
        self._deadlines.watch("handler", timeout, lambda: cancelled_at, self._on_ignored)
        self._context.ledger.handler_errors += 1
        self.on_handler_error(self._running, TimeoutError(f"cancelled after {timeout:g} s"))

    def _on_ignored(self) -> None:
        self._log(logging.ERROR, "closing: the handler of packet id %d goes on though it was cancelled", self._running)
        self.close(CloseReason.HANDLER_ERROR)

    def _await_login(self) -> None:
        opened, timeout = self._now(), self._context.limits.login_timeout

        def last_asked() -> float:
            # a password that is being checked, and came in time: look again soon
            is_asking = self.is_suspended and timeout is not None and self._suspended_at - opened < timeout
            return self._now() - timeout + min(1.0, timeout) if is_asking and timeout else opened

        self._deadlines.watch("login", timeout, last_asked, self._on_no_login)

    def _on_no_login(self) -> None:
        self._log(logging.INFO, "closing: no login within %g s", self._context.limits.login_timeout)
        self.close(CloseReason.LOGIN_TIMEOUT)

    def _beat(self) -> None:
        heartbeat, now = self._context.heartbeat, self._now()
        if heartbeat is not None and self.is_open:
            self._deadlines.watch("heartbeat", heartbeat.interval, lambda: now, self._on_beat)

    def _on_beat(self) -> None:
        heartbeat = self._context.heartbeat
        assert heartbeat is not None
        self._beat()
        try:
            self.ping(heartbeat.ping_id, heartbeat.patience)
        except ValueError as error:  # the layout that it changed to has no room for it
            self._log(logging.WARNING, "cannot ping: %s", str(error))

    # -- small parts

    def _hold_reading(self, hold: int) -> None:
        transport = self._socket_transport
        if not self._holds and transport is not None and not transport.is_closing():
            transport.pause_reading()
        self._holds |= hold

    def _release_reading(self, hold: int) -> None:
        held, self._holds = self._holds, self._holds & ~hold
        transport = self._socket_transport
        if held and not self._holds and transport is not None and not transport.is_closing():
            self.heard()
            transport.resume_reading()

    def _log(
        self,
        level: int,
        message: str,
        *values: object,
        packet_id: int | None = None,
        error: BaseException | None = None,
    ) -> None:
        extra = {"session_id": self.id, "peer": self.peername}
        if packet_id is not None:
            extra["packet_id"] = packet_id
        who = (self.id, str(self.peername))
        self._context.log.log(level, "session %d %s " + message, *who, *values, extra=extra, error=error)


def _check_timeout(seconds: float | None) -> None:
    if seconds is not None and not seconds > 0:
        raise ValueError(f"timeout {seconds} is not above 0 seconds")


class BufferedSession(Session, asyncio.BufferedProtocol):
    """A session for loops that read into memory of ours: one buffer for all of them, and no copy."""

    __slots__ = ()


def handler_task_name(session_id: object, packet_id: object) -> str:
    """The name of the task of an `async def` handler; `asyncio.all_tasks()` and the watchdog show it."""
    return f"gamenet session {session_id} packet {packet_id}"


def _start(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
    """A task for `awaitable` that has run up to its first real wait, where Python can do that (3.12)."""
    if not inspect.iscoroutine(awaitable):
        return asyncio.ensure_future(awaitable, loop=loop)
    coroutine: Coroutine[Any, Any, Any] = awaitable
    if sys.version_info >= (3, 12):
        return _start_at_once(loop, coroutine)
    return loop.create_task(coroutine)


def _start_at_once(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task.__new__(asyncio.Task)
    try:
        task.__init__(coroutine, loop=loop, eager_start=True)  # type: ignore[misc]
    except (KeyboardInterrupt, SystemExit):
        if task.done():
            task.exception()  # it is raised here: asyncio need not complain that nobody has asked for it
        raise
    return task


def _error_of_cancelled(task: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """None if it was cancelled itself; else what it waited for was, and it has failed."""
    if isinstance(task, asyncio.Task) and task.cancelling():
        return None
    try:
        task.result()
    except asyncio.CancelledError as error:
        return error
    return None
