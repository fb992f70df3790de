"""From an accepted socket to a session: by a transport of the loop, with a TLS handshake before it where that is asked.

What stays true: whoever hands a socket to `connect()` hears of it once more: the session is told `connection_made()`,
or `failed()` is called and the socket closed. Every wait has an end, and a peer's failure never reaches the loop's
exception handler.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from gamenet.errors import CloseReason
from gamenet.session import Session

Failed = Callable[[Session, CloseReason | None, BaseException | None], None]
"""`failed(session, reason, error)`: it was never connected. `reason` is None where only its transport failed."""

_SHUTDOWN_GRACE = 1.0  # seconds after `close_timeout`, so that the session's own deadline, which is silent, comes first
_TIMER_SLACK = 0.02  # seconds; loops round their timers to milliseconds, Windows' clock ticks every 15.6


@dataclass(frozen=True, slots=True)
class Tls:
    """How connections are secured. Times in seconds: a handshake ends within `handshake_timeout`, an orderly end, which
    waits for the peer's close_notify, soon after `close_timeout`.
    """

    context: ssl.SSLContext
    handshake_timeout: float
    close_timeout: float


class Acceptor(Protocol):
    """What a transport does with accepted sockets."""

    @property
    def connecting(self) -> int:
        """Sockets that were handed over and are no sessions yet."""

    def connect(self, sock: socket.socket, peername: object, session: Session) -> None:
        """Own a prepared socket from here on, and connect its session."""

    def close(self) -> None:
        """Nobody more will come: what is in its handshake is aborted, sessions go on."""

    async def wait_closed(self) -> None:
        """After `close()`: return when nothing is on its way to become a session."""


class TaskAcceptor:
    """By a task for each connection, which runs the loop's, or aiofastnet's, `connect_accepted_socket()`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connect_accepted_socket: Callable[..., Coroutine[Any, Any, Any]],
        failed: Failed,
        tls: Tls | None,
    ) -> None:
        self._loop = loop
        self._connect_accepted_socket = connect_accepted_socket
        self._failed = failed
        self._tls = tls
        self._options: dict[str, Any] = {}
        if tls is not None:
            self._options = {
                "ssl": tls.context,
                "ssl_handshake_timeout": tls.handshake_timeout,
                "ssl_shutdown_timeout": tls.close_timeout + _SHUTDOWN_GRACE,
            }
        self._tasks: dict[asyncio.Task[Any], tuple[socket.socket, Session, float]] = {}  # with the time of the start
        self._is_closed = False

    @property
    def connecting(self) -> int:
        """Sockets that were handed over and are no sessions yet."""
        return len(self._tasks)

    def connect(self, sock: socket.socket, peername: object, session: Session) -> None:
        """Own a prepared socket from here on, and connect its session."""
        connecting = self._connect_accepted_socket(lambda: session, sock, **self._options)
        try:
            task = self._loop.create_task(connecting)
        except Exception as error:  # a task factory of the user's
            connecting.close()
            sock.close()
            return self._failed(session, None, error)
        self._tasks[task] = sock, session, self._loop.time()
        task.add_done_callback(self._done)

    def close(self) -> None:
        """Nobody more will come: what is in its handshake is aborted, sessions go on."""
        self._is_closed = True
        if self._tls is None:
            return  # each is a session within a turn or two, and its owner refuses it
        for task, (sock, session, _) in self._tasks.items():
            if not _was_connected(session):
                # both: a handshake that has not begun yet does not hear of the cancellation
                task.cancel()
                with suppress(OSError):  # the peer was faster
                    sock.shutdown(socket.SHUT_RDWR)

    async def wait_closed(self) -> None:
        """After `close()`: return when nothing is on its way to become a session."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        # not at the end of a coroutine: one that is cancelled before its first step has none
        sock, session, started = self._tasks.pop(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if not _was_connected(session):
            # not at once: the transport, if there was one, has something to do before its socket is gone
            self._loop.call_soon(sock.close)
            self._failed(session, self._reason(started), error)

    def _reason(self, started: float) -> CloseReason | None:
        if self._is_closed:
            return CloseReason.SERVER_STOPPED
        if self._tls is None:
            return None
        if self._loop.time() - started >= self._tls.handshake_timeout - _TIMER_SLACK:
            return CloseReason.HANDSHAKE_TIMEOUT
        return CloseReason.HANDSHAKE_FAILED


def _was_connected(session: Session) -> bool:
    return session.transport is not None or session.is_closed


class FastLoop:
    """The loop, as aiofastnet (1.2.0) sees it, where that does not do as asyncio and uvloop do.

    It reports a connection that the peer ends in its TLS handshake to the loop's exception handler, with an exception
    class for an exception; they keep it to the one who waits for the handshake. Without TLS it watches a socket for
    reading though its session was closed in `connection_made()`, and closes it then, which the loop does not survive;
    with TLS a transport that is closing has to read on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, is_tls: bool) -> None:
        self._loop = loop
        self._is_tls = is_tls
        for name in ("call_soon", "call_later", "remove_reader", "add_writer", "remove_writer"):
            setattr(self, name, getattr(loop, name))  # what is called often is found here at once

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    @contextmanager
    def timers_ended_on_failure(self) -> Iterator[None]:
        """For one connection that is being made: if that is cancelled, aiofastnet leaves the handshake's timer behind,
        for up to a minute.
        """
        timers: list[asyncio.TimerHandle] = []

        def call_later(delay: float, *values: Any, **options: Any) -> asyncio.TimerHandle:
            timers.append(self._loop.call_later(delay, *values, **options))
            return timers[-1]

        self.call_later = call_later
        try:
            yield
        except BaseException:
            for timer in timers:
                timer.cancel()
            raise
        finally:
            self.call_later = self._loop.call_later

    def add_reader(self, fd: Any, callback: Callable[..., object], *values: Any) -> None:
        """As the loop's, but for a transport that is closed already."""
        transport = getattr(callback, "__self__", None)
        if self._is_tls or transport is None or not transport.is_closing():
            self._loop.add_reader(fd, callback, *values)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """As the loop's, but for a reset that is given as a class."""
        if context.get("exception") is not ConnectionResetError:
            self._loop.call_exception_handler(context)
