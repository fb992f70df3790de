"""The compiled twins: the same names as `gamenet._pure`, and what ships in the wheels."""

from gamenet._compiled.batch import Batch
from gamenet._compiled.buffer import PacketBuffer
from gamenet._compiled.calls import CallRunner, send_frame_to
from gamenet._compiled.codec import Field, Struct, TypedPacket
from gamenet._compiled.delimiter import DelimiterCodec, codec_for
from gamenet._compiled.header import HeaderCodec, PacketHeader
from gamenet._compiled.ledger import Ledger
from gamenet._compiled.mailbox import Mailbox
from gamenet._compiled.outbox import Outbox
from gamenet._compiled.packet import RawPacket
from gamenet._compiled.pool import Block, PoolAllocator
from gamenet._compiled.rate import RateBucket
from gamenet._compiled.receiver import Receiver
from gamenet._compiled.routes import PingRoute, PongRoute, Route, RouteTable
from gamenet._compiled.stream import FlushQueue, Stream, broadcast
from gamenet._compiled.turns import TurnQueue

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
