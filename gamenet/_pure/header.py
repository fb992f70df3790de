"""Reading and writing what frames a packet, as a `HeaderLayout` describes it.

What stays true: a header that was read states a size between the smallest packet's and `max_packet_size`, and its
body lies inside the packet.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from gamenet import errors
from gamenet._pure.packet import RawPacket, as_number
from gamenet.layout import BOOK_HEADER, RESERVED, Field, HeaderField, HeaderLayout, Layout

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Header = tuple[int, int, int, int, int]  # packet_id, packet_size of the whole packet, sequence, body's start and size

_STRUCT_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


class PacketHeader(NamedTuple):
    """A header as read: `packet_size` is the whole packet in bytes, whatever the wire counts."""

    packet_id: int
    packet_size: int
    sequence: int


class HeaderCodec:
    """Parses and encodes headers of one layout under one `max_packet_size` (bytes of the whole packet).

    Locking rule: immutable, so any thread may use it. `ValueError` if `max_packet_size` is outside what the layout
    allows.
    """

    __slots__ = (
        "_bias",
        "_extra_names",
        "_max_id",
        "_max_sequence",
        "_min_packet_size",
        "_scan",
        "_struct",
        "ending",
        "has_extras",
        "header_size",
        "layout",
        "max_packet_size",
    )

    layout: Layout
    ending: bytes
    has_extras: bool
    header_size: int
    max_packet_size: int

    def __init__(self, layout: HeaderLayout = BOOK_HEADER, max_packet_size: int = 8192) -> None:
        if not isinstance(layout, HeaderLayout):
            raise errors.wrong_type("layout", "a HeaderLayout", layout)
        if not layout.min_packet_size <= max_packet_size <= layout.max_packet_size:
            raise errors.number_does_not_fit(
                "max_packet_size", max_packet_size, layout.min_packet_size, layout.max_packet_size
            )
        self.layout = layout
        self.header_size = layout.header_size
        self.max_packet_size = max_packet_size
        self.ending = layout.trailer
        self.has_extras = bool(layout.extra_fields)
        self._extra_names = [field.name for field in layout.extra_fields]
        self._max_id = layout.field("packet_id").max_value if layout.has("packet_id") else 0
        self._max_sequence = layout.max_sequence
        self._bias = layout.size_bias
        self._min_packet_size = layout.min_packet_size
        self._struct = _as_struct(layout)
        # what frames the packet at an offset; None if more bytes than there are would tell
        self._scan: Callable[[ReadableBuffer, int, int], Header | None] = (
            self._scan_struct if self._struct is not None else self._scan_fields
        )

    # -- reading

    def parse(self, data: ReadableBuffer, offset: int = 0) -> PacketHeader:
        """The header at `data[offset:]`.

        `ValueError` if there are not enough bytes, `InvalidPacketError` if the header cannot be: its size is below
        the smallest packet's or above `max_packet_size`, a VarInt is longer than needed or does not end.
        """
        held = len(memoryview(data).cast("B"))
        header = self._scan(data, offset, held - offset) if 0 <= offset <= held else None
        if header is None:
            raise errors.header_does_not_fit(max(0, held - max(0, offset)), self.header_size)
        return PacketHeader(*header[:3])

    def locate(self, frame: bytes) -> tuple[int, int, int, int]:
        """Of the packet that `frame` starts with: its id, where its body starts and ends, where the packet ends.

        `ValueError` if it is not whole, `InvalidPacketError` as `parse`.
        """
        header = self._scan(frame, 0, len(frame))
        if header is None or header[1] > len(frame):
            raise errors.frame_is_not_whole(len(frame))
        packet_id, packet_size, _, start, size = header
        return packet_id, start, start + size, packet_size

    def _scan_struct(self, data: ReadableBuffer, offset: int, available: int) -> Header | None:
        header_size = self.header_size
        if available < header_size:
            return None
        assert self._struct is not None
        packet_id, packet_size, sequence = self._struct.unpack_from(data, offset)
        packet_size += self._bias
        if not self._min_packet_size <= packet_size <= self.max_packet_size:
            return self._checked(packet_id, packet_size, sequence, header_size)
        return packet_id, packet_size, sequence, header_size, packet_size - header_size

    def _scan_fields(self, data: ReadableBuffer, offset: int, available: int) -> Header | None:
        found = self._read_fields(data, offset, available)
        if found is None:
            if available >= self.max_packet_size:
                raise errors.header_too_long(self.max_packet_size)
            return None
        numbers, ends, header_size = found
        packet_size = self._packet_size(numbers, ends, header_size)
        return self._checked(numbers.get("packet_id", 0), packet_size, numbers.get("sequence", 0), header_size)

    def _read_fields(
        self, data: ReadableBuffer, offset: int, available: int
    ) -> tuple[dict[str, int], dict[str, int], int] | None:
        """Every number by name, where each ends, and where the header ends; None if bytes are missing."""
        layout, numbers, ends, at = self._header_layout, dict[str, int](), dict[str, int](), 0
        if available < self.header_size and layout.is_fixed:
            return None
        view = memoryview(data).cast("B")[offset : offset + available]
        for gap, field in layout.pieces:
            at += gap
            read = _read_number(view[at:], field)
            if read is None:
                return None
            numbers[field.name], length = read
            ends[field.name] = at = at + length
            if field.name == "packet_size" and not layout.is_fixed:
                self._check_rest(numbers["packet_size"])
        at += layout.last_gap
        return (numbers, ends, at) if at <= available else None

    def _check_rest(self, counted: int) -> None:
        """Refuse a size that ends inside the header before the rest of that is awaited."""
        missing = self.header_size - self._header_layout.offset_of("packet_size")[1]
        if self._header_layout.size_counts == "after" and counted < missing:
            raise errors.packet_size_too_small(self.header_size - missing + counted, self.header_size)

    def _packet_size(self, numbers: dict[str, int], ends: dict[str, int], header_size: int) -> int:
        layout = self._header_layout
        if layout.frame_size is not None:
            return layout.frame_size
        counted = numbers["packet_size"]
        if layout.size_counts == "after":
            return ends["packet_size"] + counted
        if layout.size_counts == "body":
            return header_size + counted + len(self.ending)
        return counted + self._bias

    def _checked(self, packet_id: int, packet_size: int, sequence: int, header_size: int) -> Header:
        smallest = max(self._min_packet_size, header_size + len(self.ending))
        if packet_size < smallest:
            raise errors.packet_size_too_small(packet_size, smallest)
        if packet_size > self.max_packet_size:
            raise errors.packet_size_too_large(packet_size, self.max_packet_size)
        return packet_id, packet_size, sequence, header_size, packet_size - header_size - len(self.ending)

    def _check_ending(self, data: bytes, end: int) -> None:
        """Refuse a whole packet that ends at `data[:end]` without its trailer."""
        if self.ending and not data.endswith(self.ending, 0, end):
            raise errors.wrong_trailer(data[end - len(self.ending) : end], self.ending)

    def _scan_tail(self, gathered: bytes) -> Header | None:
        """As `_scan` for a packet of which some bytes are gathered, none of them behind its header."""
        return self._scan(gathered, 0, len(gathered))

    def _step(self, gathered: int, chunk: bytes, position: int) -> int:
        """How many bytes to gather before `_scan_tail` may know more."""
        return max(1, self.header_size - gathered)

    def _extras(self, header: bytes) -> dict[str, int]:
        """The extra fields of a header."""
        found = self._read_fields(header, 0, len(header))
        assert found is not None
        return {name: number for name, number in found[0].items() if name not in RESERVED}

    def extras_of(self, packet: RawPacket) -> dict[str, int]:
        """The extra fields of `packet` that this layout has too."""
        if not self.has_extras:
            return {}
        return {name: number for name, number in packet.header.items() if name in self._extra_names}

    # -- writing

    def encode(
        self, packet_id: int, body_size: int, sequence: int = 0, header: Mapping[str, int] | None = None
    ) -> bytes:
        """The header of a packet with `body_size` bytes behind it, and `ending` behind those.

        `header` gives the extra fields; those that are missing are 0. `ValueError` if a number does not fit its
        field, a name is none of them, or the packet is not within the sizes that are allowed. A layout without a
        field takes only 0 for it.
        """
        id_number, sequence_number = as_number("packet_id", packet_id), as_number("sequence", sequence)
        numbers = self._extra_numbers(header) if header else {}
        packet_size = body_size + self.header_size + len(self.ending)
        if not self._min_packet_size <= packet_size <= self.max_packet_size:
            self._check_size(packet_size)
        if id_number > self._max_id:
            raise errors.number_does_not_fit("packet_id", id_number, 0, self._max_id)
        if sequence_number > self._max_sequence:
            raise errors.number_does_not_fit("sequence", sequence_number, 0, self._max_sequence)
        if self._struct is not None:
            return self._struct.pack(id_number, self.header_size + body_size - self._bias, sequence_number)
        numbers |= {"packet_id": id_number, "sequence": sequence_number}
        encoded = self._encode_fields(numbers, body_size)
        self._check_size(len(encoded) + body_size + len(self.ending))
        return encoded

    def frame(
        self, packet_id: int, body: ReadableBuffer = b"", sequence: int = 0, header: Mapping[str, int] | None = None
    ) -> bytes:
        """A whole packet. `ValueError` as `encode`."""
        held = memoryview(body).cast("B")
        self._check_body(held)
        return b"".join((self.encode(packet_id, len(held), sequence, header), held, self.ending))

    def _check_body(self, body: memoryview) -> None:
        """`ValueError` if the layout could not tell where this body ends."""

    def _extra_numbers(self, header: Mapping[str, int]) -> dict[str, int]:
        numbers = {name: operator.index(number) for name, number in header.items()}
        for name in numbers:
            if name not in self._extra_names:
                raise errors.no_such_header_field(name, self._extra_names)
        return numbers

    def _check_size(self, packet_size: int) -> None:
        if packet_size > self.max_packet_size:
            raise errors.packet_does_not_fit(packet_size, self.max_packet_size)
        if packet_size < self._min_packet_size:
            raise errors.packet_falls_short(packet_size, self._min_packet_size)

    def _encode_fields(self, numbers: dict[str, int], body_size: int) -> bytes:
        layout, parts, place = self._header_layout, list[bytes](), -1
        for gap, field in layout.pieces:
            parts.append(bytes(gap))
            if field.name == "packet_size":
                place = len(parts)
                parts.append(b"")
            else:
                parts.append(_encode_number(field, numbers.get(field.name, 0)))
        parts.append(bytes(layout.last_gap))
        if place >= 0:  # last, for it may count what stands behind it
            counted = self._counted(body_size, sum(map(len, parts[place + 1 :])) + body_size + len(self.ending))
            parts[place] = _encode_number(layout.field("packet_size"), counted)
        return b"".join(parts)

    def _counted(self, body_size: int, after: int) -> int:
        layout = self._header_layout
        if layout.size_counts == "after":
            return after
        if layout.size_counts == "body":
            return body_size
        return self.header_size + body_size + len(self.ending) - self._bias

    @property
    def _header_layout(self) -> HeaderLayout:
        assert isinstance(self.layout, HeaderLayout)
        return self.layout


def _read_number(data: memoryview, field: Field) -> tuple[int, int] | None:
    """The number at the start of `data`, and its bytes; None if some are missing."""
    if isinstance(field, HeaderField):
        if len(data) < field.width:
            return None
        return int.from_bytes(data[: field.width], field.byte_order, signed=field.signed), field.width
    number = 0
    for index in range(field.max_bytes):
        if index == len(data):
            return None
        number |= (data[index] & 0x7F) << 7 * index
        if data[index] < 0x80:
            if index and not data[index]:
                raise errors.varint_is_overlong(field.name, index + 1)
            if number > field.max_value:
                raise errors.varint_too_large(field.name, field.max_value)
            return number, index + 1
    raise errors.varint_does_not_end(field.name, field.max_bytes)


def _encode_number(field: Field, number: int) -> bytes:
    if not field.min_value <= number <= field.max_value:
        raise errors.number_does_not_fit(field.name, number, field.min_value, field.max_value)
    if isinstance(field, HeaderField):
        return number.to_bytes(field.width, field.byte_order, signed=field.signed)
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _as_struct(layout: HeaderLayout) -> struct.Struct | None:
    """One `struct` for layouts that have the book's three fields, in its order, in widths that `struct` knows."""
    fields = [field for field in layout.fields if isinstance(field, HeaderField)]
    names = [field.name for field in fields]
    orders = {field.byte_order for field in fields}
    codes = [_STRUCT_CODES.get(field.width, "") for field in fields]
    has_gaps = sum(field.width for field in fields) != layout.header_size
    is_plain = layout.is_fixed and not layout.trailer and not any(field.signed for field in fields)
    if names != ["packet_id", "packet_size", "sequence"] or len(orders) > 1 or "" in codes or has_gaps or not is_plain:
        return None
    return struct.Struct(("<" if orders == {"little"} else ">") + "".join(codes))
