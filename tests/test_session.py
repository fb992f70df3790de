"""Sessions over real sockets, on both twins: the life of one, bad input, handlers of every kind, slow peers."""

import asyncio
import gc
import logging
import socket
import struct
import threading

import pytest
from wire import echo_server, read_packet, reset, wire

# -- life


async def test_opened_once_closed_once(net, until):
    server = await net.server(start=False)
    events = []
    server.on_opened(lambda session: events.append(("opened", session.id, len(server.sessions))))
    server.on_closed(lambda session, reason: events.append(("closed", session.id, reason, len(server.sessions))))
    server.on(1)(lambda session, packet: events.append(("packet", session.id)))
    await net.start(server)
    _reader, writer = await net.open(server)
    writer.write(wire(1))
    await until(lambda: len(events) == 2)
    writer.close()
    await until(lambda: len(events) == 3)
    identity = events[0][1]
    assert events == [("opened", identity, 1), ("packet", identity), ("closed", identity, "peer_closed", 0)]


async def test_a_session_knows_its_peer_and_carries_the_users_object(net, until):
    server, seen = await net.server(), []

    @server.on(1)
    def handler(session, packet):
        session.data = session.data or []
        session.data.append(packet.sequence)
        seen.append((session.peername, session.data, repr(session)))

    _reader, writer = await net.open(server)
    writer.write(wire(1, sequence=5) + wire(1, sequence=6))
    await until(lambda: len(seen) == 2)
    peername, data, shown = seen[0]
    assert peername == writer.get_extra_info("sockname")
    assert data == [5, 6]
    assert str(peername) in shown
    assert "open" in shown


@pytest.mark.parametrize("size", [1, 3, 9, 10_000])
async def test_packets_arrive_however_they_are_cut(net, size):
    server = await echo_server(net)
    reader, writer = await net.open(server)
    writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = b"".join(wire(1, bytes([n]) * n, n) for n in range(30))
    for at in range(0, len(stream), size):
        writer.write(stream[at : at + size])
        await asyncio.sleep(0)
    for n in range(30):
        assert await read_packet(reader) == (1, n, bytes([n]) * n)


async def test_replies_of_one_chunk_leave_in_one_write(net, monkeypatch):
    server = await echo_server(net)
    reader, writer = await net.open(server)
    writer.write(wire(1, b"x"))
    await read_packet(reader)
    (session,) = server.sessions
    writes = []
    original = session.transport.write
    # the stream keeps the transport's write: hand it ours through a new attach
    session.attach(Recorder(writes, original))
    writer.write(b"".join(wire(1, b"y", n) for n in range(20)))
    for n in range(20):
        assert await read_packet(reader) == (1, n, b"y")
    assert [len(data) for data in writes] == [20 * 9]


class Recorder:
    def __init__(self, writes, write):
        self.writes = writes
        self.forward = write

    def write(self, data):
        self.writes.append(data)
        self.forward(data)


async def test_close_delivers_what_was_sent(net, until):
    server = await net.server()

    @server.on(1)
    def handler(session, packet):
        for n in range(100):
            session.send(2, bytes(1000), n)
        session.close("goodbye")

    reader, writer = await net.open(server)
    writer.write(wire(1))
    for n in range(100):
        assert await read_packet(reader) == (2, n, bytes(1000))
    assert await reader.read() == b""
    await until(lambda: server.stats()["closed"] == {"goodbye": 1})


async def test_nothing_after_close(net, until):
    server, handled, sent = await net.server(), [], []

    @server.on(1)
    def handler(session, packet):
        handled.append(packet.sequence)
        if packet.sequence == 3:
            session.close("enough")
            session.close("too late")
            sent.append(session.send(2, b"late"))
            sent.append(session.reply(packet))
            sent.append(server.sessions.broadcast(2, b"late"))

    reader, writer = await net.open(server)
    writer.write(b"".join(wire(1, b"x", n) for n in range(54)))
    assert await reader.read() == b""
    await until(lambda: len(server.sessions) == 0)
    stats = server.stats()
    assert handled == [0, 1, 2, 3]
    assert sent == [False, False, 0]
    assert (stats["packets_dispatched"], stats["packets_discarded"]) == (4, 50)
    assert stats["bytes_discarded"] == 50 * 9
    assert (stats["sends_refused"], stats["closed"]) == (3, {"enough": 1})


async def test_half_closed_peers_still_get_their_answers(net):
    server = await echo_server(net)

    @server.on(2)
    async def slow(session, packet):
        await asyncio.sleep(0.05)
        session.reply(packet)

    for packet_id in (1, 2):
        reader, writer = await net.open(server)
        writer.write(wire(packet_id, b"a", 1) + wire(packet_id, b"b", 2))
        writer.write_eof()
        assert await read_packet(reader) == (packet_id, 1, b"a")
        assert await read_packet(reader) == (packet_id, 2, b"b")
        assert await reader.read() == b""


async def test_abort_ends_at_once(net, until):
    server = await net.server()
    server.on(1)(lambda session, packet: session.abort("thrown_out"))
    reader, writer = await net.open(server)
    writer.write(wire(1) + wire(1))
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    await until(lambda: server.stats()["closed"] == {"thrown_out": 1})
    assert server.stats()["packets_dispatched"] == 1


async def test_a_reset_is_a_network_error(net, until):
    server = await echo_server(net)
    reader, writer = await net.open(server)
    writer.write(wire(1) + b"half")
    await read_packet(reader)
    reset(writer.transport)
    await until(lambda: len(server.sessions) == 0)
    (reason,) = server.stats()["closed"]
    assert reason in ("network_error", "peer_closed")  # a RST may reach us as the end of the stream
    assert server.stats()["bytes_discarded"] == 4


async def test_a_closed_session_lets_everything_go(net, until):
    import weakref

    server = await echo_server(net)
    reader, writer = await net.open(server)
    writer.write(wire(1))
    await read_packet(reader)
    alive = [weakref.ref(session) for session in server.sessions]
    writer.close()
    await until(lambda: len(server.sessions) == 0)
    await asyncio.sleep(0.01)
    gc.collect()
    assert alive[0]() is None


# -- bad input


@pytest.mark.parametrize("size", range(8))
async def test_a_size_below_the_header_closes_the_session_and_no_other(net, until, size):
    server = await echo_server(net)
    good_reader, good_writer = await net.open(server)
    bad_reader, bad_writer = await net.open(server)
    bad_writer.write(wire(1, b"first", 1) + struct.pack("<HHI", 1, size, 0) + wire(1, b"never", 2))
    assert await read_packet(bad_reader) == (1, 1, b"first")
    assert await bad_reader.read() == b""
    good_writer.write(wire(1, b"alive", 3))
    assert await read_packet(good_reader) == (1, 3, b"alive")
    stats = server.stats()
    assert stats["closed"] == {"invalid_packet": 1}
    assert {why: n for why, n in stats["rejected"].items() if n} == {"invalid": 1}
    assert stats["packets_dispatched"] == 2


@pytest.mark.parametrize(("size", "accepted"), [(99, True), (100, True), (101, False)])
async def test_a_packet_over_the_limit_is_refused_on_its_header_alone(net, until, size, accepted):
    server = await echo_server(net, max_packet_size=100)
    reader, writer = await net.open(server)
    writer.write(struct.pack("<HHI", 1, size, 0))
    if accepted:
        writer.write(bytes(size - 8))
        assert await read_packet(reader) == (1, 0, bytes(size - 8))
    else:
        assert await reader.read() == b""
        assert server.stats()["closed"] == {"invalid_packet": 1}
        assert server.stats()["pool"]["outstanding"] == 0


async def test_garbage_is_refused_and_named_in_the_log(net, until, caplog):
    server = await echo_server(net)
    reader, writer = await net.open(server)
    with caplog.at_level(logging.WARNING, "gamenet"):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.read() == b""
    assert "packet_size 8276 is above the limit of 8192 bytes" in caplog.text
    record = caplog.records[0]
    assert (record.session_id > 0, record.peer) == (True, writer.get_extra_info("sockname"))


async def test_a_packet_shorter_than_its_struct_never_reaches_the_handler(net):
    server, seen = await echo_server(net), []

    class Chat(net.gamenet.Packet, id=1002):
        message: str = net.gamenet.char(256)

    server.on(Chat)(lambda session, packet: seen.append(packet.message))
    reader, writer = await net.open(server)
    writer.write(wire(1002, b"x" * 255) + wire(1002) + wire(1002, b"y" * 256) + wire(1002, b"z" * 257) + wire(1))
    await read_packet(reader)
    assert seen == ["y" * 256, "z" * 256]
    assert {why: n for why, n in server.stats()["rejected"].items() if n} == {"short": 2}


async def test_unknown_ids_are_counted_and_the_session_goes_on(net):
    server = await echo_server(net)
    reader, writer = await net.open(server)
    writer.write(wire(77, b"what") + wire(1))
    await read_packet(reader)
    assert server.stats()["rejected"]["unknown"] == 1
    assert server.stats()["bytes_rejected"] == 12


async def test_unknown_ids_close_where_that_is_the_policy(net, until):
    server = await echo_server(net, unknown_packets="close")
    reader, writer = await net.open(server)
    writer.write(wire(77, b"what") + wire(1))
    assert await reader.read() == b""
    await until(lambda: server.stats()["closed"] == {"unknown_packet": 1})
    assert server.stats()["packets_dispatched"] == 0


async def test_a_default_handler_takes_unknown_ids(net):
    server = await echo_server(net)
    server.dispatch.set_default(lambda session, packet: session.reply(packet))
    reader, writer = await net.open(server)
    writer.write(wire(777, b"any", 4))
    assert await read_packet(reader) == (777, 4, b"any")


async def test_a_peer_that_vanishes_in_a_packet_is_counted(net, until):
    server = await echo_server(net)
    _reader, writer = await net.open(server)
    writer.write(wire(1, bytes(1000))[:500])
    await until(lambda: server.stats()["bytes_buffered"] == 500)
    assert server.stats()["pool"]["outstanding"] == 1
    writer.close()
    await until(lambda: len(server.sessions) == 0)
    assert server.stats()["bytes_discarded"] == 500


# -- handlers


async def test_a_handler_that_raises_is_counted_and_the_session_goes_on(net, caplog):
    server = await echo_server(net)

    @server.on(2)
    def bad(session, packet):
        raise ValueError("no such \x1b[31mplayer")

    reader, writer = await net.open(server)
    writer.write(wire(2) + wire(1))
    await read_packet(reader)
    assert server.stats()["handler_errors"] == 1
    assert "the handler of packet id 2 raised" in caplog.text
    assert caplog.records[0].exc_info[0] is ValueError


async def test_a_handler_that_raises_closes_where_that_is_the_policy(net, until):
    server = await echo_server(net, handler_errors="close")

    @server.on(2)
    def bad(session, packet):
        raise ValueError

    @server.on(3)
    async def bad_later(session, packet):
        await asyncio.sleep(0)
        raise ValueError

    for packet_id in (2, 3):
        reader, writer = await net.open(server)
        writer.write(wire(packet_id) + wire(1))
        assert await reader.read() == b""
    await until(lambda: server.stats()["closed"] == {"handler_error": 2})
    assert server.stats()["handler_errors"] == 2


async def test_async_handlers_keep_the_order_of_their_session_and_hold_up_no_other(net):
    server, order = await net.server(), []
    gate = asyncio.Event()

    @server.on(1)
    async def waits(session, packet):
        order.append(("start", packet.sequence))
        await gate.wait()
        order.append(("end", packet.sequence))
        session.reply(packet)

    @server.on(2)
    def at_once(session, packet):
        order.append(("sync", packet.sequence))
        session.reply(packet)

    reader, writer = await net.open(server)
    other_reader, other_writer = await net.open(server)
    writer.write(wire(1, b"a", 1) + wire(2, b"b", 2))
    other_writer.write(wire(2, b"c", 3))
    assert await read_packet(other_reader) == (2, 3, b"c")
    gate.set()
    assert await read_packet(reader) == (1, 1, b"a")
    assert await read_packet(reader) == (2, 2, b"b")
    order.remove(("sync", 3))
    assert order == [("start", 1), ("end", 1), ("sync", 2)]


async def test_an_async_handler_that_does_not_wait(net):
    server = await net.server()

    @server.on(1)
    async def handler(session, packet):
        session.reply(packet)

    reader, writer = await net.open(server)
    writer.write(b"".join(wire(1, b"x", n) for n in range(200)))
    for n in range(200):
        assert await read_packet(reader) == (1, n, b"x")


async def test_an_async_handler_may_keep_its_packet(net):
    server = await net.server()

    @server.on(1)
    async def handler(session, packet):
        view = packet.view()
        await asyncio.sleep(0.001)
        session.send(packet.packet_id, view, packet.sequence)

    reader, writer = await net.open(server)
    for n in range(50):
        writer.write(wire(1, bytes([n]) * 100, n))
    for n in range(50):
        assert await read_packet(reader) == (1, n, bytes([n]) * 100)


async def test_async_handlers_end_with_their_session(net, until):
    server, ended = await net.server(), []

    @server.on(1)
    async def handler(session, packet):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    reader, writer = await net.open(server)
    writer.write(wire(1))
    await until(lambda: server.stats()["packets_dispatched"] == 1)
    (session,) = server.sessions
    session.close("enough")
    assert await reader.read() == b""
    await until(lambda: ended == ["cancelled"])
    assert server.stats()["handler_errors"] == 0


async def test_reading_pauses_behind_a_suspended_handler(net, until):
    server = await net.server(max_read_buffer=10_000)
    gate = asyncio.Event()

    @server.on(1)
    async def handler(session, packet):
        await gate.wait()
        session.reply(packet)

    reader, writer = await net.open(server)
    packets = 20_000
    for n in range(packets):
        writer.write(wire(1, bytes(100), n))
    await until(lambda: server.stats()["bytes_buffered"] >= 10_000)
    await asyncio.sleep(0.05)
    # one read of the loop's own size may lie above the limit
    assert server.stats()["bytes_buffered"] <= 10_000 + 262_144
    gate.set()
    for n in range(packets):
        assert (await read_packet(reader))[1] == n


async def test_handlers_may_replace_themselves(net):
    server = await net.server()

    @server.on(1)
    def first(session, packet):
        server.on(1)(second)
        session.send(1, b"first", packet.sequence)

    def second(session, packet):
        server.on(1)(first)
        session.send(1, b"second", packet.sequence)

    reader, writer = await net.open(server)
    writer.write(wire(1) * 3)
    assert [(await read_packet(reader))[2] for _ in range(3)] == [b"first", b"second", b"first"]


async def test_kept_packets_and_views_stay_true_through_a_burst(net, rng):
    server, kept = await net.server(), []

    @server.on(1)
    def handler(session, packet):
        if packet.sequence % 3 == 0:
            kept.append((packet.sequence, packet))
        elif packet.sequence % 3 == 1:
            kept.append((packet.sequence, packet.view()))
        if packet.sequence == 999:
            session.reply(packet)

    reader, writer = await net.open(server)
    stream = b"".join(wire(1, struct.pack("<I", n) * 50, n) for n in range(1000))
    while stream:
        size = rng.randrange(1, 3000)
        writer.write(stream[:size])
        stream = stream[size:]
        await asyncio.sleep(0)
    await read_packet(reader)
    for n, thing in kept:
        body = bytes(thing) if isinstance(thing, memoryview) else thing.body
        assert body == struct.pack("<I", n) * 50
    kept.clear()
    del thing


# -- sending


async def test_what_send_takes(net):
    server = await net.server()

    class Chat(net.gamenet.Packet, id=1002):
        message: str = net.gamenet.char(4)

    @server.on(1)
    def handler(session, packet):
        own = Chat("me")
        own.sequence = 5
        session.send(own)
        session.send(own, sequence=6)
        session.send(9, b"raw")
        session.send(9, bytearray(b"raw"), 7)
        session.send(9, memoryview(b"raw"), sequence=8)
        session.reply(packet, own)
        session.reply(packet)
        assert own.sequence == 5

    reader, writer = await net.open(server)
    writer.write(wire(1, b"ask", 44))
    expected = [(1002, 5, b"me\0\0"), (1002, 6, b"me\0\0"), (9, 0, b"raw"), (9, 7, b"raw"), (9, 8, b"raw"),
                (1002, 44, b"me\0\0"), (1, 44, b"ask")]
    assert [await read_packet(reader) for _ in expected] == expected


async def test_what_send_refuses(net):
    server, errors = await net.server(), []

    @server.on(1)
    def handler(session, packet):
        for arguments in [(70000, b""), (1, bytes(8185)), (1, b"", 1 << 32), ("1", b""), (1, "text"), (packet, b"body")]:
            try:
                session.send(*arguments)
            except (ValueError, TypeError) as error:
                errors.append(type(error).__name__)
        for arguments in [(1,), (packet, "1"), (packet, 1, "text"), (packet, packet, b"body"), (packet, None, b"body")]:
            try:
                session.reply(*arguments)
            except TypeError as error:
                errors.append(str(error))
        session.reply(packet)

    reader, writer = await net.open(server)
    writer.write(wire(1))
    assert await read_packet(reader) == (1, 0, b"")
    text = "a bytes-like object is required, not 'str'"  # the interpreter's own
    errors = [error.removeprefix("memoryview: ") for error in errors]
    assert errors == ["ValueError"] * 3 + ["TypeError"] * 3 + [
        "request must be a packet, got int",
        "packet_id must be an int, got str",
        text,
        "a packet brings its own body",
        "a packet brings its own body",
    ]


async def test_a_reply_of_bytes_under_another_id(net):
    server = await net.server()

    @server.on(1)
    def handler(session, packet):
        assert session.reply(packet, 2, b"answer")
        assert session.reply(packet, 3)
        assert session.reply(packet, 4, memoryview(bytes(20_000))[::1][:4000])

    reader, writer = await net.open(server)
    writer.write(wire(1, b"question", sequence=77))
    expected = [(2, 77, b"answer"), (3, 77, b""), (4, 77, bytes(4000))]
    assert [await read_packet(reader) for _ in expected] == expected


async def test_a_reply_under_another_id_carries_the_extra_fields(net):
    fields = [net.gamenet.HeaderField(name, 1) for name in ("packet_id", "packet_size", "sequence", "unit")]
    server = await net.server(layout=net.gamenet.HeaderLayout(tuple(fields)))
    server.on(1)(lambda session, packet: session.reply(packet, 2, b"answer"))
    reader, writer = await net.open(server)
    writer.write(bytes([1, 4, 77, 5]))
    assert await reader.readexactly(10) == bytes([2, 10, 77, 5]) + b"answer"


async def test_the_callers_buffer_may_change_after_send(net):
    server = await net.server()

    @server.on(1)
    def handler(session, packet):
        body = bytearray(b"before")
        session.send(2, body)
        body[:] = b"after!"

    reader, writer = await net.open(server)
    writer.write(wire(1))
    assert await read_packet(reader) == (2, 0, b"before")


async def test_a_wrong_thread_raises_and_sends_nothing(net):
    server, raised = await echo_server(net), []
    reader, writer = await net.open(server)
    writer.write(wire(1))
    await read_packet(reader)
    (session,) = server.sessions
    packet = net.gamenet.RawPacket(1, b"x")

    def elsewhere():
        for call in (
            lambda: session.send(1, b"x"),
            lambda: session.reply(packet),
            lambda: session.send_frame(b"x"),
            lambda: server.sessions.broadcast(1, b"x"),
            session.close,
            session.abort,
        ):
            try:
                call()
            except net.gamenet.WrongThreadError as error:
                raised.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert len(raised) == 6
    assert f"belongs to thread {threading.get_ident()} and was used from thread" in raised[0]
    writer.write(wire(1, b"still", 9))
    assert await read_packet(reader) == (1, 9, b"still")


async def test_a_receiver_that_never_reads_is_cut_off(net, until):
    server = await net.server(max_write_buffer=200_000, high_watermark=50_000, low_watermark=10_000)
    _reader, writer = await net.open(server)
    other_reader, other_writer = await net.open(server)
    writer.transport.pause_reading()
    await until(lambda: len(server.sessions) == 2)
    peer = next(s for s in server.sessions if s.peername == writer.get_extra_info("sockname"))
    largest = 0
    received = asyncio.ensure_future(count_bytes(other_reader))
    for n in range(100_000):
        server.sessions.broadcast(2, bytes(8000), n)
        largest = max(largest, peer.outbox_size)
        if peer.close_reason:
            break
        if n % 8 == 0:
            await asyncio.sleep(0)
    await until(lambda: server.stats()["closed"] == {"slow_receiver": 1})
    assert largest <= 200_000 + 9 * 8008  # what one turn sends at first does not count
    assert len(server.sessions) == 1
    other_writer.close()
    await received


async def count_bytes(reader):
    total = 0
    while data := await reader.read(1 << 20):
        total += len(data)
    return total


async def test_a_slow_receiver_is_not_read_from_and_loses_nothing(net, until):
    server = await echo_server(net, high_watermark=20_000, low_watermark=5_000)
    reader, writer = await net.open(server)
    writer.transport.pause_reading()
    packets = 3000
    for n in range(packets):
        writer.write(wire(1, bytes(4000), n))
    await until(lambda: any(session.is_write_paused for session in server.sessions))
    await asyncio.sleep(0.02)
    assert server.stats()["packets_dispatched"] < packets
    writer.transport.resume_reading()
    for n in range(packets):
        assert (await read_packet(reader))[1] == n


# -- time


async def test_a_silent_session_is_closed(net, until):
    server = await net.server(idle_timeout=0.1)
    reader, _writer = await net.open(server)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    await until(lambda: server.stats()["closed"] == {"idle_timeout": 1})


async def test_a_session_that_speaks_is_not_closed(net):
    server = await echo_server(net, idle_timeout=0.3)
    reader, writer = await net.open(server)
    for n in range(12):
        await asyncio.sleep(0.05)
        writer.write(wire(1, b"x", n))
        assert (await read_packet(reader))[1] == n
    assert server.stats()["closed"] == {}


async def test_a_session_whose_handler_waits_is_not_idle(net):
    server = await net.server(idle_timeout=0.1)

    @server.on(1)
    async def slow(session, packet):
        await asyncio.sleep(0.4)
        session.reply(packet)

    reader, writer = await net.open(server)
    writer.write(wire(1, b"x"))
    assert await read_packet(reader) == (1, 0, b"x")


async def test_closing_towards_a_peer_that_does_not_read_ends_by_the_deadline(net, until):
    server = await net.server(close_timeout=0.2, max_write_buffer=50_000_000)
    _reader, writer = await net.open(server)
    writer.transport.pause_reading()
    await until(lambda: len(server.sessions) == 1)
    (session,) = server.sessions
    for _ in range(5000):
        session.send(1, bytes(8000))
    session.close("enough")
    assert not session.is_closed
    await until(lambda: session.is_closed)
    assert server.stats()["closed"] == {"enough": 1}


async def test_packets_that_come_while_handlers_wait_keep_their_order(net, until):
    server = await net.server()
    handled, gates = [], [asyncio.Event() for _ in range(6)]

    @server.on(1)
    async def wait(session, packet):
        await gates[packet.sequence].wait()
        handled.append(packet.sequence)

    _reader, writer = await net.open(server)

    async def send_chunk(number):
        writer.write(wire(1, b"", number))
        await until(lambda: server.stats()["bytes_in"] == 8 * number)

    for number in (1, 2, 3):
        await send_chunk(number)
    gates[1].set()  # the chunk of 2 is read to its end, that of 3 waits behind it
    await until(lambda: handled == [1])
    for number in (4, 5):
        await send_chunk(number)
    for gate in gates:
        gate.set()
    await until(lambda: len(handled) == 5)
    assert handled == [1, 2, 3, 4, 5]
