"""The client, on both twins."""

import asyncio
from contextlib import suppress

import pytest
from virtual import run
from wire import echo_server


@pytest.fixture
def move(gamenet):
    class Move(gamenet.Packet, id=1003):
        player_id: gamenet.u32
        x: gamenet.f32
        y: gamenet.f32

    return Move


async def test_packets_come_as_their_classes(net, move):
    server = await net.server()
    server.on(move)(lambda session, packet: server.sessions.broadcast(packet))
    server.on(9)(lambda session, packet: session.send(9, packet.body))
    client = await net.connect(server, packets=[move])
    client.send(move(1, 2.0, 3.0))
    client.send(9, b"raw")
    packets = aiter(client)
    first, second = await anext(packets), await anext(packets)
    assert (type(first), first.fields) == (move, {"player_id": 1, "x": 2.0, "y": 3.0})
    assert (type(second).__name__, second.body) == ("RawPacket", b"raw")


async def test_requests_find_their_answers_among_other_packets(net):
    server = await net.server()

    @server.on(1)
    async def handler(session, packet):
        session.send(2, b"noise")
        await asyncio.sleep(0.001 * (packet.body[0] % 3))
        session.reply(packet)

    client = await net.connect(server)
    answers = await asyncio.gather(*(client.request(1, bytes([n])) for n in range(50)))
    assert [answer.body for answer in answers] == [bytes([n]) for n in range(50)]
    packets = aiter(client)
    assert [(await anext(packets)).body for _ in range(50)] == [b"noise"] * 50


async def test_a_request_that_nobody_answers(net):
    server = await net.server()
    server.on(1)(lambda session, packet: None)
    client = await net.connect(server)
    with pytest.raises(TimeoutError, match=r"no answer to sequence 1 within 0.05 s"):
        await client.request(1, timeout=0.05)


async def test_requests_end_with_the_connection(net):
    server = await net.server()
    server.on(1)(lambda session, packet: session.close())
    client = await net.connect(server)
    with pytest.raises(net.gamenet.SessionClosedError, match="the connection has ended: peer_closed"):
        await client.request(1)
    with pytest.raises(net.gamenet.SessionClosedError):
        await client.request(1)
    assert (client.is_connected, client.close_reason) == (False, "peer_closed")
    assert not client.send(1)


async def test_the_iteration_ends_with_the_connection(net):
    server = await net.server()

    @server.on(1)
    def handler(session, packet):
        for n in range(5):
            session.send(2, bytes([n]))
        session.close()

    client = await net.connect(server)
    client.send(1)
    assert [packet.body[0] async for packet in client] == [0, 1, 2, 3, 4]
    assert [packet async for packet in client] == []


async def test_a_broken_connection_is_not_a_quiet_end(net):
    server = await net.server()
    server.on(1)(lambda session, packet: session.send_frame(bytes(8)))
    client = await net.connect(server)
    client.send(1)
    with pytest.raises(net.gamenet.SessionClosedError, match="invalid_packet"):
        await anext(aiter(client))


async def test_packets_that_nobody_takes_hold_up_the_connection_and_are_not_lost(net, until):
    server = await net.server(max_write_buffer=100_000_000)

    @server.on(1)
    def handler(session, packet):
        for n in range(5000):
            session.send(2, bytes(200), n)

    client = await net.connect(server, max_queued=10)
    client.send(1)
    await until(lambda: client.session.is_suspended)
    await asyncio.sleep(0.02)
    assert len(client._queue) == 10
    packets = aiter(client)
    assert [(await anext(packets)).sequence for _ in range(5000)] == list(range(5000))


async def test_what_waits_behind_a_full_queue_is_not_lost_when_the_server_ends(net, secure, until):
    server = await net.server()

    @server.on(1)
    def much(session, packet):
        for n in range(3000):
            session.send(2, b"", n)
        session.close()

    client = await net.connect(server, max_queued=10)
    client.send(1)
    await until(lambda: server.stats()["closed"] == {"closed": 1})
    assert [packet.sequence async for packet in client] == list(range(3000))
    assert client.close_reason == "peer_closed"


@pytest.mark.parametrize("packets", [20, 33, 400])
def test_two_ends_that_have_much_to_say_do_not_wait_for_each_other(gamenet, packets):
    """More than the watermark waits at each, so that neither would read before the other did."""

    async def main():
        server = gamenet.Server()
        got = []
        server.on(2)(lambda session, packet: got.append(packet.sequence))
        async with gamenet.testing.leak_check(), gamenet.testing.MemoryNetwork(capacity=8192) as net:
            client = await net.connect(await net.serve(server))
            session = next(iter(server.sessions))
            for n in range(packets):
                assert client.send(2, bytes(4000), n)
                assert session.send(2, bytes(4000), n)
            async with asyncio.timeout(5):
                assert [(await anext(client)).sequence for _ in range(packets)] == list(range(packets))
                while len(got) < packets:
                    await asyncio.sleep(0.01)
            assert got == list(range(packets))

    run(gamenet, main)


def test_a_client_that_gives_and_never_takes_is_bounded(gamenet):
    """It reads on, and answers everything, to a server that does not read."""

    async def main():
        server = gamenet.Server(max_read_buffer=1000, write_timeout=None)
        server.on(2)(lambda session, packet: session.suspend())
        async with gamenet.testing.leak_check(), gamenet.testing.MemoryNetwork(capacity=8192) as net:
            client = await net.connect(await net.serve(server), max_write_buffer=100_000)
            client.dispatch.on(3)(lambda session, packet: session.reply(packet))
            client.send(2)
            await asyncio.sleep(0.1)
            for n in range(300):
                server.sessions.broadcast(3, bytes(1000), n)
                await asyncio.sleep(0.001)
                assert client.session.unsent_size < 120_000
            assert client.close_reason == "slow_receiver"

    run(gamenet, main)


async def test_cancelling_behind_connection_made_leaves_nothing(net, secure, monkeypatch, until):
    """Whoever makes the connection has not returned it yet."""
    server = await net.server()
    opened = []

    def session_opened(client, session):
        opened.append(session)
        connecting.cancel()

    monkeypatch.setattr(net.gamenet.Client, "session_opened", session_opened)
    connecting = asyncio.ensure_future(net.connect(server))
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert len(opened) == 1
    await until(lambda: opened[0].is_closed)
    assert opened[0].close_reason == "closed"
    await until(lambda: not server.sessions)


async def test_two_readers_are_refused(net):
    client = await net.connect(await net.server())
    first = asyncio.ensure_future(anext(aiter(client)))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="somebody else waits"):
        await anext(aiter(client))
    first.cancel()


async def test_receive_waits_for_the_next_packet_and_no_longer_than_asked(net):
    server = await net.server()
    server.on(1)(lambda session, packet: server.sessions.broadcast(packet))
    client = await net.connect(server)
    with pytest.raises(TimeoutError, match=r"no packet within 0.01 s"):
        await client.receive(timeout=0.01)
    for n in range(3):
        client.send(1, bytes([n]))
    assert (await client.receive()).body == b"\0"
    assert (await anext(aiter(client))).body == b"\1"
    assert (await client.receive(timeout=5.0)).body == b"\2"


async def test_receive_loses_no_packet_to_its_timeout(net):
    server = await net.server()
    server.on(1)(lambda session, packet: session.reply(packet))
    client = await net.connect(server)
    received = []
    for n in range(200):
        client.send(1, bytes([n]))
        with suppress(TimeoutError):
            received.append((await client.receive(timeout=0.0001 * (n % 4))).body[0])
    while len(received) < 200:
        received.append((await client.receive(timeout=5.0)).body[0])
    assert received == list(range(200))


async def test_receive_at_the_end_of_the_connection(net):
    server = await net.server()

    @server.on(1)
    def handler(session, packet):
        session.send(2)
        session.close()

    client = await net.connect(server)
    client.send(1)
    assert (await client.receive(timeout=5.0)).packet_id == 2
    for timeout in (None, 5.0):
        with pytest.raises(net.gamenet.SessionClosedError, match="the connection has ended: peer_closed"):
            await client.receive(timeout=timeout)


async def test_nobody_listens(gamenet, net):
    server = await net.server()
    port = server.port
    await server.stop()
    with pytest.raises(OSError):
        async with gamenet.connect("127.0.0.1", port):
            pytest.fail("there is nobody")


async def test_a_layout_without_sequence_has_no_requests(net):
    field = net.gamenet.HeaderField
    layout = net.gamenet.HeaderLayout((field("packet_id", 2), field("packet_size", 2)))
    server = await echo_server(net, layout=layout)
    client = await net.connect(server, layout=layout)
    with pytest.raises(ValueError, match="no sequence number"):
        await client.request(1)


async def test_as_many_requests_as_there_are_sequence_numbers(net, until):
    field = net.gamenet.HeaderField
    layout = net.gamenet.HeaderLayout((field("packet_id", 2), field("packet_size", 2), field("sequence", 1)))
    server = await net.server(layout=layout)
    waiting = []
    server.on(1)(lambda session, packet: waiting.append((session, packet)))
    client = await net.connect(server, layout=layout)
    asking = [asyncio.ensure_future(client.request(1)) for _ in range(255)]
    await until(lambda: len(waiting) == 255)
    with pytest.raises(RuntimeError, match="255 requests wait for an answer"):
        await client.request(1)
    session, packet = waiting.pop(7)
    session.reply(packet)
    await until(lambda: sum(each.done() for each in asking) == 1)
    last = asyncio.ensure_future(client.request(1))
    await until(lambda: len(waiting) == 255)
    for session, packet in waiting:
        session.reply(packet)
    await asyncio.gather(last, *asking)


async def test_closing_ends_the_connection_though_it_is_cancelled(net, until):
    """While it waits for what other threads handed over."""
    client = await net.connect(await net.server())
    done = []
    closing = asyncio.ensure_future(client.close())
    client.call_soon(done.append, 1)  # carried out behind the first step of close()
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await until(lambda: client.session.is_closed)
    assert client.close_reason == "closed"


async def test_wait_closed_gives_the_reason(net):
    server = await net.server(idle_timeout=0.05)
    client = await net.connect(server)
    assert await client.wait_closed() == "peer_closed"
    await client.close()


async def test_max_queued_must_be_positive(gamenet, net):
    server = await net.server()
    with pytest.raises(ValueError, match="max_queued 0 is below 1"):
        await net.connect(server, max_queued=0)
