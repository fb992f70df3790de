"""A packet: an id, a sequence number and a body that stays true for as long as anyone looks at it.

What stays true: `_source` holds the bytes of the body and is never written to while anyone else can see it, so
neither a kept packet nor a view of one can dangle or change.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from gamenet import errors

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from gamenet._pure.header import HeaderCodec

MAX_NUMBER = (1 << 64) - 1


def as_number(name: str, value: int) -> int:
    """`value` as a number of the wire; `TypeError` or `ValueError` if it is none."""
    try:
        number = operator.index(value)
    except TypeError:
        raise errors.wrong_type(name, "an int", value) from None
    if not 0 <= number <= MAX_NUMBER:
        raise errors.number_does_not_fit(name, number, 0, MAX_NUMBER)
    return number


class RawPacket:
    """A packet without declared fields, as handlers of a bare packet id and `PacketBuffer` see it.

    Handlers may keep a packet: its bytes are then its own. Compares by class, packet id and body.
    Locking rule: one thread at a time.
    """

    __slots__ = ("_end", "_head", "_packet_id", "_sequence", "_source", "_start")

    __hash__ = None  # type: ignore[assignment]

    _packet_id: int
    _sequence: int
    _source: bytes
    _start: int
    _end: int
    _head: tuple[HeaderCodec, bytes] | None  # what reads the extra fields, and their header; None if it has none

    def __init__(self, packet_id: int, body: ReadableBuffer = b"", sequence: int = 0) -> None:
        self._packet_id = as_number("packet_id", packet_id)
        self._sequence = as_number("sequence", sequence)
        self._head = None
        self._set_body(bytes(memoryview(body)))

    def _set_body(self, body: bytes) -> None:
        self._source = body
        self._start = 0
        self._end = len(body)

    @property
    def packet_id(self) -> int:
        """The id that chose the handler."""
        return self._packet_id

    @property
    def sequence(self) -> int:
        """The header's sequence number; an answer carries the one of its request. May be set."""
        return self._sequence

    @sequence.setter
    def sequence(self, value: int) -> None:
        self._sequence = as_number("sequence", value)

    @property
    def header(self) -> dict[str, int]:
        """The numbers of its header that have no meaning to gamenet, by name; empty unless the layout has some."""
        if self._head is None:
            return {}
        codec, header = self._head
        return codec._extras(header)

    @property
    def body(self) -> bytes:
        """The bytes behind the header."""
        return self._source[self._start : self._end]

    @property
    def body_size(self) -> int:
        """Bytes behind the header."""
        return self._end - self._start

    def view(self) -> memoryview:
        """A read-only view of the body, made without copying it. It stays true after the handler returned."""
        return memoryview(self._source)[self._start : self._end]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RawPacket) or type(self) is not type(other):
            return NotImplemented
        return self._packet_id == other._packet_id and self.body == other.body

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._packet_id, self.body, self._sequence)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(packet_id={self._packet_id}, body_size={self.body_size}, "
            f"sequence={self._sequence})"
        )


def cut_packet(
    packet_type: type[RawPacket], packet_id: int, sequence: int, source: bytes, start: int, end: int
) -> RawPacket:
    """A packet whose body is `source[start:end]`, with no copy and no check: those were done on the header."""
    packet = packet_type.__new__(packet_type)
    packet._packet_id = packet_id
    packet._sequence = sequence
    packet._source = source
    packet._start = start
    packet._end = end
    packet._head = None
    return packet
