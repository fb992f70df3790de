"""The dispatch table: which handler gets the packets of which id.

What stays true: a handler that runs is not touched by what replaces it; the next packet goes to the new one. While a
module is being reloaded, registrations gather beside the table, and reach it all at once or not at all.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gamenet._core import PingRoute, PongRoute, RawPacket, Route, RouteTable
from gamenet.packets import Packet, packet_id_of
from gamenet.reload import Registry, running_module

Handler = Callable[[Any, Any], Any]
HandlerT = TypeVar("HandlerT", bound=Handler)
Wrapper = Callable[[int | None, Route], Handler]
"""`wrapper(packet_id, route)` gives what is called in place of `route.handler`; the id is None for the default."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A registration: the route as it was asked for, the one in the table, and the module that registered it."""

    route: Route
    live: Route
    module: str | None


class _Handlers:
    """Registrations by packet id, the default's under None; `table` shows the same to the streams."""

    def __init__(self, table: RouteTable) -> None:
        self.table = table
        self.entries: dict[int | None, _Entry] = {}

    def set(self, packet_id: int | None, entry: _Entry) -> None:
        if packet_id is None:
            self.table.default = entry.live
        else:
            self.table.set(packet_id, entry.live)
            packet_id = operator.index(packet_id)
        self.entries[packet_id] = entry

    def remove(self, packet_id: int | None) -> None:
        if packet_id is None:
            self.table.default = None
        else:
            self.table.remove(packet_id)
        self.entries.pop(packet_id, None)


class DispatchTable(Registry):
    """Handlers by packet id. `handler(session, packet)` may be a function or `async def`.

    With a packet class the handler gets an instance of it, and never one whose body is shorter than the struct;
    with a bare id it gets a `RawPacket`. A batch handler gets them as `handler(session, batch)`: see `Batch`. An id
    has one handler, of either kind: the last one registered.
    Locking rule: the thread of the loop only.
    """

    def __init__(self) -> None:
        self.routes = RouteTable()
        self._live = _Handlers(self.routes)
        self._staged: _Handlers | None = None
        self._registrants: list[str | None] = []
        self._wrapper: Wrapper | None = None
        self._before_login: frozenset[int] = frozenset()
        self._login_before_stage = self._before_login

    def on(self, packet: type[Packet] | int, *, cost: float = 1.0) -> Callable[[HandlerT], HandlerT]:
        """Decorator: register the function for a packet class or id, replacing what was there."""
        packet_id_of(packet)  # found now, and not when a forgotten call, `@on` alone, has swallowed the function

        def register(handler: HandlerT) -> HandlerT:
            self.register(packet, handler, cost=cost)
            return handler

        return register

    def on_batch(self, packet: type[Packet] | int, *, cost: float = 1.0) -> Callable[[HandlerT], HandlerT]:
        """Decorator: register the function as the batch handler for a packet class or id; see `register_batch`."""
        packet_id_of(packet)

        def register(handler: HandlerT) -> HandlerT:
            self.register_batch(packet, handler, cost=cost)
            return handler

        return register

    def register(self, packet: type[Packet] | int, handler: Handler, *, cost: float = 1.0) -> None:
        """Register or replace a handler, at any time, also from inside a handler.

        `cost` is what a packet takes of its session's rate, where `max_packets_per_second` limits that: 1 for most,
        more for what is dear to answer. `TypeError` for what is no packet class, id or callable, and for
        a function with a `yield`, which would never run; `ValueError` for an id outside 0 to 2**64-1 or a cost below 0.
        """
        self._register(packet, handler, False, cost)

    def register_batch(self, packet: type[Packet] | int, handler: Handler, *, cost: float = 1.0) -> None:
        """Register or replace as `register`: `handler(session, batch)` is called once per run of packets of this id.

        A run is what lies together in one chunk, up to 4,096 packets, or as many as the handler has taken a quarter of
        `dispatch_budget` for; a packet that came in two pieces is a run of its own. Every packet of a run counts as
        dispatched when the handler is called.
        """
        self._register(packet, handler, True, cost)

    def register_route(self, packet_id: int, route: Route) -> None:
        """Register what is no handler of a user's, such as a heartbeat; it stays when modules are reloaded."""
        self._current.set(packet_id, _Entry(route, route, None))

    def require_login(self, *packets: type[Packet] | int) -> None:
        """Dispatch only these packets, and heartbeats, of sessions that are not logged in. `TypeError` for none, or
        what is no packet class or id.
        """
        if not packets:
            raise TypeError("require_login() needs the packets by which a session logs in")
        self._before_login |= frozenset(operator.index(packet_id_of(packet)) for packet in packets)
        for packet_id in self._before_login:
            entry = self._current.entries.get(packet_id)
            if entry is not None and not entry.route.before_login:
                route = _like(entry.route, entry.route.handler, before_login=True)
                self._current.set(packet_id, _Entry(route, self._wrapped(packet_id, route), entry.module))

    @property
    def requires_login(self) -> bool:
        """Whether `require_login()` was called."""
        return bool(self._before_login)

    def unregister(self, packet: type[Packet] | int) -> None:
        """Take the handler away: the id is then unknown. `KeyError` if it has none."""
        self._current.remove(packet_id_of(packet))

    def set_default(self, handler: Handler | None) -> None:
        """The handler for every id that has none (it gets a `RawPacket`); None makes such ids unknown again."""
        if handler is None:
            self._current.remove(None)
        else:
            self._set(None, Route(handler))

    def handler_of(self, packet: type[Packet] | int) -> Handler | None:
        """The handler registered for this very id, or None."""
        entry = self._current.entries.get(packet_id_of(packet))
        return None if entry is None else entry.route.handler

    def __len__(self) -> int:
        return len(self._current.table)

    def wrap_handlers(self, wrapper: Wrapper | None) -> None:
        """Have `wrapper(packet_id, route)` called for each handler, those registered later too, and what it returns
        called in the handler's place; None undoes it. Without a wrapper nothing stands between packet and handler.
        `RuntimeError` if there is a wrapper already, or while a module is being reloaded.
        """
        if self._staged is not None:
            raise RuntimeError("handlers cannot be wrapped while a module is being reloaded")
        if wrapper is not None and self._wrapper is not None:
            raise RuntimeError("the handlers are wrapped already")
        self._wrapper = wrapper
        wrapped = _Handlers(RouteTable())
        for packet_id, entry in self._live.entries.items():
            wrapped.set(packet_id, _Entry(entry.route, self._wrapped(packet_id, entry.route), entry.module))
        self._take_over(wrapped)

    # -- what `Server.reload` asks for

    def stage(self, module: str) -> None:
        """Let registrations gather beside the table, without what `module` registered before."""
        if self._staged is not None:
            raise RuntimeError("a module is being reloaded already")
        self._staged, self._registrants = _Handlers(RouteTable()), []
        self._login_before_stage = self._before_login
        for packet_id, entry in self._live.entries.items():
            if entry.module != module:
                self._staged.set(packet_id, entry)

    @property
    def registrants(self) -> Sequence[str | None]:
        """By which module each registration was made that was gathered."""
        return self._registrants

    def commit(self) -> None:
        """Let what was gathered take effect, in one step."""
        assert self._staged is not None
        staged, self._staged = self._staged, None
        self._take_over(staged)

    def roll_back(self) -> None:
        """Forget what was gathered."""
        self._staged = None
        self._before_login = self._login_before_stage

    # -- small parts

    @property
    def _current(self) -> _Handlers:
        return self._live if self._staged is None else self._staged

    def _register(self, packet: type[Packet] | int, handler: Handler, is_batch: bool, cost: float) -> None:
        if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
            raise TypeError(f"{handler.__name__} has a yield: nobody would iterate over what it returns")
        packet_id = packet_id_of(packet)
        packet_type, body_size = (packet, packet.body_size_of()) if isinstance(packet, type) else (RawPacket, 0)
        before_login = packet_id in self._before_login
        self._set(packet_id, Route(handler, packet_type, body_size, is_batch, cost, before_login))

    def _set(self, packet_id: int | None, route: Route) -> None:
        entry = _Entry(route, self._wrapped(packet_id, route), running_module())
        self._current.set(packet_id, entry)
        if self._staged is not None:
            self._registrants.append(entry.module)

    def _wrapped(self, packet_id: int | None, route: Route) -> Route:
        if self._wrapper is None or isinstance(route, (PingRoute, PongRoute)):
            return route
        return _like(route, self._wrapper(packet_id, route), route.before_login)

    def _take_over(self, handlers: _Handlers) -> None:
        """Make `handlers` what is in use. The old ones are freed with `handlers`, when nothing shows them any more."""
        self.routes.exchange(handlers.table)
        self._live.entries, handlers.entries = handlers.entries, self._live.entries


def _like(route: Route, handler: Handler, before_login: bool) -> Route:
    return Route(handler, route.packet_type, route.min_body_size, route.is_batch, route.cost, before_login)
