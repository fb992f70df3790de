"""Broadcasts to few and to many, after thousands of sessions came and went: what one delivery costs as a server grows.

What stays true: every call ends the loop's turn, so each delivery is an append and a write. All streams share one sink,
so what grows with the crowd is what gamenet itself has of each session.
"""

import random
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from bench.micro.streams import Sink, flush_queue, sent
from bench.micro.traffic import BODY_SIZE, HEADER, MOVE_ID, PACKET_SIZE
from bench.micro.twins import package
from bench.micro.workload import Run, Workload, Yardstick

FEW, MANY = 100, 10_000
DELIVERIES = 10_000  # of a call
CAME_AND_WENT = 10_000

BODY = bytes(range(BODY_SIZE))
FRAME = HEADER.pack(MOVE_ID, PACKET_SIZE, 0) + BODY

Make = Callable[..., Run]


def broadcast_to(size: int, changes: int = CAME_AND_WENT) -> Make:
    """`broadcast()` of the twin, over the members of a crowd as they stand in its array."""

    def make(twin: ModuleType, sink: Any = None) -> Run:
        queue, group = crowd(twin, size, changes, sink)
        members = list(group)
        codec = members[0].codec
        return _turns(size, lambda: twin.broadcast(members, codec, FRAME), queue.flush)

    return make


def broadcast_in_group(size: int) -> Make:
    """`SessionGroup.broadcast()`, which also encodes the packet."""

    def make(twin: ModuleType, sink: Any = None) -> Run:
        queue, group = crowd(twin, size, CAME_AND_WENT, sink)
        return _turns(size, lambda: group.broadcast(MOVE_ID, BODY), queue.flush)

    return make


def append_to_bytearrays(size: int) -> Make:
    """What one writes by hand: a bytearray per connection, and one write each when the turn ends. They stand in memory
    in another order than in the list, as after others came and went.
    """

    def make(sink: Any = None) -> Run:
        outboxes, write = [bytearray() for _ in range(size)], (sink or Sink()).write
        random.Random(1).shuffle(outboxes)

        def append() -> None:
            for outbox in outboxes:
                outbox += FRAME

        def flush() -> None:
            for outbox in outboxes:
                write(bytes(outbox))
                outbox.clear()

        return _turns(size, append, flush)

    return make


def crowd(twin: ModuleType, size: int, changes: int, sink: Any) -> tuple[Any, Any]:
    """A flush queue, and a `SessionGroup` of `size` streams of which `changes` left one by one as others came."""
    queue, codec = flush_queue(twin), twin.HeaderCodec()
    group = package(twin).SessionGroup(codec)
    join = _joining(twin, group, codec, queue, size, sink or Sink())
    present, chance = [join() for _ in range(size)], random.Random(1)
    for _ in range(changes):
        place = chance.randrange(size)
        group.discard(present[place])
        present[place] = join()
    return queue, group


def _joining(twin: ModuleType, group: Any, codec: Any, queue: Any, size: int, sink: Any) -> Callable[[], Any]:
    """What makes a new member; all of them share what those of a server share."""

    class Member(twin.Stream):  # type: ignore[name-defined, misc]
        """A session, as far as a group looks at it."""

        __slots__ = ()
        is_closed = False

    shared = codec, twin.PoolAllocator(max_blocks=size), twin.RouteTable(), twin.Ledger(), queue

    def join() -> Any:
        member = Member(*shared, time.monotonic)
        member.attach(sink)
        group.add(member)
        return member

    return join


def _turns(size: int, send: Callable[[], object], flush: Callable[[], object]) -> Run:
    def run() -> None:
        for _ in range(DELIVERIES // size):
            send()
            flush()

    return run


def workload(name: str, title: str, size: int, make: Make, beside: tuple[Yardstick, ...] = ()) -> Workload:
    """Named for its size: `name_100`."""
    return Workload(
        f"{name}_{size}", title.format(f"{size:,} sessions"), "delivery", DELIVERIES, make, sent(make), beside
    )


def by_hand(size: int) -> tuple[Yardstick, ...]:
    make = append_to_bytearrays(size)
    return (Yardstick("a bytearray each", make, sent(make)),)


WORKLOADS = [
    workload("broadcast", "broadcast() to {}, after 10,000 came and went", FEW, broadcast_to(FEW), by_hand(FEW)),
    workload("broadcast", "broadcast() to {}, after 10,000 came and went", MANY, broadcast_to(MANY), by_hand(MANY)),
    workload("broadcast_in_order", "the same to {}, none ever left", MANY, broadcast_to(MANY, changes=0)),
    workload("group_broadcast", "SessionGroup.broadcast() to {}, as above", FEW, broadcast_in_group(FEW)),
    workload("group_broadcast", "SessionGroup.broadcast() to {}, as above", MANY, broadcast_in_group(MANY)),
]
