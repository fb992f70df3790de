"""Batches: a run of consecutive packets of one id, handed over at once.

What stays true: the source is `bytes` that nobody writes to, so a batch, its packets and its columns can be kept.
"""

from __future__ import annotations

import operator
import sys
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from gamenet import errors
from gamenet._pure.codec import Field, TypedPacket
from gamenet._pure.packet import RawPacket, cut_packet

if TYPE_CHECKING:
    from gamenet._pure.header import HeaderCodec

PacketT = TypeVar("PacketT", bound=RawPacket)

MAX_PACKETS = 4096
"""The most packets of one batch; a longer run makes several."""


class RunSender(Protocol):
    """Who answers a batch: the stream, which lies above this module. Locking rule: the stream's thread only."""

    def _send_run(self, batch: Batch[Any]) -> bool: ...


class Batch(Generic[PacketT]):
    """A run of consecutive packets of one id, as a batch handler gets it.

    Iterating or indexing gives packets of the handler's class; they, the batch and its columns may be kept. Locking
    rule: one thread at a time, and its handler's is the stream's.
    """

    __slots__ = ("_codec", "_packet_id", "_packet_type", "_sender", "_source", "_starts")

    _sender: RunSender
    _codec: HeaderCodec
    _packet_type: type[PacketT]
    _packet_id: int
    _source: bytes
    _starts: list[int]  # where the frames start in `_source`, and where the last one ends

    def __init__(self) -> None:
        raise TypeError("batches are made for batch handlers")

    @property
    def packet_id(self) -> int:
        """The id of every packet."""
        return self._packet_id

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[PacketT]:
        return map(self._cut, range(len(self)))

    def __getitem__(self, index: int) -> PacketT:
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise errors.no_such_packet(number, len(self))
        return self._cut(number if number >= 0 else number + len(self))

    def reply(self) -> bool:
        """Answer every packet with itself: the same id, sequence number and body.

        True if all were taken, False if the session is closed. `WrongThreadError` as `Stream.send`.
        """
        return self._sender._send_run(self)

    def column(self, name: str) -> memoryview:
        """The field `name` of every packet, in order, as a read-only memoryview of one dimension.

        Its format is `struct`'s. A packed copy, bools made 0 or 1; the compiled twin copies only where it must.
        Python itself cannot make a view of format `"<size>s"`: here text and raw fields are bytes (`"B"`) of shape
        (packets, size). `AttributeError` if the class has no such field, `ValueError` if a body is too short for it.
        """
        field = self._field(name)
        self._require_room(field)
        starts = [self._body_of(index)[0] + field.offset for index in range(len(self))]
        items = [self._source[start : start + field.size] for start in starts]
        if field.code in ("t", "s"):
            return memoryview(b"".join(items)).cast("B", (len(self), field.size))
        if field.code == "?":
            items = [b"\0" if item == b"\0" else b"\1" for item in items]
        elif field.byte_order != sys.byteorder:
            items = [item[::-1] for item in items]
        return memoryview(b"".join(items)).cast(field.code)  # type: ignore[call-overload, no-any-return]

    def __repr__(self) -> str:
        return f"Batch(packet_id={self._packet_id}, packets={len(self)})"

    def _cut(self, index: int) -> PacketT:
        start, end, sequence = self._body_of(index)
        packet = cut_packet(self._packet_type, self._packet_id, sequence, self._source, start, end)
        if self._codec.has_extras:
            packet._head = self._codec, self._source[self._starts[index] : start]
        assert isinstance(packet, self._packet_type)
        return packet

    def _body_of(self, index: int) -> tuple[int, int, int]:
        """Where the body of packet `index` starts and ends in the source, and its sequence number."""
        start, end = self._starts[index], self._starts[index + 1]
        header = self._codec._scan(self._source, start, end - start)
        assert header is not None
        return start + header[3], start + header[3] + header[4], header[2]

    def _packets_above(self, first: int, room: int) -> int:
        """How many packets from `first` on are just above `room` bytes together; all the rest if they fit."""
        above = bisect_right(self._starts, self._starts[first] + room, first + 1)
        return min(above, len(self)) - first

    def _field(self, name: str) -> Field:
        if issubclass(self._packet_type, TypedPacket):
            for field in self._packet_type._struct.fields:
                if field.name == name:
                    return field
        raise errors.no_such_field(self._packet_type.__name__, name)

    def _require_room(self, field: Field) -> None:
        """`ValueError` if the field is not in every body: the route may ask for less than the struct."""
        needed = field.offset + field.size
        for index in range(len(self)):
            start, end, _ = self._body_of(index)
            if end - start < needed:
                raise errors.body_too_short(self._packet_type.__name__, end - start, needed)


def cut_batch(
    sender: RunSender, codec: HeaderCodec, packet_type: type[RawPacket], packet_id: int, source: bytes,
    starts: list[int],
) -> Batch[Any]:
    """A batch of the frames at `starts` in `source`, with no copy and no check: those were done on the headers."""
    batch: Batch[Any] = Batch.__new__(Batch)
    batch._sender = sender
    batch._codec = codec
    batch._packet_type = packet_type
    batch._packet_id = packet_id
    batch._source = source
    batch._starts = starts
    return batch
