"""Framing alone: a `PacketBuffer` fed and iterated, for those who have their own I/O."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from bench.micro.traffic import PACKETS, move_burst, move_pieces
from bench.micro.workload import Run, Workload, drop


def cut_burst(twin: ModuleType, take: Callable[..., object] = drop) -> Run:
    """The burst at once."""
    return _feed(twin, [move_burst()], take)


def cut_pieces(twin: ModuleType, take: Callable[..., object] = drop) -> Run:
    """A 16th of it in pieces of 1 to 17 bytes, iterated after each."""
    return _feed(twin, move_pieces(), take)


def cut(make: Callable[..., Run]) -> Callable[[ModuleType], object]:
    """The packets that `make` cuts."""

    def output(twin: ModuleType) -> object:
        packets: list[Any] = []
        make(twin, packets.extend)()
        return [(packet.packet_id, packet.sequence, packet.body) for packet in packets]

    return output


def _feed(twin: ModuleType, chunks: list[bytes], take: Callable[..., object]) -> Run:
    buffer = twin.PacketBuffer()

    def run() -> None:
        for chunk in chunks:
            buffer.feed(chunk)
            take(buffer)

    return run


WORKLOADS = [
    Workload("cut_burst", "PacketBuffer fed 1 MiB, iterated", "packet", PACKETS, cut_burst, cut(cut_burst)),
    Workload(
        "cut_pieces", "the same in pieces of 1 to 17 bytes", "packet", PACKETS // 16, cut_pieces, cut(cut_pieces)
    ),
]
