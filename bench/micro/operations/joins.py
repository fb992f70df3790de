"""Sessions that come, say one thing and go: what joins and leaves cost, and what of that is the making of objects.

What stays true: a join is `connection_made()` of a session of a real server, with its deadlines, a leave its `close()`
and `connection_lost()`; the transport does nothing, so all of it is gamenet's and the user's.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from bench.micro.operations.object_pool import Tracker, use
from bench.micro.traffic import MOVE_ID, move_chunks
from bench.micro.twins import package, twin
from bench.micro.workload import Run, Workload, Yardstick

JOINS = 10_000
A_TURN = 50  # of them in each turn of the loop

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


def joins(twin: ModuleType, opened: Hook | None = None, data: type | None = None) -> tuple[Run, Any]:
    """Joins and leaves of a real server whose hook is `opened`, and which lends every session one `data()`."""
    gamenet, loop = package(twin), asyncio.new_event_loop()
    pool = None if data is None else gamenet.ObjectPool(data)
    server = gamenet.Server(transport="asyncio", session_data=pool, watchdog_timeout=None)

    @server.on(MOVE_ID)
    def move(session: Any, packet: Any) -> None:
        if session.data is not None:
            use(session.data)
        session.reply(packet)

    if opened is not None:
        server.on_opened(opened)
    loop.run_until_complete(server.start())
    new_session = partial(gamenet.Session, server._context)
    packet, transport = move_chunks()[0][:72], Nowhere()

    def join_and_leave() -> None:
        session = new_session()
        session.connection_made(transport)
        session.data_received(packet)
        session.close()
        session.connection_lost(None)

    async def all_of_them() -> None:
        for _ in range(JOINS // A_TURN):
            for _ in range(A_TURN):
                join_and_leave()
            await asyncio.sleep(0)

    return lambda: loop.run_until_complete(all_of_them()), server


def plain(twin: ModuleType) -> Run:
    return joins(twin)[0]


def with_pool(twin: ModuleType) -> Run:
    return joins(twin, data=Tracker)[0]


def without_pool() -> Run:
    def made_anew(session: Any) -> None:
        session.data = Tracker()

    return joins(twin("compiled"), opened=made_anew)[0]


def ended(twin: ModuleType) -> object:
    """What the server counted, and what it lent."""
    run, server = joins(twin, data=Tracker)
    run()
    stats = server.stats()
    return stats["closed"], stats["packets_dispatched"], stats["packets_out"], server._data.pool.stats()


WORKLOADS = [
    Workload("joins", "a session joins, sends a packet, leaves", "join", JOINS, plain, ended),
    Workload(
        "joins_with_data", "the same with session_data: a list of 64 lists, one place marked", "join", JOINS, with_pool,
        ended, beside=(Yardstick("made anew by on_opened", without_pool),),
    ),
]
