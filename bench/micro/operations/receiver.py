"""Chunks as a server meets them: 64 packets in 4.6 kB, by either road, and what a look at the clock costs."""

import asyncio
import time
from collections.abc import Callable
from types import MethodType, ModuleType

from bench.micro.streams import Handler, empty_handler, handled, stream
from bench.micro.traffic import PACKETS, move_chunks
from bench.micro.twins import twin
from bench.micro.workload import Run, Workload, Yardstick

Clock = Callable[[], float]

FREE_CLOCK: Clock = (0.0).conjugate
"""As cheap as a call of a clock can be: a C function that returns what it has."""

ASYNCIO_CLOCK: Clock = MethodType(asyncio.BaseEventLoop.time, object())
"""`loop.time` of asyncio's loops, a Python method around `time.monotonic`; uvloop's is C."""


def receive_chunks(twin: ModuleType, handler: Handler = empty_handler, clock: Clock = time.monotonic) -> Run:
    """`data_received(chunk)`, for loops that read into memory of their own."""
    chunks, session = move_chunks(), stream(twin, handler, clock=clock)

    def run() -> None:
        for chunk in chunks:
            session.data_received(chunk)

    return run


def with_clock(clock: Clock) -> Callable[[], Run]:
    """The compiled `receive_chunks` with another clock, as a yardstick."""
    return lambda: receive_chunks(twin("compiled"), clock=clock)


def receive_in_place(twin: ModuleType, handler: Handler = empty_handler) -> Run:
    """`get_buffer()` and `buffer_updated(size)`; what a loop reads by recv() is copied in here."""
    chunks, session = move_chunks(), stream(twin, handler, receiver=twin.Receiver())

    def run() -> None:
        for chunk in chunks:
            session.get_buffer(-1)[: len(chunk)] = chunk
            session.buffer_updated(len(chunk))

    return run


WORKLOADS = [
    Workload(
        "receive_chunks", "data_received() of 64 packets, 4.6 kB", "packet", PACKETS,
        receive_chunks, handled(receive_chunks),
        beside=(
            Yardstick("compiled, free clock", with_clock(FREE_CLOCK)),
            Yardstick("compiled, asyncio's clock", with_clock(ASYNCIO_CLOCK)),
        ),
    ),
    Workload(
        "receive_in_place", "the same by get_buffer(), buffer_updated()", "packet", PACKETS,
        receive_in_place, handled(receive_in_place),
    ),
]
