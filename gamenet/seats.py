"""The seats of a server whose sessions can be resumed: who has one, who is away, and for how long.

What stays true: a seat has one secret, one session, and at most one link; whoever brings the secret takes over from the
link that was there. There are no more seats than `max_sessions`, so that a place is kept for each that is away; only
those with a link count against the server's admission of connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

from gamenet._core import RawPacket
from gamenet.admission import Admission, network_of
from gamenet.errors import CloseReason, InvalidPacketError
from gamenet.limits import Limits
from gamenet.logs import LimitedLogger
from gamenet.resumable import Link, ResumableTransport
from gamenet.resume import VERSION, Hello, Welcome, new_pool, new_secret, read_hello, record, same_secret
from gamenet.session import Session

_Tell = Callable[[Session], object]

COUNTS = ("resumed", "expired", "given_up", "unknown", "refused")
"""What is counted over the life of a server: see `Seats.stats()`."""


class Seat:
    """What is kept for one client: its session's transport, under an id that anybody may know and a secret."""

    __slots__ = ("id", "network", "secret", "timer", "transport")

    def __init__(self, seat_id: int, network: str, transport: ResumableTransport) -> None:
        self.id = seat_id
        self.network = network  # of its latest link
        self.secret = new_secret()
        self.transport = transport
        self.timer: asyncio.TimerHandle | None = None  # set while it is away

    @property
    def session(self) -> Session:
        """The session that is kept."""
        return self.transport.session


class Seats:
    """Gives each connection a link, and each link a seat. `on_away(session)` and `on_resumed(session)` are told of
    sessions whose link was lost, and that have a new one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        log: LimitedLogger,
        admission: Admission,
        counts: Counter[str],
        new_session: Callable[[], Session],
        on_away: _Tell,
        on_resumed: _Tell,
    ) -> None:
        self.counts = counts
        self._loop = loop
        self._limits = limits
        self._log = log
        self._admission = admission
        self._new_session = new_session
        self._tell_away = on_away
        self._tell_resumed = on_resumed
        self._pool = new_pool(limits.max_sessions)
        self._numbers = count(1)
        self._seats: dict[int, Seat] = {}
        self._away: dict[int, Seat] = {}  # in the order in which they were lost
        self._away_of: dict[str, dict[int, Seat]] = {}  # the same of each network
        self._links: set[SeatLink] = set()  # that have not said HELLO
        self._is_closed = False

    def new_link(self) -> SeatLink:
        """What a listener connects in place of a session."""
        return SeatLink(self, self._loop, self._limits, self._pool)

    def stats(self) -> dict[str, int]:
        """`away` now; so far `resumed`, `expired` (nobody came), `given_up` (too many away, in all or of one address),
        `unknown` (asked for a seat that was not there), `refused` (no HELLO, or none in time).
        """
        return {"away": len(self._away), **{name: self.counts[name] for name in COUNTS}}

    def close(self) -> None:
        """Nobody comes or comes back any more. Sessions that have a link go on."""
        self._is_closed = True
        for link in list(self._links):
            link.abort(CloseReason.SERVER_STOPPED)
        for seat in list(self._seats.values()):
            if seat.timer is not None or not seat.transport.is_open:
                self._drop(seat, CloseReason.SERVER_STOPPED)

    # -- told by links

    def connected(self, link: SeatLink) -> None:
        """A connection was made; nothing is known of it."""
        if link.network is None:  # it came by no listener of ours, as those of a transport in memory do
            network = network_of(link.peername)
            if self._admission.admit(network) is not None:
                return link.abort()
            link.network = network
        if self._is_closed:
            return link.abort(CloseReason.SERVER_STOPPED)
        self._links.add(link)

    def greeted(self, link: SeatLink, hello: Hello) -> None:
        """It has said who it is."""
        seat = self._find(hello)
        self._links.discard(link)
        if seat is None:
            self.counts["unknown"] += bool(hello.seat)
            self._welcome(link, hello)
        else:
            self._resume(seat, link, hello)

    def ended(self, link: SeatLink) -> None:
        """Its connection is gone."""
        self._release(link)
        if link in self._links:
            self._links.discard(link)
            self.counts["refused"] += 1

    def refused(self, link: SeatLink, error: InvalidPacketError) -> None:
        """It does not speak the protocol."""
        greeted = link not in self._links
        text = "%s cannot be seated: %s" if greeted else "%s sent no HELLO, as a client without resume does: %s"
        self._log.log(logging.INFO, text, str(link.peername), str(error))

    # -- seats

    def _find(self, hello: Hello) -> Seat | None:
        """The seat that it may have again, if there is one. `InvalidPacketError` for a HELLO that came too late: one of
        an attempt that its client gave up, behind that of the next one, must not end what that goes on with.
        """
        seat = self._seats.get(hello.seat)
        if seat is None or not same_secret(seat.secret, hello.secret) or seat.transport.is_closing():
            return None
        stream = seat.transport.stream
        if hello.received < stream.acknowledged_up_to:
            raise InvalidPacketError(
                f"a HELLO of {hello.received} bytes received, {stream.acknowledged_up_to} were acknowledged already"
            )
        if not stream.reaches(hello.received):
            self._drop(seat, CloseReason.INVALID_PACKET)
            return None
        return seat

    def _welcome(self, link: SeatLink, hello: Hello) -> None:
        """Somebody new, if a place is left beside those that are kept."""
        network = link.network or ""
        limit = self._admission.max_sessions_per_address
        while limit is not None and self._count_of(network) > limit and network in self._away_of:
            self._give_up(_first(self._away_of[network]))
        if len(self._seats) >= self._admission.max_sessions:
            self._admission.refused[CloseReason.SERVER_FULL] += 1
            return link.abort(CloseReason.SERVER_FULL)
        self._seat(link, network, hello)

    def _count_of(self, network: str) -> int:
        """Connections and kept seats of one address; 0 for what has none, which no limit concerns."""
        here = self._admission.held_by_network.get(network, 0)
        return here + len(self._away_of.get(network, ())) if network else 0

    def _seat(self, link: SeatLink, network: str, hello: Hello) -> None:
        transport = ResumableTransport(self._loop, self._limits, self._new_session(), self._lost, self._gone)
        seat = Seat(next(self._numbers), network, transport)
        self._seats[seat.id] = seat
        transport.seat = seat
        self._connect(seat, link, False, 0, hello.window)

    def _resume(self, seat: Seat, link: SeatLink, hello: Hello) -> None:
        """Another link of the same seat is half-dead, or its client would not have come."""
        was_away = seat.timer is not None
        seat.transport.detach()
        self._stay(seat)
        if not was_away and seat.transport.is_open:
            self._release(seat.session)
        seat.network = link.network or ""
        self.counts["resumed"] += 1
        was_open = seat.transport.is_open
        self._connect(seat, link, True, hello.received, hello.window)
        if not was_open:
            seat.transport.open()
        else:
            self._tell_resumed(seat.session)

    def _connect(self, seat: Seat, link: SeatLink, resumed: bool, received: int, window: int) -> None:
        self._release(seat.session)
        seat.session.network, link.network = link.network, None
        promise, ours = seat.transport.stream.promise(), self._limits.max_resume_buffer
        welcome = Welcome(
            version=VERSION, resumed=resumed, seat=seat.id, secret=seat.secret, received=promise, window=ours
        )
        link.write(record(welcome))
        seat.transport.attach(link, received, window)

    def _lost(self, transport: ResumableTransport, reason: str) -> None:
        seat: Seat = transport.seat
        self._release(seat.session)
        if self._is_closed:
            return self._drop(seat, CloseReason.SERVER_STOPPED)
        if len(self._away) >= self._limits.max_seats_away:
            self._give_up(self._one_too_many(seat.network))
        self._away[seat.id] = self._away_of.setdefault(seat.network, {})[seat.id] = seat
        seat.timer = self._loop.call_later(self._limits.resume_timeout, self._expired, seat)
        if transport.is_open:
            self._tell_away(seat.session)

    def _one_too_many(self, network: str) -> Seat:
        """Who was lost first: of `network`, if it has its share, for who comes and goes shall displace himself."""
        same = self._away_of.get(network, {})
        has_its_share = len(same) * len(self._away_of) >= self._limits.max_seats_away
        return _first(same if has_its_share else self._away)

    def _give_up(self, seat: Seat) -> None:
        self.counts["given_up"] += 1
        self._drop(seat, CloseReason.SEAT_GIVEN_UP)

    def _expired(self, seat: Seat) -> None:
        self.counts["expired"] += 1
        self._drop(seat, CloseReason.RESUME_TIMEOUT)

    def _drop(self, seat: Seat, reason: CloseReason) -> None:
        if seat.transport.is_open:
            seat.session.abort(reason)
        else:
            seat.transport.abort()

    def _gone(self, transport: ResumableTransport) -> None:
        seat: Seat = transport.seat
        self._stay(seat)
        self._seats.pop(seat.id, None)
        if not transport.is_open:
            self._release(seat.session)

    def _stay(self, seat: Seat) -> None:
        """It is away no longer."""
        if self._away.pop(seat.id, None) is not None:
            same = self._away_of[seat.network]
            del same[seat.id]
            if not same:
                del self._away_of[seat.network]
        if seat.timer is not None:
            seat.timer.cancel()
            seat.timer = None

    def _release(self, holder: Session | SeatLink) -> None:
        network, holder.network = holder.network, None
        if network is not None:
            self._admission.release(network)


def _first(seats: dict[int, Seat]) -> Seat:
    return next(iter(seats.values()))


class SeatLink(Link):
    """A link of a server: within `handshake_timeout` it says HELLO, gets a seat, and answers the WELCOME."""

    def __init__(self, seats: Seats, *values: Any) -> None:
        super().__init__(*values)
        self._seats = seats
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self._loop.call_later(self._seats._limits.handshake_timeout, self._late)
        self._seats.connected(self)

    def handshake(self, packet: RawPacket) -> None:
        self._seats.greeted(self, read_hello(packet))

    def on_violation(self, error: InvalidPacketError) -> None:
        self._seats.refused(self, error)

    def on_ended(self, reason: str, error: Exception | None) -> None:
        self._lift()
        self._seats.ended(self)

    def _late(self) -> None:
        self._deadline = None
        if self.owner is None or not self.owner.is_open:
            self.abort(CloseReason.HANDSHAKE_TIMEOUT)

    def _lift(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
