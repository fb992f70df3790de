"""What one writes without gamenet: `struct`, a dict of handlers, a dataclass.

What stays true: the framing is that of `bench/net/peers/asyncio_struct.py`, checks and all, so that what is saved here
is not a check left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.micro.traffic import HEADER, MOVE_ID

MAX_PACKET_SIZE = 8192

Handler = Callable[[int, int, bytes], Any]


class Framing:
    """Cuts packets out of chunks: `handler(packet_id, sequence, body)` for each move."""

    def __init__(self, handler: Handler) -> None:
        self.handlers = {MOVE_ID: handler}
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        at, size = 0, len(data)
        while size - at >= 8:
            packet_id, packet_size, sequence = HEADER.unpack_from(data, at)
            if not 8 <= packet_size <= MAX_PACKET_SIZE:
                raise ValueError(f"packet_size {packet_size}")
            if packet_size > size - at:
                break
            handler = self.handlers.get(packet_id)
            if handler is not None:
                handler(packet_id, sequence, data[at + 8 : at + packet_size])
            at += packet_size
        self.buffer = data[at:]


@dataclass(slots=True)
class Move:
    """The demo's MOVE."""

    player_id: int
    x: float
    y: float
