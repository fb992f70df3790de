"""The resume protocol without any I/O: records, and the state of one end that outlives its connections.

What stays true: every byte that a session sent is kept until the other end said that its session took it; what a
session did not take when a connection ended is forgotten, and is sent again. No byte is handed on twice. Nothing here
knows a loop, a socket or a clock.

Below the session, a connection carries records, packets of a layout of their own (1 byte of kind, 3 bytes of size):

    HELLO    client, first: the seat it had (0: none), its secret, and how many bytes its session took
    WELCOME  server, once, in answer: the same of its side, and whether the seat goes on
    DATA     bytes of the session, as they stand on a wire without resume
    ACK      how many bytes the session took
    PING     asks for an ACK
    END      nothing more will come: an orderly end, where the end of a connection alone is a loss

Counting bytes needs no number in any packet, and leaves layouts, ciphers and sequence numbers of users alone.
"""

from __future__ import annotations

import hmac
import secrets
from collections import deque

from gamenet._core import HeaderCodec, PacketBuffer, PoolAllocator, RawPacket
from gamenet.errors import InvalidPacketError
from gamenet.fields import raw, u16, u64
from gamenet.layout import HeaderField, HeaderLayout
from gamenet.packets import Packet

VERSION = 1
MAGIC = b"gnr\n"

MAX_DATA = 1024
"""Bytes of a session in one record: a link of 250 bytes a second brings one whole in 4 seconds, before the
`assembly_timeout` of what is in it has passed."""

ACK_EVERY = 2048
"""Bytes that are received before they are acknowledged: 12 bytes for 2,048. A sender's `max_resume_buffer` is larger,
or both would wait for ever; and on that same link it hears of progress within its `write_timeout`."""

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


class Welcome(Packet, id=2):
    """The server's answer."""

    version: u16
    resumed: bool
    seat: u64
    secret: bytes = raw(SECRET_SIZE, secret=True)
    received: u64


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
    return hello


def read_welcome(packet: RawPacket) -> Welcome:
    """`InvalidPacketError` for what is none."""
    if packet.packet_id != Welcome._id or packet.body_size != Welcome.body_size_of():
        raise InvalidPacketError(f"record {packet.packet_id} of {packet.body_size} bytes where a WELCOME must be")
    welcome = Welcome.unpack(packet.body)
    if welcome.version != VERSION:
        raise InvalidPacketError(f"a WELCOME of version {welcome.version}, ours is {VERSION}")
    return welcome


def read_ack(packet: RawPacket) -> int:
    """How many bytes it acknowledges; `InvalidPacketError` if it is none."""
    if packet.body_size != Ack.body_size_of():
        raise InvalidPacketError(f"an ACK of {packet.body_size} bytes")
    return Ack.unpack(packet.body).received


class ResumableStream:
    """The bytes of one session, both ways, across connections.

    Sending: `sending()` what the session writes, `acknowledged()` what the peer has, `resending()` on a new
    connection. Receiving: `handed_on()` what the session took, `ack()` now and then, `promise()` on a new connection.
    """

    __slots__ = ("_kept", "_kept_from", "_told", "received", "sent")

    def __init__(self) -> None:
        self.sent = 0
        """Bytes that the session has sent since it began."""
        self.received = 0
        """Bytes that it took since it began."""
        self._kept: deque[bytes] = deque()
        self._kept_from = 0  # where in the stream the first of them begins, or what of it is acknowledged ends
        self._told = 0

    @property
    def unacknowledged(self) -> int:
        """Bytes that are kept, for the peer may not have them."""
        return self.sent - self._kept_from

    def sending(self, data: bytes) -> bytes:
        """Keep `data`, which the session sends; returns it as records."""
        self._kept.append(data)
        self.sent += len(data)
        return _as_records(data)

    def reaches(self, received: int) -> bool:
        """Whether what the peer has not received, if it has `received` bytes, is still here."""
        return self._kept_from <= received <= self.sent

    def acknowledged(self, received: int) -> None:
        """Drop what the peer has. `InvalidPacketError` for less than it said before, or more than was sent."""
        if not self.reaches(received):
            raise InvalidPacketError(f"ACK of {received} bytes, between {self._kept_from} and {self.sent} can be")
        drop = received - self._kept_from
        self._kept_from = received
        while drop:
            first = self._kept.popleft()
            if len(first) > drop:
                self._kept.appendleft(first[drop:])
                return
            drop -= len(first)

    def resending(self) -> bytes:
        """Everything that is kept, as records."""
        return b"".join(map(_as_records, self._kept))

    def handed_on(self, size: int) -> bytes | None:
        """Count bytes that the session took; an ACK to send, if one is due."""
        self.received += size
        return self.ack() if self.received - self._told >= ACK_EVERY else None

    def ack(self) -> bytes:
        """An ACK of what was handed on, as a record: the sender may go on only as fast as the session reads."""
        return record(Ack(received=self.promise()))

    def promise(self) -> int:
        """What to say that was received when a connection is made; what arrived beyond that is sent again."""
        self._told = self.received
        return self.received


def _as_records(data: bytes) -> bytes:
    if len(data) <= MAX_DATA:
        return _CODEC.frame(DATA, data)
    view = memoryview(data)
    return b"".join(_CODEC.frame(DATA, view[start : start + MAX_DATA]) for start in range(0, len(data), MAX_DATA))
