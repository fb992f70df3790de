"""A wire header as data: which fields stand at the front of every packet, how wide, in which byte order.

Imports nothing of gamenet. A layout is checked once, when it is made; codecs (`_core.HeaderCodec`) trust it.
"""

from dataclasses import dataclass
from typing import Literal

ByteOrder = Literal["little", "big"]
SizeCounts = Literal["packet", "after", "body"]

_FIELD_NAMES = ("packet_id", "packet_size", "sequence")
_MAX_WIDTH = 8


@dataclass(frozen=True, slots=True)
class HeaderField:
    """One unsigned number of a header: `name`, `width` in bytes (1-8), and its own byte order."""

    name: str
    width: int
    byte_order: ByteOrder = "little"

    def __post_init__(self) -> None:
        if self.name not in _FIELD_NAMES:
            raise ValueError(f"header field {self.name!r} is none of {', '.join(_FIELD_NAMES)}")
        if not 1 <= self.width <= _MAX_WIDTH:
            raise ValueError(f"header field {self.name!r} is {self.width} bytes wide, allowed are 1 to {_MAX_WIDTH}")
        if self.byte_order not in ("little", "big"):
            raise ValueError(f"header field {self.name!r} has byte order {self.byte_order!r}, not 'little' or 'big'")

    @property
    def max_value(self) -> int:
        """The largest number the field holds."""
        return (1 << 8 * self.width) - 1


@dataclass(frozen=True, slots=True)
class HeaderLayout:
    """A header of fixed fields, packed one after the other.

    `fields` in wire order: `packet_id` and `packet_size` must be there, `sequence` may be missing (it then reads
    as 0). `size_counts` says what `packet_size` counts on the wire: the whole `"packet"`, the bytes `"after"` the
    size field, or the `"body"` behind the header. Inside gamenet `packet_size` is always the whole packet.
    Raises `ValueError`, naming the field, when the description contradicts itself.
    """

    fields: tuple[HeaderField, ...]
    size_counts: SizeCounts = "packet"

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        for name in ("packet_id", "packet_size"):
            if name not in names:
                raise ValueError(f"a header needs a field {name!r}, got {', '.join(names) or 'none'}")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"header field {name!r} stands {names.count(name)} times")
        if self.size_counts not in ("packet", "after", "body"):
            raise ValueError(f"size_counts is {self.size_counts!r}, not 'packet', 'after' or 'body'")

    @property
    def header_size(self) -> int:
        """Bytes of the whole header."""
        return sum(field.width for field in self.fields)

    @property
    def size_bias(self) -> int:
        """What to add to `packet_size` as it stands on the wire to get the size of the whole packet."""
        if self.size_counts == "packet":
            return 0
        return self.header_size if self.size_counts == "body" else self.offset_of("packet_size")[1]

    @property
    def max_packet_size(self) -> int:
        """The largest whole packet that the size field can state."""
        return self.field("packet_size").max_value + self.size_bias

    def field(self, name: str) -> HeaderField:
        """The field called `name`; `KeyError` if the layout has none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    def offset_of(self, name: str) -> tuple[int, int]:
        """Where the field starts and ends, in bytes from the start of the header; `KeyError` if there is none."""
        start = 0
        for field in self.fields:
            if field.name == name:
                return start, start + field.width
            start += field.width
        raise KeyError(name)


BOOK_HEADER = HeaderLayout(
    (HeaderField("packet_id", 2), HeaderField("packet_size", 2), HeaderField("sequence", 4)),
)
"""The book's header (9.2.1): id u16, size u16 of the whole packet, sequence u32; little-endian, 8 bytes."""
