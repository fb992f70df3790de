"""Accepting, so that nothing ends it: the listening sockets of a server, and what comes in by them.

What stays true: no failure of one connection stops the accepting of others, and a failure of the system's only delays
it; whoever is not accepted yet waits in the system's queue, and whoever was accepted is admitted, or refused, at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from asyncio.trsock import TransportSocket
from collections.abc import Callable
from typing import Any, Protocol

from gamenet.admission import Admission, Pace, network_of
from gamenet.errors import CloseReason
from gamenet.logs import LimitedLogger
from gamenet.session import Session
from gamenet.transports.acceptors import Acceptor, Failed
from gamenet.transports.proactor import sock_accept
from gamenet.transports.sockets import prepare, reset

logger = logging.getLogger("gamenet")

BATCH_SIZE = 64
"""Connections accepted at a time before sessions get their turn: about two milliseconds."""

RETRY_SECONDS = 0.5
"""For which nobody is accepted when the system is short of something: a player waits no second for a descriptor that is
free again, and two attempts a second cost nothing."""

_MIN_DELAY = 0.01  # seconds; at a high rate several are accepted at a time, instead of one by a timer each

_LINES_PER_SECOND = 2.0  # of the log; a server that hovers at its last descriptor pauses and goes on all the time

# What accept() may say of the one connection that it took from the queue; accept(2) of Linux names the most
_ERRORS_OF_ONE = {
    getattr(errno, name)
    for name in (
        "ECONNABORTED", "ECONNRESET", "ECONNREFUSED", "EPROTO", "EPERM", "ETIMEDOUT", "ENOTCONN", "ENOPROTOOPT",
        "EOPNOTSUPP", "ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENONET",
    )
    if hasattr(errno, name)
}  # fmt: skip

# The same of Windows: unexpected network error, name deleted, semaphore timeout, refused, aborted; winsock's aborted,
# reset, and not connected any more
_WINERRORS_OF_ONE = {59, 64, 121, 1225, 1236, 10053, 10054, 10057}

_WINSOCK = 10_000  # from here on Windows' numbers are in `errno`, below they mean something else there


class Listening(Protocol):
    """What a server asks of whatever brings it connections."""

    @property
    def addresses(self) -> list[Any]:
        """The addresses that are listened on; none once it is closed."""

    @property
    def connecting(self) -> int:
        """How many were accepted and are no sessions yet."""

    def start(self) -> None:
        """Accept from now on."""

    def close(self) -> None:
        """Accept nobody any more; sessions go on."""

    async def wait_closed(self) -> None:
        """After `close()`: return when nothing is on its way to become a session."""


class Listener:
    """Accepts on `sockets`, which it owns, from `start()` to `close()`.

    `new_session()` is called for whoever is admitted, `new_acceptor(failed)` once. `on_refused(session, reason, error)`
    hears of a session that was admitted and never connected.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: list[socket.socket],
        admission: Admission,
        new_acceptor: Callable[[Failed], Acceptor],
        new_session: Callable[[], Session],
        on_refused: Failed,
        max_accepts_per_second: float | None = None,
    ) -> None:
        self._loop = loop
        self._sockets = sockets
        self._admission = admission
        self._new_session = new_session
        self._on_refused = on_refused
        self._acceptor = new_acceptor(self._failed)
        self._pace = Pace(max_accepts_per_second, loop.time())
        self._log = LimitedLogger(logger, loop.time, _LINES_PER_SECOND)
        self._watched: set[socket.socket] = set()  # by the loop
        self._behind: set[socket.socket] = set()  # somebody waits there because of the pace
        self._tasks: dict[asyncio.Task[None], socket.socket] = {}  # that accept, on loops that cannot watch sockets
        self._timer: asyncio.TimerHandle | None = None  # set while nobody is accepted
        self._paused_since: float | None = None  # the system was short of something then,
        self._last_short = -RETRY_SECONDS  # and then it was for the last time

    @property
    def addresses(self) -> list[object]:
        """The addresses that are listened on; none once it is closed."""
        return [sock.getsockname() for sock in self._sockets]

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:
        """The listening sockets, to look at; none once it is closed."""
        return tuple(TransportSocket(sock) for sock in self._sockets)

    @property
    def connecting(self) -> int:
        """How many were accepted and are no sessions yet: the TLS handshakes in progress."""
        return self._acceptor.connecting

    def start(self) -> None:
        """Accept from now on."""
        try:
            self._watch()
        except NotImplementedError:  # Windows' Proactor loop
            for sock in self._sockets:
                task = self._loop.create_task(self._accept_on(sock))
                self._tasks[task] = sock
                task.add_done_callback(self._accepting_ended)

    def close(self) -> None:
        """Accept nobody any more, abort handshakes; sessions go on. Does nothing when it is closed."""
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sockets, self._sockets = self._sockets, []
        if self._tasks:
            for task in self._tasks:
                task.cancel()  # its socket is closed when it has ended, and the loop does not look at it any more
        else:
            for sock in sockets:
                sock.close()
        self._acceptor.close()

    async def wait_closed(self) -> None:
        """After `close()`: return when the sockets are closed and nothing is on its way to become a session."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._acceptor.wait_closed()

    # -- accepting, where the loop watches the sockets

    def _watch(self) -> None:
        self._timer = None
        for sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._accept, sock)
            self._watched.add(sock)

    def _unwatch(self) -> None:
        for sock in self._watched:
            self._loop.remove_reader(sock.fileno())
        self._watched.clear()

    def _wait(self, seconds: float) -> None:
        self._unwatch()
        self._timer = self._loop.call_later(max(_MIN_DELAY, seconds), self._watch_again)

    def _watch_again(self) -> None:
        try:
            self._watch()
        except Exception as error:  # the loop's own epoll set has no room, or there is no memory
            self._short_of(error)
            self._wait(RETRY_SECONDS)

    def _accept(self, listening: socket.socket) -> None:
        """Called by the loop: somebody waits there."""
        for _ in range(BATCH_SIZE):
            if listening not in self._watched:  # a session closed us, or accepting pauses
                return
            delay = self._pace.delay(self._loop.time())
            if delay:
                self._behind.add(listening)
                return self._wait(delay)
            try:
                sock, peername = listening.accept()
            except (BlockingIOError, InterruptedError):
                self._behind.discard(listening)
                return
            except OSError as error:
                if self._goes_on(error):
                    continue
                return self._wait(RETRY_SECONDS)
            self._admission.accepts_delayed += listening in self._behind
            self._take(sock, peername)

    # -- accepting, where it cannot

    async def _accept_on(self, listening: socket.socket) -> None:
        """A connection is held until its time comes, where the system would accept the next one on its own."""
        while True:
            try:
                sock, peername = await sock_accept(self._loop, listening)
            except Exception as error:
                await asyncio.sleep(0 if self._goes_on(error) else RETRY_SECONDS)
                continue
            try:
                await self._wait_for_turn()
            except asyncio.CancelledError:
                self._admission.refused[CloseReason.SERVER_STOPPED] += 1
                reset(sock)
                raise
            self._take(sock, peername)

    async def _wait_for_turn(self) -> None:
        await asyncio.sleep(0)  # a loop may have the next one at hand, and would never come to anything else
        delay = self._pace.delay(self._loop.time())
        self._admission.accepts_delayed += delay > 0
        while delay:
            await asyncio.sleep(max(_MIN_DELAY, delay))
            delay = self._pace.delay(self._loop.time())

    def _accepting_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task).close()

    # -- errors

    def _goes_on(self, error: Exception) -> bool:
        """Whether only one connection is concerned, so that the next one may be asked for at once."""
        if is_of_one_connection(error):
            self._admission.accept_errors[error_name(error)] += 1
            return True
        self._short_of(error)
        return False

    def _short_of(self, error: Exception) -> None:
        """The system is short of something: nobody is accepted for a while."""
        name = error_name(error)
        self._admission.accept_errors[name] += 1
        now = self._loop.time()
        if self._paused_since is None or now - self._last_short > 2 * RETRY_SECONDS:
            self._paused_since = now
            self._admission.accept_pauses += 1
            text = "nobody is accepted for the time being: %s; %d connections go on"
            self._log.log(logging.WARNING, text, name, self._admission.held)
        self._last_short = now

    def _resumed(self, paused_since: float) -> None:
        self._paused_since = None
        self._log.log(logging.INFO, "accepting again, after %.1f s", self._last_short + RETRY_SECONDS - paused_since)

    # -- who was accepted

    def _take(self, sock: socket.socket, peername: object) -> None:
        self._pace.take()
        if self._paused_since is not None:
            self._resumed(self._paused_since)
        network = network_of(peername)
        if self._admission.admit(network) is not None:
            reset(sock)
            return
        try:
            prepare(sock)
            session = self._new_session()
        except BaseException as error:
            sock.close()
            self._admission.release(network)
            if not isinstance(error, Exception):
                raise
            self._count(error)
            return
        session.network, session.peername = network, peername
        self._acceptor.connect(sock, peername, session)

    def _failed(self, session: Session, reason: CloseReason | None, error: BaseException | None) -> None:
        network, session.network = session.network, None
        if network is not None:
            self._admission.release(network)
        if reason is None:
            self._count(error)
        else:
            self._admission.refused[reason] += 1
        self._on_refused(session, reason, error)

    def _count(self, error: BaseException | None) -> None:
        self._admission.accept_errors[error_name(error)] += 1
        if not isinstance(error, OSError):
            self._log.log(logging.ERROR, "an accepted connection could not be taken", error=error)


def is_of_one_connection(error: Exception) -> bool:
    """Whether `accept()` failed for a connection of its own, rather than for us."""
    return getattr(error, "errno", None) in _ERRORS_OF_ONE or getattr(error, "winerror", None) in _WINERRORS_OF_ONE


def error_name(error: BaseException | None) -> str:
    """`"EMFILE"`; Windows' winsock names lose their "WSA", its other errors are `"WinError 64"`."""
    number = getattr(error, "winerror", None)
    if number is not None and number < _WINSOCK:
        return f"WinError {number}"
    name = errno.errorcode.get(number or getattr(error, "errno", None) or 0)
    return type(error).__name__ if name is None else name.removeprefix("WSA")
