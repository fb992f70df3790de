"""A client that comes back: it connects again when a connection cannot be made or has died (the book's 9.3.3).

What stays true: at most one connection lives at a time; one task, which the client owns, makes them. After `close()`,
or after that task was cancelled at any moment, nothing of it is left. Every change is a state that is told.
"""

from __future__ import annotations

import asyncio
import random
import ssl as ssl_module
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Unpack

from gamenet._core import RawPacket, send_frame_to
from gamenet.backoff import Backoff, delays_of
from gamenet.client import Client, check_attempt, connect_deadline, logger
from gamenet.client_seat import ClientSeat
from gamenet.client_states import Closed, Connected, Connecting, GivenUp, Lost, State, StateFeed, States, Waiting
from gamenet.errors import CloseReason, SessionClosedError, wrong_thread, wrong_type
from gamenet.frames import frame_of
from gamenet.heartbeat import Heartbeat
from gamenet.layout import BOOK_HEADER, Layout
from gamenet.limits import LimitOptions, limits_of
from gamenet.packets import Packet
from gamenet.session import Session
from gamenet.transports import TransportName, Transports, choose_client

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STABLE_AFTER = 10.0
"""Seconds that a connection must have lived for the back-off to start anew: one to a server that accepts and closes
again lives shorter, and such a server must not be called at full speed."""

QUEUE_SIZE = 1000
"""Packets that wait for a connection, where they are asked to: some seconds of what a player does."""

SILENT_BEATS = 3
"""Heartbeats without an answer after which a connection counts as dead, unless `idle_timeout` says otherwise."""

Greet = Callable[["ReconnectingClient"], Awaitable[object]]


class ReconnectingClient(Client):
    """`async with ReconnectingClient(host, port) as client`: a client whose connections are made again when they die.

    Made inside a running loop. It sends, asks and is iterated over as a `Client`: the iteration goes on across
    connections, and ends with `close()`, or with `SessionClosedError` when it has given up. Requests that are under
    way when a connection dies fail with `SessionClosedError`. Host names are looked up for each attempt.

    `backoff`: how long to wait before each further attempt, a `Backoff` or any iterable of seconds; it is given up
    when that ends (an iterator of yours goes on where it was; a list starts again). It starts anew once a connection
    has lived for `stable_after` seconds. `connect_timeout` is for each attempt, its look-up, TLS and greeting included.

    `greet(client)` is awaited on every connection before it counts as connected, to log in for instance; only what
    it sends itself leaves before it is done. If it raises `OSError`, `TimeoutError` or `SessionClosedError`, the
    attempt has failed; with anything else it is given up at once.

    `keep_queued=True`: what is sent while there is no connection waits for the next one, up to `queue_size` packets
    and half of `max_write_buffer` bytes; `send()` returns False for what is above, and is counted. So do requests.
    What was handed to a connection that dies may be lost.

    `on_state(state)` is called with each state, as `states()` iterates over them. `rng` gives the jitter. All else is
    as in `gamenet.connect`; with a `heartbeat`, `idle_timeout` is three of its intervals unless it is given, so that a
    peer that vanished without a word is noticed (with `resume` `link_timeout` does that, and the session is kept).

    `resume=True`, for servers that have it, too: the session outlives its connections. What was sent and not received
    is sent again, what was received is not; requests go on; `greet()` is for new sessions only. A later
    `Connected(resumed=False)` says that the server did not know the session any more, and that this one is new: what
    the old one had not brought over is lost, but for what `keep_queued` kept while there was no connection.

    `ValueError`, naming it, for what is out of range, `TypeError` for what is of a wrong type.
    Locking rule: the thread of its loop only, but for `send_threadsafe()` and `call_soon()`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        packets: Iterable[type[Packet]] = (),
        layout: Layout = BOOK_HEADER,
        ssl: ssl_module.SSLContext | None = None,
        transport: TransportName | Transports = "auto",
        connect_timeout: float = 10.0,
        max_queued: int = 1024,
        heartbeat: Heartbeat | None = None,
        backoff: Backoff | Iterable[float] | None = None,
        stable_after: float = STABLE_AFTER,
        keep_queued: bool = False,
        queue_size: int = QUEUE_SIZE,
        greet: Greet | None = None,
        on_state: Callable[[State], object] | None = None,
        resume: bool = False,
        rng: random.Random | None = None,
        **limits: Unpack[LimitOptions],
    ) -> None:
        if not stable_after >= 0:
            raise ValueError(f"stable_after {stable_after} is below 0 seconds")
        check_attempt(port, ssl, connect_timeout)
        _check_callbacks(greet, on_state)
        if not isinstance(backoff, Backoff | Iterable | None):
            raise wrong_type("backoff", "a Backoff or an iterable of seconds", backoff)
        if queue_size < 1:
            raise ValueError(f"queue_size {queue_size} is below 1")
        interval = None if heartbeat is None or resume else heartbeat.interval
        limits.setdefault("idle_timeout", None if interval is None else SILENT_BEATS * interval)
        transports = choose_client(transport, asyncio.get_running_loop())
        super().__init__(transports, limits_of(ReconnectingClient, limits), layout, packets, max_queued, heartbeat)
        self.host = host
        self.port = port
        self._ssl = ssl
        self._connect_timeout = connect_timeout
        self._backoff = Backoff() if backoff is None else backoff
        self._random = (random.Random() if rng is None else rng).random
        self._stable_after = stable_after
        self._keep_queued = keep_queued
        self._queue_size = queue_size
        self._unsent: deque[tuple[bytes, int | None]] = deque()  # packets, and the sequence numbers of requests
        self._unsent_size = 0
        self._greet = greet
        self._on_state = on_state
        self._feed = StateFeed()
        self._task: asyncio.Task[None] | None = None
        self._lost: asyncio.Future[str] | None = None  # the end of the connection that lives now
        self._gone: asyncio.Future[None] | None = None  # the end of the session
        self._seat = (
            ClientSeat(self._loop, self._context.limits, self._begin_session, self._end_link) if resume else None
        )
        self._is_greeting = self._has_greeted = False
        self._thread = threading.get_ident()
        self._end_reason: str | None = None
        self._attempts = self._connections = self._losses = self._resumptions = 0

    # -- life

    def start(self) -> None:
        """Begin to connect, in a task of its own. `RuntimeError` if it has been started, or closed."""
        if self._task is not None or self._end_reason is not None:
            raise RuntimeError("this client was started already")
        self._task = self._loop.create_task(self._run(), name=f"gamenet client of {self.host} port {self.port}")

    async def __aenter__(self) -> ReconnectingClient:
        if self._task is None:
            self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop connecting, end the connection in order, and wait until it is gone. What other threads sent before
        still leaves. Closing again does nothing.
        """
        task = self._task
        if task is asyncio.current_task():
            raise RuntimeError("greet() cannot close its client; let it raise what shall be given up with")
        if self._end_reason is None:
            self._end_reason = str(CloseReason.CLOSED)
        try:
            await self._mailbox.settle(self._context.limits.close_timeout)
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task])
            self.session.close()
            if self._gone is not None:
                await asyncio.wait([self._gone])
        finally:
            self.session.abort()
            self._finish(CloseReason.CLOSED, Closed())

    async def connected(self) -> None:
        """Wait until it is connected; at once if it is. `SessionClosedError` when it has ended, or if it does so."""
        async for state in self.states():
            if isinstance(state, Connected) and self.session.is_open:  # its end is not told of at once
                return
        raise self._closed_error()

    # -- what it is doing

    @property
    def state(self) -> State | None:
        """The latest state; None before `start()`."""
        return self._feed.latest

    def states(self) -> States:
        """An asynchronous iteration over the states, from the present one on; there may be any number of them."""
        return self._feed.listen()

    @property
    def is_connected(self) -> bool:
        """Whether packets leave at once."""
        return isinstance(self.state, Connected) and self.session.is_open

    @property
    def close_reason(self) -> str | None:
        """`"closed"` or `"given_up"`; None while it lives."""
        return self._end_reason

    def stats(self) -> dict[str, int]:
        """What happened so far, as a plain dict: `attempts` to connect, `connections` made, of them `resumed`, `lost`
        ones; packets `queued` now; `sends_refused`, for which `send()` returned False.
        """
        return {
            "attempts": self._attempts,
            "connections": self._connections,
            "resumed": self._resumptions,
            "lost": self._losses,
            "queued": len(self._unsent),
            "sends_refused": self._ledger.sends_refused,
        }

    # -- sending

    def send(
        self, packet: RawPacket | int, body: ReadableBuffer = b"", sequence: int | None = None,
        header: Mapping[str, int] | None = None,
    ) -> bool:
        """Send a packet, or keep it for the next connection; arguments and errors as in `Session.send`.

        False, and counted, if there is no connection and it cannot be kept.
        """
        if self._may_send():
            return super().send(packet, body, sequence, header)
        if self._thread != threading.get_ident():
            raise wrong_thread(self._thread, threading.get_ident())
        return self._keep(frame_of(self._context.codec, packet, body, sequence, header), sequence)

    def send_threadsafe(
        self, packet: RawPacket | int, body: ReadableBuffer = b"", sequence: int | None = None,
        header: Mapping[str, int] | None = None,
    ) -> bool:
        """Send a packet from any thread, or keep it for the next connection. It is made here and now, by the layout
        that this client began with.

        True if it was accepted; False, and counted, if the client has ended, or if `max_mailbox` calls and sends wait.
        Errors as in `Session.send`.
        """
        item = self._send_or_keep, (frame_of(self._context.codec, packet, body, sequence, header),)
        return self._mailbox.put(item) or self._mailbox.refuse()

    def _send_or_keep(self, frame: bytes) -> None:
        if self._may_send():
            send_frame_to(self.session, self._context.codec, frame)
        else:
            self._keep(frame)

    def _keep(self, frame: bytes, sequence: int | None = None) -> bool:
        room = self._context.limits.max_write_buffer // 2 - self._unsent_size
        if self.session.is_away:
            room -= self.session.unsent_size
        if not self._keep_queued or self._end_reason or len(self._unsent) >= self._queue_size or len(frame) > room:
            self._ledger.sends_refused += 1
            return False
        self._unsent.append((frame, sequence))
        self._unsent_size += len(frame)
        return True

    def _may_send(self) -> bool:
        if not self.session.is_open:
            return False
        if self._has_greeted:  # what a session that is away was given is lost with it, a queue is not
            return not (self._keep_queued and (self._unsent or self.session.is_away))
        return asyncio.current_task() is self._task  # that is `greet()`

    def _send_queued(self) -> None:
        while self._unsent and self.session.is_open:
            frame, _ = self._unsent.popleft()
            self._unsent_size -= len(frame)
            send_frame_to(self.session, self._context.codec, frame)  # `greet()` may have changed the layout

    def _queued_sequences(self) -> Container[int | None]:
        return {sequence for _, sequence in self._unsent} if self._end_reason is None else ()

    # -- connecting, again and again

    async def _run(self) -> None:
        try:
            await self._reconnect()
        except Exception as error:
            self._give_up(error)
        finally:
            if self._end_reason is None:  # cancelled, and not by close(): the loop ends
                self.session.abort()
                self._finish(CloseReason.CLOSED, Closed())

    async def _reconnect(self) -> None:
        delays, attempt = delays_of(self._backoff, self._random), 1
        while True:
            error, lived = await self._attempt(attempt)
            attempt += 1
            if lived is not None and lived >= self._stable_after:
                delays, attempt = delays_of(self._backoff, self._random), 1
            seconds = next(delays, None)
            if seconds is None:
                return self._give_up(error)
            self._tell(Waiting(seconds, attempt, error))
            await asyncio.sleep(seconds)

    async def _attempt(self, attempt: int) -> tuple[Exception, float | None]:
        """One connection, to its end: what ended it, and how long it was connected if it ever was."""
        self._attempts += 1
        self._tell(Connecting(attempt))
        try:
            async with connect_deadline(self.host, self.port, self._connect_timeout):
                resumed = await self._connect()
        except (OSError, SessionClosedError) as error:
            return error, None
        began = self._loop.time()
        self._connections += 1
        self._resumptions += resumed
        self._send_queued()  # before anything that whoever hears of it sends
        self._tell(Connected(resumed))
        assert self._lost is not None
        reason = await asyncio.shield(self._lost)
        self._losses += 1
        self._tell(Lost(reason))
        return SessionClosedError(f"the connection has ended: {reason}"), self._loop.time() - began

    async def _connect(self) -> bool:
        """Make a connection and greet; whether it went on with what was before."""
        self._lost = self._loop.create_future()
        try:
            if await self._connect_below():
                return True
            if self._greet is not None:
                self._is_greeting = True
                await self._greet(self)
        except BaseException:
            if not self._has_greeted:  # else there is a session that may still be resumed
                self.session.abort()
            raise
        finally:
            self._is_greeting = False
        self._has_greeted = True
        return False

    async def _connect_below(self) -> bool:
        """Make a connection; whether the session that was there goes on over it."""
        create = partial(self._transports.create_connection, host=self.host, port=self.port, ssl=self._ssl)
        if self._seat is not None:
            return await self._seat.connect(create)
        session = self._begin_session()
        await create(lambda: session)
        return False

    def _begin_session(self) -> Session:
        """A new session, after the end of the one before."""
        if self.session.is_open:
            self.session.abort(CloseReason.SEAT_UNKNOWN)
            self._end_requests(CloseReason.SEAT_UNKNOWN)
        self._has_greeted = False
        self.session = self._new_session()
        return self.session

    def _end_link(self, reason: str) -> None:
        if self._is_greeting:  # what it waits for will not come: it fails now, and not at its deadline
            self.session.abort(reason)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(reason)

    def _give_up(self, error: Exception) -> None:
        self.session.abort("given_up")
        self._finish("given_up", GivenUp(error))

    def _finish(self, reason: str, state: Closed | GivenUp) -> None:
        """Say that it is over, once."""
        if self._closed.done():
            return
        self._end_reason = str(reason)
        self._end_requests(self._end_reason)
        self._end()
        self._tell(state)

    def _tell(self, state: State) -> None:
        self._feed.tell(state)
        if self._on_state is None:
            return
        try:
            self._on_state(state)
        except Exception:
            logger.exception("on_state() raised at %r", state)

    def _closed_error(self) -> SessionClosedError:
        state = self.state
        if self._end_reason is None:
            return SessionClosedError(f"not connected: {state}; wait for connected(), or set keep_queued or resume")
        closed = SessionClosedError(f"the client has ended: {self._end_reason}")
        if isinstance(state, GivenUp):
            closed.__cause__ = state.error
        return closed

    # -- told by the session

    def session_opened(self, session: Session) -> None:
        """Called when a connection was made."""
        if session is not self.session or self._end_reason is not None:
            return session.abort()
        self._gone = self._loop.create_future()
        if len(self._queue) >= self._max_queued:
            session.suspend()

    def session_closed(self, session: Session, reason: str) -> None:
        """Called when a connection is gone."""
        if session is self.session:
            self._has_greeted = False
            self._end_requests(reason)
            self._end_link(reason)
            if self._gone is not None and not self._gone.done():
                self._gone.set_result(None)


def _check_callbacks(greet: Greet | None, on_state: Callable[[State], object] | None) -> None:
    for name, function in (("greet", greet), ("on_state", on_state)):
        if function is not None and not callable(function):
            raise wrong_type(name, "callable", function)
