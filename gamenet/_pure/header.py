"""Reading and writing a packet's header, as a `HeaderLayout` describes it.

What stays true: a header that `parse` returned states a size between the header's own and `max_packet_size`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from gamenet import errors
from gamenet._pure.packet import as_number
from gamenet.layout import BOOK_HEADER, HeaderLayout

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Header = tuple[Any, ...]  # packet_id, packet_size of the whole packet, sequence

_STRUCT_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


class PacketHeader(NamedTuple):
    """A header as read: `packet_size` is the whole packet in bytes, whatever the wire counts."""

    packet_id: int
    packet_size: int
    sequence: int


class HeaderCodec:
    """Parses and encodes headers of one layout under one `max_packet_size` (bytes of the whole packet).

    Immutable, so any thread may use it. `ValueError` if `max_packet_size` is below the header or above what the
    layout's size field can state.
    """

    __slots__ = (
        "_bias",
        "_fields",
        "_load",
        "_max_id",
        "_max_sequence",
        "_struct",
        "header_size",
        "layout",
        "max_packet_size",
    )

    def __init__(self, layout: HeaderLayout = BOOK_HEADER, max_packet_size: int = 8192) -> None:
        if not layout.header_size <= max_packet_size <= layout.max_packet_size:
            raise errors.number_does_not_fit(
                "max_packet_size", max_packet_size, layout.header_size, layout.max_packet_size
            )
        self.layout = layout
        self.header_size = layout.header_size
        self.max_packet_size = max_packet_size
        self._bias = layout.size_bias
        self._fields = [(field.name, *layout.offset_of(field.name), field.byte_order) for field in layout.fields]
        limits = {field.name: field.max_value for field in layout.fields}
        self._max_id = limits["packet_id"]
        self._max_sequence = limits.get("sequence", 0)
        self._struct = _as_struct(layout)
        # (packet_id, packet_size, sequence) at an offset, whatever they say
        self._load: Callable[[ReadableBuffer, int], Header] = (
            self._load_fields if self._struct is None or self._bias else self._struct.unpack_from
        )

    def parse(self, data: ReadableBuffer, offset: int = 0) -> PacketHeader:
        """The header at `data[offset:]`.

        `ValueError` if there are not enough bytes, `InvalidPacketError` if the size it states is below the header
        or above `max_packet_size`.
        """
        held = len(memoryview(data).cast("B"))
        if not 0 <= offset <= held - self.header_size:
            raise errors.header_does_not_fit(max(0, held - max(0, offset)), self.header_size)
        return PacketHeader(*self._read(data, offset))

    def _read(self, data: ReadableBuffer, offset: int) -> Header:
        """Read a header whose bytes are known to be there; raises InvalidPacketError if its size cannot be."""
        header = self._load(data, offset)
        packet_size = header[1]
        if packet_size < self.header_size:
            raise errors.packet_size_too_small(packet_size, self.header_size)
        if packet_size > self.max_packet_size:
            raise errors.packet_size_too_large(packet_size, self.max_packet_size)
        return header

    def _load_fields(self, data: ReadableBuffer, offset: int) -> Header:
        found = {"sequence": 0}
        for name, start, end, byte_order in self._fields:
            found[name] = int.from_bytes(memoryview(data)[offset + start : offset + end], byte_order)
        return found["packet_id"], found["packet_size"] + self._bias, found["sequence"]

    def encode(self, packet_id: int, body_size: int, sequence: int = 0) -> bytes:
        """The header of a packet with `body_size` bytes behind it.

        `ValueError` if a number does not fit its field or the packet is above `max_packet_size`. A layout without
        a sequence field takes only 0.
        """
        id_number, sequence_number = as_number("packet_id", packet_id), as_number("sequence", sequence)
        packet_size = body_size + self.header_size
        if body_size < 0 or packet_size > self.max_packet_size:
            raise errors.packet_does_not_fit(packet_size, self.max_packet_size)
        if id_number > self._max_id:
            raise errors.number_does_not_fit("packet_id", id_number, 0, self._max_id)
        if sequence_number > self._max_sequence:
            raise errors.number_does_not_fit("sequence", sequence_number, 0, self._max_sequence)
        if self._struct is not None:
            return self._struct.pack(id_number, packet_size - self._bias, sequence_number)
        values = {"packet_id": id_number, "packet_size": packet_size - self._bias, "sequence": sequence_number}
        return b"".join(values[name].to_bytes(end - start, order) for name, start, end, order in self._fields)


def _as_struct(layout: HeaderLayout) -> struct.Struct | None:
    """One `struct` for layouts that have the book's three fields, in its order, in widths that `struct` knows."""
    names = [field.name for field in layout.fields]
    orders = {field.byte_order for field in layout.fields}
    codes = [_STRUCT_CODES.get(field.width, "") for field in layout.fields]
    if names != ["packet_id", "packet_size", "sequence"] or len(orders) > 1 or "" in codes:
        return None
    return struct.Struct(("<" if orders == {"little"} else ">") + "".join(codes))
