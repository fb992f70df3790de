"""The resume protocol without any I/O: records, and the state of one end that outlives its connections.

What stays true: every byte that a session sent is kept until the other end said that its session took it; what a
session did not take when a connection ended is forgotten, and is sent again. No byte is handed on twice. Nothing here
knows a loop, a socket or a clock.

Below the session, a connection carries records, packets of a layout of their own (1 byte of kind, 3 bytes of size):

    HELLO    client, first: the seat it had (0: none), its secret, how many bytes its session took, and its window
    WELCOME  server, once, in answer: the same of its side, and whether the seat goes on
    DATA     bytes of the session, as they stand on a wire without resume
    ACK      how many bytes the session took
    PING     asks for an ACK
    END      nothing more will come: an orderly end, where the end of a connection alone is a loss

A window is how many bytes may be on the way and not acknowledged: what a session that does not read lets wait. With
more the connection would have to be left unread, with the ACKs on it, and two ends could wait for each other.

Counting bytes needs no number in any packet, and leaves layouts, ciphers and sequence numbers of users alone.
"""

from __future__ import annotations

import hmac
import secrets
from collections import deque
from typing import TypeVar

from gamenet._core import HeaderCodec, PacketBuffer, PoolAllocator, RawPacket
from gamenet.errors import InvalidPacketError
from gamenet.fields import raw, u16, u64
from gamenet.layout import HeaderField, HeaderLayout
from gamenet.limits import MIN_RESUME_BUFFER
from gamenet.packets import Packet

VERSION = 1
MAGIC = b"gnr\n"

MAX_DATA = 1024
"""Bytes of a session in one record: a link of 250 bytes a second brings one whole in 4 seconds, before the
`assembly_timeout` of what is in it has passed."""

ACK_EVERY = 2048
"""Bytes that are received before they are acknowledged: 12 bytes for 2,048. A window is larger, or both would wait for
ever; and on that same link a sender hears of progress within its `write_timeout`."""

MIN_WINDOW = MIN_RESUME_BUFFER
"""The smallest window."""

SECRET_SIZE = 16

_LAYOUT = HeaderLayout((HeaderField("packet_id", 1), HeaderField("packet_size", 3)))
_CODEC = HeaderCodec(_LAYOUT, MAX_DATA + 4)


class Hello(Packet, id=1):
    """A client's first record."""

    magic: bytes = raw(4)
    version: u16
    seat: u64
    secret: bytes = raw(SECRET_SIZE, secret=True)
    received: u64
    window: u64


class Welcome(Packet, id=2):
    """The server's answer."""

    version: u16
    resumed: bool
    seat: u64
    secret: bytes = raw(SECRET_SIZE, secret=True)
    received: u64
    window: u64


_GreetingT = TypeVar("_GreetingT", Hello, Welcome)


class Ack(Packet, id=4):
    """How many bytes the session took since it began."""

    received: u64


DATA, PING, END = 3, 5, 6


def record(packet: Packet | int) -> bytes:
    """A record of one of the classes above, or an empty one, as bytes to write."""
    if isinstance(packet, int):
        return _CODEC.frame(packet)
    return _CODEC.frame(packet.packet_id, packet.body)


def new_secret() -> bytes:
    """What only the two ends of one seat know; 128 bits of the system's randomness."""
    return secrets.token_bytes(SECRET_SIZE)


def same_secret(one: bytes, other: bytes) -> bool:
    """Whether they are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, other)


def new_pool(max_blocks: int) -> PoolAllocator:
    """Blocks for records that have arrived in part; so many are kept."""
    return PoolAllocator(_CODEC.max_packet_size, max_blocks=max_blocks)


def new_reader(pool: PoolAllocator) -> PacketBuffer:
    """What cuts records out of what arrives on one connection."""
    return PacketBuffer(_CODEC, pool)


def read_hello(packet: RawPacket) -> Hello:
    """`InvalidPacketError` for what is none."""
    if packet.packet_id != Hello._id or packet.body_size != Hello.body_size_of():
        raise InvalidPacketError(
            f"record {packet.packet_id} of {packet.body_size} bytes where a HELLO must be: clients of a server with "
            "resume=True need it, too"
        )
    hello = Hello.unpack(packet.body)
    if hello.magic != MAGIC or hello.version != VERSION:
        raise InvalidPacketError(f"a HELLO of version {hello.version} with {hello.magic!r}, ours is {VERSION}")
    return _checked(hello)


def read_welcome(packet: RawPacket) -> Welcome:
    """`InvalidPacketError` for what is none."""
    if packet.packet_id != Welcome._id or packet.body_size != Welcome.body_size_of():
        raise InvalidPacketError(f"record {packet.packet_id} of {packet.body_size} bytes where a WELCOME must be")
    welcome = Welcome.unpack(packet.body)
    if welcome.version != VERSION:
        raise InvalidPacketError(f"a WELCOME of version {welcome.version}, ours is {VERSION}")
    return _checked(welcome)


def _checked(greeting: _GreetingT) -> _GreetingT:
    if greeting.window < MIN_WINDOW:
        raise InvalidPacketError(f"a window of {greeting.window} bytes is below {MIN_WINDOW}")
    return greeting


def read_ack(packet: RawPacket) -> int:
    """How many bytes it acknowledges; `InvalidPacketError` if it is none."""
    if packet.body_size != Ack.body_size_of():
        raise InvalidPacketError(f"an ACK of {packet.body_size} bytes")
    return Ack.unpack(packet.body).received


class ResumableStream:
    """The bytes of one session, both ways, across connections.

    Sending: `sending()` what the session writes, `acknowledged()` what the peer has, which may let more leave,
    `resending()` on a new connection. No more than the window is written and not acknowledged.
    Receiving: `handed_on()` what the session took, `ack()` now and then, `promise()` on a new connection.
    """

    __slots__ = ("_kept", "_kept_from", "_told", "_waiting", "_written", "received", "sent", "window")

    def __init__(self, window: int = MIN_WINDOW) -> None:
        self.sent = 0
        """Bytes that the session has sent since it began."""
        self.received = 0
        """Bytes that it took since it began."""
        self.window = window
        """Bytes that may be written and not acknowledged; set with each connection."""
        self._kept: deque[bytes | memoryview] = deque()  # written on this connection, or the last one
        self._kept_from = 0  # where in the stream the first of them begins, or what of it is acknowledged ends
        self._written = 0  # where the last of them ends
        self._waiting: deque[bytes | memoryview] = deque()  # what is behind that
        self._told = 0

    @property
    def unacknowledged(self) -> int:
        """Bytes that are kept, for the peer may not have them."""
        return self.sent - self._kept_from

    @property
    def acknowledged_up_to(self) -> int:
        """How many bytes the peer said that it has."""
        return self._kept_from

    @property
    def is_full(self) -> bool:
        """Whether more would have to wait for an acknowledgement."""
        return self.sent - self._kept_from >= self.window

    def sending(self, data: bytes) -> bytes:
        """Keep `data`, which the session sends; returns what may leave, as records."""
        self.sent += len(data)
        if self.sent - self._kept_from > self.window:
            self._waiting.append(data)
            return self._due(self.window)
        self._kept.append(data)
        self._written = self.sent
        return _as_records(data)

    def reaches(self, received: int) -> bool:
        """Whether what the peer has not received, if it has `received` bytes, is still here."""
        return self._kept_from <= received <= self._written

    def acknowledged(self, received: int) -> bytes:
        """Drop what the peer has; returns what may leave now, as records. `InvalidPacketError` for less than it said
        before, or more than was written.
        """
        if not self.reaches(received):
            raise InvalidPacketError(f"ACK of {received} bytes, between {self._kept_from} and {self._written} can be")
        drop = received - self._kept_from
        self._kept_from = received
        while drop:
            first = self._kept.popleft()
            if len(first) > drop:
                self._kept.appendleft(memoryview(first)[drop:])
                break
            drop -= len(first)
        return self._due(self.window) if self._waiting else b""

    def resending(self) -> bytes:
        """What of everything that is kept may leave on a new connection, as records."""
        self._waiting.extendleft(reversed(self._kept))
        self._kept.clear()
        self._written = self._kept_from
        return self._due(self.window)

    def ending(self) -> bytes:
        """What has not been written, as records: no acknowledgement will be waited for any more."""
        return self._due(self.unacknowledged)

    def _due(self, window: int) -> bytes:
        """What waits, up to so many bytes that are not acknowledged."""
        room = self._kept_from + window - self._written
        records = []
        while self._waiting and room > 0:
            data = self._waiting.popleft()
            if len(data) > room:
                view = memoryview(data)
                self._waiting.appendleft(view[room:])
                data = view[:room]
            self._kept.append(data)
            self._written += len(data)
            room -= len(data)
            records.append(_as_records(data))
        return b"".join(records)

    def handed_on(self, size: int) -> bool:
        """Count bytes that the session took; whether an ACK is due."""
        self.received += size
        return self.received - self._told >= ACK_EVERY

    def ack(self) -> bytes:
        """An ACK of what was handed on, as a record: the sender may go on only as fast as the session reads."""
        return record(Ack(received=self.promise()))

    def promise(self) -> int:
        """What to say that was received when a connection is made; what arrived beyond that is sent again."""
        self._told = self.received
        return self.received


def _as_records(data: bytes | memoryview) -> bytes:
    if len(data) <= MAX_DATA:
        return _CODEC.frame(DATA, data)
    view = memoryview(data)
    return b"".join(_CODEC.frame(DATA, view[start : start + MAX_DATA]) for start in range(0, len(data), MAX_DATA))
