"""gamenet: sessions, packets and zero-copy framing for online game servers.

The public names. Everything below imports downwards: errors and layout; the twins; packets, dispatch, timeouts;
sessions; server and client; the command line.
"""

from gamenet._core import (
    Batch,
    Block,
    HeaderCodec,
    PacketBuffer,
    PacketHeader,
    PoolAllocator,
    RawPacket,
    backend,
)
from gamenet.backoff import Backoff
from gamenet.client import Client, connect
from gamenet.client_states import Closed, Connected, Connecting, GivenUp, Lost, Waiting
from gamenet.decoder import Decoder
from gamenet.dispatch import DispatchTable
from gamenet.errors import (
    AuthenticationError,
    CloseReason,
    ErrorCode,
    GameNetError,
    InvalidPacketError,
    PoolCorruptedError,
    PoolExhaustedError,
    SessionClosedError,
    WrongThreadError,
)
from gamenet.fields import char, f32, f64, i8, i16, i32, i64, raw, u8, u16, u32, u64
from gamenet.heartbeat import Heartbeat
from gamenet.layout import BOOK_HEADER, LINES, DelimiterLayout, HeaderField, HeaderLayout, Layout, VarIntField
from gamenet.limits import Limits
from gamenet.manager import Room, SessionGroup, SessionManager
from gamenet.object_pool import Lease, ObjectPool
from gamenet.packets import Packet
from gamenet.reconnect import ReconnectingClient
from gamenet.run import run, serve
from gamenet.server import Server
from gamenet.session import Session
from gamenet.timeouts import Deadline, TimeoutManager

__version__ = "0.1.0"

__all__ = [
    "BOOK_HEADER",
    "LINES",
    "AuthenticationError",
    "Backoff",
    "Batch",
    "Block",
    "Client",
    "CloseReason",
    "Closed",
    "Connected",
    "Connecting",
    "Deadline",
    "Decoder",
    "DelimiterLayout",
    "DispatchTable",
    "ErrorCode",
    "GameNetError",
    "GivenUp",
    "HeaderCodec",
    "HeaderField",
    "HeaderLayout",
    "Heartbeat",
    "InvalidPacketError",
    "Layout",
    "Lease",
    "Limits",
    "Lost",
    "ObjectPool",
    "Packet",
    "PacketBuffer",
    "PacketHeader",
    "PoolAllocator",
    "PoolCorruptedError",
    "PoolExhaustedError",
    "RawPacket",
    "ReconnectingClient",
    "Room",
    "Server",
    "Session",
    "SessionClosedError",
    "SessionGroup",
    "SessionManager",
    "TimeoutManager",
    "VarIntField",
    "Waiting",
    "WrongThreadError",
    "__version__",
    "backend",
    "char",
    "connect",
    "f32",
    "f64",
    "i8",
    "i16",
    "i32",
    "i64",
    "raw",
    "run",
    "serve",
    "u8",
    "u16",
    "u32",
    "u64",
]
