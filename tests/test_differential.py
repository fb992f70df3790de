"""Both twins eat the same seeded bytes: packets, state, counters, exception types and texts must be equal."""

import os
import random
import struct
from functools import partial

import pytest
from layouts import LAYOUTS, limit_of, random_packet

from gamenet import errors
from gamenet.layout import BOOK_HEADER

pytestmark = pytest.mark.skipif(os.environ.get("GAMENET_PURE") == "1", reason="only the pure twin was asked for")

ROUNDS = int(os.environ.get("GAMENET_FUZZ_ROUNDS", "300"))

@pytest.fixture(params=range(4))
def seed(request):
    seed = int(os.environ.get("GAMENET_SEED") or random.SystemRandom().randrange(1 << 32)) + request.param
    print(f"GAMENET_SEED={seed}")
    return seed


def twins():
    from gamenet import _compiled, _pure

    return _pure, _compiled


def hostile_stream(rng, layout, max_packet_size):
    """Mostly valid packets, some mutated bytes, in random pieces."""
    from gamenet._pure import codec_for

    codec = codec_for(layout, max_packet_size)
    stream = b""
    for _ in range(rng.randrange(1, 30)):
        packet_id, body, sequence, extras = random_packet(rng, layout, codec.max_packet_size)
        if layout == BOOK_HEADER:
            packet_id, sequence = rng.choice([1, 2, 3, 4, 7, 200]), rng.choice([0, 0, 9, 200])
        for _ in range(rng.choice([1, 1, 1, 2, 9])):  # a run, of one size or of two
            stream += codec.frame(packet_id, body, sequence, extras)
            body = rng.choice([body, body, body[:20] if layout == BOOK_HEADER else body])
    if rng.random() < 0.3:
        mutated = bytearray(stream)
        for _ in range(rng.randrange(1, 4)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        stream = bytes(mutated)
    pieces = []
    while stream:
        size = rng.choice([1, 2, 5, 17, 64, 1000, 5000])
        pieces.append(rng.choice([bytes, bytearray])(stream[:size]))
        stream = stream[size:]
    return pieces


def outcome(call):
    """What a call gives, or how it fails."""
    try:
        return call()
    except Exception as error:
        return type(error).__name__, str(error)


def read_all(twin, layout, limit, pieces):
    pool = twin.PoolAllocator(limit)
    buffer = twin.PacketBuffer(twin.codec_for(layout, limit), pool)
    log = []
    for piece in pieces:
        buffer.feed(piece)
        log.append(outcome(lambda: [(p.packet_id, p.sequence, p.body, p.body_size, p.header) for p in buffer]))
        log.append((buffer.buffered, buffer.holds_block))
    log.append((buffer.clear(), buffer.buffered))
    return log


def test_framing(seed):
    rng = random.Random(seed)
    for _ in range(ROUNDS):
        layout = rng.choice([BOOK_HEADER, *LAYOUTS.values()])
        limit = limit_of(layout, rng.choice([40, 100, 250]))
        pieces = hostile_stream(rng, layout, limit)
        pure, compiled = (read_all(twin, layout, limit, pieces) for twin in twins())
        assert pure == compiled


class Transport:
    """Collects what a stream writes."""

    def __init__(self):
        self.written = b""

    def write(self, data):
        self.written += data

    def writelines(self, chunks):
        self.written += b"".join(chunks)


def played(twin, seed, pieces):
    """A stream whose handlers reply, raise, close, feed, suspend and replace each other, all seeded."""
    rng, log, turn = random.Random(seed), [], []
    routes, ledger = twin.RouteTable(), twin.Ledger()

    class Session(twin.Stream):
        def on_violation(self, error):
            log.append(("violation", str(error)))

        def on_rejected(self, packet_id, body_size, route):
            log.append(("rejected", packet_id, body_size, route is None))

        def on_handler_error(self, packet_id, error):
            log.append(("raised", packet_id, type(error).__name__, str(error)))

        def on_result(self, packet_id, result):
            log.append(("result", packet_id, result))

        def on_overflow(self):
            log.append(("overflow", self.outbox_size))

    kept = []

    def handler(session, packet):
        log.append((packet.packet_id, packet.sequence, packet.body))
        action = rng.choice(["reply", "reply", "raise", "result", "keep", "view", "replace", "suspend", "resume",
                             "send", "bad", "shut", "nested", "write"])
        if action == "reply":
            session.reply(packet)
        elif action == "raise":
            raise KeyError(packet.packet_id)
        elif action == "result":
            return packet.body_size
        elif action == "keep":
            kept.append(packet)
        elif action == "view":
            kept.append(packet.view())
        elif action == "replace":
            routes.set(packet.packet_id, twin.Route(handler))
        elif action == "suspend":
            session.suspend()
        elif action == "resume":
            session.resume()
        elif action == "send":
            session.send(rng.randrange(300), rng.randbytes(20), rng.randrange(9))
        elif action == "bad":
            log.append(outcome(lambda: session.send(70000, b"x")))
            log.append(outcome(lambda: session.send(1, bytes(9000))))
        elif action == "shut" and rng.random() < 0.05:
            session.shut()
        elif action == "nested":
            session.data_received(struct.pack("<HHI", 2, 8, 77))
        elif action == "write" and hasattr(packet, "x"):
            packet.x = 9
            session.send(packet)

    def batch_handler(session, batch):
        log.append((batch.packet_id, len(batch), [(p.packet_id, p.sequence, p.body) for p in batch]))
        action = rng.choice(["reply", "reply", "raise", "result", "keep", "keep packets", "column", "replace", "suspend",
                             "shut", "nested", "write", "answer"])
        if action == "reply":
            log.append(batch.reply())
        elif action == "raise":
            raise KeyError(len(batch))
        elif action == "result":
            return len(batch)
        elif action == "keep":
            kept.extend([batch, iter(batch)])
        elif action == "keep packets":
            kept.extend(packet for packet in batch if rng.random() < 0.5)
            kept.append(batch[rng.randrange(-len(batch), len(batch))])
        elif action == "column":
            name = rng.choice("xyzn")
            log.append(outcome(lambda: batch.column(name).tolist()))
            if name == "y":
                kept.append(batch.column(name))
        elif action == "replace":
            routes.set(batch.packet_id, twin.Route(handler) if rng.random() < 0.2 else routes.get(batch.packet_id))
        elif action == "suspend":
            session.suspend()
        elif action == "shut" and rng.random() < 0.05:
            session.shut()
            log.append(batch.reply())
        elif action == "nested":
            session.data_received(struct.pack("<HHI", 4, 12, 77) + b"\1\2\3\4")
        elif action == "write":
            for packet in batch:
                packet.x = 9
                session.send(packet)
        elif action == "answer":
            for packet in batch:
                session.reply(packet)

    field = twin.Field("x", "H", 0, 2)
    typed = type("Typed", (twin.TypedPacket,), {"_struct": twin.Struct((field,)), "_id": 3, "x": field, "__slots__": ()})
    routes.set(1, twin.Route(handler))
    routes.set(2, twin.Route(handler, twin.RawPacket, 2))
    routes.set(3, twin.Route(handler, typed, 2))
    routes.set(4, twin.Route(batch_handler, batched(twin), 3, True))
    queue = twin.FlushQueue(turn.append)
    session = Session(
        twin.HeaderCodec(max_packet_size=300), twin.PoolAllocator(300), routes, ledger, queue, lambda: 1.0, 500, 2000
    )
    transport = Transport()
    session.attach(transport)
    for piece in pieces:
        session.data_received(piece)
        log.append((session.inbox_size, session.outbox_size, session.is_open, session.is_suspended))
        if rng.random() < 0.3:
            for callback in turn:
                callback()
            turn.clear()
        if rng.random() < 0.1:
            session.pause_writing() if rng.random() < 0.5 else session.resume_writing()
        if rng.random() < 0.3:
            session.resume()
    session.resume()
    session.flush()
    session.detach()
    counts = {name: getattr(ledger, name) for name in dir(ledger) if not name.startswith("_")}
    return log, transport.written, counts, [contents(twin, thing) for thing in kept]


def batched(twin):
    """A class whose fields a batch gives as columns; the last one is not in every packet of its id."""
    fields = (twin.Field("x", "H", 0, 2), twin.Field("y", "?", 2, 1), twin.Field("z", "I", 3, 4, "big"))
    body = {field.name: field for field in fields}
    return type("Batched", (twin.TypedPacket,), {**body, "_struct": twin.Struct(fields), "_id": 4, "__slots__": ()})


def contents(twin, thing):
    """What a handler kept, by value."""
    if isinstance(thing, memoryview):
        return bytes(thing)
    if isinstance(thing, twin.RawPacket):
        return thing.packet_id, thing.sequence, thing.body
    return [contents(twin, packet) for packet in thing]


def test_streams(seed):
    rng = random.Random(seed)
    for _ in range(ROUNDS):
        pieces = hostile_stream(rng, BOOK_HEADER, 300)
        play = rng.randrange(1 << 32)
        pure, compiled = (played(twin, play, pieces) for twin in twins())
        assert pure == compiled
        counts = pure[2]
        assert counts["bytes_in"] == (
            counts["bytes_dispatched"] + counts["bytes_rejected"] + counts["bytes_discarded"]
        )


def test_values_and_errors(seed):
    rng = random.Random(seed)
    numbers = [0, 1, -1, 127, 128, 255, 256, 65535, 65536, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63),
               1.5, "7", None, True, b"x", 1e39, float("inf"), "text", "a\0b", "é" * 9, b"0123456789", bytearray(b"ab")]
    fields = [(code, size) for code, size in zip("BHIQbhiqfd?", (1, 2, 4, 8, 1, 2, 4, 8, 4, 8, 1), strict=True)]
    for _ in range(ROUNDS):
        code, size = rng.choice([*fields, ("t", 6), ("s", 5)])
        order, value = rng.choice(["little", "big"]), rng.choice(numbers)
        field = ("x", code, 0, size, order)
        pure, compiled = (outcome(partial(twin.Field(*field).encode, value)) for twin in twins())
        assert pure == compiled, (code, value)
        body_size = rng.choice([0, 5, -1, 8184, 8185])
        pure, compiled = (outcome(partial(twin.HeaderCodec().encode, value, body_size, 3)) for twin in twins())
        assert pure == compiled, value


def test_the_error_classes_are_shared():
    for twin in twins():
        buffer = twin.PacketBuffer()
        buffer.feed(bytes(8))
        with pytest.raises(errors.InvalidPacketError):
            next(buffer)
