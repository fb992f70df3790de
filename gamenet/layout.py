"""How packets are framed on the wire, as data: the fields at their front, what states their size, what ends them.

Imports nothing of gamenet. A layout is checked once, when it is made; codecs (`_core.HeaderCodec`) trust it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ByteOrder = Literal["little", "big"]
SizeCounts = Literal["packet", "after", "body"]

RESERVED = ("packet_id", "packet_size", "sequence")
"""Field names with a meaning; fields of any other name are extra ones, see `RawPacket.header`."""

MAX_HEADER_SIZE = 256
"""Bytes of the longest header that a layout may describe."""

UNLIMITED = (1 << 62) - 1
"""`max_packet_size` of layouts that state no size of their own: the server's limit counts."""

_MAX_WIDTH = 8
_MAX_VARINT = 10


@dataclass(frozen=True, slots=True)
class HeaderField:
    """One number of a header: `name`, `width` in bytes (1 to 8, 3 too), its own byte order, and whether it has a sign.

    `offset`: bytes from the start of the header; None: right behind the field before it.
    """

    name: str
    width: int
    byte_order: ByteOrder = "little"
    signed: bool = False
    offset: int | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not isinstance(self.width, int):
            raise TypeError(f"header field {self.name!r} has a width of {self.width!r}, not a number of bytes")
        if not 1 <= self.width <= _MAX_WIDTH:
            raise ValueError(f"header field {self.name!r} is {self.width} bytes wide, allowed are 1 to {_MAX_WIDTH}")
        if self.byte_order not in ("little", "big"):
            raise ValueError(f"header field {self.name!r} has byte order {self.byte_order!r}, not 'little' or 'big'")
        if self.signed and self.name in ("packet_id", "sequence"):
            raise ValueError(f"header field {self.name!r} cannot be signed; unsigned, its bytes are the same")
        if self.offset is not None and self.offset < 0:
            raise ValueError(f"header field {self.name!r} has the offset {self.offset}")

    @property
    def min_value(self) -> int:
        """The smallest number the field holds."""
        return -(1 << 8 * self.width - 1) if self.signed else 0

    @property
    def max_value(self) -> int:
        """The largest number the field holds."""
        return (1 << 8 * self.width - self.signed) - 1


@dataclass(frozen=True, slots=True)
class VarIntField:
    """One unsigned number of 1 to `max_bytes` bytes (at most 10): 7 bits in each, the lowest first, the top bit says
    that more follow (LEB128, as Minecraft and MQTT have it). Longer than needed is refused.
    """

    name: str
    max_bytes: int = 5

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not 1 <= self.max_bytes <= _MAX_VARINT:
            raise ValueError(f"header field {self.name!r} has {self.max_bytes} bytes, allowed are 1 to {_MAX_VARINT}")

    @property
    def min_value(self) -> int:
        """The smallest number the field holds: 0."""
        return 0

    @property
    def max_value(self) -> int:
        """The largest number the field holds."""
        return (1 << min(64, 7 * self.max_bytes)) - 1


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"header field {name!r} is not named by an identifier")


Field = HeaderField | VarIntField


def _least_size(field: Field) -> int:
    return field.width if isinstance(field, HeaderField) else 1


@dataclass(frozen=True, slots=True)
class HeaderLayout:
    """Packets with a header in front, and maybe a trailer behind.

    `fields` in wire order. Three names have a meaning: `packet_id` chooses the handler (without it every packet has
    the id 0), `packet_size` states the size, `sequence` is handed back in answers (without it it reads as 0); numbers
    of any other name are read as `packet.header[name]`. `size_counts` says what `packet_size` counts on the wire: the
    whole `"packet"`, the bytes `"after"` the size field, the `"body"` between header and trailer, or, as a number,
    how many bytes the whole packet has more than it says. `frame_size`: every packet has so many bytes, and no
    `packet_size`. `trailer`: bytes at the end of every packet, checked and stripped. `min_packet_size` and
    `max_packet_size` limit the whole packet, in bytes; 0: what header, trailer and size field allow.
    `header_size`: bytes of the header, more than its fields take if some at its end mean nothing; 0: what they take.

    Inside gamenet `packet_size` is always the whole packet. Raises `ValueError`, naming the field, when the
    description contradicts itself.
    """

    fields: tuple[Field, ...]
    size_counts: SizeCounts | int = "packet"
    trailer: bytes = b""
    frame_size: int | None = None
    min_packet_size: int = 0
    max_packet_size: int = 0
    header_size: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        if not isinstance(self.trailer, bytes):
            raise TypeError(f"trailer must be bytes, got {type(self.trailer).__name__}")
        self._check_names()
        end = self._check_places()
        if self.header_size == 0:
            object.__setattr__(self, "header_size", end)
        if not self.is_fixed and self.header_size != end:
            raise ValueError(f"a header with a VarInt ends with its last field, not after {self.header_size} bytes")
        if self.header_size < end:
            last = self.fields[-1].name
            raise ValueError(f"header field {last!r} ends at {end}, outside a header of {self.header_size}")
        longest = self.overhead + sum(field.max_bytes - 1 for field in self.fields if isinstance(field, VarIntField))
        if longest > MAX_HEADER_SIZE:
            raise ValueError(f"header and trailer have up to {longest} bytes, above {MAX_HEADER_SIZE}")
        self._check_size_counts()
        self._check_limits()

    @property
    def is_fixed(self) -> bool:
        """Whether every header has `header_size` bytes; with a VarInt that is the shortest."""
        return not any(isinstance(field, VarIntField) for field in self.fields)

    @property
    def overhead(self) -> int:
        """Bytes of the smallest packet: a header, and a trailer."""
        return self.header_size + len(self.trailer)

    @property
    def size_bias(self) -> int:
        """What to add to `packet_size` as it stands on the wire to get the whole packet's, in a fixed header."""
        if not isinstance(self.size_counts, str):
            return self.size_counts
        if self.size_counts == "packet" or not self.has("packet_size"):
            return 0
        return self.overhead if self.size_counts == "body" else self.offset_of("packet_size")[1]

    @property
    def max_sequence(self) -> int:
        """The largest sequence number; 0 without that field."""
        return self.field("sequence").max_value if self.has("sequence") else 0

    @property
    def extra_fields(self) -> tuple[Field, ...]:
        """The fields without a meaning to gamenet."""
        return tuple(field for field in self.fields if field.name not in RESERVED)

    def has(self, name: str) -> bool:
        """Whether there is a field called `name`."""
        return any(field.name == name for field in self.fields)

    def field(self, name: str) -> Field:
        """The field called `name`; `KeyError` if the layout has none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    @property
    def pieces(self) -> tuple[tuple[int, Field], ...]:
        """The fields in wire order, each with the number of meaningless bytes in front of it."""
        pieces, end = [], 0
        for field in self.fields:
            start = end
            if isinstance(field, HeaderField) and field.offset is not None:
                start = field.offset
            pieces.append((start - end, field))
            end = start + _least_size(field)
        return tuple(pieces)

    @property
    def last_gap(self) -> int:
        """Meaningless bytes between the last field and the end of the header."""
        return self.header_size - sum(gap + _least_size(field) for gap, field in self.pieces)

    def offset_of(self, name: str) -> tuple[int, int]:
        """Where the field starts and ends, in bytes from the start of the shortest header; `KeyError` without it."""
        end = 0
        for gap, field in self.pieces:
            start, end = end + gap, end + gap + _least_size(field)
            if field.name == name:
                return start, end
        raise KeyError(name)

    # -- checks

    def _check_names(self) -> None:
        names = [field.name for field in self.fields]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"header field {name!r} stands {names.count(name)} times")
        if self.frame_size is None and "packet_size" not in names:
            raise ValueError(f"a header needs a field 'packet_size' or a frame_size, got {', '.join(names) or 'none'}")
        if self.frame_size is not None and "packet_size" in names:
            raise ValueError("header field 'packet_size' contradicts a frame_size")

    def _check_places(self) -> int:
        """Where the last field ends."""
        end, after_varint = 0, False
        for gap, field in self.pieces:
            if gap < 0:
                raise ValueError(f"header field {field.name!r} at {end + gap} overlaps what ends at {end}")
            if gap and after_varint:
                raise ValueError(f"header field {field.name!r} has an offset behind a VarInt, whose length varies")
            after_varint |= isinstance(field, VarIntField)
            end += gap + _least_size(field)
        return end

    def _check_size_counts(self) -> None:
        if isinstance(self.size_counts, str):
            if self.size_counts not in ("packet", "after", "body"):
                raise ValueError(f"size_counts is {self.size_counts!r}, not 'packet', 'after', 'body' or a number")
        elif not isinstance(self.size_counts, int) or abs(self.size_counts) > MAX_HEADER_SIZE:
            raise ValueError(f"size_counts is {self.size_counts!r}, a number must be within {MAX_HEADER_SIZE} of 0")
        if not self.is_fixed and self.has("packet_size") and self.size_counts not in ("after", "body"):
            raise ValueError("in a header with a VarInt, header field 'packet_size' counts 'after' or 'body'")

    def _check_limits(self) -> None:
        smallest, largest = self.overhead, UNLIMITED
        if self.frame_size is not None:
            least = max(1, smallest)
            if self.frame_size < least:
                raise ValueError(f"frame_size {self.frame_size} is below header and trailer of {least} bytes")
            smallest = largest = self.frame_size
        else:
            largest = min(largest, self.field("packet_size").max_value + self.size_bias)
            if largest < smallest:
                raise ValueError(f"header field 'packet_size' states at most {largest}, a header alone has {smallest}")
        for name, limit, default in (
            ("min_packet_size", self.min_packet_size, smallest), ("max_packet_size", self.max_packet_size, largest),
        ):
            if limit == 0:
                object.__setattr__(self, name, default)
            elif not smallest <= limit <= largest:
                raise ValueError(
                    f"{name} {limit} is outside {smallest} to {largest}, what header field 'packet_size' states"
                )
        if self.min_packet_size > self.max_packet_size:
            raise ValueError(f"min_packet_size {self.min_packet_size} is above max_packet_size {self.max_packet_size}")


@dataclass(frozen=True, slots=True)
class DelimiterLayout:
    """Packets that end with `delimiter`, which stands nowhere in their bodies; all have the id 0.

    `strip`: bytes that are removed if they stand in front of the delimiter, and are sent there, as the CR of lines.
    """

    delimiter: bytes
    strip: bytes = b""

    def __post_init__(self) -> None:
        if not isinstance(self.delimiter, bytes) or not self.delimiter:
            raise ValueError(f"delimiter is {self.delimiter!r}, not one byte or more")
        if not isinstance(self.strip, bytes) or self.delimiter in self.strip + self.delimiter[:-1]:
            raise ValueError(f"strip is {self.strip!r}, not bytes without the delimiter")
        if len(self.ending) > MAX_HEADER_SIZE:
            raise ValueError(f"delimiter and strip have {len(self.ending)} bytes, above {MAX_HEADER_SIZE}")

    @property
    def ending(self) -> bytes:
        """What is sent behind a body."""
        return self.strip + self.delimiter

    @property
    def max_packet_size(self) -> int:
        """No limit of its own: the server's counts."""
        return UNLIMITED

    @property
    def max_sequence(self) -> int:
        """0: there are no sequence numbers."""
        return 0


Layout = HeaderLayout | DelimiterLayout


def packet_limit(layout: Layout, max_packet_size: int) -> int:
    """Bytes of the largest packet that both allow. `TypeError` for what is no layout."""
    if not isinstance(layout, HeaderLayout | DelimiterLayout):
        raise TypeError(f"layout must be a HeaderLayout or DelimiterLayout, got {type(layout).__name__}")
    return min(max_packet_size, layout.max_packet_size)

BOOK_HEADER = HeaderLayout(
    (HeaderField("packet_id", 2), HeaderField("packet_size", 2), HeaderField("sequence", 4)),
)
"""The book's header (9.2.1): id u16, size u16 of the whole packet, sequence u32; little-endian, 8 bytes."""

LINES = DelimiterLayout(b"\n", strip=b"\r")
"""Lines of text: end with LF, an optional CR in front of it is stripped; sent with CR LF."""
