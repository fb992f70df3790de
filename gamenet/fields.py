"""The field kinds of a packet class: what `u16`, `f32` or `char(32)` mean on the wire.

A number's kind is its annotation (`hp: u16`), so the type checker sees an `int`; a sized kind is the field's
specifier (`name: str = char(32)`), as PEP 681 has it. Nothing here knows of packets.
"""

from dataclasses import dataclass
from typing import Annotated, Any


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required()
"""The default of a field that has none."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a field lies on the wire: `code` as in `_core.Field`, `size` in bytes."""

    code: str
    size: int


@dataclass(frozen=True, slots=True)
class Specifier:
    """The right side of a field's declaration: its kind, its default, and whether it is a secret."""

    kind: Kind
    default: Any = REQUIRED
    secret: bool = False


u8 = Annotated[int, Kind("B", 1)]
u16 = Annotated[int, Kind("H", 2)]
u32 = Annotated[int, Kind("I", 4)]
u64 = Annotated[int, Kind("Q", 8)]
i8 = Annotated[int, Kind("b", 1)]
i16 = Annotated[int, Kind("h", 2)]
i32 = Annotated[int, Kind("i", 4)]
i64 = Annotated[int, Kind("q", 8)]
f32 = Annotated[float, Kind("f", 4)]
f64 = Annotated[float, Kind("d", 8)]

BOOLEAN = Kind("?", 1)
"""The kind of a field annotated as plain `bool`: one byte, 0 or 1."""

MAX_FIELD_SIZE = 65535
"""The largest `char()` or `raw()`, in bytes: what the book's packet size can state."""


def char(size: int, *, default: Any = REQUIRED, secret: bool = False) -> Any:
    """Text in a C `char[size]`: UTF-8, filled up with NULs, read up to the first NUL and never beyond `size`.

    A text of exactly `size` bytes has no NUL behind it: a C reader must respect the size. Longer text, or text with
    a NUL inside, raises `ValueError` when it is set. Bytes that are no UTF-8 read as U+FFFD. A `secret` field shows
    as `***` in a repr. `ValueError` if `size` is not 1 to 65535.
    """
    return Specifier(Kind("t", _checked(size)), default, secret)


def raw(size: int, *, default: Any = REQUIRED, secret: bool = False) -> Any:
    """`size` bytes as they are; fewer are filled up with zeros, more raise `ValueError` when they are set.

    `ValueError` if `size` is not 1 to 65535.
    """
    return Specifier(Kind("s", _checked(size)), default, secret)


def _checked(size: int) -> int:
    if not isinstance(size, int):
        raise TypeError(f"a field's size must be an int, got {type(size).__name__}")
    if not 1 <= size <= MAX_FIELD_SIZE:
        raise ValueError(f"a field of {size} bytes is outside 1 to {MAX_FIELD_SIZE}")
    return size
