"""Packets without declared fields: their bodies read and viewed, from a loop in C, and packets kept."""

from collections.abc import Callable
from itertools import repeat
from operator import attrgetter, getitem
from types import ModuleType
from typing import Any

from bench.micro import traffic
from bench.micro.streams import stream
from bench.micro.traffic import BODY_SIZE, HEADER, PACKET_SIZE, move_burst
from bench.micro.workload import Run, Workload, Yardstick, drop, kept

PACKETS = 1000  # of the burst, where they are looked at alone
BODIES = [slice(at, at + BODY_SIZE) for at in range(HEADER.size, PACKETS * PACKET_SIZE, PACKET_SIZE)]


def read_bodies(twin: ModuleType, take: Callable[..., object] = drop) -> Run:
    """`packet.body`: a copy, as bytes."""
    packets, body = _packets(twin), attrgetter("body")
    return lambda: take(map(body, packets))


def slice_bytes(take: Callable[..., object] = drop) -> Run:
    """The same bytes sliced out of the chunk."""
    data = move_burst()
    return lambda: take(map(getitem, repeat(data), BODIES))


def view_bodies(twin: ModuleType, take: Callable[..., object] = drop) -> Run:
    """`packet.view()`: no copy, and it stays true."""
    packets, view = _packets(twin), twin.RawPacket.view
    return lambda: take(map(view, packets))


def slice_views(take: Callable[..., object] = drop) -> Run:
    """A memoryview of the chunk, sliced."""
    view = memoryview(move_burst())
    return lambda: take(map(getitem, repeat(view), BODIES))


def keep_packets(twin: ModuleType) -> Run:
    """A handler that keeps every packet of the burst."""
    kept, run = _keeping(twin)

    def keep_and_forget() -> None:
        run()
        kept.clear()

    return keep_and_forget


def contents_of_kept(twin: ModuleType) -> list[tuple[int, int, bytes]]:
    """What the kept packets say when the burst is over."""
    packets, run = _keeping(twin)
    run()
    return [(packet.packet_id, packet.sequence, packet.body) for packet in packets]


def _keeping(twin: ModuleType) -> tuple[list[Any], Run]:
    packets: list[Any] = []
    data, session = move_burst(), stream(twin, lambda session, packet: packets.append(packet))
    return packets, lambda: session.data_received(data)


def _packets(twin: ModuleType) -> list[Any]:
    buffer = twin.PacketBuffer()
    buffer.feed(move_burst()[: PACKETS * PACKET_SIZE])
    return list(buffer)


WORKLOADS = [
    Workload(
        "keep_packets", "handle_burst, the handler keeps every packet", "packet", traffic.PACKETS,
        keep_packets, contents_of_kept,
    ),
    Workload(
        "read_body", "packet.body, 56 bytes", "packet", PACKETS, read_bodies, kept(read_bodies),
        beside=(Yardstick("bytes sliced", slice_bytes, kept(slice_bytes)),),
    ),
    Workload(
        "view_body", "packet.view()", "packet", PACKETS, view_bodies, kept(view_bodies),
        beside=(Yardstick("memoryview sliced", slice_views, kept(slice_views)),),
    ),
]
