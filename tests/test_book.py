"""The 46 faults of the book's listings, as far as their parts exist here: each a test that would see it again.

The number in a name is the fault's. Faults 29, 32, 37, 41 to 43 and 44 to 46 have their tests in the modules of their
parts: test_deadlines.py, test_reconnect.py, test_pool.py, test_object_pool.py and test_mailbox.py.
"""

import asyncio
import gc
import logging
import re
import struct
import threading
import weakref
from pathlib import Path

import pytest
from wire import echo_server, read_packet, wire

# -- sessions


async def test_fault_1_registering_a_new_session_works(net, until):
    server = await net.server(start=False)
    registered = []
    server.on_opened(lambda session: registered.append((session in server.sessions, session.id)))
    await net.start(server)
    await net.open(server)
    await until(lambda: registered)
    assert registered[0][0]


async def test_faults_2_and_3_a_closed_session_is_unregistered_and_freed(net, until):
    server, freed = await echo_server(net), []
    for _ in range(20):
        reader, writer = await net.open(server)
        writer.write(wire(1))
        await read_packet(reader)
        for session in server.sessions:
            weakref.finalize(session, freed.append, 1)
        del session
        writer.close()
        await until(lambda: len(server.sessions) == 0)
    await asyncio.sleep(0.01)
    gc.collect()
    assert len(freed) == 20


async def test_fault_4_removing_during_a_broadcast(net, until):
    server = await net.server(max_write_buffer=10_000, high_watermark=1000, low_watermark=0)
    for _ in range(5):
        _, writer = await net.open(server)
        writer.transport.pause_reading()
    await until(lambda: len(server.sessions) == 5)
    async with asyncio.timeout(20):
        while len(server.sessions):
            for session in list(server.sessions)[:1]:
                session.pause_writing()  # the next broadcasts overflow it, and end it while they run
            for _ in range(20):
                server.sessions.broadcast(2, bytes(5000))
            await asyncio.sleep(0.01)
    assert server.stats()["closed"] == {"slow_receiver": 5}


async def test_fault_5_one_slow_receiver_delays_nobody(net, until):
    server = await net.server(max_write_buffer=100_000_000)
    _, stuck = await net.open(server)
    stuck.transport.pause_reading()
    reader, _ = await net.open(server)
    await until(lambda: len(server.sessions) == 2)
    for n in range(2000):
        assert server.sessions.broadcast(2, bytes(4000), n) == 2
        assert (await read_packet(reader))[1] == n
    await net.open(server)
    await until(lambda: len(server.sessions) == 3)


async def test_fault_6_a_send_does_not_refer_to_the_callers_buffer(net):
    server = await net.server()

    @server.on(1)
    def handler(session, packet):
        body = bytearray(b"this")
        session.send(2, body)
        server.sessions.broadcast(3, body)
        body[:] = b"that"

    reader, writer = await net.open(server)
    writer.write(wire(1))
    assert [await read_packet(reader) for _ in range(2)] == [(2, 0, b"this"), (3, 0, b"this")]


async def test_fault_7_sends_do_not_interleave(net):
    server = await net.server(max_packet_size=60_000, max_write_buffer=1 << 30)

    @server.on(1)
    async def handler(session, packet):
        for n in range(20):
            session.send(2, bytes([packet.body[0]]) * 50_000, n)
            await asyncio.sleep(0)

    reader, writer = await net.open(server)
    senders = [net.gamenet.RawPacket(3, bytes([n]) * 30_000) for n in range(50)]
    writer.write(wire(1, b"a"))
    for packet in senders:
        await asyncio.sleep(0)
        server.sessions.broadcast(packet)
    for _ in range(20):
        _packet_id, _, body = await read_packet(reader)
        assert body == body[:1] * len(body)


async def test_fault_8_a_broadcast_carries_its_header(net, until):
    server = await net.server()
    peers = [await net.open(server) for _ in range(3)]
    await until(lambda: len(server.sessions) == 3)
    server.sessions.broadcast(1002, b"hello", 7)
    for reader, _ in peers:
        assert await read_packet(reader) == (1002, 7, b"hello")


async def test_fault_9_nothing_is_handled_after_the_session_closed(net, until):
    server, handled = await net.server(), []

    @server.on(1)
    def handler(session, packet):
        handled.append(packet.sequence)
        session.close()

    reader, writer = await net.open(server)
    writer.write(wire(1) * 51)
    await reader.read()
    writer.write(wire(1) * 10)
    await until(lambda: len(server.sessions) == 0)
    assert handled == [0]
    assert server.stats()["packets_discarded"] == 50


async def test_fault_10_every_ending_removes_the_session_and_has_a_reason(net, until):
    server = await echo_server(net, idle_timeout=0.3)
    server.on(2)(lambda session, packet: session.close("kicked"))
    endings = {
        "peer_closed": lambda writer: writer.close(),
        "kicked": lambda writer: writer.write(wire(2)),
        "invalid_packet": lambda writer: writer.write(bytes(8)),
        "idle_timeout": lambda writer: None,
    }
    for end in endings.values():
        _, writer = await net.open(server)
        end(writer)
    await until(lambda: server.stats()["accepted"] == 4 and len(server.sessions) == 0)
    assert server.stats()["closed"] == dict.fromkeys(endings, 1)


async def test_fault_11_a_socket_is_not_used_from_two_threads(net):
    server, raised = await echo_server(net), []
    reader, writer = await net.open(server)
    writer.write(wire(1))
    await read_packet(reader)
    (session,) = server.sessions

    def elsewhere():
        with pytest.raises(net.gamenet.WrongThreadError):
            session.send(1)
        raised.append(True)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert raised == [True]
    assert server.stats()["packets_out"] == 1


# -- the buffer


@pytest.mark.parametrize("size", range(8))
def test_faults_12_and_13_a_size_below_the_header_neither_loops_nor_parses_rubbish(core, size):
    buffer = core.PacketBuffer()
    buffer.feed(struct.pack("<HHI", 1002, size, 0) + bytes(100))
    from gamenet.errors import InvalidPacketError

    for _ in range(2):
        with pytest.raises(InvalidPacketError, match=f"packet_size {size} is below the smallest packet of 8 bytes"):
            next(buffer)


def test_fault_14_there_is_a_largest_size(core):
    from gamenet.errors import InvalidPacketError

    pool = core.PoolAllocator(8192)
    buffer = core.PacketBuffer(core.HeaderCodec(max_packet_size=8192), pool)
    buffer.feed(struct.pack("<HHI", 1002, 8193, 0))
    with pytest.raises(InvalidPacketError, match="8193 is above the limit of 8192"):
        next(buffer)
    assert pool.outstanding == 0


@pytest.mark.parametrize("size", [8191, 8192, 8193, 16384, 65535])
@pytest.mark.parametrize("step", [1, 4096, 70_000])
def test_fault_15_packets_above_8192_bytes_arrive(core, size, step):
    buffer = core.PacketBuffer(core.HeaderCodec(max_packet_size=65535))
    data, bodies = wire(1, bytes(size - 8)) * 2, []
    for at in range(0, len(data), step):
        buffer.feed(data[at : at + step])
        bodies += [packet.body for packet in buffer]
    assert bodies == [bytes(size - 8)] * 2


def test_fault_16_a_read_position_at_exactly_half(core):
    buffer = core.PacketBuffer()
    for _ in range(4):
        buffer.feed(wire(1, bytes(4096 - 8)) * 2)
        assert len(list(buffer)) == 2
        buffer.feed(wire(1, bytes(4096 - 8))[:4000])
        assert list(buffer) == []
        buffer.feed(wire(1, bytes(4096 - 8))[4000:])
        assert len(list(buffer)) == 1


def test_fault_17_no_caller_can_advance_a_position(core):
    public = {name for name in dir(core.PacketBuffer) if not name.startswith("_")}
    assert public == {"buffered", "clear", "codec", "feed", "holds_block"}


def test_fault_18_no_growth_and_nothing_kept(core):
    pool = core.PoolAllocator(65535)
    buffer = core.PacketBuffer(core.HeaderCodec(max_packet_size=65535), pool)
    for _ in range(100):
        for piece in (wire(1, bytes(65527))[:30_000], wire(1, bytes(65527))[30_000:]):
            buffer.feed(piece)
            list(buffer)
        gc.collect(1)
        assert pool.stats()["outstanding"] == 0
    assert pool.stats()["free"] <= 2


async def test_fault_19_the_sequence_number_is_carried_answered_and_matched(net):
    server, seen = await net.server(), []

    @server.on(1)
    def handler(session, packet):
        seen.append(packet.sequence)
        session.reply(packet, net.gamenet.RawPacket(2, b"answer"))

    client = await net.connect(server)
    answers = [await client.request(1) for _ in range(3)]
    assert seen == [answer.sequence for answer in answers] == [1, 2, 3]


# -- packets


async def test_fault_20_a_short_packet_leaks_no_memory(net):
    server = await echo_server(net)

    class Chat(net.gamenet.Packet, id=1002):
        message: str = net.gamenet.char(256)

    server.on(Chat)(lambda session, packet: server.sessions.broadcast(packet))
    reader, writer = await net.open(server)
    writer.write(wire(1002, b"hi") + wire(1, b"end"))
    assert await read_packet(reader) == (1, 0, b"end")
    assert server.stats()["rejected"]["short"] == 1


def test_fault_21_a_char_array_without_nul_is_read_to_its_end_only(gamenet):
    class Login(gamenet.Packet, id=1001):
        user_id: str = gamenet.char(32)
        password: str = gamenet.char(64, secret=True)

    packet = Login.unpack(b"u" * 32 + b"p" * 64)
    assert (packet.user_id, packet.password) == ("u" * 32, "p" * 64)


async def test_fault_22_no_password_in_a_log(net, caplog):
    server = await echo_server(net)

    class Login(net.gamenet.Packet, id=1001):
        user_id: str = net.gamenet.char(32)
        password: str = net.gamenet.char(64, secret=True)

    @server.on(Login)
    def login(session, packet):
        logging.getLogger("game").info("login: %s %r", packet, packet)
        raise ValueError(f"cannot log in {packet}")

    reader, writer = await net.open(server)
    with caplog.at_level(logging.DEBUG):
        writer.write(Login("somebody", "hunter2").body.join([struct.pack("<HHI", 1001, 104, 0), wire(1)]))
        await read_packet(reader)
    assert "somebody" in caplog.text
    assert "hunter2" not in caplog.text


# -- dispatch


async def test_fault_23_a_handler_may_replace_itself_while_it_runs(net):
    server = await net.server()

    def make(name):
        def handler(session, packet):
            server.on(1)(make(name + 1))
            gc.collect(1)
            session.send(1, str(name).encode(), packet.sequence)

        return handler

    server.on(1)(make(0))
    reader, writer = await net.open(server)
    writer.write(wire(1) * 50)
    assert [(await read_packet(reader))[2] for _ in range(50)] == [str(n).encode() for n in range(50)]


async def test_fault_24_a_handlers_exception_harms_no_other(net):
    server = await echo_server(net)
    server.on(2)(lambda session, packet: {}["missing"])
    reader, writer = await net.open(server)
    other_reader, other_writer = await net.open(server)
    writer.write(wire(2) + wire(1, b"a"))
    other_writer.write(wire(1, b"b"))
    assert await read_packet(reader) == (1, 0, b"a")
    assert await read_packet(other_reader) == (1, 0, b"b")
    assert server.stats()["handler_errors"] == 1


async def test_fault_25_one_busy_client_does_not_starve_another(net):
    server = await echo_server(net, max_write_buffer=1 << 30)
    _, flood = await net.open(server)
    reader, writer = await net.open(server)
    flooding = True

    async def flooder():
        while flooding:
            flood.write(wire(1) * 5000)
            await asyncio.sleep(0)

    task = asyncio.ensure_future(flooder())
    try:
        for n in range(20):
            writer.write(wire(1, b"fair", n))
            assert await read_packet(reader) == (1, n, b"fair")
    finally:
        flooding = False
        await task
        flood.transport.abort()


async def test_fault_26_unknown_ids_do_not_flood_the_log(net, caplog):
    server = await echo_server(net)
    reader, writer = await net.open(server)
    with caplog.at_level(logging.DEBUG, "gamenet"):
        writer.write(wire(77) * 5000 + wire(1))
        await read_packet(reader)
    lines = [record for record in caplog.records if "packet id 77" in record.getMessage()]
    assert 1 <= len(lines) <= 30
    assert server.stats()["rejected"]["unknown"] == 5000


# -- timeouts


async def test_fault_27_a_session_that_just_spoke_is_not_closed(net):
    server = await echo_server(net, idle_timeout=0.2)
    reader, writer = await net.open(server)
    for n in range(10):
        await asyncio.sleep(0.12)
        writer.write(wire(1, b"x", n))
        assert (await read_packet(reader))[1] == n
    assert server.stats()["closed"] == {}


async def test_fault_28_no_timer_outlives_its_session(net, until):
    server = await echo_server(net, idle_timeout=30.0)
    context = server._context
    for _ in range(10):
        _, writer = await net.open(server)
        await until(lambda: len(server.sessions) == 1)
        assert len(context.timer) == 1
        writer.close()
        await until(lambda: len(server.sessions) == 0)
        assert len(context.timer) == 0


async def test_fault_30_a_handler_that_raises_leaves_timer_and_reading_in_order(net, until):
    server = await echo_server(net, idle_timeout=0.2)
    server.on(2)(lambda session, packet: 1 / 0)
    reader, writer = await net.open(server)
    writer.write(wire(2) + wire(1))
    await read_packet(reader)
    await until(lambda: server.stats()["closed"] == {"idle_timeout": 1})


async def test_fault_31_closing_never_raises(net, until):
    server = await echo_server(net)
    reader, writer = await net.open(server)
    writer.write(wire(1))
    await read_packet(reader)
    (session,) = server.sessions
    writer.transport.abort()
    await until(lambda: session.is_closed)
    for end in (session.close, session.abort, session.close, session.abort):
        end()
    assert session.close_reason in ("peer_closed", "network_error")


# -- errors


def test_fault_33_every_code_has_its_level_and_control_characters_are_escaped(caplog):
    from gamenet.errors import ErrorCode
    from gamenet.logs import LimitedLogger, escape

    assert [int(code) for code in ErrorCode] == [0, 1000, 1001, 1002, 1003, 1004, 1005]
    assert all(logging.getLevelName(code.level) in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL") for code in ErrorCode)
    assert escape("a\n\x1b[31m\x00é\u2028") == r"a\n\x1b[31m\x00é\u2028"
    time = [0.0]
    log = LimitedLogger(logging.getLogger("limited"), lambda: time[0], lines_per_second=5)
    with caplog.at_level(logging.INFO, "limited"):
        for n in range(100):
            log.log(logging.INFO, "line %d from %s", n, "evil\nname")
        time[0] = 1.0
        log.log(logging.INFO, "line %d from %s", 100, "x")
    assert [record.getMessage() for record in caplog.records][-2:] == [
        r"line 4 from evil\nname",
        "line 100 from x (and 95 lines like it left out)",
    ]


# -- pools


def test_fault_34_a_double_free_is_refused(core):
    pool = core.PoolAllocator(64)
    block = pool.acquire()
    block.release()
    with pytest.raises(ValueError, match="this block was released"):
        block.release()
    first, second = pool.acquire(), pool.acquire()
    first.write(0, b"first")
    second.write(0, b"second")
    assert bytes(first.view()[:5]) == b"first"


def test_fault_35_a_block_goes_back_to_its_own_pool(core):
    one, other = core.PoolAllocator(64), core.PoolAllocator(64)
    block = one.acquire()
    other.acquire().release()
    block.release()
    assert (one.outstanding, other.outstanding) == (0, 0)
    assert not hasattr(one, "release")


def test_fault_36_more_than_the_blocks_size_is_refused(core):
    block = core.PoolAllocator(64).acquire()
    with pytest.raises(ValueError, match="bytes 0 to 65 are outside a block of 64"):
        block.write(0, bytes(65))


def test_faults_38_and_42_empty_is_an_error_or_a_counted_fallback_and_never_null(core):
    from gamenet.errors import PoolExhaustedError

    strict = core.PoolAllocator(64, max_blocks=1, when_empty="raise")
    held = strict.acquire()
    with pytest.raises(PoolExhaustedError):
        strict.acquire()
    held.release()
    pool = core.PoolAllocator(64, max_blocks=1)
    blocks = [pool.acquire() for _ in range(10)]
    blocks.clear()
    gc.collect()
    stats = pool.stats()
    assert (stats["outstanding"], stats["fallbacks"]) == (0, 9)
    assert stats["free"] <= 1


def test_fault_39_a_block_keeps_its_pool(core):
    block = core.PoolAllocator(64).acquire()
    gc.collect()
    block.write(0, b"still here")
    assert bytes(block.view()[:10]) == b"still here"
    block.release()


def test_fault_40_sizes_do_not_overflow(core):
    huge = (1 << 62, 1 << 62)
    pool = core.PoolAllocator(*huge)
    with pytest.raises((MemoryError, OverflowError)):
        pool.acquire()
    assert pool.outstanding == 0


# -- the texts above stay complete


def test_every_fault_has_a_test():
    sources = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    names = re.findall(r"def test_(faults?_[\d_and]+)", "\n".join(sources))
    assert {int(number) for name in names for number in re.findall(r"\d+", name)} == set(range(1, 47))
