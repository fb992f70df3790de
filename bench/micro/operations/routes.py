"""From a packet id to its route."""

from collections.abc import Callable
from operator import attrgetter
from types import ModuleType
from typing import Any

from bench.micro.streams import empty_handler
from bench.micro.workload import Run, Workload, Yardstick, drop

IDS = range(1000, 1016)
LOOKUPS = [*IDS] * 625


def find(twin: ModuleType, take: Callable[..., object] = drop) -> Run:
    """`RouteTable.find()`, with 16 ids in turn."""
    table = twin.RouteTable()
    for packet_id in IDS:
        table.set(packet_id, twin.Route(empty_handler, min_body_size=packet_id))
    return lambda: take(map(table.find, LOOKUPS))


def found(twin: ModuleType) -> list[int]:
    """What tells the routes apart."""
    routes: list[Any] = []
    find(twin, routes.extend)()
    return [*map(attrgetter("min_body_size"), routes)]


def look_up_in_a_dict() -> Run:
    """A plain dict of handlers."""
    handlers = dict.fromkeys(IDS, empty_handler)
    return lambda: drop(map(handlers.get, LOOKUPS))


WORKLOADS = [
    Workload(
        "find_route", "RouteTable.find(), 16 ids in turn", "lookup", len(LOOKUPS), find, found,
        beside=(Yardstick("dict.get", look_up_in_a_dict),),
    ),
]
