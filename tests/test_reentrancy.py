"""Whatever a handler or a hook does to its own session, at whatever moment: order is kept, the ledger balances, nothing
is left behind, and both twins do the same.
"""

import asyncio
import contextlib
from collections.abc import Mapping

import pytest
from fakenet import FakeNet
from wire import wire

from gamenet.layout import HeaderField, HeaderLayout

# -- what may be done: functions of (net, session)


def send(net, session):
    session.send(9, b"sent")


def send_large(net, session):
    session.send(9, bytes(6000))
    session.send_frame(wire(9, b"frame") * 20_000)  # above the size that waits for the end of the turn


def close(net, session):
    session.close("closed")


def abort(net, session):
    session.abort("aborted")


def finish(net, session):
    session.finish("finished")


def send_and_close(net, session):
    session.send(9, b"last")
    session.close("closed")
    session.send(9, b"never")


def lose(net, session):
    net.peers[0].abort()


def peer_ends(net, session):
    session.eof_received()


def suspend(net, session):
    session.suspend()


def suspend_and_resume(net, session):
    session.suspend()
    session.resume_reading()


def resume(net, session):
    session.resume_reading()
    session.resume()


def change_layout(net, session):
    session.layout = net.gamenet.LINES


def change_layout_and_back(net, session):
    before = session.layout
    session.layout = net.gamenet.LINES
    session.layout = before


def transform(net, session):
    session.set_transform(decode=bytes, encode=bytes)


def log_out(net, session):
    session.is_logged_in = False


def log_in(net, session):
    session.is_logged_in = True


def join(net, session):
    room = net.server.sessions.room("lobby")
    room.add(session)
    room.broadcast(9, b"room")


def leave(net, session):
    join(net, session)
    for room in session.rooms:
        room.discard(session)


def broadcast(net, session):
    net.server.sessions.broadcast(9, b"all")


def replace_handlers(net, session):
    net.server.on(1)(lambda session, packet: net.handled.append(-packet.sequence))
    net.server.on(2)(lambda session, packet: net.handled.append(-packet.sequence))


def replace_by_batch(net, session):
    net.server.on_batch(2)(lambda session, batch: net.handled.extend(packet.sequence for packet in batch))


def unregister(net, session):
    for packet_id in (1, 2):
        with contextlib.suppress(KeyError):
            net.server.dispatch.unregister(packet_id)


def set_default(net, session):
    unregister(net, session)
    net.server.dispatch.set_default(lambda session, packet: net.handled.append(packet.sequence))


def receive(net, session):
    session.data_received(wire(2, b"", 900) + wire(2, b"", 901))


def receive_half(net, session):
    session.data_received(wire(2, b"", 900)[:5])
    session.data_received(wire(2, b"", 900)[5:])


def receive_rubbish(net, session):
    session.data_received(bytes(8))


def stop_the_server(net, session):
    net.loop.create_task(net.server.stop())


def set_the_idle_timeout(net, session):
    session.idle_timeout = 0.25


def ping(net, session):
    session.ping(9)


def pause_writing(net, session):
    net.peers[0].takes = False
    send_large(net, session)


def broadcast_and_close_all(net, session):
    for other in net.server.sessions:
        net.server.sessions.broadcast(9, b"all")
        other.close("closed")


def close_another(net, session):
    for other in net.server.sessions:
        if other is not session:
            other.abort("other")


def cancel_the_handler(net, session):
    if session.running_handler is not None:
        session.running_handler.cancel()


def fail(net, session):
    raise ValueError("on purpose")


def say_that_it_is_invalid(net, session):
    raise net.gamenet.InvalidPacketError("on purpose")


DOINGS = [
    send, send_large, close, abort, finish, send_and_close, lose, peer_ends, suspend, suspend_and_resume, resume,
    change_layout, change_layout_and_back, transform, log_out, log_in, join, leave, broadcast, replace_handlers,
    replace_by_batch, unregister, set_default, receive, receive_half, receive_rubbish, stop_the_server,
    set_the_idle_timeout, ping, pause_writing, broadcast_and_close_all, close_another, cancel_the_handler, fail,
    say_that_it_is_invalid,
]

# -- where: each has `do(net, session)` done once


def in_a_handler(net, do):
    @net.server.on(1)
    def handler(session, packet):
        net.handled.append(packet.sequence)
        do(net, session)


def in_a_batch_handler(net, do):
    @net.server.on_batch(1)
    def handler(session, batch):
        net.handled.extend(packet.sequence for packet in batch)
        do(net, session)


def at_the_start_of_an_async_handler(net, do):
    @net.server.on(1)
    async def handler(session, packet):
        net.handled.append(packet.sequence)
        do(net, session)


def in_an_async_handler_that_waited(net, do):
    @net.server.on(1)
    async def handler(session, packet):
        net.handled.append(packet.sequence)
        await asyncio.sleep(0.125)
        do(net, session)
        await asyncio.sleep(0.125)


def in_a_handler_that_returns_a_coroutine(net, do):
    async def rest(session):
        await asyncio.sleep(0.125)

    @net.server.on(1)
    def handler(session, packet):
        net.handled.append(packet.sequence)
        do(net, session)
        return rest(session)


def beside_an_async_handler(net, do):
    @net.server.on(1)
    async def handler(session, packet):
        net.handled.append(packet.sequence)
        net.loop.call_later(0.125, guarded, net, do, session)
        await asyncio.sleep(0.25)


def between_two_chunks(net, do):
    @net.server.on(1)
    def handler(session, packet):
        net.handled.append(packet.sequence)
        net.loop.call_soon(guarded, net, do, session)


def guarded(net, do, session):
    with contextlib.suppress(ValueError, net.gamenet.InvalidPacketError):
        do(net, session)


def in_the_opened_hook(net, do):
    net.server.on(1)(lambda session, packet: net.handled.append(packet.sequence))
    net.server.on_opened(lambda session: session is net.peers_first(session) and do(net, session))


def in_the_closed_hook(net, do):
    @net.server.on(1)
    def handler(session, packet):
        net.handled.append(packet.sequence)
        session.close("over")

    net.server.on_closed(lambda session, reason: reason == "over" and do(net, session))


PLACES = [
    in_a_handler, in_a_batch_handler, at_the_start_of_an_async_handler, in_an_async_handler_that_waited,
    in_a_handler_that_returns_a_coroutine, beside_an_async_handler, between_two_chunks, in_the_opened_hook,
    in_the_closed_hook,
]


def outcome(gamenet, place, do, is_tls):
    """What became of one peer's packets, and of another peer's."""
    net = FakeNet(gamenet, idle_timeout=None, heartbeat=gamenet.Heartbeat(100, 101, None), max_write_buffer=10_000_000)
    net.is_tls = is_tls
    first = []
    net.peers_first = lambda session: first.append(session) or first[0]
    net.handled = []
    place(net, do)
    net.server.on(2)(lambda session, packet: net.handled.append(packet.sequence))
    net.server.on(3)(lambda session, packet: session.reply(packet))
    net.start()
    own, other = net.connect(), net.connect()
    own.arrive(wire(1, b"", 1) + b"".join(wire(2, b"", n) for n in range(2, 6)) + wire(2, b"", 6)[:5])
    net.loop.turn()
    own.arrive(wire(2, b"", 6)[5:] + wire(2, b"", 7))
    own.arrive(wire(2, b"", 8))
    other.arrive(wire(3, b"other"))
    net.pass_time(1.0)
    session = own.protocol
    was_suspended = session.is_suspended
    session.resume_reading()
    net.pass_time(1.0)
    own.take(1 << 30)
    net.pass_time(1.0)
    stats = net.server.stats()
    seen = {
        "handled": net.handled,
        "suspended": was_suspended,
        "taken": own.taken,
        "other": other.taken,
        "reasons": (session.close_reason, other.protocol.close_reason),
        "reading": own.is_reading,
        "rooms": len(session.rooms),
        "stats": {name: value for name, value in stats.items() if name != "pool"},
    }
    buffered = stats["bytes_dispatched"] + stats["bytes_rejected"] + stats["bytes_discarded"] + stats["bytes_buffered"]
    assert stats["bytes_in"] == buffered
    net.end()
    return seen


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("do", DOINGS)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_is_done_wherever(every_gamenet, place, do, is_tls):
    outcomes = [outcome(gamenet, place, do, is_tls) for gamenet in every_gamenet]
    assert outcomes == [outcomes[0]] * len(outcomes)
    seen = outcomes[0]
    own = [abs(number) for number in seen["handled"] if abs(number) < 900]
    assert own == list(range(1, len(own) + 1))  # in order, none twice, none left out
    if seen["reasons"][0] is None and do not in (change_layout, unregister, log_out):
        assert len(own) == 8
        assert seen["reading"]
    if seen["reasons"][1] is None:
        assert wire(3, b"other") in seen["other"]


# -- some of them, word for word


@pytest.fixture
def play(gamenet):
    net = FakeNet(gamenet, idle_timeout=None)
    net.handled = []
    net.server.on(2)(lambda session, packet: net.handled.append(packet.sequence))
    yield net
    net.end()


def test_what_a_handler_feeds_comes_behind_what_lies_there(play):
    play.server.on(1)(lambda session, packet: session.data_received(wire(2, b"", 9)))
    play.connect().arrive(wire(1) + wire(2, b"", 1) + wire(2, b"", 2))
    assert play.handled == [1, 2, 9]


def test_a_suspension_outlasts_the_handler_that_asked_for_it(play):
    @play.server.on(1)
    async def handler(session, packet):
        await asyncio.sleep(1.0)
        session.suspend()

    peer = play.connect()
    peer.arrive(wire(1) + wire(2, b"", 1))
    play.pass_time(100.0)
    assert play.handled == []
    peer.protocol.resume_reading()
    assert play.handled == [1]


def test_resuming_does_not_overtake_a_handler_that_waits(play):
    @play.server.on(1)
    async def handler(session, packet):
        session.resume_reading()
        await asyncio.sleep(1.0)
        play.handled.append("done")

    peer = play.connect()
    peer.arrive(wire(1) + wire(2, b"", 1))
    play.pass_time(0.5)
    peer.protocol.resume_reading()
    peer.protocol.resume()
    peer.arrive(wire(2, b"", 2))
    assert play.handled == []
    play.pass_time(1.0)
    assert play.handled == ["done", 1, 2]


def test_a_handler_that_starts_another_loop_turn_of_its_own_session(play):
    """A handler may call what the loop calls: nothing is dispatched inside it."""

    @play.server.on(1)
    def handler(session, packet):
        session.resume_writing()
        session.pause_writing()
        session.resume_writing()
        session.go_on()
        session.flush()
        session.drain_to_transport()
        play.handled.append("inside")

    play.connect().arrive(wire(1) + wire(2, b"", 1))
    assert play.handled == ["inside", 1]


# -- code of values that are sent or set


class Written:
    """A transport that keeps what is written."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += data

    def writelines(self, chunks):
        self.data += b"".join(chunks)

    def get_write_buffer_size(self):
        return 0


def test_header_numbers_that_change_the_packet_they_are_sent_with(gamenet):
    """The bytes are taken first. Without that, what lay in their freed memory later reached the peer."""

    class Text(gamenet.Packet, id=1):
        text: str = gamenet.char(3000)

    core = gamenet._core
    layout = HeaderLayout((HeaderField("packet_id", 2), HeaderField("packet_size", 2), HeaderField("unit", 1)))
    for _ in range(20):
        body = b"".join([b"a" for _ in range(3000)])  # nobody else refers to it
        packet, held = Text.unpack(body), [body]
        del body
        pool, queue = core.PoolAllocator(8192), core.FlushQueue(lambda flush: None)
        stream = core.Stream(core.codec_for(layout, 8192), pool, core.RouteTable(), core.Ledger(), queue, lambda: 0.0)
        transport = Written()
        stream.attach(transport)

        class Changing(Mapping):
            def __iter__(self, packet=packet, held=held):
                packet.text = "b"
                held.clear()
                held.extend([bytes([number]) * 3000 for number in range(8)])
                return iter(["unit"])

            def __getitem__(self, name):
                return 5

            def __len__(self):
                return 1

        assert stream.send(packet, header=Changing())
        stream.flush()
        assert transport.data[5:] == b"a" * 3000
        assert packet.text == "b"
        stream.detach()


def test_a_value_that_shortens_the_packet_it_is_set_in(gamenet):
    class Place(gamenet.Packet, id=1):
        x: gamenet.f64

    class Shortening(int):
        def __float__(self):
            gamenet.RawPacket.__init__(packet, 1, b"")
            return 1.0

    packet = Place(2.0)
    with pytest.raises(ValueError, match="Place needs a body of 8 bytes, got 0"):
        packet.x = Shortening()
    assert packet.body == b""
