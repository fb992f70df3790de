# The twins have the same names and signatures (tests/test_twins.py): the pure one is the typed description of both.
from gamenet._pure import (
    Block as Block,
    Field as Field,
    FlushQueue as FlushQueue,
    HeaderCodec as HeaderCodec,
    Ledger as Ledger,
    Outbox as Outbox,
    PacketBuffer as PacketBuffer,
    PacketHeader as PacketHeader,
    PoolAllocator as PoolAllocator,
    RawPacket as RawPacket,
    Route as Route,
    RouteTable as RouteTable,
    Stream as Stream,
    Struct as Struct,
    TypedPacket as TypedPacket,
    broadcast as broadcast,
)
