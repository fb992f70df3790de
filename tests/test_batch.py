"""Batch handlers, on both twins: where runs end, what a batch gives, what of it may be kept, and replies in one go."""

import asyncio
import gc
import io
import os
import struct
import sys
import threading

import pytest
from wire import read_packet, wire

from gamenet import errors
from gamenet.layout import BOOK_HEADER, HeaderField, HeaderLayout

BIG_LAYOUT = HeaderLayout(
    (HeaderField("packet_size", 2, "big"), HeaderField("sequence", 3, "big"), HeaderField("packet_id", 1)), "body"
)


@pytest.fixture
def compiled():
    """The compiled twin, for what only it promises."""
    if os.environ.get("GAMENET_PURE") == "1":
        pytest.skip("only the pure twin was asked for")
    from gamenet import _compiled

    return _compiled


class Transport:
    """Collects what a stream writes, a write at a time."""

    def __init__(self):
        self.writes = []

    def write(self, data):
        self.writes.append(bytes(data))

    def writelines(self, chunks):
        self.writes.append(b"".join(chunks))

    def get_write_buffer_size(self):
        return 0


class Played:
    """A stream whose packets of `batch_id` go to `handler` as batches, and all others to a log."""

    def __init__(self, core, handler, packet_type=None, min_body_size=0, layout=BOOK_HEADER, **limits):
        log = self.log = []

        class Session(core.Stream):
            def on_rejected(self, packet_id, body_size, route):
                log.append(("rejected", packet_id, body_size))

            def on_handler_error(self, packet_id, error):
                log.append(("raised", packet_id, str(error)))

            def on_result(self, packet_id, result):
                log.append(("result", packet_id, result))

            def on_overflow(self):
                log.append(("overflow", self.outbox_size))

        self.core, self.ledger, self.routes, self.transport = core, core.Ledger(), core.RouteTable(), Transport()
        self.routes.set(1, core.Route(handler, packet_type or core.RawPacket, min_body_size, True))
        self.routes.set(2, core.Route(lambda session, packet: log.append((2, packet.sequence))))
        self.pool = core.PoolAllocator(8192)
        self.session = Session(
            core.HeaderCodec(layout), self.pool, self.routes, self.ledger, core.FlushQueue(lambda flush: None),
            lambda: 1.0, **limits,
        )
        self.session.attach(self.transport)

    def feed(self, *chunks):
        for chunk in chunks:
            self.session.data_received(chunk)
        return self

    def written(self):
        self.session.flush()
        return b"".join(self.transport.writes)


def moves(count, start=0, size=4, packet_id=1):
    return b"".join(wire(packet_id, struct.pack("<I", n).ljust(size, b"."), n) for n in range(start, start + count))


def sequences(log):
    return lambda session, batch: log.append([packet.sequence for packet in batch])


def typed(core, *fields, packet_id=1):
    """A packet class with these (name, code, size, byte order)."""
    made, offset = [], 0
    for name, code, size, order in fields:
        made.append(core.Field(name, code, offset, size, order))
        offset += size
    body = {field.name: field for field in made}
    return type("Typed", (core.TypedPacket,), {**body, "_struct": core.Struct(tuple(made)), "_id": packet_id, "__slots__": ()})


# -- where a run ends


def test_a_run_ends_at_another_id_and_order_is_kept(core):
    log = []
    played = Played(core, sequences(log))
    played.routes.set(2, core.Route(lambda session, packet: log.append(packet.sequence)))
    played.feed(moves(3) + wire(2, b"", 3) + moves(1, 4) + wire(2, b"", 5) + wire(2, b"", 6) + moves(2, 7))
    assert log == [[0, 1, 2], 3, [4], 5, 6, [7, 8]]
    assert (played.ledger.packets_dispatched, played.ledger.bytes_dispatched) == (9, 6 * 12 + 3 * 8)


def test_a_run_ends_with_its_chunk_and_a_completed_tail_is_one_of_its_own(core):
    log, stream = [], moves(5)
    Played(core, sequences(log)).feed(stream[:24], stream[24:30], stream[30:])
    assert log == [[0, 1], [2], [3, 4]]


@pytest.mark.parametrize("count", [4095, 4096, 4097, 8193])
def test_a_run_has_a_largest_size(core, count):
    log = []
    played = Played(core, sequences(log)).feed(moves(count))
    assert [len(run) for run in log] == [4096] * (count // 4096) + ([count % 4096] if count % 4096 else [])
    assert [n for run in log for n in run] == list(range(count))
    assert played.ledger.packets_dispatched == count


def test_a_short_packet_ends_the_run_and_is_rejected(core):
    log = []
    played = Played(core, sequences(log), min_body_size=4)
    played.feed(moves(2) + wire(1, b"abc") + moves(1, 2) + wire(1, b"") + moves(1, 3))
    assert log == [[0, 1], [2], [3]]
    assert played.log == [("rejected", 1, 3), ("rejected", 1, 0)]
    ledger = played.ledger
    assert (ledger.rejected_short, ledger.bytes_rejected, ledger.packets_dispatched) == (2, 19, 4)


@pytest.mark.parametrize("size", [7, 8193])
def test_a_header_that_cannot_be_ends_the_run(core, size):
    log = []
    played = Played(core, sequences(log)).feed(moves(2) + struct.pack("<HHI", 1, size, 0) + bytes(9000))
    assert log == [[0, 1]]
    assert played.ledger.rejected_invalid == 1
    assert not played.session.is_open


def test_shutting_inside_the_handler_discards_what_is_behind_the_run(core):
    log = []

    def handler(session, batch):
        session.shut()
        log.append(len(batch))

    ledger = Played(core, handler).feed(moves(3) + wire(2) + moves(4)).ledger
    assert log == [3]
    assert (ledger.packets_dispatched, ledger.packets_discarded) == (3, 5)
    assert ledger.bytes_in == ledger.bytes_dispatched + ledger.bytes_discarded


def test_suspending_inside_the_handler_lets_the_rest_wait(core):
    log = []

    def handler(session, batch):
        session.suspend()
        log.append(len(batch))

    played = Played(core, handler).feed(moves(3) + wire(2) + moves(4))
    assert (log, played.session.inbox_size) == ([3], 8 + 48)
    played.session.resume()
    assert (log, played.log, played.session.inbox_size) == ([3, 4], [(2, 0)], 0)


def test_bytes_fed_by_the_handler_come_after_the_run(core):
    log = []

    def handler(session, batch):
        log.append([packet.sequence for packet in batch])
        if len(log) == 1:
            session.data_received(moves(2, 10))

    Played(core, handler).feed(moves(2) + moves(1, 2))
    assert log == [[0, 1, 2], [10, 11]]


def test_a_raising_handler_is_one_error(core):
    def handler(session, batch):
        raise KeyError(len(batch))

    played = Played(core, handler).feed(moves(5))
    assert played.log == [("raised", 1, "5")]
    assert (played.ledger.handler_errors, played.ledger.packets_dispatched) == (1, 5)


def test_what_the_handler_returns_goes_to_the_hook(core):
    played = Played(core, lambda session, batch: len(batch)).feed(moves(5))
    assert played.log == [("result", 1, 5)]


def test_the_default_route_may_take_batches(core):
    log = []
    played = Played(core, sequences([]))
    played.routes.default = core.Route(lambda session, batch: log.append((batch.packet_id, len(batch))), is_batch=True)
    played.feed(moves(3, packet_id=70) + moves(2, packet_id=71))
    assert log == [(70, 3), (71, 2)]


def test_a_replaced_route_serves_its_run_to_the_end(core):
    log = []

    def handler(session, batch):
        played.routes.set(1, core.Route(lambda session, packet: log.append(packet.sequence)))
        log.append([packet.sequence for packet in batch])

    played = Played(core, handler)
    played.feed(moves(3), moves(2, 3))
    assert log == [[0, 1, 2], 3, 4]


def test_one_route_serves_two_streams_at_once(core):
    log = []

    def handler(session, batch):
        if session is first.session:
            second.session.data_received(moves(2, 10))
        log.append([packet.sequence for packet in batch])

    first, second = Played(core, handler), Played(core, handler)
    second.routes.set(1, first.routes.get(1))
    second.session = type(second.session)(
        core.HeaderCodec(), second.pool, first.routes, second.ledger, core.FlushQueue(lambda flush: None), lambda: 1.0
    )
    second.session.attach(second.transport)
    first.feed(moves(3))
    assert log == [[10, 11], [0, 1, 2]]


# -- what a batch gives


def test_packets_are_of_the_handlers_class_and_complete(core):
    seen, Typed = [], typed(core, ("x", "H", 2, "little"))

    def handler(session, batch):
        for packet in batch:
            seen.append((type(packet), packet.packet_id, packet.sequence, packet.x, packet.body, packet.body_size))

    Played(core, handler, Typed, 2).feed(wire(1, b"\1\0", 7) + wire(1, b"\2\0rest", 8))
    assert seen == [(Typed, 1, 7, 1, b"\1\0", 2), (Typed, 1, 8, 2, b"\2\0rest", 6)]


@pytest.mark.parametrize("layout", [BOOK_HEADER, BIG_LAYOUT])
@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [4, 0, 9, 4]])
def test_length_index_and_iteration(core, layout, sizes):
    codec, seen = core.HeaderCodec(layout), []

    def handler(session, batch):
        assert (len(batch), batch.packet_id, repr(batch)) == (4, 1, "Batch(packet_id=1, packets=4)")
        expected = [packet.sequence for packet in batch]
        assert [packet.body_size for packet in batch] == sizes
        assert [batch[n].sequence for n in range(-4, 4)] == expected * 2
        assert [packet.sequence for packet in reversed(batch)] == expected[::-1]
        assert [(a.sequence, b.sequence) for a in batch for b in batch] == [(a, b) for a in expected for b in expected]
        for index in (4, -5, 1 << 70, -(1 << 70)):
            with pytest.raises(IndexError, match=f"packet {index} of a batch of 4"):
                batch[index]
        with pytest.raises(TypeError):
            batch[0:2]
        with pytest.raises(TypeError):
            batch["x"]
        seen.append(expected)

    stream = b"".join(codec.encode(1, size, 50 + n) + bytes(size) for n, size in enumerate(sizes))
    played = Played(core, handler, layout=layout).feed(stream, stream)
    assert (seen, played.log) == ([[50, 51, 52, 53]] * 2, [])


def test_batches_are_not_made_by_hand(core):
    with pytest.raises(TypeError, match="batches are made for batch handlers"):
        core.Batch()
    assert core.Batch[core.RawPacket]


def test_packet_objects_serve_again_while_nobody_keeps_them(compiled):
    identities = []

    def handler(session, batch):
        for packet in batch:
            identities.append(id(packet))

    Played(compiled, handler).feed(moves(50), moves(50), moves(50)[:-5])
    assert len(set(identities)) == 2


# -- what is kept


def test_kept_packets_stay_true(core):
    kept, views = [], []

    def handler(session, batch):
        for packet in batch:
            if packet.sequence % 3 == 0:
                kept.append(packet)
            elif packet.sequence % 3 == 1:
                views.append(packet.view())
        kept.append(batch[-1])

    chunks = [bytearray(moves(10, start)) for start in (0, 10, 20)]
    played = Played(core, handler)
    for chunk in chunks:
        played.feed(bytes(chunk))
    gc.collect()
    expected = [n for start in (0, 10, 20) for n in [*(n for n in range(start, start + 10) if n % 3 == 0), start + 9]]
    assert [(packet.sequence, packet.body) for packet in kept] == [(n, struct.pack("<I", n)) for n in expected]
    assert [bytes(view) for view in views] == [struct.pack("<I", n) for n in range(30) if n % 3 == 1]


def test_setting_a_field_of_a_packet_changes_no_other(core):
    Typed, seen = typed(core, ("x", "I", 4, "little")), []

    def handler(session, batch):
        for packet in batch:
            packet.x = 99
            seen.append(packet.x)
        seen.extend(packet.x for packet in batch)
        batch.reply()

    stream = moves(3)
    played = Played(core, handler, Typed, 4).feed(stream)
    assert seen == [99, 99, 99, 0, 1, 2]
    assert played.written() == stream


def test_a_kept_batch_stays_true(core):
    kept = []
    played = Played(core, lambda session, batch: kept.append((batch, iter(batch), batch.column("x"))),
                    typed(core, ("x", "I", 4, "little")), 4)
    stream = moves(10)
    played.feed(stream[:60], stream[60:70], stream[70:], wire(2) * 5000 + moves(3, 10) + wire(2) * 5000)
    gc.collect()
    runs = [range(5), range(5, 6), range(6, 10), range(10, 13)]
    for (batch, iterator, column), run in zip(kept, runs, strict=True):
        expected = list(run)
        assert [packet.x for packet in batch] == [packet.x for packet in iterator] == expected
        assert [batch[n].x for n in range(len(batch))] == list(column) == expected
        assert list(batch.column("x")) == expected
    assert kept[-1][0].reply() is True
    assert played.written() == moves(3, 10)
    played.session.detach()
    assert kept[-1][0].reply() is False
    del kept[:], batch, iterator, column
    gc.collect()
    assert played.pool.stats()["outstanding"] == 0


def test_what_is_kept_does_not_hold_a_large_chunk(compiled):
    kept = []

    def handler(session, batch):
        kept.append(batch)
        kept.extend(batch)
        kept.append(batch[0])

    chunk = wire(2) * 1000 + moves(10) + wire(2)
    before = sys.getrefcount(chunk)
    played = Played(compiled, handler).feed(chunk)
    assert sys.getrefcount(chunk) == before
    assert [packet.sequence for packet in kept[0]] == [packet.sequence for packet in kept[1:-1]] == list(range(10))
    tail = moves(1, 77)
    played.feed(tail[:5], tail[5:])
    assert kept[-1].sequence == 77
    assert played.pool.stats()["outstanding"] == 0


def test_what_is_kept_stays_true_when_the_loop_reads_into_our_buffer(core):
    kept, Typed = [], typed(core, ("x", "I", 4, "little"))

    def handler(session, batch):
        packets = iter(batch)
        first = next(packets)
        kept.append((batch, first, packets, batch[-1]))
        kept.append([(), (first.view(),), (batch.column("x"),)][len(kept) // 2 % 3])  # nothing of the block, or either

    played = Played(core, handler, Typed, 4, receiver=core.Receiver(4096))
    for start in range(0, 100, 10):
        chunk = moves(10, start)
        played.session.get_buffer(-1)[: len(chunk)] = chunk
        played.session.buffer_updated(len(chunk))
    for start in range(0, 100, 10):
        (batch, first, packets, last), views = kept[start // 5 : start // 5 + 2]
        assert (first.x, last.x) == (start, start + 9)
        assert [packet.x for packet in packets] == list(range(start + 1, start + 10))
        assert [packet.x for packet in batch] == list(batch.column("x")) == list(range(start, start + 10))
        assert [view[0] for view in views] == [start] * len(views)


def test_an_unkept_batch_holds_nothing(core):
    chunk = moves(100, size=100)
    before = sys.getrefcount(chunk)
    played = Played(core, lambda session, batch: [packet.body for packet in batch] and None).feed(chunk)
    assert sys.getrefcount(chunk) == before
    assert played.log == []


# -- replies


@pytest.mark.parametrize("layout", [BOOK_HEADER, BIG_LAYOUT])
def test_reply_sends_the_run_as_it_came(core, layout):
    codec, taken = core.HeaderCodec(layout), []
    stream = b"".join(codec.encode(1, size, size) + bytes(size) for size in (0, 3, 200, 3))
    played = Played(core, lambda session, batch: taken.append(batch.reply()), layout=layout).feed(stream, stream)
    assert (taken, played.written()) == ([True, True], stream * 2)
    assert (played.ledger.packets_out, played.ledger.bytes_out) == (8, 2 * len(stream))


@pytest.mark.parametrize("sizes", [[56], [56, 120], [0, 8000, 17], [8184], [0]])
@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("max_write_buffer", [100, 32768, 65536, 200_000])
def test_reply_is_what_replies_to_each_packet_would_be(core, sizes, paused, max_write_buffer):
    """The same writes at the same moments, the same overflows, the same counts."""
    stream = b"".join(wire(1, bytes(sizes[n % len(sizes)]), n) for n in range(2000))

    def one_by_one(session, batch):
        for packet in batch:
            session.reply(packet)

    outcomes = []
    for handler in (one_by_one, lambda session, batch: batch.reply() and None):
        played = Played(core, handler, max_write_buffer=max_write_buffer)
        played.session.send(9, bytes(56))  # 64 bytes: the first two cases come to the limit exactly
        if paused:
            played.session.pause_writing()
        for at in range(0, len(stream), 262144):
            played.feed(stream[at : at + 262144])
        played.session.resume_writing()
        played.session.flush()
        # what was held back leaves in pieces that end where the outbox's chunks do
        writes = [b"".join(played.transport.writes)] if paused else played.transport.writes
        outcomes.append((writes, played.log, played.ledger.packets_out, played.ledger.bytes_out))
    assert outcomes[0] == outcomes[1]
    assert b"".join(outcomes[1][0]) == wire(9, bytes(56)) + stream


def test_reply_stops_when_the_session_is_shut_between_two_writes(core):
    """An overflow in the middle of a run ends the session: the rest is refused, packet by packet."""
    taken = []

    class Session(core.Stream):
        def on_overflow(self):
            self.shut()

    routes, ledger = core.RouteTable(), core.Ledger()
    routes.set(1, core.Route(lambda session, batch: taken.append(batch.reply()), is_batch=True))
    session = Session(
        core.HeaderCodec(), core.PoolAllocator(8192), routes, ledger, core.FlushQueue(lambda flush: None), lambda: 1.0,
        max_write_buffer=30,
    )
    session.attach(Transport())
    session.pause_writing()
    session.data_received(moves(10))
    assert taken == [False]
    assert (ledger.packets_out, ledger.sends_refused) == (3, 7)


def test_reply_after_the_end_is_refused(core):
    taken = []

    def handler(session, batch):
        session.shut()
        taken.append(batch.reply())

    played = Played(core, handler).feed(moves(3))
    assert (taken, played.ledger.sends_refused, played.written()) == ([False], 3, b"")


def test_reply_from_another_thread_raises(core):
    caught = []

    def reply(batch):
        try:
            batch.reply()
        except errors.WrongThreadError as error:
            caught.append(error)

    def handler(session, batch):
        thread = threading.Thread(target=reply, args=(batch,))
        thread.start()
        thread.join()

    played = Played(core, handler).feed(moves(3))
    assert (len(caught), played.written()) == (1, b"")


# -- columns

KINDS = [*zip("BHIQbhiqfd?", (1, 2, 4, 8, 1, 2, 4, 8, 4, 8, 1), strict=True), ("t", 5), ("s", 3)]


def column_of(core, code, size, order, bodies):
    """A column and the values that the packets themselves give."""
    found = []
    Typed = typed(core, ("first", "B", 1, "little"), ("x", code, size, order))
    played = Played(core, lambda session, batch: found.append((batch.column("x"), [packet.x for packet in batch])),
                    Typed, 1 + size)
    played.feed(b"".join(wire(1, body, n) for n, body in enumerate(bodies)))
    assert played.log == []
    return found[0]


@pytest.mark.parametrize(("code", "size"), KINDS)
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("extra", [[0, 0, 0], [0, 4, 1]])
def test_columns(core, code, size, order, extra):
    patterns = [b"\0\1\0\0\0\0\0\0", b"\1\2\3\4\5\6\7\10", b"\xbf\xf1\2\3\4\5\6\x40"]
    bodies = [b"." + pattern[:size] + b"!" * more for pattern, more in zip(patterns, extra, strict=True)]
    column, values = column_of(core, code, size, order, bodies)
    gc.collect()
    assert type(column) is memoryview
    assert (column.readonly, len(column), column.nbytes) == (True, 3, 3 * size)
    if code in "ts":
        assert column.tobytes() == b"".join(body[1 : 1 + size] for body in bodies)
        assert (column.format, column.shape) in [(f"{size}s", (3,)), ("B", (3, size))]
    else:
        assert (column.format, column.itemsize, column.shape, column.ndim) == (code, size, (3,), 1)
        assert column.tolist() == values
        assert column.tobytes() == struct.pack(f"={3}{code}", *values)


def test_a_column_of_bools_is_true_or_false(core):
    column, values = column_of(core, "?", 1, "little", [b".\0", b".\1", b".\2", b".\xff"])
    assert column.tobytes() == b"\0\1\1\1"
    assert column.tolist() == values == [False, True, True, True]


def test_the_compiled_column_copies_only_what_it_must(compiled):
    native, other = (sys.byteorder, "big" if sys.byteorder == "little" else "little")
    same, mixed = [b".1234", b".5678"], [b".1234", b".5678!"]
    for code, size, order, bodies, stride in [
        ("I", 4, native, same, 13), ("I", 4, other, same, 4), ("I", 4, native, mixed, 4), ("B", 1, other, same, 13),
        ("t", 4, other, same, 13), ("s", 4, native, mixed, 4), ("?", 1, native, same, 1),
    ]:
        column, _ = column_of(compiled, code, size, order, bodies)
        assert (column.strides, column.shape) == ((stride,), (2,))
        assert column.format == (f"{size}s" if code in "ts" else code)


def test_the_compiled_columns_exporter_refuses_what_it_cannot_give(compiled):
    strided, _ = column_of(compiled, "I", 4, sys.byteorder, [b".1234", b".5678"])
    with pytest.raises(BufferError, match="do not lie one behind the other"):
        struct.unpack_from("I", strided.obj)
    packed, _ = column_of(compiled, "I", 4, sys.byteorder, [b".1234", b".5678!"])
    assert struct.pack("II", *struct.unpack("II", packed.obj)) == b"12345678"
    with pytest.raises(TypeError, match="read-write"):
        io.BytesIO(bytes(8)).readinto(packed.obj)
    with pytest.raises(BufferError, match="columns are made by"):
        memoryview(type(strided.obj)())


def test_a_column_outlives_its_chunk(core):
    kept, Typed = [], typed(core, ("x", "I", 4, "little"))
    played = Played(core, lambda session, batch: kept.append(batch.column("x")), Typed, 4)
    for start in range(0, 100, 10):
        chunk = moves(10, start)
        played.feed(chunk[:17], chunk[17:])
    del chunk
    gc.collect()
    assert [n for column in kept for n in column] == list(range(100))
    assert [len(column) for column in kept] == [1, 1, 8] * 10
    del kept[:]
    assert played.pool.stats()["outstanding"] == 0


def test_columns_that_cannot_be(core):
    found, Typed = [], typed(core, ("x", "I", 4, "little"), ("y", "H", 2, "little"))

    def handler(session, batch):
        for name in ("z", "body", None, "y"):
            with pytest.raises((AttributeError, ValueError)) as caught:
                batch.column(name)
            found.append((type(caught.value), str(caught.value)))

    for bodies in ([b"12345"] * 2, [b"123456", b"12345"]):
        played = Played(core, handler, Typed, 4).feed(b"".join(wire(1, body) for body in bodies))
        assert played.log == []
        assert found == [
            (AttributeError, "Typed has no field 'z'"), (AttributeError, "Typed has no field 'body'"),
            (AttributeError, "Typed has no field None"), (ValueError, "Typed needs a body of 6 bytes, got 5"),
        ]
        found.clear()
    played = Played(core, lambda session, batch: batch.column("x")).feed(moves(1))
    assert played.log == [("raised", 1, "RawPacket has no field 'x'")]


def test_numpy_reads_a_column_as_it_is(core):
    numpy = pytest.importorskip("numpy")
    column, values = column_of(core, "f", 4, "little", [b"." + struct.pack("<f", n / 2) for n in range(9)])
    array = numpy.asarray(column)
    assert (array.dtype, array.shape, array.tolist()) == (numpy.float32, (9,), values)
    assert numpy.shares_memory(array, numpy.asarray(column))
    assert not array.flags.writeable
    assert float(array.sum()) == 18.0


# -- the public way


def test_batch_and_plain_handlers_replace_each_other(gamenet):
    class Move(gamenet.Packet, id=1003):
        x: gamenet.f32

    table = gamenet.DispatchTable()

    @table.on_batch(Move)
    def batch_handler(session, batch):
        pass

    route = table.routes.get(1003)
    assert (table.handler_of(Move), route.is_batch, route.min_body_size) == (batch_handler, True, 4)
    table.register(1003, print)
    assert (table.handler_of(Move), table.routes.get(1003).is_batch) == (print, False)
    table.register_batch(Move, batch_handler)
    assert (len(table), table.routes.get(1003).is_batch) == (1, True)
    table.unregister(Move)
    assert len(table) == 0
    with pytest.raises(TypeError, match="str has no packet id"):
        table.on_batch(str)(batch_handler)
    with pytest.raises(TypeError, match="a handler must be callable"):
        table.register_batch(1, None)


async def test_a_server_answers_in_batches(net, until):
    server, sizes = await net.server(), []

    class Move(net.gamenet.Packet, id=1):
        n: net.gamenet.u32

    columns = []

    @server.on_batch(Move)
    def handler(session, batch):
        assert isinstance(batch, net.gamenet.Batch)
        sizes.append(len(batch))
        columns.append(batch.column("n"))
        assert batch.reply() is True

    reader, writer = await net.open(server)
    stream = moves(20_000, size=56)
    writer.write(stream)
    assert await asyncio.wait_for(reader.readexactly(len(stream)), 20) == stream
    assert sum(sizes) == 20_000
    assert [n for column in columns for n in column] == list(range(20_000))
    stats = server.stats()
    assert (stats["packets_dispatched"], stats["packets_out"]) == (20_000, 20_000)
    columns.clear()


async def test_an_async_batch_handler_keeps_its_batch(net, until):
    server, seen = await net.server(), []

    @server.on_batch(1)
    async def handler(session, batch):
        for packet in batch:
            seen.append((packet.sequence, packet.body))
            if packet.sequence % 4 == 0:
                await asyncio.sleep(0.001)
            assert seen[-1] == (packet.sequence, packet.body)
        assert batch.reply()

    @server.on(2)
    def other(session, packet):
        seen.append(packet.sequence)

    reader, writer = await net.open(server)
    writer.write(moves(10) + wire(2, b"", 10))
    await until(lambda: seen)
    writer.write(moves(10, 11))  # read while the handler waits
    for n in [*range(10), *range(11, 21)]:
        assert await read_packet(reader) == (1, n, struct.pack("<I", n))
    assert seen == [(n, struct.pack("<I", n)) if n != 10 else 10 for n in range(21)]


async def test_closing_in_a_batch_handler(net, until):
    server, taken = await net.server(), []

    @server.on_batch(1)
    def handler(session, batch):
        taken.append(batch.reply())
        session.close("enough")
        taken.append(batch.reply())

    reader, writer = await net.open(server)
    writer.write(moves(3) + wire(2) + moves(2))
    assert await asyncio.wait_for(reader.read(), 10) == moves(3)
    await until(lambda: server.stats()["closed"] == {"enough": 1})
    stats = server.stats()
    assert taken == [True, False]
    assert (stats["packets_dispatched"], stats["packets_discarded"], stats["sends_refused"]) == (3, 3, 3)


async def test_a_raising_batch_handler_may_close_its_session(net, until):
    server = await net.server(handler_errors="close")

    @server.on_batch(1)
    def handler(session, batch):
        raise KeyError("no")

    reader, writer = await net.open(server)
    writer.write(moves(3))
    assert await asyncio.wait_for(reader.read(), 10) == b""
    await until(lambda: server.stats()["closed"] == {"handler_error": 1})
    assert server.stats()["handler_errors"] == 1
