"""The server: listens, gives every connection a session, counts everything, and stops without losing a reply.

What stays true: a session is in `sessions` exactly from its `opened` to its `closed`; the ledger balances.
"""

from __future__ import annotations

import asyncio
import logging
import ssl as ssl_module
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from gamenet._core import Ledger, PoolAllocator, codec_for
from gamenet.backlog import SlowPolicies, SlowPolicy
from gamenet.dispatch import DispatchTable, HandlerT
from gamenet.errors import CloseReason
from gamenet.heartbeat import Heartbeat, answer_heartbeats
from gamenet.layout import BOOK_HEADER, Layout
from gamenet.limits import Limits
from gamenet.manager import SessionManager
from gamenet.packets import Packet
from gamenet.session import Session, SessionContext
from gamenet.transports import TransportName, check_name, choose_server

logger = logging.getLogger("gamenet")

OpenedT = TypeVar("OpenedT", bound=Callable[[Session], Any])
ClosedT = TypeVar("ClosedT", bound=Callable[[Session, str], Any])

BACKLOG = 1024
"""Connections the system may hold for us before we accept them; a login wave after a restart needs room."""

_HANDLER_TIMEOUT = 0.5  # seconds that a cancelled handler may take to end
_LISTENER_TIMEOUT = 1.0  # seconds; all sessions are closed by then, what is left are silent TLS handshakes


class Server:
    """A packet server.

    `layout` is how packets are framed (a session's may change: `session.layout`), `ssl` a server-side
    `ssl.SSLContext` for TLS. `unknown_packets`: `"reject"` counts and goes on, `"close"` ends the session;
    `handler_errors`: `"continue"` or `"close"` likewise. `rate_exceeded`, for `max_packets_per_second` and
    `max_bytes_per_second`: `"wait"` reads no further until the session has credit again, `"reject"` counts and goes
    on, `"close"` ends the session. `heartbeat`: pings that are answered below the handlers. `transport`: `"asyncio"`
    for the loop's own, `"fast"` for aiofastnet's, `"epoll"` for our own (Linux, no TLS), `"auto"` for the fastest
    that is there. All further keywords are the fields of `gamenet.Limits`; `ValueError`, naming it, for one out of
    range.
    """

    def __init__(
        self,
        *,
        layout: Layout = BOOK_HEADER,
        ssl: ssl_module.SSLContext | None = None,
        unknown_packets: Literal["reject", "close"] = "reject",
        handler_errors: Literal["continue", "close"] = "continue",
        rate_exceeded: Literal["wait", "reject", "close"] = "wait",
        heartbeat: Heartbeat | None = None,
        transport: TransportName = "auto",
        **limits: Any,
    ) -> None:
        _check_policy("unknown_packets", unknown_packets, ("reject", "close"))
        _check_policy("handler_errors", handler_errors, ("continue", "close"))
        _check_policy("rate_exceeded", rate_exceeded, ("wait", "reject", "close"))
        check_name(transport)
        self.limits = Limits(**limits)
        self.layout = layout
        self.ssl = ssl
        self.unknown_packets: Literal["reject", "close"] = unknown_packets
        self.handler_errors: Literal["continue", "close"] = handler_errors
        self.rate_exceeded: Literal["wait", "reject", "close"] = rate_exceeded
        self.heartbeat = heartbeat
        self.transport: TransportName = transport
        self.dispatch = DispatchTable()
        self._slow_policies = SlowPolicies()
        self._codec = codec_for(layout, min(self.limits.max_packet_size, layout.max_packet_size))
        self._pool = PoolAllocator(self.limits.max_packet_size, max_blocks=self.limits.max_sessions)
        answer_heartbeats(heartbeat, self.dispatch.routes, self._codec)
        self._ledger = Ledger()
        self.sessions = SessionManager(self._codec)
        self._opened_hooks: list[Callable[[Session], Any]] = []
        self._closed_hooks: list[Callable[[Session, str], Any]] = []
        self._context: SessionContext | None = None
        self._listener: asyncio.Server | None = None
        self._closing: set[Session] = set()  # refused ones: never in `sessions`, but to be waited for
        self._all_closed: asyncio.Event | None = None
        self._stopping: asyncio.Future[None] | None = None
        self._accepted = 0
        self._refused: Counter[str] = Counter()
        self._closed: Counter[str] = Counter()

    # -- what the user registers

    def on(self, packet: type[Packet] | int, *, cost: float = 1.0) -> Callable[[HandlerT], HandlerT]:
        """Decorator: `handler(session, packet)`, a function or `async def`, for a packet class or a packet id.

        `cost` is what a packet takes of `max_packets_per_second`.
        """
        return self.dispatch.on(packet, cost=cost)

    def on_batch(self, packet: type[Packet] | int, *, cost: float = 1.0) -> Callable[[HandlerT], HandlerT]:
        """Decorator: `handler(session, batch)`, a function or `async def`, for runs of packets of a class or id.

        It is called once for the packets that lie together in a chunk (4,096 at most); see `DispatchTable`.
        """
        return self.dispatch.on_batch(packet, cost=cost)

    def require_login(self, *packets: type[Packet] | int) -> None:
        """Dispatch only these packets of a session, until a handler sets `session.is_logged_in = True`.

        Others are rejected and counted; after `login_timeout` seconds the session is closed. For sessions that open
        from the next `start()` on.
        """
        self.dispatch.require_login(*packets)

    def when_slow(
        self, packet: type[Packet] | int, policy: SlowPolicy, *, key: str | tuple[str, ...] = ()
    ) -> None:
        """What becomes of packets of this class or id for a session whose peer does not read.

        `"disconnect"` (the default): they wait, until `max_write_buffer` ends the session. `"drop_oldest"`: above
        `high_watermark` bytes the oldest of such packets are left out; `"drop_newest"`: those that would be sent.
        `"keep_latest"`: only the latest waits, or the latest of each value of the fields that `key` names. What is
        left out is counted; the order of the others stays.
        """
        self._slow_policies.set(packet, policy, key)

    def on_opened(self, hook: OpenedT) -> OpenedT:
        """Decorator: `hook(session)` is called when a session has opened, before its first packet."""
        self._opened_hooks.append(hook)
        return hook

    def on_closed(self, hook: ClosedT) -> ClosedT:
        """Decorator: `hook(session, reason)` is called once when a session has closed and left every room."""
        self._closed_hooks.append(hook)
        return hook

    # -- running

    async def start(self, host: str | None = "127.0.0.1", port: int = 0) -> None:
        """Listen on `host` (None: all addresses) and `port` (0: one the system chooses; see `port`).

        `OSError` if the address cannot be had, `RuntimeError` if the server is running, `ModuleNotFoundError` or
        `RuntimeError` if the transport is not there.
        """
        if self._listener is not None:
            raise RuntimeError(f"this server listens on port {self.port} already")
        if self._stopping is not None:
            await asyncio.shield(self._stopping)
        loop = asyncio.get_running_loop()
        self._context = context = SessionContext(
            self,
            loop,
            self.limits,
            self._codec,
            self._pool,
            self.dispatch.routes,
            self._ledger,
            logger,
            self.unknown_packets,
            self.handler_errors,
            self.rate_exceeded,
            self._slow_policies,
            self.heartbeat,
            self.dispatch.requires_login,
        )
        try:
            transports = choose_server(self.transport, loop, self.ssl is not None)
            self._listener = await transports.create_server(
                lambda: transports.session_type(context), host, port, ssl=self.ssl, backlog=BACKLOG
            )
        except BaseException:
            self._context = None
            raise

    @property
    def is_listening(self) -> bool:
        """Whether new connections are accepted."""
        return self._listener is not None

    @property
    def addresses(self) -> list[Any]:
        """The addresses it listens on, as `socket.getsockname()` gives them; empty while it does not."""
        return [] if self._listener is None else [listening.getsockname() for listening in self._listener.sockets]

    @property
    def port(self) -> int:
        """The port it listens on. `RuntimeError` while it does not."""
        if not self.addresses:
            raise RuntimeError("this server does not listen; call start() first")
        return int(self.addresses[0][1])

    async def stop(self, timeout: float | None = None) -> None:
        """Stop: accept nobody, let handlers finish and every session's output leave for `timeout` seconds (default:
        `close_timeout`), abort the rest, and return when the last one is closed. Does nothing if it is not running.

        It goes on when whoever awaits it is cancelled, so a handler may stop its own server: that one is not waited
        for. A second call waits for the first. `ValueError` for a timeout below 0.
        """
        seconds = self.limits.close_timeout if timeout is None else timeout
        if not seconds >= 0:
            raise ValueError(f"timeout {seconds} is below 0 seconds")
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
            self._stopping = asyncio.ensure_future(self._drain(listener, seconds, asyncio.current_task()))
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    async def _drain(self, listener: asyncio.Server, seconds: float, caller: asyncio.Future[Any] | None) -> None:
        for session in self.sessions:
            end = session.close if session.is_run_by(caller) else session.finish
            end(CloseReason.SERVER_STOPPED, timeout=seconds or None)
        if not await self._wait_closed(seconds):
            for session in [*self.sessions, *self._closing]:
                session.abort(CloseReason.SERVER_STOPPED)
            await self._wait_closed(None)
        await _end(listener)
        if self._context is not None:
            await _end_handlers(self._context.tasks)
        self._context = self._stopping = None

    async def __aenter__(self) -> Server:
        """`async with Server(...) as server` listens on a free port of 127.0.0.1, unless `start()` was called."""
        if self._listener is None:
            await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _wait_closed(self, timeout: float | None) -> bool:
        """Wait until no session is left; False if some are after `timeout` seconds."""
        if not self.sessions and not self._closing:
            return True
        self._all_closed = asyncio.Event()
        try:
            async with asyncio.timeout(timeout):
                await self._all_closed.wait()
        except TimeoutError:
            return False
        finally:
            self._all_closed = None
        return True

    # -- told by sessions

    def session_opened(self, session: Session) -> None:
        """Called by a session whose connection was made."""
        if self._stopping is not None or not session.is_of(self._context):  # a TLS handshake outlives its listener
            return self._refuse(session, CloseReason.SERVER_STOPPED)
        if len(self.sessions) >= self.limits.max_sessions:
            return self._refuse(session, CloseReason.SERVER_FULL)
        self._accepted += 1
        self.sessions.add(session)
        for hook in self._opened_hooks:
            self._call(hook, session)

    def session_closed(self, session: Session, reason: str) -> None:
        """Called by a session whose connection is gone."""
        if session in self._closing:
            self._closing.discard(session)
        else:
            self.sessions.discard(session)
            self._closed[reason] += 1
            for hook in self._closed_hooks:
                self._call(hook, session, reason)
        if self._all_closed is not None and not self.sessions and not self._closing:
            self._all_closed.set()

    def _refuse(self, session: Session, reason: CloseReason) -> None:
        self._refused[reason] += 1
        self._closing.add(session)
        session.abort(reason)

    def _call(self, hook: Callable[..., Any], session: Session, *values: object) -> None:
        try:
            hook(session, *values)
        except Exception:
            self._ledger.handler_errors += 1
            logger.exception("session %d: %s raised", session.id, getattr(hook, "__qualname__", hook))

    # -- the ledger

    def stats(self) -> dict[str, Any]:
        """The ledger, as a plain dict of its own.

        Between two turns of the loop `bytes_in == bytes_dispatched + bytes_rejected + bytes_discarded +
        bytes_buffered`. Counts are since the server was made; `sessions`, `bytes_buffered` and `pool` are of now.
        """
        ledger = self._ledger
        return {
            "sessions": len(self.sessions),
            "accepted": self._accepted,
            "refused": dict(self._refused),
            "closed": dict(self._closed),
            "packets_dispatched": ledger.packets_dispatched,
            "packets_discarded": ledger.packets_discarded,
            "packets_out": ledger.packets_out,
            "rejected": {
                "unknown": ledger.rejected_unknown,
                "short": ledger.rejected_short,
                "invalid": ledger.rejected_invalid,
                "login": ledger.rejected_login,
                "rate": ledger.rejected_rate,
            },
            "dropped": {
                "drop_oldest": ledger.dropped_oldest,
                "drop_newest": ledger.dropped_newest,
                "keep_latest": ledger.dropped_latest,
            },
            "yields": ledger.yields,
            "rate_waits": ledger.rate_waits,
            "handler_errors": ledger.handler_errors,
            "sends_refused": ledger.sends_refused,
            "bytes_in": ledger.bytes_in,
            "bytes_dispatched": ledger.bytes_dispatched,
            "bytes_rejected": ledger.bytes_rejected,
            "bytes_discarded": ledger.bytes_discarded,
            "bytes_buffered": sum(session.inbox_size for session in [*self.sessions, *self._closing]),
            "bytes_out": ledger.bytes_out,
            "pool": self._pool.stats(),
        }


def _check_policy(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, not {' or '.join(map(repr, known))}")


async def _end_handlers(tasks: set[asyncio.Future[Any]]) -> None:
    """Wait for handlers that were cancelled with their sessions."""
    if tasks:
        _, unfinished = await asyncio.wait(tasks, timeout=_HANDLER_TIMEOUT)
        if unfinished:
            logger.warning("%d handlers go on after their sessions were closed: they ignore their end", len(unfinished))


async def _end(listener: asyncio.Server) -> None:
    """Wait until a closed listener is done. Since 3.12 it waits for connections too, TLS handshakes among them."""
    abort_clients: Callable[[], None] | None = getattr(listener, "abort_clients", None)  # since 3.13
    if abort_clients is not None:
        abort_clients()
    try:
        async with asyncio.timeout(_LISTENER_TIMEOUT):
            await listener.wait_closed()
    except TimeoutError:
        logger.warning("connections that never became sessions are left to their own deadlines")
