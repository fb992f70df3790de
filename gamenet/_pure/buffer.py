"""Framing: bytes in as they arrive, whole packets out, cut out of the chunk they landed in.

What stays true: a header is checked before anything is kept because of it, so the buffer never holds more of a
packet than `max_packet_size`, in one pooled block, and only while that packet is incomplete. No pointer of it
reaches a caller. One owner thread; other threads hand their bytes to it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from gamenet import errors
from gamenet._pure.header import Header, HeaderCodec
from gamenet._pure.packet import RawPacket, cut_packet
from gamenet._pure.pool import Block, PoolAllocator

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

GATHER_SIZE = 1024
"""Bytes up to which chunks that wait behind unread ones are joined: alone, each would cost some 50 bytes more."""

TAIL = "an incomplete packet"


class PacketBuffer:
    """Cuts packets out of a byte stream: `feed()` chunks of any size, iterate what became whole.

    Packets refer to the chunk they came in (`bytes` is not copied, anything writable is), so they and their views
    stay true. `feed()` is allowed at any time, also while iterating: what it brings is read in its turn. A header
    that cannot be true raises `InvalidPacketError` from the iteration, then and ever after, for nobody knows where
    the next packet starts; `clear()` starts anew. `ValueError` if the pool's blocks are smaller than
    `max_packet_size`.
    Locking rule: one thread at a time; others hand their bytes to it.
    """

    __slots__ = (
        "_broken",
        "_chunk",
        "_codec",
        "_end",
        "_head",
        "_header",
        "_pending",
        "_pending_size",
        "_pool",
        "_position",
        "_source",
        "_start",
        "_tail",
        "_tail_header",
        "_tail_size",
        "_tails",
    )

    def __init__(self, codec: HeaderCodec | None = None, pool: PoolAllocator | None = None) -> None:
        self._codec = HeaderCodec() if codec is None else codec
        self._pool = PoolAllocator(self._codec.max_packet_size) if pool is None else pool
        self._require_room(self._codec)
        self._chunk = b""
        self._position = 0
        self._pending: deque[bytes] = deque()
        self._pending_size = 0
        self._tail: Block | None = None
        self._tail_header: Header | None = None
        self._tail_size = 0
        self._tails = 0  # packets so far that were incomplete at the end of a chunk
        self._broken: Exception | None = None
        # the packet that was cut last: it starts at `_head` of `_source`, its body is `_source[_start:_end]`
        self._header: Header = (0, 0, 0, 0, 0)
        self._source = b""
        self._head = 0
        self._start = 0
        self._end = 0

    @property
    def codec(self) -> HeaderCodec:
        """How packets are framed, and the largest one. May be set at any time, also while iterating: what is buffered
        is then read again under the new one. `ValueError` if the pool's blocks do not hold its packets.
        """
        return self._codec

    @codec.setter
    def codec(self, codec: HeaderCodec) -> None:
        self._require_room(codec)
        if self._tail is not None:
            self._chunk = self._gathered(self._tail) + self._chunk[self._position :]
            self._position = 0
            self._drop_tail()
        self._codec = codec

    def _require_room(self, codec: HeaderCodec) -> None:
        if self._pool.block_size < codec.max_packet_size:
            raise ValueError(
                f"blocks of {self._pool.block_size} bytes do not hold a packet of {codec.max_packet_size}"
            )

    @property
    def buffered(self) -> int:
        """Bytes fed that are not yet part of a packet handed out."""
        return self._tail_size + len(self._chunk) - self._position + self._pending_size

    @property
    def holds_block(self) -> bool:
        """Whether part of a packet waits in a pooled block."""
        return self._tail is not None

    def feed(self, chunk: ReadableBuffer) -> None:
        """Add bytes in the order they arrived. Nothing is checked yet; nothing but a writable chunk is copied."""
        data = chunk if type(chunk) is bytes else bytes(memoryview(chunk))
        if not data:
            return
        if self._position < len(self._chunk) or self._pending:
            self._wait(data)
        else:
            self._chunk = data
            self._position = 0

    def _wait(self, data: bytes) -> None:
        self._pending_size += len(data)
        if self._pending and len(self._pending[-1]) + len(data) <= GATHER_SIZE:
            self._pending[-1] += data
        else:
            self._pending.append(data)

    def clear(self) -> int:
        """Drop everything that is buffered and forget a broken header; returns how many bytes that was."""
        dropped = self.buffered
        self._chunk = self._source = b""
        self._position = self._head = self._start = self._end = 0
        self._pending.clear()
        self._pending_size = 0
        self._drop_tail()
        self._broken = None
        return dropped

    def _take_all(self) -> bytes:
        """Everything that is buffered, in order; nothing is afterwards. A broken header stays broken."""
        taken = [self._chunk[self._position :], *self._pending]
        if self._tail is not None:
            taken.insert(0, self._gathered(self._tail))
        broken = self._broken
        self.clear()
        self._broken = broken
        return b"".join(taken)

    def __iter__(self) -> PacketBuffer:
        return self

    def __next__(self) -> RawPacket:
        if not self._advance():
            raise StopIteration
        return self._packet(RawPacket)

    def _packet(self, packet_type: type[RawPacket]) -> RawPacket:
        """The packet that was cut, with no copy and no check: those were done on its frame."""
        header = self._header
        packet = cut_packet(packet_type, header[0], header[2], self._source, self._start, self._end)
        if self._codec.has_extras:
            packet._head = self._codec, self._source[self._head : self._start]
        return packet

    def _advance(self) -> bool:
        """Cut the next packet. False if none is whole yet."""
        chunk, position, codec = self._chunk, self._position, self._codec
        left = len(chunk) - position
        if not left or self._tail is not None or self._broken is not None:
            return self._advance_slowly()
        try:
            header = codec._scan(chunk, position, left)
            if header is None or header[1] > left:
                return self._advance_slowly()
            if codec.ending:
                codec._check_ending(chunk, position + header[1])
        except errors.InvalidPacketError as error:
            self._broken = error
            raise
        self._header = header
        self._source = chunk
        self._head = position
        self._start = start = position + header[3]
        self._end = start + header[4]
        self._position = position + header[1]
        return True

    def _frame(self, source: bytes, head: int, header: Header) -> None:
        if self._codec.ending:
            self._codec._check_ending(source, head + header[1])
        self._header = header
        self._source = source
        self._head = head
        self._start = head + header[3]
        self._end = self._start + header[4]

    def _cut_run(self, min_body_size: int, max_packets: int) -> list[int]:
        """Cut what follows the packet that was cut last, lies behind it in the chunk, and has its id.

        Where the frames start in `_source`, and where the last one ends.
        """
        chunk, position, packet_id = self._chunk, self._position, self._header[0]
        starts = [self._head, self._head + self._header[1]]
        if self._source is not chunk:  # a completed tail lies elsewhere, and makes a run of its own
            return starts
        while len(starts) <= max_packets:
            header = self._whole_header(position)
            if header is None or header[0] != packet_id or header[4] < min_body_size:
                break
            position += header[1]
            starts.append(position)
        self._position = position
        return starts

    def _whole_header(self, position: int) -> Header | None:
        """What frames a whole, valid packet there, or None: what is wrong with it is told in its turn."""
        left = len(self._chunk) - position
        try:
            header = self._codec._scan(self._chunk, position, left) if left else None
            if header is not None and header[1] <= left:
                self._codec._check_ending(self._chunk, position + header[1])
                return header
        except errors.InvalidPacketError:
            return None
        return None

    def _advance_slowly(self) -> bool:
        """At the end of a chunk, inside a packet, or at an error."""
        if self._broken is not None:
            raise self._broken
        try:
            while not self._cut():
                if not self._next_chunk():
                    return False
        except errors.InvalidPacketError as error:
            self._broken = error
            raise
        return True

    def _next_chunk(self) -> bool:
        self._position = 0
        if self._pending:
            self._chunk = self._pending.popleft()
            self._pending_size -= len(self._chunk)
            return True
        self._chunk = self._source = b""
        return False

    def _cut(self) -> bool:
        """Cut a packet that the tail or the chunk completes, else move the rest of the chunk to the tail."""
        if self._tail is not None:
            return self._complete_tail(self._tail)
        left = len(self._chunk) - self._position
        if not left:
            return False
        header = self._codec._scan(self._chunk, self._position, left)
        if header is not None and header[1] <= left:
            return self._advance()
        self._tail_header = header
        self._tail = self._pool._lend_for(left if header is None else header[1], TAIL)
        self._tails += 1
        self._move_to_tail(self._tail, left)
        return False

    def _complete_tail(self, tail: Block) -> bool:
        while self._tail_header is None:
            if self._position == len(self._chunk):
                return False
            wanted = self._codec._step(self._tail_size, self._chunk, self._position)
            tail = self._reserve_tail(tail, self._tail_size + min(wanted, len(self._chunk) - self._position))
            self._move_to_tail(tail, wanted)
            self._tail_header = self._codec._scan_tail(self._gathered(tail))
        header = self._tail_header
        packet_size = header[1]
        tail = self._reserve_tail(tail, packet_size)
        self._move_to_tail(tail, packet_size - self._tail_size)
        if self._tail_size < packet_size:
            return False
        self._frame(self._gathered(tail), 0, header)
        self._drop_tail()
        return True

    def _gathered(self, tail: Block) -> bytes:
        with memoryview(tail._held()) as view:
            return bytes(view[: self._tail_size])

    def _reserve_tail(self, tail: Block, size: int) -> Block:
        """The tail with `size` bytes of room: only now it is known how many are needed."""
        if size <= tail.size:
            return tail
        self._tail = larger = self._pool._lend_for(size, TAIL)
        larger.write(0, self._gathered(tail))
        tail.release()
        return larger

    def _move_to_tail(self, tail: Block, wanted: int) -> None:
        """Move up to `wanted` bytes of the chunk behind what the tail already holds."""
        moved = self._chunk[self._position : self._position + wanted]
        self._tail_size = tail.write(self._tail_size, moved)
        self._position += len(moved)

    def _drop_tail(self) -> None:
        if self._tail is not None:
            self._tail.release()
        self._tail = None
        self._tail_header = None
        self._tail_size = 0
