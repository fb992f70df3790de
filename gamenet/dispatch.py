"""The dispatch table: which handler gets the packets of which id.

What stays true: a handler that runs is not touched by what replaces it; the next packet goes to the new one.
"""

from __future__ import annotations

from collections.abc import Callable
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

    def on(self, packet: type[Packet] | int) -> Callable[[HandlerT], HandlerT]:
        """Decorator: register the function for a packet class or id, replacing what was there."""

        def register(handler: HandlerT) -> HandlerT:
            self.register(packet, handler)
            return handler

        return register

    def on_batch(self, packet: type[Packet] | int) -> Callable[[HandlerT], HandlerT]:
        """Decorator: register the function as the batch handler for a packet class or id; see `register_batch`."""

        def register(handler: HandlerT) -> HandlerT:
            self.register_batch(packet, handler)
            return handler

        return register

    def register(self, packet: type[Packet] | int, handler: Handler) -> None:
        """Register or replace a handler, at any time, also from inside a handler.

        `TypeError` for what is no packet class, id or callable; `ValueError` for an id outside 0 to 2**64-1.
        """
        self.routes.set(packet_id_of(packet), _route(packet, handler))

    def register_batch(self, packet: type[Packet] | int, handler: Handler) -> None:
        """Register or replace as `register`: `handler(session, batch)` is called once per run of packets of this id.

        A run is what lies together in one chunk, up to 4,096 packets; one that came in two pieces is a run of its
        own. Every packet of a run counts as dispatched when the handler is called.
        """
        self.routes.set(packet_id_of(packet), _route(packet, handler, is_batch=True))

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


def _route(packet: type[Packet] | int, handler: Handler, is_batch: bool = False) -> Route:
    if isinstance(packet, type):
        return Route(handler, packet, packet.body_size_of(), is_batch)
    return Route(handler, RawPacket, 0, is_batch)
