"""The bytes and the calls that the micro benchmarks share, under the names of what a game does.

Each function returns a call without arguments that does the work once, ready to be timed.
"""

import ctypes
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.cc import build

PACKET_SIZE = 64
BURST_SIZE = 1 << 20
PACKETS = BURST_SIZE // PACKET_SIZE
MOVE_ID = 1003
FRESH_BURSTS = 64  # 64 MiB: more than any second-level cache holds

WALK = Path(__file__).with_name("walk.c")
FLOOR = Path(__file__).with_name("floor.c")


def move_burst() -> bytes:
    """1 MiB of 64-byte packets, as 16,384 players' moves."""
    return b"".join(
        struct.pack("<HHI", MOVE_ID, PACKET_SIZE, sequence) + sequence.to_bytes(4, "little") * 14
        for sequence in range(PACKETS)
    )


def fresh_bursts() -> list[bytes]:
    """64 copies of the burst, each in memory of its own."""
    return [bytes(bytearray(move_burst())) for _ in range(FRESH_BURSTS)]


def pieces_of(data: bytes, sizes: range = range(1, 18)) -> list[bytes]:
    """The same bytes in pieces of 1, 2, ... 17 bytes, over and over."""
    pieces, at = [], 0
    while at < len(data):
        for size in sizes:
            pieces.append(data[at : at + size])
            at += size
    return [piece for piece in pieces if piece]


class Sink:
    """A transport that takes everything and keeps nothing."""

    def write(self, data: bytes) -> None:
        pass

    def writelines(self, chunks: list[bytes]) -> None:
        pass


def stream(twin: ModuleType, handler: Callable[..., Any], **route: Any) -> Any:
    """A stream of `twin` whose moves go to `handler`; `route` are further arguments of `Route`."""
    routes = twin.RouteTable()
    routes.set(MOVE_ID, twin.Route(handler, **route))
    made = twin.Stream(
        twin.HeaderCodec(), twin.PoolAllocator(), routes, twin.Ledger(), twin.FlushQueue(lambda flush: None),
        time.monotonic,
    )
    made.attach(Sink())
    return made


def empty_handler(session: Any, packet: Any) -> None:
    pass


def handle_burst(twin: ModuleType) -> Callable[[], None]:
    """Cut the burst into packets and call an empty Python handler for each."""
    data, session = move_burst(), stream(twin, empty_handler)
    return lambda: session.data_received(data)


def handle_fresh(twin: ModuleType) -> Callable[[], None]:
    """As `handle_burst`, but 64 bursts one after the other, none of which the caches hold yet."""
    bursts, session = fresh_bursts(), stream(twin, empty_handler)

    def run() -> None:
        for burst in bursts:
            session.data_received(burst)

    return run


def handle_pieces(twin: ModuleType) -> Callable[[], None]:
    """The same for a 16th of the burst that arrives in pieces of 1 to 17 bytes."""
    pieces, session = pieces_of(move_burst()[: BURST_SIZE // 16]), stream(twin, empty_handler)

    def run() -> None:
        for piece in pieces:
            session.data_received(piece)

    return run


def reply_burst(twin: ModuleType) -> Callable[[], None]:
    """Answer every packet of the burst with itself, and flush."""
    data, session = move_burst(), stream(twin, lambda session, packet: session.reply(packet))

    def run() -> None:
        session.data_received(data)
        session.flush()

    return run


def batch_burst(twin: ModuleType) -> Callable[[], None]:
    """As `reply_burst`, by a batch handler."""
    data, session = move_burst(), stream(twin, lambda session, batch: batch.reply(), is_batch=True)

    def run() -> None:
        session.data_received(data)
        session.flush()

    return run


def walk_headers(bursts: list[bytes] | None = None) -> Callable[[], int]:
    """The headers of the bursts (default: one) walked by a C loop; returns the number of packets."""
    library = ctypes.CDLL(str(build(WALK, shared=True)))
    library.walk.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.POINTER(ctypes.c_uint64)]
    library.walk.restype = ctypes.c_size_t
    walked, total = bursts or [move_burst()], ctypes.c_uint64()
    return lambda: sum(library.walk(data, len(data), 8192, ctypes.byref(total)) for data in walked)


def call_empty_handler() -> Callable[[], int]:
    """An empty Python handler called from C, once for each packet of the burst, without any packet."""
    library = ctypes.PyDLL(str(build(FLOOR, shared=True, python=True)))
    library.call_handler.argtypes = [ctypes.py_object, ctypes.py_object, ctypes.py_object, ctypes.c_ssize_t]
    return lambda: int(library.call_handler(empty_handler, None, None, PACKETS))


def count_handled(twin: ModuleType) -> int:
    """How many packets of the burst reach a handler, with their sequence numbers in order."""
    seen: list[int] = []
    session = stream(twin, lambda session, packet: seen.append(packet.sequence))
    for piece in [move_burst()]:
        session.data_received(piece)
    return len(seen) if seen == sorted(seen) else 0
