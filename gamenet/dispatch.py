"""The dispatch table: which handler gets the packets of which id.

What stays true: a handler that runs is not touched by what replaces it; the next packet goes to the new one.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import Any, TypeVar

from gamenet._core import RawPacket, Route, RouteTable
from gamenet.packets import Packet, packet_id_of

Handler = Callable[[Any, Any], Any]
HandlerT = TypeVar("HandlerT", bound=Handler)


class DispatchTable:
    """Handlers by packet id. `handler(session, packet)` may be a function or `async def`.

    With a packet class the handler gets an instance of it, and never one whose body is shorter than the struct;
    with a bare id it gets a `RawPacket`. A batch handler gets them as `handler(session, batch)`: see `Batch`. An id
    has one handler, of either kind: the last one registered.
    """

    def __init__(self) -> None:
        self.routes = RouteTable()
        self._before_login: set[int] = set()

    def on(self, packet: type[Packet] | int, *, cost: float = 1.0) -> Callable[[HandlerT], HandlerT]:
        """Decorator: register the function for a packet class or id, replacing what was there."""

        def register(handler: HandlerT) -> HandlerT:
            self.register(packet, handler, cost=cost)
            return handler

        return register

    def on_batch(self, packet: type[Packet] | int, *, cost: float = 1.0) -> Callable[[HandlerT], HandlerT]:
        """Decorator: register the function as the batch handler for a packet class or id; see `register_batch`."""

        def register(handler: HandlerT) -> HandlerT:
            self.register_batch(packet, handler, cost=cost)
            return handler

        return register

    def register(self, packet: type[Packet] | int, handler: Handler, *, cost: float = 1.0) -> None:
        """Register or replace a handler, at any time, also from inside a handler.

        `cost` is what a packet takes of its session's rate, where `max_packets_per_second` limits that: 1 for most,
        more for what is dear to answer. `TypeError` for what is no packet class, id or callable; `ValueError` for an
        id outside 0 to 2**64-1 or a cost below 0.
        """
        self._set(packet, handler, False, cost)

    def register_batch(self, packet: type[Packet] | int, handler: Handler, *, cost: float = 1.0) -> None:
        """Register or replace as `register`: `handler(session, batch)` is called once per run of packets of this id.

        A run is what lies together in one chunk, up to 4,096 packets; one that came in two pieces is a run of its
        own. Every packet of a run counts as dispatched when the handler is called.
        """
        self._set(packet, handler, True, cost)

    def require_login(self, *packets: type[Packet] | int) -> None:
        """Dispatch only these packets, and heartbeats, of sessions that are not logged in. `TypeError` for none, or
        what is no packet class or id.
        """
        if not packets:
            raise TypeError("require_login() needs the packets by which a session logs in")
        self._before_login.update([index(packet_id_of(packet)) for packet in packets])
        for packet_id in self._before_login:
            route = self.routes.get(packet_id)
            if route is not None and not route.before_login:
                facts = (route.packet_type, route.min_body_size, route.is_batch, route.cost)
                self.routes.set(packet_id, Route(route.handler, *facts, before_login=True))

    @property
    def requires_login(self) -> bool:
        """Whether `require_login()` was called."""
        return bool(self._before_login)

    def unregister(self, packet: type[Packet] | int) -> None:
        """Take the handler away: the id is then unknown. `KeyError` if it has none."""
        self.routes.remove(packet_id_of(packet))

    def set_default(self, handler: Handler | None) -> None:
        """The handler for every id that has none (it gets a `RawPacket`); None makes such ids unknown again."""
        self.routes.default = None if handler is None else Route(handler)

    def handler_of(self, packet: type[Packet] | int) -> Handler | None:
        """The handler registered for this very id, or None."""
        route = self.routes.get(packet_id_of(packet))
        return None if route is None else route.handler

    def __len__(self) -> int:
        return len(self.routes)

    def _set(self, packet: type[Packet] | int, handler: Handler, is_batch: bool, cost: float) -> None:
        packet_id = packet_id_of(packet)
        packet_type, body_size = (packet, packet.body_size_of()) if isinstance(packet, type) else (RawPacket, 0)
        before_login = packet_id in self._before_login
        self.routes.set(packet_id, Route(handler, packet_type, body_size, is_batch, cost, before_login))
