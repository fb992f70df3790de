"""The server, on both twins: rooms and broadcasts, limits, the ledger, TLS, starting and stopping."""

import asyncio
from contextlib import suppress

import pytest
from wire import read_packet, wire

# -- groups


async def test_a_broadcast_reaches_everybody_once(net, until):
    server = await net.server()
    peers = [await net.open(server) for _ in range(20)]
    await until(lambda: len(server.sessions) == 20)
    speaker = next(iter(server.sessions))
    assert server.sessions.broadcast(5, b"to all", 9) == 20
    assert server.sessions.broadcast(net.gamenet.RawPacket(6, b"but one", 10), exclude=speaker) == 19
    await asyncio.sleep(0.02)
    for reader, writer in peers:
        assert await read_packet(reader) == (5, 9, b"to all")
        if writer.get_extra_info("sockname") != speaker.peername:
            assert await read_packet(reader) == (6, 0, b"but one")


async def test_a_broadcast_is_nobodys_answer(net):
    server = await net.server()
    server.on(1)(lambda session, packet: server.sessions.broadcast(packet))
    server.on(2)(lambda session, packet: None)
    speaker, waiting = await net.connect(server), await net.connect(server)
    request = asyncio.ensure_future(waiting.request(2, timeout=0.2))
    await asyncio.sleep(0)
    speaker.send(1, b"hello", sequence=1)
    assert (await anext(aiter(waiting))).body == b"hello"
    with pytest.raises(TimeoutError):
        await request


async def test_rooms(net, until):
    server = await net.server()
    peers = [await net.open(server) for _ in range(3)]
    await until(lambda: len(server.sessions) == 3)
    first, second, third = server.sessions
    arena = server.sessions.room("arena")
    assert server.sessions.room("arena") is arena
    assert (arena.add(first), arena.add(first), arena.add(second)) == (True, True, True)
    assert (len(arena), first in arena, third in arena, set(arena)) == (2, True, False, {first, second})
    assert first.rooms == {arena}
    assert arena.broadcast(1, b"x") == 2
    assert (arena.discard(second), arena.discard(second), second.rooms) == (True, False, set())
    for _, writer in peers:
        writer.close()
    await until(lambda: len(server.sessions) == 0)
    assert len(arena) == 0
    assert not arena.add(first)
    assert repr(arena) == "<Room 'arena' of 0>"
    del arena
    assert [room.name for room in server.sessions.rooms()] == []


async def test_a_group_is_an_array_that_forgets_nobody(net, until, rng):
    server = await net.server()
    for _ in range(12):
        await net.open(server)
    await until(lambda: len(server.sessions) == 12)
    room, model, sessions = server.sessions.room("any"), set(), list(server.sessions)
    for _ in range(500):
        session = rng.choice(sessions)
        if rng.random() < 0.5:
            room.add(session)
            model.add(session)
        else:
            assert room.discard(session) == (session in model)
            model.discard(session)
        assert set(room) == model
        assert len(room) == len(model)
        assert all((s in room) == (s in model) for s in sessions)


async def test_joining_leaving_and_closing_while_iterating(net, until):
    server = await net.server()
    for _ in range(10):
        await net.open(server)
    await until(lambda: len(server.sessions) == 10)
    room = server.sessions.room("arena")
    visited = 0
    for session in server.sessions:
        room.add(session)
        session.close("one by one")
        server.sessions.broadcast(1, b"x")
        visited += 1
    assert visited == 10
    await until(lambda: len(server.sessions) == len(room) == 0)


async def test_a_session_is_found_by_its_id(net, until):
    server = await net.server()
    _, writer = await net.open(server)
    await until(lambda: len(server.sessions) == 1)
    (session,) = server.sessions
    assert server.sessions.get(session.id) is session
    writer.close()
    await until(lambda: len(server.sessions) == 0)
    assert server.sessions.get(session.id) is None


@pytest.mark.parametrize("arguments", [("x", b""), (None,), (1, "text")])
async def test_broadcasts_that_cannot_be(net, arguments):
    server = await net.server()
    with pytest.raises(TypeError):
        server.sessions.broadcast(*arguments)
    with pytest.raises(ValueError, match="packet_id 70000 is outside 0 to 65535"):
        server.sessions.broadcast(70000)


# -- limits


async def test_max_sessions(net, until):
    server = await net.server(max_sessions=2)
    peers = [await net.open(server) for _ in range(2)]
    await until(lambda: len(server.sessions) == 2)
    with suppress(ConnectionError):  # whichever of the two hears of the reset
        reader, _ = await net.open(server)
        assert await reader.read() == b""
    assert server.stats()["refused"] == {"server_full": 1}
    assert (server.stats()["accepted"], server.stats()["closed"]) == (2, {})
    peers[0][1].close()
    await until(lambda: len(server.sessions) == 1)
    await net.open(server)
    await until(lambda: len(server.sessions) == 2)


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("max_packet_size", 7, 8),
        ("max_sessions", 0, 1),
        ("max_read_buffer", 0, 1),
        ("max_write_buffer", 0, 1),
        ("low_watermark", -1, 0),
        ("low_watermark", 65537, 65536),
        ("idle_timeout", 0, 0.001),
        ("idle_timeout", -1.0, None),
        ("close_timeout", 0.0, 0.1),
        ("max_sessions_per_address", 0, 1),
        ("max_sessions_per_address", -1, None),
        ("max_accepts_per_second", 0.0, 0.1),
        ("max_accepts_per_second", float("nan"), None),
        ("handshake_timeout", 0.0, 0.1),
    ],
)
def test_limits_out_of_range_are_named(gamenet, name, bad, good):
    with pytest.raises(ValueError, match=f"{name}"):
        gamenet.Server(**{name: bad})
    assert getattr(gamenet.Server(**{name: good}).limits, name) == good


def test_unknown_options_are_refused(gamenet):
    with pytest.raises(TypeError, match="idle_timout"):
        gamenet.Server(idle_timout=3)
    with pytest.raises(ValueError, match="unknown_packets is 'ignore'"):
        gamenet.Server(unknown_packets="ignore")
    with pytest.raises(ValueError, match="handler_errors is 'ignore'"):
        gamenet.Server(handler_errors="ignore")
    with pytest.raises(ValueError, match="transport is 'carrier pigeon'"):
        gamenet.Server(transport="carrier pigeon")


# -- starting and stopping


async def test_start_listens_and_stop_ends_it(net):
    server = await net.server()
    assert server.is_listening
    assert server.addresses == [("127.0.0.1", server.port)]
    with pytest.raises(RuntimeError, match=f"listens on port {server.port} already"):
        await server.start()
    port = server.port
    await server.stop()
    await server.stop()
    assert not server.is_listening
    with pytest.raises(RuntimeError, match="does not listen"):
        assert server.port
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_server_can_start_again(net, until):
    server = await net.server()
    server.on(1)(lambda session, packet: session.reply(packet))
    for _ in range(3):
        await server.stop()
        await net.start(server)
        reader, writer = await net.open(server)
        writer.write(wire(1, b"x"))
        assert await read_packet(reader) == (1, 0, b"x")


async def test_stop_lets_output_leave(net):
    server = await net.server(max_write_buffer=10_000_000)
    stopping = []

    @server.on(1)
    def handler(session, packet):
        for n in range(500):
            session.send(2, bytes(4000), n)
        stopping.append(asyncio.ensure_future(server.stop()))

    reader, writer = await net.open(server)
    writer.write(wire(1))
    for n in range(500):
        assert await read_packet(reader) == (2, n, bytes(4000))
    assert await reader.read() == b""
    await asyncio.gather(*stopping)
    assert server.stats()["closed"] == {"server_stopped": 1}


async def test_stop_does_not_wait_for_a_peer_that_does_not_read(net, until):
    server = await net.server(max_write_buffer=100_000_000)
    _reader, writer = await net.open(server)
    writer.transport.pause_reading()
    await until(lambda: len(server.sessions) == 1)
    for session in server.sessions:
        for n in range(5000):
            session.send(2, bytes(8000), n)
    await asyncio.wait_for(server.stop(timeout=0.1), 10)
    assert (len(server.sessions), server.stats()["closed"]) == (0, {"server_stopped": 1})


async def test_stop_cancels_handlers_that_wait(net, until):
    server = await net.server()
    server.on(1)(lambda session, packet: asyncio.sleep(3600))
    _, writer = await net.open(server)
    writer.write(wire(1))
    await until(lambda: server.stats()["packets_dispatched"] == 1)
    await asyncio.wait_for(server.stop(timeout=0.1), 10)


async def test_a_handler_may_stop_its_server(net, until):
    server = await net.server()

    @server.on(1)
    async def handler(session, packet):
        session.reply(packet)
        await server.stop()

    reader, writer = await net.open(server)
    other_reader, _ = await net.open(server)
    await until(lambda: len(server.sessions) == 2)
    writer.write(wire(1, b"last"))
    assert await read_packet(reader) == (1, 0, b"last")
    assert await other_reader.read() == b""
    await until(lambda: server.stats()["closed"] == {"server_stopped": 2})


async def test_everybody_who_stops_it_waits_for_the_end(net, until):
    server = await net.server(max_write_buffer=100_000_000)
    _reader, writer = await net.open(server)
    writer.transport.pause_reading()
    await until(lambda: len(server.sessions) == 1)
    for session in server.sessions:
        for n in range(5000):
            session.send(2, bytes(8000), n)
    stops = [asyncio.ensure_future(server.stop(timeout=0.2)) for _ in range(3)]
    await asyncio.sleep(0)
    stops[0].cancel()
    await asyncio.gather(*stops, return_exceptions=True)
    assert len(server.sessions) == 0


async def test_an_address_in_use_is_an_os_error(net):
    server = await net.server()
    other = net.gamenet.Server()
    with pytest.raises(OSError):
        await other.start("127.0.0.1", server.port)
    assert not other.is_listening


async def test_hooks_that_raise_harm_nobody(net, until, caplog):
    server = await net.server(start=False)
    server.on(1)(lambda session, packet: session.reply(packet))

    @server.on_opened
    def opened(session):
        raise ValueError("opened")

    @server.on_closed
    def closed(session, reason):
        raise ValueError("closed")

    await net.start(server)
    reader, writer = await net.open(server)
    writer.write(wire(1, b"x"))
    assert await read_packet(reader) == (1, 0, b"x")
    writer.close()
    await until(lambda: len(server.sessions) == 0)
    assert server.stats()["handler_errors"] == 2
    assert "opened raised" in caplog.text


async def test_a_session_may_be_closed_as_soon_as_it_opens(net, until):
    server = await net.server(start=False)
    server.on(1)(lambda session, packet: session.reply(packet))
    server.on_opened(lambda session: session.close("banned"))
    await net.start(server)
    reader, writer = await net.open(server)
    writer.write(wire(1))
    with suppress(ConnectionError):  # what we sent may cross the end of the connection
        assert await reader.read() == b""
    await until(lambda: server.stats()["closed"] == {"banned": 1})
    assert server.stats()["packets_dispatched"] == 0


# -- the ledger


async def test_the_ledger_balances_under_all_kinds_of_traffic(net, until, rng):
    server = await net.server(max_packet_size=2000)
    server.on(1)(lambda session, packet: session.reply(packet))
    server.on(2)(lambda session, packet: 1 / 0)
    server.on(3)(lambda session, packet: session.close("asked for"))

    @server.on(4)
    async def slow(session, packet):
        await asyncio.sleep(0.005)

    async def peer(seed):
        _reader, writer = await net.open(server)
        stream = b"".join(wire(rng.choice([1, 1, 1, 2, 4, 9]), rng.randbytes(rng.randrange(1500))) for _ in range(40))
        stream += rng.choice([wire(3) + wire(1) * 3, bytes(8), wire(1, b"half")[:9], b""])
        writer.write(stream)
        await asyncio.sleep(rng.random() * 0.1)
        writer.transport.abort() if rng.random() < 0.5 else writer.close()

    await asyncio.gather(*(peer(seed) for seed in range(30)))
    await until(lambda: len(server.sessions) == 0)
    stats = server.stats()
    assert stats["bytes_in"] == stats["bytes_dispatched"] + stats["bytes_rejected"] + stats["bytes_discarded"]
    assert stats["accepted"] == sum(stats["closed"].values()) == 30


async def test_stats_is_a_copy_of_plain_things(net):
    server = await net.server()
    stats = server.stats()
    stats["closed"]["x"] = 1
    stats.clear()
    assert server.stats()["closed"] == {}
    assert set(server.stats()) >= {"sessions", "accepted", "refused", "closed", "bytes_in", "bytes_out", "pool"}


async def test_connects_and_disconnects_leave_nothing(net, until):
    server = await net.server()
    server.on(1)(lambda session, packet: session.reply(packet))
    for _ in range(10):
        peers = await asyncio.gather(*(net.open(server) for _ in range(30)))
        for _, writer in peers:
            writer.write(wire(1))
            writer.close()
    await until(lambda: server.stats()["accepted"] == 300 and len(server.sessions) == 0)


# -- TLS


async def test_tls(net, tls):
    server_context, client_context = tls
    server = await net.server(ssl=server_context)
    server.on(1)(lambda session, packet: session.reply(packet))
    client = await net.connect(server, ssl=client_context)
    for n in range(1, 50):
        answer = await client.request(1, bytes([n]) * 150 * n)
        assert answer.body == bytes([n]) * 150 * n


async def test_plain_text_on_a_tls_port_harms_nobody(net, tls, until):
    server_context, client_context = tls
    server = await net.server(ssl=server_context)
    server.on(1)(lambda session, packet: session.reply(packet))
    reader, writer = await net.open(server)
    writer.write(wire(1, b"hello"))
    await reader.read()
    client = await net.connect(server, ssl=client_context)
    assert (await client.request(1, b"x")).body == b"x"


async def test_a_silent_tls_handshake_does_not_hold_up_the_stop(net, tls):
    net.check.ignore.append("_check_handshake_timeout")  # aiofastnet lets it run on when the connection is gone
    server = await net.server(ssl=tls[0])
    _reader, _writer = await net.open(server)
    await asyncio.sleep(0.05)
    await asyncio.wait_for(server.stop(), 10)
    assert not server.is_listening


# -- other headers


async def test_a_server_of_another_layout(net):
    field = net.gamenet.HeaderField
    layout = net.gamenet.HeaderLayout(
        (field("packet_size", 4, "big"), field("packet_id", 1), field("sequence", 3, "big")), "after"
    )
    server = await net.server(layout=layout, max_packet_size=70_000)
    server.on(200)(lambda session, packet: session.reply(packet))
    reader, writer = await net.open(server)
    writer.write(b"\0\0\0\x07\xc8\x01\x02\x03abc")
    assert await reader.readexactly(11) == b"\0\0\0\x07\xc8\x01\x02\x03abc"
    client = await net.connect(server, layout=layout, max_packet_size=70_000)
    assert (await client.request(200, bytes(69_000))).body == bytes(69_000)


async def test_sessions_take_their_blocks_from_the_servers_pool_the_smallest_that_holds_the_packet(net):
    server = await net.server(max_packet_size=8192)
    for size, block_size in [(256, 256), (257, 2048), (2049, 8192)]:
        _, writer = await net.open(server)
        writer.write(b"\1\0" + size.to_bytes(2, "little") + bytes(8))
        async with asyncio.timeout(20):
            while not server.stats()["pool"]["outstanding"]:
                await asyncio.sleep(0.001)
        by_size = server._pool.stats_by_size()
        assert {size: stats["outstanding"] for size, stats in by_size.items() if stats["outstanding"]} == {block_size: 1}
        writer.close()
        async with asyncio.timeout(20):
            while server.stats()["pool"]["outstanding"]:
                await asyncio.sleep(0.001)
