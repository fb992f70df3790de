"""The road of a session's packets: from a chunk to the handler, and from its answers to the transport."""

from itertools import cycle
from types import ModuleType
from typing import Any

from bench.micro.c_yardsticks import call_empty_handler, walk_headers
from bench.micro.streams import Handler, empty_handler, flush_queue, handled, sent, stream
from bench.micro.traffic import FRESH_BURSTS, MOVE_ID, PACKETS, fresh_bursts, move_burst, move_pieces
from bench.micro.workload import Run, Workload, Yardstick
from gamenet.handler_times import HandlerTimes

OTHERS = 100


def handle_burst(twin: ModuleType, handler: Handler = empty_handler) -> Run:
    """Cut the burst into packets and call an empty Python handler for each."""
    data, session = move_burst(), stream(twin, handler)
    return lambda: session.data_received(data)


def handle_fresh(twin: ModuleType, handler: Handler = empty_handler) -> Run:
    """As `handle_burst`, but 64 bursts one after the other, none of which the caches hold yet."""
    return _receive_all(fresh_bursts(), stream(twin, handler))


def handle_timed(twin: ModuleType, handler: Handler = empty_handler) -> Run:
    """As `handle_burst`, with the wrapper around the handler that takes its times."""
    return handle_burst(twin, HandlerTimes().wrap(MOVE_ID, twin.Route(handler)))


def handle_pieces(twin: ModuleType, handler: Handler = empty_handler) -> Run:
    """The same for a 16th of the burst that arrives in pieces of 1 to 17 bytes."""
    return _receive_all(move_pieces(), stream(twin, handler))


def reply_burst(twin: ModuleType, sink: Any = None) -> Run:
    """Answer every packet of the burst with itself, and flush."""
    data, session = move_burst(), stream(twin, lambda session, packet: session.reply(packet), sink)

    def run() -> None:
        session.data_received(data)
        session.flush()

    return run


def send_to_others(twin: ModuleType, sink: Any = None) -> Run:
    """Send every packet of the burst to one of 100 other sessions in turn, and end the loop's turn."""
    queue = flush_queue(twin)
    others = cycle([stream(twin, empty_handler, sink, queue=queue) for _ in range(OTHERS)])
    data, session = move_burst(), stream(twin, lambda session, packet: next(others).send(packet), queue=queue)

    def run() -> None:
        session.data_received(data)
        queue.flush()

    return run


def _receive_all(chunks: list[bytes], session: Any) -> Run:
    def run() -> None:
        for chunk in chunks:
            session.data_received(chunk)

    return run


WORKLOADS = [
    Workload(
        "handle_burst", "1 MiB cut, an empty Python handler per packet", "packet", PACKETS,
        handle_burst, handled(handle_burst),
        beside=(Yardstick("C walks the headers", walk_headers), Yardstick("C calls the handler", call_empty_handler)),
    ),
    Workload(
        "handle_fresh", "the same, 64 MiB that no cache holds", "packet", PACKETS * FRESH_BURSTS,
        handle_fresh, handled(handle_burst),  # the same bytes, 64 times
        beside=(Yardstick("C walks the headers", lambda: walk_headers(fresh_bursts())),),
        twins=("compiled",),
    ),
    Workload(
        "handle_timed", "handle_burst with the handler's times taken", "packet", PACKETS,
        handle_timed, handled(handle_timed),
    ),
    Workload(
        "handle_pieces", "the same in pieces of 1 to 17 bytes", "packet", PACKETS // 16,
        handle_pieces, handled(handle_pieces),
    ),
    Workload("reply_burst", "every packet answered with itself", "packet", PACKETS, reply_burst, sent(reply_burst)),
    Workload(
        "send_to_others", "every packet to one of 100 sessions in turn", "packet", PACKETS,
        send_to_others, sent(send_to_others),
    ),
]
