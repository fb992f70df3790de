"""What all sessions of one server or client share while its loop runs, made once per start.

What stays true: nothing in it belongs to one session; what belongs to the loop (timers, turns, the queue of flushes,
the receive buffer) ends with it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gamenet._core import (
    FlushQueue,
    HeaderCodec,
    Ledger,
    PoolAllocator,
    RateBucket,
    Receiver,
    RouteTable,
    TurnQueue,
    codec_for,
)
from gamenet.backlog import SlowPolicies
from gamenet.heartbeat import Heartbeat
from gamenet.layout import Layout, packet_limit
from gamenet.limits import Limits
from gamenet.logs import LimitedLogger
from gamenet.loop_mailbox import LoopMailbox
from gamenet.timer import LoopTimer, clock_of, fine_clock_of

if TYPE_CHECKING:
    from gamenet.session import Session


class SessionOwner(Protocol):
    """Who is told of a session's beginning and end: a server or a client."""

    def session_opened(self, session: Session) -> None: ...
    def session_closed(self, session: Session, reason: str) -> None: ...


context_watchers: list[Callable[[SessionContext], object]] = []
"""Called with every context that is made: `gamenet.testing` asks them at the end what a test has left behind."""


class SessionContext:
    """The parts that sessions share, and how their owner wants bad packets and failing handlers answered."""

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
        rate_exceeded: Literal["wait", "reject", "close"] = "wait",
        slow_policies: SlowPolicies | None = None,
        heartbeat: Heartbeat | None = None,
        login_required: bool = False,
        mailbox: LoopMailbox | None = None,
        reads_on: bool = False,
    ) -> None:
        self.owner = owner
        self.loop = loop
        self.limits = limits
        self.codec = codec
        self.pool = pool
        self.routes = routes
        self.ledger = ledger
        self.log = LimitedLogger(logger, loop.time, call_later=loop.call_later)
        self.timer = LoopTimer(loop)
        self.clock = clock_of(loop)
        self.flush_queue = FlushQueue(loop.call_soon)
        budget = limits.dispatch_budget
        self.turns = TurnQueue(loop.call_soon, fine_clock_of(loop), math.inf if budget is None else budget)
        self.receiver = Receiver()
        self._codecs = {codec.layout: codec}
        self.unknown_packets = unknown_packets
        self.handler_errors = handler_errors
        self.rate_exceeded = rate_exceeded
        self.slow_policies = SlowPolicies() if slow_policies is None else slow_policies
        self.heartbeat = heartbeat
        self.login_required = login_required
        self.reads_on = reads_on  # however much its sessions have to send: of two ends that wait, one must
        self.mailbox = LoopMailbox(limits.max_mailbox, limits.dispatch_budget) if mailbox is None else mailbox
        self.tasks: set[asyncio.Future[Any]] = set()  # handlers that wait
        for watcher in context_watchers:
            watcher(self)

    def bucket(self, now: float) -> RateBucket | None:
        """What limits the rate of one session."""
        limits = self.limits
        if limits.max_packets_per_second is None and limits.max_bytes_per_second is None:
            return None
        return RateBucket(limits.max_packets_per_second, limits.max_bytes_per_second, limits.rate_burst, now)

    def codec_for(self, layout: Layout) -> HeaderCodec:
        """The codec of a layout that a session changes to; made once."""
        if layout not in self._codecs:
            self._codecs[layout] = codec_for(layout, packet_limit(layout, self.limits.max_packet_size))
        return self._codecs[layout]
