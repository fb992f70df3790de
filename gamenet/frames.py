"""A packet as bytes, made apart from any session: for broadcasts, other threads, and sends that wait.

What stays true: the same arguments give the same bytes as `Session.send`. Any thread may make them: a codec never
changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gamenet._core import HeaderCodec, RawPacket

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def frame_of(
    codec: HeaderCodec,
    packet: RawPacket | int,
    body: ReadableBuffer = b"",
    sequence: int | None = None,
    header: Mapping[str, int] | None = None,
) -> bytes:
    """A whole packet as bytes; arguments and errors as in `Session.send`."""
    if isinstance(packet, RawPacket):
        if body != b"":
            raise TypeError("a packet brings its own body")
        sequence = packet.sequence if sequence is None else sequence
        if header is None and codec.has_extras:
            header = codec.extras_of(packet)
        return codec.frame(packet.packet_id, packet.body, sequence, header)
    return codec.frame(packet, body, 0 if sequence is None else sequence, header)
