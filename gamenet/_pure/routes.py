"""From a packet id to what handles it.

What stays true: a route is never changed, only replaced, so the one that runs is not touched by a new one. All that it
learns is how long its batch handler takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gamenet import errors
from gamenet._pure.batch import MAX_PACKETS
from gamenet._pure.packet import RawPacket, as_number

HANDLER, BATCH, PING, PONG = range(4)

LONG_RUN = 64
"""Packets of a run whose time is taken; what takes too long with so few is not the number of packets."""


class Route:
    """Where packets of one id go: `handler(session, packet)`, and the packet class it is given.

    Bodies shorter than `min_body_size` bytes never reach the handler. With `is_batch` it is
    `handler(session, batch)`, once for every run of packets. `cost` is what a packet takes of its session's rate,
    `before_login` says whether it is dispatched before the session is logged in. `longest_run` is how many packets a
    batch may have.
    Locking rule: the thread of the loop only.
    """

    __slots__ = ("before_login", "cost", "handler", "kind", "longest_run", "min_body_size", "packet_type")

    def __init__(
        self,
        handler: Callable[..., Any],
        packet_type: type[RawPacket] = RawPacket,
        min_body_size: int = 0,
        is_batch: bool = False,
        cost: float = 1.0,
        before_login: bool = False,
    ) -> None:
        if not callable(handler):
            raise TypeError(f"a handler must be callable, got {type(handler).__name__}")
        if not issubclass(packet_type, RawPacket):
            raise TypeError(f"a packet class must derive from RawPacket, got {packet_type.__name__}")
        self.handler = handler
        self.packet_type = packet_type
        self.min_body_size = as_number("min_body_size", min_body_size)
        if not 0.0 <= cost < float("inf"):
            raise errors.number_does_not_fit("cost", cost, 0, float("inf"))
        self.kind = BATCH if is_batch else HANDLER
        self.cost = float(cost)
        self.before_login = bool(before_login)
        self.longest_run = MAX_PACKETS

    @property
    def is_batch(self) -> bool:
        """Whether the handler takes a batch."""
        return self.kind == BATCH


def learn_run(route: Route, packets: int, seconds: float, allowed: float) -> None:
    """A run of so many packets took so long: have the next ones of `route` take `allowed` seconds, more or less."""
    if seconds > allowed:
        route.longest_run = max(LONG_RUN, int(packets * allowed / seconds))
    elif 2.0 * seconds < allowed and packets == route.longest_run:
        route.longest_run = min(MAX_PACKETS, 2 * packets)


class PingRoute(Route):
    """Packets that are answered with their own body and sequence number under `pong_id`, without a handler.

    Locking rule: the thread of the loop only.
    """

    __slots__ = ("pong_id",)

    def __init__(self, pong_id: int) -> None:
        super().__init__(_no_handler, before_login=True)
        self.kind = PING
        self.pong_id = as_number("pong_id", pong_id)


class PongRoute(Route):
    """Answers to our pings: they tell the session's round-trip time.

    Locking rule: the thread of the loop only.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_no_handler, before_login=True)
        self.kind = PONG


def _no_handler(session: Any, packet: Any) -> None:
    raise TypeError("heartbeats are answered by their session")


class RouteTable:
    """The routes of one server. `default` takes packets of any other id; None rejects them.

    Locking rule: the thread of the loop only.
    """

    __slots__ = ("_routes", "default")

    def __init__(self) -> None:
        self._routes: dict[int, Route] = {}
        self.default: Route | None = None

    def set(self, packet_id: int, route: Route) -> None:
        """Register or replace; a packet being handled right now keeps the old one."""
        if not isinstance(route, Route):
            raise TypeError(f"route must be a Route, got {type(route).__name__}")
        self._routes[as_number("packet_id", packet_id)] = route

    def remove(self, packet_id: int) -> None:
        """`KeyError` if the id has no route."""
        del self._routes[packet_id]

    def get(self, packet_id: int) -> Route | None:
        """The id's own route, without the default."""
        return self._routes.get(packet_id)

    def find(self, packet_id: int) -> Route | None:
        """The id's route or the default."""
        return self._routes.get(packet_id, self.default)

    def exchange(self, other: RouteTable) -> None:
        """Swap every route and the default with `other`'s in one step: no packet sees a half of either.

        `other` then holds what was here, so that nothing is freed, and no code of anybody's runs, in between.
        """
        if not isinstance(other, RouteTable):
            raise TypeError(f"other must be a RouteTable, got {type(other).__name__}")
        self._routes, other._routes = other._routes, self._routes
        self.default, other.default = other.default, self.default

    def ids(self) -> list[int]:
        """The ids that have a route, in ascending order."""
        return sorted(self._routes)

    def __len__(self) -> int:
        return len(self._routes)
