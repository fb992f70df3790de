"""Sessions that come, say one thing and go: what joins and leaves cost, and what of that is the making of objects.

What stays true: a join is `connection_made()` of a real session with its deadlines, a leave its `close()` and
`connection_lost()`; the transport does nothing, so all of it is gamenet's and the user's.
"""

import asyncio
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from bench.micro.operations.object_pool import Explorer
from bench.micro.traffic import MOVE_ID, move_chunks
from bench.micro.twins import package, twin
from bench.micro.workload import Run, Workload, Yardstick

JOINS = 10_000

Hook = Callable[[Any], None]


class Nowhere(asyncio.Transport):
    """Takes everything and sends nothing."""

    def write(self, data: object) -> None: ...
    def writelines(self, chunks: object) -> None: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def close(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return True


class Owner:
    """Counts, and gives each session its data."""

    def __init__(self, opened: Hook, closed: Hook) -> None:
        self.opened = opened
        self.closed = closed
        self.reasons: list[str] = []

    def session_opened(self, session: Any) -> None:
        self.opened(session)

    def session_closed(self, session: Any, reason: str) -> None:
        self.closed(session)
        self.reasons.append(reason)


def joins(twin: ModuleType, opened: Hook, closed: Hook) -> tuple[Run, Owner]:
    gamenet, loop = package(twin), asyncio.new_event_loop()
    owner, routes, limits = Owner(opened, closed), twin.RouteTable(), gamenet.Limits()
    routes.set(MOVE_ID, twin.Route(lambda session, packet: session.reply(packet)))
    pool = twin.PoolAllocator(limits.max_packet_size, sizes=limits.block_sizes)
    context = gamenet.session.SessionContext(
        owner, loop, limits, twin.HeaderCodec(), pool, routes, twin.Ledger(), logging.getLogger("bench.joins")
    )
    packet, transport = move_chunks()[0][:72], Nowhere()

    def run() -> None:
        owner.reasons.clear()
        for _ in range(JOINS):
            session = gamenet.Session(context)
            session.connection_made(transport)
            session.data_received(packet)
            session.close()
            session.connection_lost(None)
        loop.run_until_complete(asyncio.sleep(0))  # it drops the timers that were cancelled

    return run, owner


def nothing(session: Any) -> None:
    """No data."""


def made_anew(session: Any) -> None:
    session.data = Explorer()


def drop(session: Any) -> None:
    session.data = None


def lending(twin: ModuleType) -> tuple[Hook, Hook]:
    pool = package(twin).ObjectPool(Explorer)

    def lend(session: Any) -> None:
        session.data = pool.acquire()

    return lend, lambda session: session.data.release()


def plain(twin: ModuleType) -> Run:
    return joins(twin, nothing, nothing)[0]


def with_pool(twin: ModuleType) -> Run:
    return joins(twin, *lending(twin))[0]


def without_pool() -> Run:
    return joins(twin("compiled"), made_anew, drop)[0]


def ended(twin: ModuleType) -> dict[str, int]:
    run, owner = joins(twin, *lending(twin))
    run()
    return {reason: owner.reasons.count(reason) for reason in owner.reasons}


WORKLOADS = [
    Workload("joins", "a session joins, sends a packet, leaves", "join", JOINS, plain, ended),
    Workload(
        "joins_with_data", "the same, session.data a list of 64 lists, from an ObjectPool", "join", JOINS, with_pool,
        ended, beside=(Yardstick("session.data made anew", without_pool),),
    ),
]
