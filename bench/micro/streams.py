"""A stream to do the work, with nothing around it: no loop, no socket."""

import time
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any

from bench.micro.traffic import MOVE_ID
from bench.micro.workload import Run

Handler = Callable[[Any, Any], Any]


class Sink:
    """A transport that takes everything and keeps nothing. Calls into C, as those of real transports mostly are."""

    write = writelines = deque[object](maxlen=0).append


class Keeper:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.write = self.chunks.append
        self.writelines = self.chunks.extend

    def everything(self) -> bytes:
        return b"".join(self.chunks)


def flush_queue(twin: ModuleType) -> Any:
    """A flush queue with no loop: whoever measures calls `flush()` where a loop's turn would end."""
    return twin.FlushQueue(lambda flush: None)


def stream(
    twin: ModuleType,
    handler: Handler,
    sink: Any = None,
    clock: Callable[[], float] = time.monotonic,
    receiver: Any = None,
    queue: Any = None,
    **route: Any,
) -> Any:
    """A stream of `twin` whose moves go to `handler`; `route` are further arguments of `Route`."""
    routes = twin.RouteTable()
    routes.set(MOVE_ID, twin.Route(handler, **route))
    queue = queue or flush_queue(twin)
    made = twin.Stream(
        twin.HeaderCodec(), twin.PoolAllocator(), routes, twin.Ledger(), queue, clock, receiver=receiver
    )
    made.attach(sink or Sink())
    return made


def empty_handler(session: Any, packet: Any) -> None:
    pass


def handled(make: Callable[..., Run]) -> Callable[[ModuleType], object]:
    """What the handlers of `make` see: `make(twin, handler)` with a handler that looks at everything."""

    def output(twin: ModuleType) -> object:
        seen: list[tuple[int, int, bytes]] = []
        make(twin, lambda session, packet: seen.append((packet.packet_id, packet.sequence, packet.body)))()
        return seen

    return output


def sent(make: Callable[..., Run]) -> Callable[..., object]:
    """What leaves through `make(sink)`, or `make(twin, sink)`, with a transport that keeps everything."""

    def output(*twin: ModuleType) -> object:
        keeper = Keeper()
        make(*twin, keeper)()
        return keeper.everything()

    return output
