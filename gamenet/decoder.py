"""The frame decoder alone: for users who have their own sockets, loops or files.

What stays true: it knows no I/O and no clock; bytes go in, packets come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gamenet._core import PacketBuffer, PoolAllocator, codec_for
from gamenet.layout import BOOK_HEADER, Layout, packet_limit

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Decoder(PacketBuffer):
    """Cuts packets out of a byte stream, and makes them:

        decoder = Decoder(layout)
        decoder.feed(data)
        for packet in decoder:
            ...

    `max_packet_size`: bytes of the largest whole packet, for every layout that does not state less (default: 8,192).
    All else is as in `PacketBuffer`. `ValueError` if it is below the layout's smallest packet.
    Locking rule: one thread at a time; others hand their bytes to it.
    """

    __slots__ = ("_max_packet_size",)

    def __init__(self, layout: Layout = BOOK_HEADER, max_packet_size: int = 8192) -> None:
        codec = codec_for(layout, packet_limit(layout, max_packet_size))
        super().__init__(codec, PoolAllocator(max_packet_size))
        self._max_packet_size = max_packet_size

    @property
    def layout(self) -> Layout:
        """How packets are framed. Set it at any time: what is buffered is read again under the new one."""
        return self.codec.layout

    @layout.setter
    def layout(self, layout: Layout) -> None:
        self.codec = codec_for(layout, packet_limit(layout, self._max_packet_size))

    def encode(
        self, packet_id: int, body: ReadableBuffer = b"", sequence: int = 0, header: Mapping[str, int] | None = None
    ) -> bytes:
        """A whole packet. `header` gives the layout's extra fields, those that are missing are 0. `ValueError` if a
        number or the body does not fit.
        """
        return self.codec.frame(packet_id, body, sequence, header)
