"""Batch handlers: a run of packets at once, answered, walked, or read as a column."""

from types import ModuleType
from typing import Any

from bench.micro.operations.codec import move_class
from bench.micro.streams import Handler, sent, stream
from bench.micro.traffic import PACKETS, move_burst, typed_moves
from bench.micro.twins import twin
from bench.micro.workload import Run, Workload, Yardstick, drop


def reply_batch(session: Any, batch: Any) -> None:
    batch.reply()


def walk_batch(session: Any, batch: Any) -> None:
    drop(batch)


def read_column(session: Any, batch: Any) -> None:
    batch.column("x").tolist()


def read_packets(session: Any, batch: Any) -> None:
    [move.x for move in batch]


def batch_burst(twin: ModuleType, sink: Any = None) -> Run:
    """Answer every packet of the burst with itself, and flush."""
    data, session = move_burst(), stream(twin, reply_batch, sink, is_batch=True)

    def run() -> None:
        session.data_received(data)
        session.flush()

    return run


def walk(twin: ModuleType, handler: Handler = walk_batch) -> Run:
    """Every packet of the burst made, by iterating its batch."""
    data, session = move_burst(), stream(twin, handler, is_batch=True)
    return lambda: session.data_received(data)


def read(twin: ModuleType, handler: Handler = read_column) -> Run:
    """x of every MOVE, as a list: by `batch.column()`, or by `handler`."""
    move, data = move_class(twin), typed_moves()
    session = stream(twin, handler, packet_type=move, min_body_size=move.body_size_of(), is_batch=True)
    return lambda: session.data_received(data)


def walked(twin: ModuleType) -> list[tuple[int, int, bytes]]:
    """What the packets say."""
    seen: list[tuple[int, int, bytes]] = []
    walk(twin, lambda session, batch: seen.extend((one.packet_id, one.sequence, one.body) for one in batch))()
    return seen


def column_read(twin: ModuleType) -> list[float]:
    """The numbers of the column."""
    seen: list[float] = []
    read(twin, lambda session, batch: seen.extend(batch.column("x").tolist()))()
    return seen


def read_compiled_packets(handler: Handler = read_packets) -> Run:
    """The same numbers without a column, packet by packet of the compiled twin's batch."""
    return read(twin("compiled"), handler)


def compiled_packets_read() -> list[float]:
    """The numbers of the packets."""
    seen: list[float] = []
    read_compiled_packets(lambda session, batch: seen.extend(move.x for move in batch))()
    return seen


WORKLOADS = [
    Workload("batch_burst", "reply_burst by a batch handler", "packet", PACKETS, batch_burst, sent(batch_burst)),
    Workload("walk_batch", "a batch handler iterates its packets", "packet", PACKETS, walk, walked),
    Workload(
        "read_column", "x of every MOVE by batch.column(), as a list", "packet", PACKETS, read, column_read,
        beside=(Yardstick("compiled, by packet", read_compiled_packets, compiled_packets_read),),
    ),
]
