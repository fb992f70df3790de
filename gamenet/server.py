"""The server: listens, gives every connection a session, counts everything, and stops without losing a reply.

What stays true: a session is in `sessions` exactly from its `opened` to its `closed`; the ledger balances.
"""

from __future__ import annotations

import asyncio
import logging
import ssl as ssl_module
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Literal, TypeVar, Unpack

from gamenet import errors
from gamenet._core import Ledger, PoolAllocator, codec_for
from gamenet.admission import Admission, network_of
from gamenet.backlog import SlowPolicies, SlowPolicy
from gamenet.context import SessionContext
from gamenet.dispatch import DispatchTable, HandlerT
from gamenet.errors import CloseReason, WrongThreadError
from gamenet.heartbeat import Heartbeat, answer_heartbeats
from gamenet.layout import BOOK_HEADER, Layout, packet_limit
from gamenet.limits import LimitOptions, limits_of
from gamenet.listener import Listener, Listening
from gamenet.loop_mailbox import LoopMailbox
from gamenet.manager import SessionManager
from gamenet.object_pool import ObjectPool
from gamenet.packets import Packet
from gamenet.reload import Hooks, reload_module
from gamenet.seats import COUNTS, Seats
from gamenet.session import Session
from gamenet.session_data import SessionData
from gamenet.transports import TransportName, Transports, check_name, choose_server
from gamenet.transports.acceptors import Tls
from gamenet.transports.sockets import check_port, listen
from gamenet.watchdog import Watchdog

logger = logging.getLogger("gamenet")

OpenedT = TypeVar("OpenedT", bound=Callable[[Session], Any])
ClosedT = TypeVar("ClosedT", bound=Callable[[Session, str], Any])

MAX_REASONS = 1000
"""Close reasons that are counted apart; texts of the user's own beyond that are counted as "other"."""

_HANDLER_TIMEOUT = 0.4  # seconds that a cancelled handler may take to end


class Server:
    """A packet server.

    `layout` is how packets are framed (a session's may change: `session.layout`), `ssl` a server-side
    `ssl.SSLContext` for TLS. `unknown_packets`: `"reject"` counts and goes on, `"close"` ends the session;
    `handler_errors`: `"continue"` or `"close"` likewise. `rate_exceeded`, for `max_packets_per_second` and
    `max_bytes_per_second`: `"wait"` reads no further until the session has credit again, `"reject"` counts and goes
    on, `"close"` ends the session. `heartbeat`: pings that are answered below the handlers. `transport`: `"asyncio"`
    for the loop's own, `"fast"` for aiofastnet's, `"epoll"` for our own (Linux, no TLS), `"auto"` for the fastest
    that is there. `resume`: sessions outlive their connections, see docs/client.md; clients must ask for it, too, and
    "auto" does not take "epoll". `session_data`: an `ObjectPool` that lends every session its `data`, from before
    `on_opened` until `on_closed` and its handlers have ended; who finds it empty is refused (`server_full`). All
    further keywords are the fields of `gamenet.Limits`. `ValueError`, naming it, for one out of range, `TypeError` for
    one that does not exist or is of a wrong type.

    `server.sessions` are those that are open, and the rooms: a `SessionManager`. `server.dispatch` is the table of
    handlers, `server.limits` a `Limits`.

    Locking rule: the thread of the loop only, but for `call_soon()`.
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
        transport: TransportName | Transports = "auto",
        resume: bool = False,
        session_data: ObjectPool[Any] | None = None,
        **limits: Unpack[LimitOptions],
    ) -> None:
        _check_policy("unknown_packets", unknown_packets, ("reject", "close"))
        _check_policy("handler_errors", handler_errors, ("continue", "close"))
        _check_policy("rate_exceeded", rate_exceeded, ("wait", "reject", "close"))
        check_name(transport)
        _check_context(ssl)
        self.limits = limits_of(Server, limits)
        self.layout = layout
        self.ssl = ssl
        self.unknown_packets: Literal["reject", "close"] = unknown_packets
        self.handler_errors: Literal["continue", "close"] = handler_errors
        self.rate_exceeded: Literal["wait", "reject", "close"] = rate_exceeded
        self.heartbeat = heartbeat
        self.transport: TransportName | Transports = transport
        if resume and transport == "epoll":
            raise ValueError("transport 'epoll' knows sessions only: with resume take 'auto', 'fast' or 'asyncio'")
        self.resume = resume
        self._seats: Seats | None = None
        self._seat_counts: Counter[str] = Counter()
        self.dispatch = DispatchTable()
        self._slow_policies = SlowPolicies()
        self._codec = codec_for(layout, packet_limit(layout, self.limits.max_packet_size))
        self._pool = PoolAllocator(
            self.limits.max_packet_size, max_blocks=self.limits.max_sessions, sizes=self.limits.block_sizes
        )
        answer_heartbeats(heartbeat, self.dispatch, self._codec)
        self._ledger = Ledger()
        self._mailbox = LoopMailbox(self.limits.max_mailbox, self.limits.dispatch_budget)
        self.sessions = SessionManager(self._codec, self._mailbox)
        self._data = None if session_data is None else SessionData(session_data, self._data_failed)
        self._opened_hooks = Hooks()
        self._closed_hooks = Hooks()
        self._away_hooks = Hooks()
        self._resumed_hooks = Hooks()
        self._watchdog = Watchdog(
            self.limits.watchdog_timeout, self._ledger, lambda: [*self.sessions, *self._closing], logger
        )
        self._context: SessionContext | None = None
        self._thread = 0  # the loop's, while there is a context
        self._listener: Listening | None = None
        self._admission = Admission(self.limits.max_sessions, self.limits.max_sessions_per_address)
        self._closing: set[Session] = set()  # refused ones: never in `sessions`, but to be waited for
        self._all_closed: asyncio.Event | None = None
        self._stopping: asyncio.Future[None] | None = None
        self._stopped: asyncio.Future[None] | None = None  # of the latest start; done when its stop is
        self._accepted = 0
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
        from now on.
        """
        self.dispatch.require_login(*packets)
        if self._context is not None:
            self._context.login_required = True

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
        """Decorator: `hook(session)`, a plain function, is called when a session opened, before its first packet."""
        self._opened_hooks.add(hook)
        return hook

    def on_closed(self, hook: ClosedT) -> ClosedT:
        """Decorator: `hook(session, reason)` is called once when a session has closed and left every room."""
        self._closed_hooks.add(hook)
        return hook

    def on_away(self, hook: OpenedT) -> OpenedT:
        """Decorator: `hook(session)` is called when a session that can be resumed has lost its connection."""
        self._away_hooks.add(hook)
        return hook

    def on_resumed(self, hook: OpenedT) -> OpenedT:
        """Decorator: `hook(session)` is called when such a session has a connection again, and has lost nothing."""
        self._resumed_hooks.add(hook)
        return hook

    def reload(self, module: ModuleType | str) -> None:
        """Run a module's source again, and change everything it registers with this server in one step.

        Connections stay, packets go on arriving, none is lost; a handler that runs ends as it began. What the module
        registered before and does not register again is gone, what other modules registered stays. Call it in the
        thread of the server's loop, also inside a handler.

        If the module raises, the exception reaches the caller, and handlers, hooks and the module's names stay as
        they were. `RuntimeError`, likewise, if it registers nothing with this server. `ImportError` if there is no
        imported module of that name, `WrongThreadError` from another thread while the server runs.
        """
        if self._context is not None and self._thread != threading.get_ident():
            raise WrongThreadError(
                "reload() belongs into the thread of the server's loop: server.call_soon(server.reload, module)"
            )
        try:
            reload_module(module, self._registries)
        finally:  # a module that failed may have asked for a login first
            if self._context is not None:
                self._context.login_required = self.dispatch.requires_login

    @property
    def _registries(self) -> tuple[DispatchTable | Hooks, ...]:
        hooks = self._opened_hooks, self._closed_hooks, self._away_hooks, self._resumed_hooks
        return self.dispatch, *hooks

    # -- from other threads

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Have `function(*arguments)` called in the thread of the server's loop, in this thread's order. Any thread
        may call it, and nobody waits: the loop is woken once for a batch of calls.

        True if it was accepted. False, and counted, if the server does not run, or if `max_mailbox` calls and sends
        wait. What the function raises is logged and counted as a handler error. `TypeError` if it is not callable.
        """
        if not callable(function):
            raise errors.wrong_type("function", "callable", function)
        return self._mailbox.put((function, arguments)) or self._mailbox.refuse()

    # -- running

    async def start(self, host: str | None = "127.0.0.1", port: int = 0) -> None:
        """Listen on `host` (None: all addresses) and `port` (0: one the system chooses; see `port`).

        `OSError`, naming it, if the address cannot be had, `ValueError` for a port above 65535, `RuntimeError` if the
        server is running, `ModuleNotFoundError` or `RuntimeError` if the transport is not there.
        """
        check_port(port)
        if self._listener is not None:
            raise RuntimeError(f"this server listens on port {self.port} already")
        if self._stopping is not None:
            await asyncio.shield(self._stopping)
        loop = asyncio.get_running_loop()
        context = SessionContext(
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
            self._mailbox,
        )
        transports = choose_server(self.transport, loop, self.ssl is not None or self.resume)
        new_session: Callable[[], Any] = partial(transports.session_type, context)
        seats: Seats | None = None
        if self.resume:
            hooks = partial(self._call_all, self._away_hooks), partial(self._call_all, self._resumed_hooks)
            shared = self.limits, context.log, self._admission, self._seat_counts
            seats = Seats(loop, *shared, new_session, *hooks)
            new_session = seats.new_link
        if transports.listen is not None:
            self._listener = transports.listen(host, port, new_session)
        else:
            self._listener = await self._listen(transports, loop, host, port, new_session)
        self._context, self._seats = context, seats  # not before: of two starts at a time one fails
        self._stopped = loop.create_future()
        self._thread = threading.get_ident()
        self._mailbox.open(loop, context.log, self._ledger)
        self._watchdog.start(loop)
        self._listener.start()

    async def _listen(
        self,
        transports: Transports,
        loop: asyncio.AbstractEventLoop,
        host: str | None,
        port: int,
        new_session: Callable[[], Session],
    ) -> Listener:
        limits = self.limits
        tls = None if self.ssl is None else Tls(self.ssl, limits.handshake_timeout, limits.close_timeout)
        sockets = await listen(loop, host, port)
        try:
            if self._listener is not None:
                raise RuntimeError(f"this server listens on port {self.port} already")
            return Listener(
                loop,
                sockets,
                self._admission,
                lambda failed: transports.new_acceptor(failed, tls),
                new_session,
                self._never_opened,
                limits.max_accepts_per_second,
            )
        except BaseException:
            for sock in sockets:
                sock.close()
            raise

    @property
    def is_listening(self) -> bool:
        """Whether new connections are accepted."""
        return self._listener is not None

    @property
    def addresses(self) -> list[Any]:
        """The addresses it listens on, as `socket.getsockname()` gives them; empty while it does not."""
        return [] if self._listener is None else self._listener.addresses

    @property
    def port(self) -> int:
        """The port it listens on. `RuntimeError` while it does not."""
        if not self.addresses:
            raise RuntimeError("this server does not listen; call start() first")
        return int(self.addresses[0][1])

    async def stop(self, timeout: float | None = None) -> None:
        """Stop: accept nobody, abort TLS handshakes, carry out what other threads handed over before, let handlers
        finish and every session's output leave for `timeout` seconds (default: `close_timeout`), abort the rest, and
        return when the last one is closed. Does nothing if it is not running. What threads handed over and was not
        carried out is counted in `stats()["mailbox"]["discarded"]`.

        It goes on when whoever awaits it is cancelled, so a handler may stop its own server: that one is not waited
        for. A second call waits for the first. `ValueError` for a timeout below 0.
        """
        seconds = self.limits.close_timeout if timeout is None else timeout
        if not seconds >= 0:
            raise ValueError(f"timeout {seconds} is below 0 seconds")
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
            draining = self._drain(listener, seconds, asyncio.current_task())
            # no task of the loop's factory: an eager one (Python 3.12) would run it here, and be over too soon
            self._stopping = asyncio.Task(draining, loop=asyncio.get_running_loop())
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    async def _drain(self, listener: Listening, seconds: float, caller: asyncio.Future[Any] | None) -> None:
        if self._seats is not None:
            self._seats.close()
        loop = asyncio.get_running_loop()
        end_at = loop.time() + seconds
        await self._mailbox.settle(seconds)
        left = max(0.0, end_at - loop.time())
        for session in self.sessions:
            end = session.close if session.is_run_by(caller) else session.finish
            end(CloseReason.SERVER_STOPPED, timeout=left or None)
        await listener.wait_closed()
        if not await self._wait_closed(max(0.0, end_at - loop.time())):  # encrypting what is left may have taken long
            for session in [*self.sessions, *self._closing]:
                session.abort(CloseReason.SERVER_STOPPED)
            await self._wait_closed(None)
        self._watchdog.stop()
        if self._context is not None:
            await _end_handlers(self._context.tasks)
            self._mailbox.close()
            self._context.log.close()
        self._context = self._stopping = None
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

    async def wait_stopped(self) -> None:
        """Return when the server has been stopped, by whomever: at once if it does not run."""
        if self._stopped is not None:
            await asyncio.shield(self._stopped)

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
        if session.network is None:  # it came by no listener of ours, as those of a transport in memory do
            network = network_of(session.peername)
            reason = self._admission.admit(network)
            if reason is not None:
                return self._abort_refused(session, reason)
            session.network = network
        reason = None if self._data is None else self._data.lend_to(session)
        if reason is not None:
            return self._refuse(session, reason)
        self._accepted += 1
        self.sessions.add(session)
        for hook in self._opened_hooks:
            self._call(hook, session)

    def session_closed(self, session: Session, reason: str) -> None:
        """Called by a session whose connection is gone."""
        network, session.network = session.network, None
        if network is not None:
            self._admission.release(network)
        if session in self._closing:
            self._closing.discard(session)
        else:
            self.sessions.discard(session)
            self._closed[reason if reason in self._closed or len(self._closed) < MAX_REASONS else "other"] += 1
            for hook in self._closed_hooks:
                self._call(hook, session, reason)
            if self._data is not None:
                self._data.take_back_from(session)
        if self._all_closed is not None and not self.sessions and not self._closing:
            self._all_closed.set()

    def _refuse(self, session: Session, reason: CloseReason) -> None:
        self._admission.refused[reason] += 1
        self._abort_refused(session, reason)

    def _abort_refused(self, session: Session, reason: CloseReason) -> None:
        self._closing.add(session)
        session.abort(reason)

    def _never_opened(self, session: Session, reason: CloseReason | None, error: BaseException | None) -> None:
        """Called by the listener for one that was accepted and did not get as far as `opened`."""
        if self._context is not None and error is not None:
            why = reason or CloseReason.NETWORK_ERROR
            values = str(session.peername), str(why), str(error) or type(error).__name__
            self._context.log.log(logging.INFO, "%s never became a session: %s: %s", *values)

    def _call_all(self, hooks: Hooks, session: Session) -> None:
        for hook in hooks:
            self._call(hook, session)

    def _data_failed(self, session: Session, what: str, error: Exception) -> None:
        self._ledger.handler_errors += 1
        session._log(logging.ERROR, "%s of session_data raised", what, error=error)

    def _call(self, hook: Callable[..., Any], session: Session, *values: object) -> None:
        try:
            hook(session, *values)
        except Exception as error:
            self._ledger.handler_errors += 1
            session._log(logging.ERROR, "the hook %s raised", getattr(hook, "__qualname__", hook), error=error)

    # -- the ledger

    def _seat_stats(self) -> dict[str, int]:
        if self._seats is not None:
            return self._seats.stats()
        return dict.fromkeys(("away", *COUNTS), 0) if self.resume else {}

    def stats(self) -> dict[str, Any]:
        """The ledger, as a plain dict of its own.

        Between two turns of the loop `bytes_in == bytes_dispatched + bytes_rejected + bytes_discarded +
        bytes_buffered`, and of `mailbox`, what other threads handed over, `accepted == delivered + discarded +
        waiting`. Counts are since the server was made; `sessions`, `connecting` (TLS handshakes in
        progress), `bytes_buffered`, `pool` and `seats["away"]` are of now. `seats` is empty without `resume`.
        """
        ledger, listener = self._ledger, self._listener  # once: another thread may ask while the server stops
        return {
            "sessions": len(self.sessions),
            "seats": self._seat_stats(),
            "accepted": self._accepted,
            "connecting": 0 if listener is None else listener.connecting,
            "refused": dict(self._admission.refused),
            "accept_errors": dict(self._admission.accept_errors),
            "accept_pauses": self._admission.accept_pauses,
            "accepts_delayed": self._admission.accepts_delayed,
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
            "blocked": self._watchdog.blocked,
            "mailbox": self._mailbox.stats(),
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


def _check_context(ssl: ssl_module.SSLContext | None) -> None:
    if ssl is None:
        return
    if not isinstance(ssl, ssl_module.SSLContext):
        raise errors.wrong_type("ssl", "an ssl.SSLContext", ssl)
    if ssl.protocol == ssl_module.PROTOCOL_TLS_CLIENT:
        raise ValueError("ssl is a client's context; ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) is a server's")


async def _end_handlers(tasks: set[asyncio.Future[Any]]) -> None:
    """Wait for handlers that were cancelled with their sessions."""
    if tasks:
        _, unfinished = await asyncio.wait(tasks, timeout=_HANDLER_TIMEOUT)
        if unfinished:
            logger.warning("%d handlers go on after their sessions were closed: they ignore their end", len(unfinished))
