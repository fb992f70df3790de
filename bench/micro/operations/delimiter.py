"""Packets that end with a delimiter: lines of text."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from bench.micro.workload import Run, Workload, drop
from gamenet.layout import LINES

LINE = b"PRIVMSG #lobby :does anybody have a healing potion for us?\r\n"
COUNT = 10_000


def cut_lines(twin: ModuleType, take: Callable[..., object] = drop) -> Run:
    """10,000 lines of 60 bytes at once."""
    buffer, data = twin.PacketBuffer(twin.codec_for(LINES, 512)), LINE * COUNT

    def run() -> None:
        buffer.feed(data)
        take(buffer)

    return run


def lines(twin: ModuleType) -> object:
    """The lines that are cut."""
    packets: list[Any] = []
    cut_lines(twin, packets.extend)()
    return [packet.body for packet in packets]


WORKLOADS = [Workload("cut_lines", "PacketBuffer fed 10,000 lines, iterated", "line", COUNT, cut_lines, lines)]
