"""What a session sends, gathered until the end of the loop's turn so that it leaves in one system call.

What stays true: bytes are copied when they are handed in, so a caller may change its own at once; an empty outbox
holds no memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gamenet import errors
from gamenet._pure.header import HeaderCodec
from gamenet._pure.packet import RawPacket
from gamenet._pure.pool import PoolAllocator

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Outbox:
    """Appends packets, and hands them out as few large chunks.

    Locking rule: one thread at a time.
    """

    __slots__ = ("_chunk", "_codec", "_pool")

    def __init__(self, codec: HeaderCodec | None = None, pool: PoolAllocator | None = None) -> None:
        self._codec = HeaderCodec() if codec is None else codec
        self._pool = PoolAllocator(self._codec.max_packet_size) if pool is None else pool
        self._chunk = bytearray()

    @property
    def codec(self) -> HeaderCodec:
        """How packets are framed, and the largest one. May be set: what is gathered already stays as it is."""
        return self._codec

    @codec.setter
    def codec(self, codec: HeaderCodec) -> None:
        self._codec = codec

    @property
    def size(self) -> int:
        """Bytes waiting to be taken."""
        return len(self._chunk)

    def append(
        self, packet_id: int, body: ReadableBuffer = b"", sequence: int = 0, header: Mapping[str, int] | None = None
    ) -> int:
        """Add one packet; returns its size with the header. `ValueError` if a number or the body does not fit."""
        codec, held = self._codec, memoryview(body).cast("B")
        if codec.ending:
            codec._check_body(held)
        encoded = codec.encode(packet_id, len(held), sequence, header)
        self._chunk += encoded
        self._chunk += held
        if codec.ending:
            self._chunk += codec.ending
        return len(encoded) + len(held) + len(codec.ending)

    def append_packet(self, packet: RawPacket) -> int:
        """Add `packet` with its own id, body, sequence number and extra fields; returns its size with the header."""
        if not isinstance(packet, RawPacket):
            raise errors.wrong_type("packet", "a packet", packet)
        with packet.view() as body:
            extras = self._codec.extras_of(packet) if self._codec.has_extras else None
            return self.append(packet.packet_id, body, packet.sequence, extras)

    def append_frame(self, frame: bytes) -> int:
        """Add bytes that are whole packets already; returns their number."""
        if not isinstance(frame, bytes):
            raise errors.wrong_type("frame", "bytes", frame)
        self._chunk += frame
        return len(frame)

    def take(self, max_size: int | None = None) -> list[bytes]:
        """What was gathered, in order, as chunks to write: everything, and the outbox is empty afterwards; or the
        first `max_size` bytes, more or less, but some.
        """
        if not self._chunk:
            return []
        if max_size is not None and 0 < max_size < len(self._chunk):
            taken = [bytes(self._chunk[:max_size])]
            del self._chunk[:max_size]
            return taken
        taken = [bytes(self._chunk)]
        self._chunk = bytearray()
        return taken

    def clear(self) -> int:
        """Drop what was gathered; returns how many bytes that was."""
        dropped = len(self._chunk)
        self._chunk = bytearray()
        return dropped
