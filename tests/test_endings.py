"""Every end of a session: one reason, told once, counted once, and a ledger that balances; in plain and over TLS."""

import asyncio
import gc
from contextlib import suppress

import pytest
from fakenet import FakeNet
from wire import read_packet, reset, wire


class Told:
    """What the hooks of a server were told, in order."""

    def __init__(self, server):
        self.server = server
        self.events = []
        server.on_opened(lambda session: self.events.append("opened"))
        server.on_closed(lambda session, reason: self.events.append(str(reason)))

    async def ends(self, until, *reasons):
        """One session opened and closed, for one of `reasons`, which is counted."""
        await until(lambda: len(self.events) > 1)
        await asyncio.sleep(0.02)  # would it be told twice?
        opened, reason = self.events
        assert opened == "opened"
        assert reason in reasons
        stats = self.server.stats()
        assert stats["closed"] == {reason: 1}
        assert stats["accepted"] == 1
        assert stats["bytes_buffered"] == 0
        return stats


@pytest.fixture
def told_server(net, secure):
    """A server that echoes packet 1, and what its hooks were told."""

    async def make(**options):
        server = await net.server(**options)
        server.on(1)(lambda session, packet: session.reply(packet))
        server.on(5)(lambda session, packet: None)
        return server, Told(server)

    return make


# -- the peer ends it


async def test_an_end_between_packets(net, told_server, until):
    server, told = await told_server()
    reader, writer = await net.open(server)
    writer.write(wire(1, b"x"))
    await read_packet(reader)
    writer.close()
    stats = await told.ends(until, "peer_closed")
    assert stats["bytes_discarded"] == 0


@pytest.mark.parametrize("size", [1, 12])
async def test_an_end_inside_a_packet(net, told_server, until, size):
    server, told = await told_server()
    reader, writer = await net.open(server)
    writer.write(wire(1, b"x") + wire(1, b"body!")[:size])
    await read_packet(reader)
    await until(lambda: server.stats()["bytes_in"] == 9 + size)
    writer.close()
    stats = await told.ends(until, "incomplete_packet")
    assert (stats["bytes_discarded"], stats["packets_discarded"]) == (size, 0)


async def test_an_end_together_with_half_a_packet(net, told_server, until):
    server, told = await told_server()
    _, writer = await net.open(server)
    writer.write(wire(5, b"x") + wire(1, b"body!")[:11])
    writer.close()
    await told.ends(until, "incomplete_packet")


async def test_an_end_without_a_farewell(net, secure, told_server, until):
    """FIN alone: over TLS that is no end in order, but a peer that is gone."""
    server, told = await told_server()
    sock = await net.open_mute(server)
    await asyncio.to_thread(sock.sendall, wire(5) + wire(1)[:5])
    await until(lambda: server.stats()["bytes_in"] == 13)
    sock.close()
    stats = await told.ends(until, "incomplete_packet", *(["network_error"] if secure else []))
    assert stats["bytes_discarded"] == 5


async def test_a_reset_while_the_server_sends(net, told_server, until):
    server, told = await told_server(max_write_buffer=100_000_000)
    server.on(2)(lambda session, packet: [session.send(3, bytes(8000)) for _ in range(1000)] and None)
    reader, writer = await net.open(server)
    writer.write(wire(2))
    await read_packet(reader)
    reset(writer.transport)
    await told.ends(until, "network_error", "peer_closed")
    assert server.stats()["handler_errors"] == 0


async def test_a_reset_while_a_handler_waits(net, told_server, until):
    server, told = await told_server()
    ended = []

    @server.on(2)
    async def waits(session, packet):
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(session.send(3))

    reader, writer = await net.open(server)
    writer.write(wire(1) + wire(2) + wire(1) * 5)
    await read_packet(reader)
    reset(writer.transport)
    stats = await told.ends(until, "network_error", "peer_closed")
    await until(lambda: ended == [False])
    assert (stats["packets_dispatched"], stats["packets_discarded"], stats["handler_errors"]) == (2, 5, 0)


async def test_an_end_while_a_handler_waits(net, secure, told_server, until):
    """In plain its answers still leave; over TLS the peer's end is the end of both ways."""
    server, told = await told_server()

    @server.on(2)
    async def waits(session, packet):
        await asyncio.sleep(0.05)
        session.reply(packet)

    reader, writer = await net.open(server)
    writer.write(wire(2, b"late") + wire(1, b"later"))
    await until(lambda: server.stats()["packets_dispatched"] == 1)
    if secure:
        writer.close()
    else:
        writer.write_eof()
        assert await read_packet(reader) == (2, 0, b"late")
        assert await read_packet(reader) == (1, 0, b"later")
    await told.ends(until, "peer_closed")


async def test_both_end_it_at_once(net, told_server, until):
    server, told = await told_server()
    server.on(2)(lambda session, packet: session.close("ours"))
    _, writer = await net.open(server)
    writer.write(wire(2))
    writer.close()
    await told.ends(until, "ours")


# -- we end it


async def test_a_handler_that_closes_ends_what_lies_behind_it(net, told_server, until):
    server, told = await told_server()

    @server.on(2)
    def last(session, packet):
        session.reply(packet)
        session.close("enough")
        assert not session.send(3)
        assert not session.is_open

    reader, writer = await net.open(server)
    writer.write(wire(2, b"last") + wire(1, b"never") * 50 + b"half")
    assert await read_packet(reader) == (2, 0, b"last")
    stats = await told.ends(until, "enough")
    assert (stats["packets_dispatched"], stats["packets_discarded"]) == (1, 50)
    assert stats["bytes_discarded"] == 50 * 13 + 4
    assert stats["sends_refused"] == 1
    with suppress(ConnectionError):
        assert await reader.read() == b""


async def test_finishing_lets_the_handler_answer(net, told_server, until):
    server, told = await told_server()
    gate = asyncio.Event()

    @server.on(2)
    async def waits(session, packet):
        await gate.wait()
        session.reply(packet)

    reader, writer = await net.open(server)
    writer.write(wire(2, b"answer") + wire(1))
    await until(lambda: server.stats()["packets_dispatched"] == 1)
    (session,) = server.sessions
    session.finish("enough")
    session.finish("twice")
    await asyncio.sleep(0.02)
    assert session.is_open
    gate.set()
    assert await read_packet(reader) == (2, 0, b"answer")
    stats = await told.ends(until, "enough")
    assert stats["packets_discarded"] == 1


async def test_a_handler_may_finish_its_own_session(net, told_server, until):
    server, told = await told_server()

    @server.on(2)
    async def last(session, packet):
        session.finish("enough")
        for n in range(3):
            assert session.send(3, bytes([n]))
            await asyncio.sleep(0.005)

    reader, writer = await net.open(server)
    writer.write(wire(2) + wire(1))
    assert [(await read_packet(reader))[2] for _ in range(3)] == [b"\0", b"\1", b"\2"]
    await told.ends(until, "enough")


async def test_closing_in_the_opened_hook(net, told_server, until):
    server, told = await told_server()
    server.on_opened(lambda session: session.close("banned"))
    reader, writer = await net.open(server)
    with suppress(ConnectionError):
        writer.write(wire(1) * 10)
        assert await reader.read() == b""
    stats = await told.ends(until, "banned")
    assert stats["packets_dispatched"] == 0


async def test_closing_in_the_closed_hook_does_nothing(net, told_server, until):
    server, told = await told_server()

    @server.on_closed
    def closed(session, reason):
        session.close("again")
        session.abort("and again")
        session.finish("and more")
        session.idle_timeout = 5.0
        session.is_logged_in = False
        session.layout = net.gamenet.LINES
        session.suspend()
        session.resume_reading()
        assert not session.send(1)
        assert not session.ping(1)
        assert (session.close_reason, session.transport, session.is_closed) == ("peer_closed", None, True)

    _, writer = await net.open(server)
    writer.close()
    stats = await told.ends(until, "peer_closed")
    assert stats["handler_errors"] == 0


async def test_closing_during_a_broadcast(net, told_server, until):
    server, _ = await told_server()
    server.on(2)(lambda session, packet: [other.close("out") for other in server.sessions] and server.sessions.broadcast(3) and None)

    @server.on(4)
    def broadcast(session, packet):
        for other in server.sessions:
            server.sessions.broadcast(5)
            other.close("out")

    peers = [await net.open(server) for _ in range(4)]
    await until(lambda: len(server.sessions) == 4)
    peers[0][1].write(wire(4))
    await until(lambda: server.stats()["closed"] == {"out": 4})
    # who was closed in the first round got one, in the second two, and so on
    rest = sorted([await reader.read() for reader, _ in peers], key=len)
    assert rest == [wire(5) * n for n in range(1, 5)]


async def test_closing_still_delivers_a_backlog(net, told_server, until):
    server, told = await told_server(max_write_buffer=100_000_000, close_timeout=60.0)
    sock = await net.open_mute(server)
    await until(lambda: len(server.sessions) == 1)
    (session,) = server.sessions
    for n in range(1000):
        session.send(3, bytes(8000), n)
    assert session.is_write_paused
    session.close("enough")

    def read_all():
        data = bytearray()
        while more := sock.recv(1 << 20):
            data += more
        sock.close()
        return bytes(data)

    assert await asyncio.to_thread(read_all) == b"".join(wire(3, bytes(8000), n) for n in range(1000))
    await told.ends(until, "enough")


async def test_aborting_drops_the_backlog(net, told_server, until):
    server, told = await told_server(max_write_buffer=100_000_000)
    await net.open_mute(server)
    await until(lambda: len(server.sessions) == 1)
    (session,) = server.sessions
    for n in range(1000):
        session.send(3, bytes(8000), n)
    session.abort("enough")
    stats = await told.ends(until, "enough")
    assert stats["bytes_out"] < 1000 * 8008


async def test_closing_and_then_aborting(net, told_server, until):
    server, told = await told_server(max_write_buffer=100_000_000, close_timeout=60.0)
    await net.open_mute(server)
    await until(lambda: len(server.sessions) == 1)
    (session,) = server.sessions
    for n in range(1000):
        session.send(3, bytes(8000), n)
    session.close("first")
    await asyncio.sleep(0.02)
    assert not session.is_closed
    session.abort("second")
    await told.ends(until, "first")


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_handler_that_says_that_a_body_cannot_be(net, told_server, until, is_async):
    server, told = await told_server()

    def judge(session, packet):
        session.send(3, b"before")
        raise net.gamenet.InvalidPacketError("no such place")

    async def judge_later(session, packet):
        await asyncio.sleep(0)
        judge(session, packet)

    server.on(2)(judge_later if is_async else judge)
    reader, writer = await net.open(server)
    writer.write(wire(2) + wire(1) * 3)
    assert await read_packet(reader) == (3, 0, b"before")
    stats = await told.ends(until, "invalid_packet")
    assert (stats["rejected"]["invalid"], stats["handler_errors"], stats["packets_discarded"]) == (1, 0, 3)


@pytest.mark.parametrize(
    ("reason", "options", "data"),
    [
        ("unknown_packet", {"unknown_packets": "close"}, wire(9) + wire(1)),
        ("handler_error", {"handler_errors": "close"}, wire(2) + wire(1)),
        ("invalid_packet", {}, bytes(8) + wire(1)),
        ("rate_exceeded", {"rate_exceeded": "close", "max_packets_per_second": 3.0}, wire(1) * 20),
        ("idle_timeout", {"idle_timeout": 0.05}, b""),
        ("assembly_timeout", {"assembly_timeout": 0.05}, b"half"),
        ("handler_error", {"handler_timeout": 0.05, "handler_errors": "close"}, wire(4) + wire(1)),
    ],
)
async def test_every_reason_of_ours_is_told_once(net, told_server, until, reason, options, data):
    server, told = await told_server(**options)
    server.on(2)(lambda session, packet: 1 / 0)
    server.on(4)(lambda session, packet: asyncio.sleep(3600))
    _, writer = await net.open(server)
    writer.write(data)
    await told.ends(until, reason)


async def test_a_slow_receiver(net, told_server, until):
    server, told = await told_server(max_write_buffer=100_000)
    await net.open_mute(server)
    await until(lambda: len(server.sessions) == 1)
    (session,) = server.sessions
    while session.is_open:
        session.send(3, bytes(8000))
    await told.ends(until, "slow_receiver")


async def test_an_encoder_that_fails_is_an_error_of_the_network(net, told_server, until):
    server, told = await told_server()
    server.on(2)(lambda session, packet: session.set_transform(encode=lambda data: 1 / 0) or session.reply(packet))
    _, writer = await net.open(server)
    writer.write(wire(2) + wire(1))
    await told.ends(until, "network_error")


# -- without sockets: the moments that cannot be hit from outside


@pytest.fixture
def play(gamenet):
    net = FakeNet(gamenet, idle_timeout=None)
    yield net
    net.end()


@pytest.mark.parametrize(
    "end", ["close", "abort", "finish", "close, abort", "abort, close", "finish, close", "close, close", "close, finish"]
)
@pytest.mark.parametrize("is_async", [False, True])
def test_every_way_to_end_in_a_handler(play, end, is_async):
    told = []

    def end_it(session, packet):
        for number, name in enumerate(end.split(", ")):
            getattr(session, name)(f"reason {number}")

    async def end_later(session, packet):
        await asyncio.sleep(0)
        end_it(session, packet)

    play.server.on(2)(end_later if is_async else end_it)
    play.server.on_closed(lambda session, reason: told.append(reason))
    play.connect().arrive(wire(2) + wire(1) * 3)
    play.loop.turn()
    stats = play.server.stats()
    # a handler that asks to finish goes on, so it may still give another reason
    assert told == ["reason 1" if is_async and end == "finish, close" else "reason 0"]
    assert (stats["packets_dispatched"], stats["packets_discarded"], stats["handler_errors"]) == (1, 3, 0)


def test_a_write_that_fails(play):
    play.server.on(1)(lambda session, packet: session.reply(packet))
    peer = play.connect()
    peer.fails = True
    peer.arrive(wire(1) * 3)
    play.loop.turn()
    assert play.closed == {"network_error": 1}


def test_a_write_that_fails_while_closing(play):
    play.server.on(1)(lambda session, packet: session.reply(packet) and session.close("enough"))
    peer = play.connect()
    peer.fails = True
    peer.arrive(wire(1) * 3)
    play.loop.turn()
    assert play.closed == {"enough": 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_ends_no_session(play, error):
    """Each packet's handler leaves so: the next one goes on in the next turn, and reading goes on at the end."""
    handled = []

    @play.server.on(1)
    def leaves(session, packet):
        handled.append(packet.sequence)
        raise error

    play.server.on(2)(lambda session, packet: handled.append(packet.sequence))
    peer = play.connect()
    with pytest.raises(error):
        peer.arrive(wire(1, b"", 1) + wire(1, b"", 2) + wire(2, b"", 3) + wire(1, b"", 4) + wire(1, b"", 5)[:4])
    assert handled == [1]
    for rest in ([2], [3, 4]):
        handled.clear()
        with pytest.raises(error):
            play.loop.turn()
        assert handled == rest
    play.loop.turn()
    handled.clear()
    assert peer.is_reading
    with pytest.raises(error):
        peer.arrive(wire(1, b"", 5)[4:])
    play.loop.turn()
    assert handled == [5]
    assert peer.is_reading
    assert play.server.stats()["handler_errors"] == 0


def test_what_ends_the_program_out_of_a_handler_that_waited(play):
    handled = []

    @play.server.on(1)
    async def leaves(session, packet):
        await asyncio.sleep(1.0)
        raise KeyboardInterrupt

    play.server.on(2)(lambda session, packet: handled.append(packet.sequence))
    peer = play.connect()
    peer.arrive(wire(1) + wire(2, b"", 7))
    with pytest.raises(KeyboardInterrupt):
        play.pass_time(1.0)
    play.pass_time(1.0)
    assert handled == [7]
    assert peer.is_reading


def test_what_ends_the_program_behind_a_handler_that_waited(play):
    handled = []
    play.server.on(1)(lambda session, packet: asyncio.sleep(1.0))

    @play.server.on(2)
    def leaves(session, packet):
        handled.append(packet.sequence)
        raise KeyboardInterrupt

    peer = play.connect()
    peer.arrive(wire(1) + wire(2, b"", 7) + bytes(8)[:3])
    peer.protocol.on_read_full()
    assert not peer.is_reading
    with pytest.raises(KeyboardInterrupt):
        play.pass_time(1.0)
    play.loop.turn()
    assert handled == [7]
    assert peer.is_reading
    assert not peer.protocol.is_suspended


@pytest.mark.parametrize("end", [None, "finish", "close"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_at_the_start_of_an_async_handler(play, error, end):
    """Python 3.12 runs that start inside the packet's dispatch."""
    handled = []

    @play.server.on(1)
    async def leaves(session, packet):
        if end is not None:
            getattr(session, end)("enough")
        raise error

    play.server.on(2)(lambda session, packet: handled.append(packet.sequence))
    peer = play.connect()
    play.loop.call_soon(peer.arrive, wire(1) + wire(2, b"", 7) + wire(2, b"", 8)[:4])
    with pytest.raises(error):
        play.loop.turn()
    play.loop.turn()
    gc.collect()
    assert handled == ([] if end else [7])
    assert play.closed == ({"enough": 1} if end else {})
    assert peer.is_reading
    assert play.server.stats()["handler_errors"] == 0
    assert play.loop.complaints == []  # no "Task exception was never retrieved"


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("is_async", [False, True])
def test_any_other_exception_is_an_error_of_the_handler(play, error, is_async):
    def looks_at_what_was_cancelled(session, packet):
        raise error

    async def looks_later(session, packet):
        raise error

    play.server.on(1)(looks_later if is_async else looks_at_what_was_cancelled)
    play.server.on(2)(lambda session, packet: session.reply(packet))
    peer = play.connect()
    peer.arrive(wire(1) + wire(2))
    play.loop.turn()
    assert peer.taken == wire(2)
    assert play.server.stats()["handler_errors"] == 1


@pytest.mark.parametrize("policy", ["continue", "close"])
def test_a_handler_whose_work_was_cancelled_elsewhere_has_failed(gamenet, policy, caplog):
    net = FakeNet(gamenet, idle_timeout=None, handler_errors=policy)
    work = net.loop.create_future()

    @net.server.on(1)
    async def waits(session, packet):
        await work

    net.server.on(2)(lambda session, packet: session.reply(packet))
    peer = net.connect()
    peer.arrive(wire(1) + wire(2))
    net.loop.turn()
    work.cancel()
    net.loop.turn()
    assert net.server.stats()["handler_errors"] == 1
    assert "the handler of packet id 1 raised" in caplog.text
    assert (peer.taken, net.closed) == ((wire(2), {}) if policy == "continue" else (b"", {"handler_error": 1}))
    net.end()


@pytest.mark.parametrize("when", ["at its start", "later", "with its session"])
def test_a_handler_that_was_cancelled_itself_has_not(play, when):
    @play.server.on(1)
    async def waits(session, packet):
        if when == "at its start":
            asyncio.current_task().cancel()
        await asyncio.sleep(3600)

    play.server.on(2)(lambda session, packet: session.reply(packet))
    peer = play.connect()
    peer.arrive(wire(1) + wire(2))
    play.loop.turn()
    if when == "later":
        peer.protocol.running_handler.cancel()
    elif when == "with its session":
        peer.abort()
    play.loop.turn()
    assert peer.taken == (b"" if when == "with its session" else wire(2))
    assert play.server.stats()["handler_errors"] == 0


def test_what_cannot_be_awaited_here_is_an_error_of_the_handler(play, caplog):
    other = asyncio.new_event_loop()
    play.server.on(1)(lambda session, packet: other.create_future())
    play.server.on(2)(lambda session, packet: session.reply(packet))
    peer = play.connect()
    peer.arrive(wire(1) + wire(2))
    assert peer.taken == wire(2)
    assert play.server.stats()["handler_errors"] == 1
    assert "belongs to a different loop" in caplog.text
    other.close()


# -- over TLS the connection is gone while packets wait for their turn


class Flood:
    """A peer over TLS whose packets take a millisecond each, so that most of them wait when it has ended."""

    def __init__(self, play, count=300, behind=b""):
        self.play, self.seen = play, []
        play.server.on(1)(self.handle)
        self.peer = play.connect()
        self.session = self.peer.protocol
        self.peer.is_tls = True
        self.peer.arrive(b"".join(wire(1, sequence=n) for n in range(count)) + behind)

    def handle(self, session, packet):
        self.seen.append(packet.sequence)
        self.play.loop.stand_still(0.001)
        assert session.reply(packet)

    def pass_turns(self):
        """Until it is closed; returns the most packets of one turn."""
        most = 0
        for _ in range(10_000):
            before = len(self.seen)
            self.play.loop.turn(1)
            most = max(most, len(self.seen) - before)
            if self.session.is_closed:
                return most
        raise AssertionError("it is never closed")


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
def test_what_came_before_an_end_over_tls_is_dispatched_in_turns(play, error):
    flood = Flood(play)
    assert len(flood.seen) < 20
    flood.peer.end(error)
    assert len(flood.seen) < 20
    assert flood.pass_turns() < 20
    assert flood.seen == list(range(300))
    assert play.closed == {"peer_closed": 1}
    assert play.server.stats()["packets_discarded"] == 0


def test_half_a_packet_behind_them_is_told(play):
    flood = Flood(play, behind=b"half")
    flood.peer.end()
    flood.pass_turns()
    assert (len(flood.seen), play.closed) == (300, {"incomplete_packet": 1})


@pytest.mark.parametrize("end", ["close", "abort", "finish", "stop"])
@pytest.mark.parametrize("turns", [0, 1, 2, 10])
def test_our_end_meanwhile(play, end, turns):
    flood = Flood(play)
    flood.peer.end()
    for _ in range(turns):
        play.loop.turn(1)
    if end == "stop":
        stopping = play.loop.create_task(play.server.stop())
    else:
        getattr(flood.session, end)("enough")
    play.loop.turn(10)
    assert play.closed == {"server_stopped" if end == "stop" else "enough": 1}
    assert len(flood.seen) < 200
    assert flood.session.transport is None
    assert end != "stop" or stopping.done()


def test_output_that_waited_is_dropped_and_holds_up_nothing(play):
    flood = Flood(play)
    flood.peer.takes = False
    play.loop.turn(1)
    assert flood.session.is_write_paused
    flood.session.send(1, bytes(8000))
    flood.peer.end()
    flood.pass_turns()
    assert (flood.seen, play.closed) == (list(range(300)), {"peer_closed": 1})


def test_one_that_is_not_read_is_held_up_no_longer(gamenet):
    """It asks for more than it takes: what it asked for is dispatched, with nobody to answer."""
    net = FakeNet(gamenet, idle_timeout=None, high_watermark=2000, low_watermark=100)
    flood = Flood(net, count=0)
    flood.peer.takes = False
    flood.peer.arrive(b"".join(wire(1, bytes(1000), n) for n in range(100)))
    net.loop.turn()
    assert not flood.peer.is_reading
    at = len(flood.seen)
    assert at < 10
    flood.peer.end()
    flood.pass_turns()
    assert (flood.seen, net.closed) == (list(range(100)), {"peer_closed": 1})
    net.end()


def test_one_that_waits_for_credit_has_its_packets_dispatched_in_its_time(gamenet):
    net = FakeNet(gamenet, idle_timeout=None, max_packets_per_second=10, rate_burst=1.0)
    flood = Flood(net, count=100)
    at = len(flood.seen)
    assert at < 15
    flood.peer.end()
    net.pass_time(6.0)  # longer than closing may take
    assert at < len(flood.seen) < 100
    net.pass_time(5.0)
    assert (flood.seen, net.closed) == (list(range(100)), {"peer_closed": 1})
    net.end()


def test_one_that_was_suspended_by_its_user(play):
    """As a client is whose queue is full: what waits is no less true over TLS."""
    flood = Flood(play, count=0)
    flood.session.suspend()
    flood.peer.arrive(wire(1, sequence=0) + wire(1, sequence=1))
    flood.peer.end()
    play.pass_time(100.0)
    assert (flood.seen, play.closed) == ([], {})
    flood.session.resume_reading()
    play.loop.turn()
    assert (flood.seen, play.closed) == ([0, 1], {"peer_closed": 1})


def test_an_async_handler_among_them_is_waited_for(play):
    async def waits(session, packet):
        await asyncio.sleep(1.0)
        flood.seen.append("waited")

    play.server.on(2)(waits)
    flood = Flood(play, 30, wire(2) + wire(1, sequence=30))
    flood.peer.end()
    play.pass_time(2.0)
    assert (flood.seen[-2:], play.closed) == (["waited", 30], {"peer_closed": 1})


def test_a_transport_that_does_not_end_itself_is_aborted_in_time(play):
    flood = Flood(play, count=0)
    flood.session.suspend()
    flood.peer.arrive(wire(1))
    flood.session.eof_received()
    play.pass_time(4.99)
    assert not flood.peer.is_lost
    play.pass_time(0.02)
    assert flood.peer.is_lost
    flood.session.resume_reading()
    play.loop.turn()
    assert (flood.seen, play.closed) == ([0], {"peer_closed": 1})


def test_bytes_that_come_after_the_end_are_discarded(play):
    play.server.on(1)(lambda session, packet: None)
    for end in ("close", "abort"):
        peer = play.connect()
        session = peer.protocol
        getattr(session, end)()
        session.data_received(wire(1) + b"half")
        play.loop.turn()
        session.data_received(wire(1) + b"half")
    stats = play.server.stats()
    assert (stats["bytes_discarded"], stats["packets_discarded"]) == (4 * 12, 4)


def test_a_session_that_is_closed_when_its_turn_comes(play):
    """Its packets had waited for their turn: they are discarded, and so is what still comes."""

    @play.server.on(1)
    def leaves(session, packet):
        raise KeyboardInterrupt

    peer = play.connect()
    with pytest.raises(KeyboardInterrupt):
        peer.arrive(wire(1) * 3)
    peer.protocol.close()
    peer.protocol.data_received(wire(1))
    play.loop.turn()
    stats = play.server.stats()
    assert (stats["packets_dispatched"], stats["packets_discarded"]) == (1, 3)


@pytest.mark.parametrize(("tail", "reason"), [(b"", "peer_closed"), (b"half", "incomplete_packet")])
@pytest.mark.parametrize("waits_for", ["its turn", "credit"])
def test_an_end_that_comes_before_the_turn_of_the_packets_before_it(gamenet, waits_for, tail, reason):
    """Where a read was under way when reading paused, as on Windows: the packets are answered, then it ends."""
    options = {"max_packets_per_second": 1.0} if waits_for == "credit" else {"dispatch_budget": 1e-9}
    net = FakeNet(gamenet, idle_timeout=None, **options)

    @net.server.on(1)
    def slow(session, packet):
        net.loop.stand_still(0.001)
        session.reply(packet)

    peer = net.connect()
    packets = [wire(1, b"", n) for n in range(20)]
    peer.arrive(b"".join(packets) + tail)
    assert peer.protocol.awaits_turn
    assert peer.protocol.eof_received()
    net.loop.turn(100)
    net.pass_time(60.0)
    assert peer.taken == b"".join(packets)
    assert net.closed == {reason: 1}
    net.end()


@pytest.mark.parametrize("how", ["abort", "close", "finish"])
async def test_a_session_that_ends_in_its_opening_leaves_the_loop_as_it_was(net, how):
    server, ended = await net.server(start=False), []
    server.on_opened(lambda session: getattr(session, how)())
    server.on_closed(lambda session, reason: ended.append(reason))
    await net.start(server)
    for number in range(1, 6):  # the next ones get the same descriptors
        async with asyncio.timeout(20):
            reader, writer = await net.open(server)
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            while len(ended) < number:
                await asyncio.sleep(0.001)
    assert ended == ["closed"] * 5
