"""Packets that end with a delimiter, lines above all.

What stays true: no more than `max_packet_size` bytes are looked at, and none of them twice, however they arrive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gamenet import errors
from gamenet._pure.header import Header, HeaderCodec
from gamenet._pure.packet import as_number
from gamenet.layout import DelimiterLayout, Layout

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class DelimiterCodec(HeaderCodec):
    """Finds and writes the ends of packets; their headers have no bytes, their ids and sequence numbers are 0.

    `ValueError` if `max_packet_size` does not hold a delimiter. Locking rule: never changes; any thread.
    """

    __slots__ = ("_delimiter", "_strip")

    def __init__(self, layout: DelimiterLayout, max_packet_size: int = 8192) -> None:
        if max_packet_size < len(layout.ending):
            raise errors.number_does_not_fit(
                "max_packet_size", max_packet_size, len(layout.ending), layout.max_packet_size
            )
        self.layout = layout
        self.header_size = 0
        self.max_packet_size = max_packet_size
        self.ending = layout.ending
        self.has_extras = False
        self._delimiter = layout.delimiter
        self._strip = layout.strip
        self._scan = self._scan_delimited

    def _scan_delimited(self, data: ReadableBuffer, offset: int, available: int) -> Header | None:
        end = offset + min(available, self.max_packet_size)
        held = data if isinstance(data, bytes) else bytes(memoryview(data).cast("B")[:end])
        found = held.find(self._delimiter, offset, end)
        return self._framed(held, offset, found - offset, available)

    def _framed(self, held: bytes, offset: int, found: int, available: int) -> Header | None:
        if found < 0:
            if available >= self.max_packet_size:
                raise errors.no_delimiter(self._delimiter, self.max_packet_size)
            return None
        has_strip = bool(self._strip) and held.endswith(self._strip, offset, offset + found)
        body_size = found - len(self._strip) if has_strip else found
        return 0, found + len(self._delimiter), 0, 0, body_size

    def _check_ending(self, data: bytes, end: int) -> None:
        """It was found there."""

    def _scan_tail(self, gathered: bytes) -> Header | None:
        """As `_scan`, but the delimiter can only be where `_step` stopped."""
        found = len(gathered) - len(self._delimiter) if gathered.endswith(self._delimiter) else -1
        return self._framed(gathered, 0, found, len(gathered))

    def _step(self, gathered: int, chunk: bytes, position: int) -> int:
        room = self.max_packet_size - gathered
        found = chunk.find(self._delimiter[-1:], position, position + room)
        return room if found < 0 else found + 1 - position

    def encode(
        self, packet_id: int, body_size: int, sequence: int = 0, header: Mapping[str, int] | None = None
    ) -> bytes:
        """Nothing: there is no header. `ValueError` for an id or sequence number but 0, a field, or a body too long."""
        for name, number in (("packet_id", packet_id), ("sequence", sequence)):
            if as_number(name, number):
                raise errors.number_does_not_fit(name, number, 0, 0)
        for name in header or ():
            raise errors.no_such_header_field(name, [])
        if body_size < 0 or body_size + len(self.ending) > self.max_packet_size:
            raise errors.packet_does_not_fit(body_size + len(self.ending), self.max_packet_size)
        return b""

    def _check_body(self, body: memoryview) -> None:
        index = (bytes(body) + self.ending).find(self._delimiter)
        if index < len(body):
            raise errors.body_has_delimiter(self._delimiter, index)


def codec_for(layout: Layout, max_packet_size: int) -> HeaderCodec:
    """The codec of a layout, whatever its kind. `ValueError` if `max_packet_size` is outside what it allows."""
    if isinstance(layout, DelimiterLayout):
        return DelimiterCodec(layout, max_packet_size)
    return HeaderCodec(layout, max_packet_size)
