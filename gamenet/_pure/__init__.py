"""The pure twins: the readable specification of `gamenet._compiled`, and what runs without a compiler."""

from gamenet._pure.batch import Batch
from gamenet._pure.buffer import PacketBuffer
from gamenet._pure.calls import CallRunner, send_frame_to
from gamenet._pure.codec import Field, Struct, TypedPacket
from gamenet._pure.delimiter import DelimiterCodec, codec_for
from gamenet._pure.header import HeaderCodec, PacketHeader
from gamenet._pure.ledger import Ledger
from gamenet._pure.mailbox import Mailbox
from gamenet._pure.outbox import Outbox
from gamenet._pure.packet import RawPacket
from gamenet._pure.pool import Block, PoolAllocator
from gamenet._pure.rate import RateBucket
from gamenet._pure.receiver import Receiver
from gamenet._pure.routes import PingRoute, PongRoute, Route, RouteTable
from gamenet._pure.stream import FlushQueue, Stream, broadcast
from gamenet._pure.turns import TurnQueue

__all__ = [
    "Batch",
    "Block",
    "CallRunner",
    "DelimiterCodec",
    "Field",
    "FlushQueue",
    "HeaderCodec",
    "Ledger",
    "Mailbox",
    "Outbox",
    "PacketBuffer",
    "PacketHeader",
    "PingRoute",
    "PongRoute",
    "PoolAllocator",
    "RateBucket",
    "RawPacket",
    "Receiver",
    "Route",
    "RouteTable",
    "Stream",
    "Struct",
    "TurnQueue",
    "TypedPacket",
    "broadcast",
    "codec_for",
    "send_frame_to",
]
