"""The only module that knows there are two twins: takes the compiled one if it was built, else the pure one.

`GAMENET_PURE=1` in the environment asks for the pure one. A broken extension is an error, not a reason to fall back.
"""

import os
from typing import TYPE_CHECKING


def _compiled_is_missing(error: ModuleNotFoundError) -> bool:
    return (error.name or "").startswith("gamenet._compiled.")


if TYPE_CHECKING:
    from gamenet import _pure as twin

    backend: str
elif os.environ.get("GAMENET_PURE") == "1":
    from gamenet import _pure as twin

    backend = "pure"
else:
    try:
        from gamenet import _compiled as twin

        backend = "compiled"
    except ModuleNotFoundError as error:
        if not _compiled_is_missing(error):
            raise
        from gamenet import _pure as twin

        backend = "pure"

Batch = twin.Batch
Block = twin.Block
CallRunner = twin.CallRunner
DelimiterCodec = twin.DelimiterCodec
Field = twin.Field
FlushQueue = twin.FlushQueue
HeaderCodec = twin.HeaderCodec
Ledger = twin.Ledger
Mailbox = twin.Mailbox
Outbox = twin.Outbox
PacketBuffer = twin.PacketBuffer
PacketHeader = twin.PacketHeader
PingRoute = twin.PingRoute
PongRoute = twin.PongRoute
PoolAllocator = twin.PoolAllocator
RateBucket = twin.RateBucket
RawPacket = twin.RawPacket
Receiver = twin.Receiver
Route = twin.Route
RouteTable = twin.RouteTable
Stream = twin.Stream
Struct = twin.Struct
TurnQueue = twin.TurnQueue
TypedPacket = twin.TypedPacket
broadcast = twin.broadcast
codec_for = twin.codec_for
send_frame_to = twin.send_frame_to
