"""Every deadline of a session: at its time, before and after it, with a clock that the test turns; then each for real."""

import asyncio
import logging
import sys
import threading
from contextlib import suppress

import pytest
from fakenet import FakeNet
from layouts import LAYOUTS
from wire import read_packet, wire

from gamenet.layout import BOOK_HEADER, LINES

TIMEOUTS = ["idle_timeout", "assembly_timeout", "login_timeout", "write_timeout", "handler_timeout", "close_timeout"]
UNUSED = dict.fromkeys(TIMEOUTS[:-1])


@pytest.fixture
def play(gamenet):
    """`play(**options)`: a server without sockets, that has only the timeouts that are given."""
    nets = []

    def make(**options):
        nets.append(FakeNet(gamenet, **{**UNUSED, **options}))
        return nets[-1]

    yield make
    for net in nets:
        net.end()


# -- what they may be


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_timeouts_that_cannot_be_are_named(gamenet, name, value):
    with pytest.raises(ValueError, match=f"{name} {value} is not above 0 seconds"):
        gamenet.Limits(**{name: value})


def test_each_can_be_switched_off_but_the_last(gamenet):
    assert gamenet.Limits(**UNUSED).idle_timeout is None
    with pytest.raises(ValueError, match="close_timeout None is not above 0 seconds"):
        gamenet.Limits(close_timeout=None)


@pytest.mark.parametrize("timeout", [0, -1.0])
def test_timeouts_of_one_session_that_cannot_be(play, timeout):
    peer = play().connect()
    with pytest.raises(ValueError, match=f"idle_timeout {timeout} is not above 0 seconds"):
        peer.protocol.idle_timeout = timeout
    for end in (peer.protocol.close, peer.protocol.finish):
        with pytest.raises(ValueError, match=f"timeout {timeout} is not above 0 seconds"):
            end(timeout=timeout)
    assert peer.protocol.is_open
    assert peer.protocol.idle_timeout is None


def test_a_year_is_not_too_long_and_switched_off_nothing_ends(play):
    for options in (dict.fromkeys(TIMEOUTS, 31_536_000.0), UNUSED, dict.fromkeys(TIMEOUTS, float("inf"))):
        net = play(**options)
        net.server.require_login(1)
        net.server.on(1)(lambda session, packet: asyncio.sleep(3600))
        peer = net.connect()
        peer.arrive(wire(1) + b"half")
        net.pass_time(3599.0)
        assert net.closed == {}


# -- silence


def test_silence_ends_at_its_time_and_not_before(play):
    net = play(idle_timeout=30.0)
    net.server.on(1)(lambda session, packet: None)
    peer = net.connect()
    net.pass_time(29.0)
    peer.arrive(wire(1)[:5])  # bytes are a sign of life
    net.pass_time(29.0)
    peer.arrive(wire(1)[5:])
    net.pass_time(29.99)
    assert net.closed == {}
    net.pass_time(0.02)
    assert net.closed == {"idle_timeout": 1}


def test_after_a_long_handler_the_peer_has_its_whole_time(play):
    net = play(idle_timeout=30.0)

    @net.server.on(1)
    async def slow(session, packet):
        await asyncio.sleep(packet.sequence / 10)

    peer = net.connect()
    for tenths in (299, 300, 301, 900):
        peer.arrive(wire(1, sequence=tenths))
        net.pass_time(tenths / 10 + 29.9)
        assert net.closed == {}
    net.pass_time(0.2)
    assert net.closed == {"idle_timeout": 1}


def test_a_peer_that_we_did_not_read_was_not_silent(play):
    net = play(idle_timeout=30.0, assembly_timeout=10.0)
    net.server.on(1)(lambda session, packet: session.suspend())
    peer = net.connect()
    peer.arrive(wire(1) + wire(1)[:6])
    net.pass_time(1000.0)
    peer.protocol.resume_reading()
    net.pass_time(9.99)
    assert net.closed == {}
    peer.arrive(wire(1)[6:])  # suspends again
    net.pass_time(1000.0)
    peer.protocol.resume_reading()
    net.pass_time(29.99)
    assert net.closed == {}
    net.pass_time(0.02)
    assert net.closed == {"idle_timeout": 1}


def test_a_slow_receiver_that_we_do_not_read_is_not_silent(play):
    net = play(idle_timeout=30.0, assembly_timeout=10.0, high_watermark=1000, low_watermark=100)
    peer = net.connect()
    peer.arrive(wire(1)[:5])
    peer.takes = False
    for _ in range(3):
        peer.protocol.send(1, bytes(800))
        net.loop.turn()
    assert not peer.is_reading
    net.pass_time(500.0)
    assert net.closed == {}
    peer.takes = True
    peer.take(10_000)
    net.loop.turn()
    assert peer.is_reading
    net.pass_time(9.99)
    assert net.closed == {}
    net.pass_time(0.02)
    assert net.closed == {"assembly_timeout": 1}


def test_the_idle_timeout_of_one_session(play):
    net = play(idle_timeout=30.0)

    @net.server.on(1)
    def handler(session, packet):
        session.idle_timeout = packet.sequence or None
        assert session.idle_timeout == (packet.sequence or None)

    peers = [net.connect() for _ in range(4)]
    for peer, seconds in zip(peers, (5, 60, 0), strict=False):
        peer.arrive(wire(1, sequence=seconds))
    ended = []
    net.server.on_closed(lambda session, reason: ended.append((peers.index(next(p for p in peers if p.protocol is session)), net.loop.now)))
    net.pass_time(100.0)
    assert [(index, round(time - 1000, 1)) for index, time in ended] == [(0, 5.0), (3, 30.0), (1, 60.0)]
    peers[2].protocol.idle_timeout = 3.0  # it was silent for longer
    net.pass_time(0.1)
    assert net.closed == {"idle_timeout": 4}
    peers[2].protocol.idle_timeout = 3.0
    assert len(net.context.timer) == 0


def test_a_loop_that_was_held_up_reads_before_it_counts(play):
    net = play(idle_timeout=30.0)
    net.server.on(1)(lambda session, packet: None)
    speaks, silent = net.connect(), net.connect()
    net.pass_time(10.0)
    net.loop.stand_still(60.0)
    net.loop.call_later(0, speaks.arrive, wire(1))
    net.loop.turn()
    net.pass_time(0.1)
    assert net.closed == {"idle_timeout": 1}
    assert (speaks.is_lost, silent.is_lost) == (False, True)


def test_a_wave_that_falls_silent_is_ended_in_parts(play):
    """However many came together: between two parts of the wave the loop has its turn."""
    net = play(idle_timeout=30.0)
    peers = [net.connect() for _ in range(1000)]
    net.loop.stand_still(30.0)
    seen, most = 0, 0
    while sum(net.closed.values()) < 1000:
        net.loop.stand_still(0.001)
        net.loop.turn(1)
        ended = sum(peer.is_lost for peer in peers)
        seen, most = ended, max(most, ended - seen)
    assert 0 < most <= 64
    assert net.loop.now < 1030.2
    assert len(net.context.timer) == 0


def test_those_who_come_meanwhile_do_not_put_the_wave_off(play):
    net = play(idle_timeout=30.0)
    for _ in range(500):
        net.connect()
    net.loop.stand_still(30.0)
    for _ in range(100):
        net.loop.stand_still(0.001)
        net.connect()
        net.loop.turn(1)
    assert net.closed == {"idle_timeout": 500}


def test_a_deadline_that_fails_takes_none_with_it(play):
    net = play(idle_timeout=30.0)
    peer = net.connect()
    deadline = net.gamenet.Deadline(20.0, lambda: net.loop.now - 20.0, lambda: 1 / 0)
    net.context.timer._timeouts._push(deadline, net.loop.now + 20.0)
    net.context.timer._set()
    net.pass_time(30.1)
    assert peer.is_lost
    assert [type(complaint["exception"]) for complaint in net.loop.complaints] == [ZeroDivisionError]
    net.loop.complaints.clear()


# -- half a packet


def test_fault_29_a_packet_must_be_complete_in_time_however_many_bytes_come(play, caplog):
    """In the book's listings a byte every 29 seconds keeps an idle timeout of 30 away for ever."""
    net = play(idle_timeout=30.0, assembly_timeout=120.0)
    net.server.on(1)(lambda session, packet: None)
    peer = net.connect()
    for byte in wire(1, bytes(100)):
        peer.arrive(bytes([byte]))
        net.pass_time(29.0)
        if peer.is_lost:
            break
    assert net.closed == {"assembly_timeout": 1}
    assert 1120.0 <= net.loop.now <= 1149.0
    assert "bytes of a packet, incomplete for 120 s" in caplog.text


@pytest.mark.parametrize("name", ["book", "minecraft", "mqtt", "lines", "boundary", "frames", "varints", "rcon"])
def test_half_a_packet_of_every_kind_has_its_time(play, name):
    layout = LAYOUTS[name]
    net = play(assembly_timeout=10.0, layout=layout)
    net.server.dispatch.set_default(lambda session, packet: None)
    size = layout.frame_size - 4 if name == "frames" else 40
    frame = net.server._codec.frame(0, b"x" * size)
    for cut in range(1, len(frame)):
        peer = net.connect()
        peer.arrive(frame + frame[:cut])
        net.pass_time(9.99)
        assert not peer.is_lost
        peer.arrive(frame[cut:])
        net.pass_time(20.0)
        assert not peer.is_lost
        assert len(net.context.timer) == 0  # nothing stays armed when it is complete
        peer.arrive(frame[:cut])
        net.pass_time(10.01)
        assert peer.is_lost
    assert net.closed == {"assembly_timeout": len(frame) - 1}
    assert net.server.stats()["rejected"] == dict.fromkeys(net.server.stats()["rejected"], 0)


def test_valid_traffic_whose_every_chunk_ends_inside_a_packet_goes_on_for_ever(play):
    net = play(assembly_timeout=10.0, idle_timeout=30.0)
    count = []
    net.server.on(1)(lambda session, packet: count.append(packet.sequence))
    peer = net.connect()
    packet = wire(1, bytes(50))
    peer.arrive(packet[:7])
    for n in range(500):
        net.pass_time(9.5)
        peer.arrive(packet[7:] + packet[: 7 + n % 40][:7])
    assert len(count) == 500
    assert net.closed == {}
    net.pass_time(10.01)
    assert net.closed == {"assembly_timeout": 1}


def test_the_time_is_that_packets_own(play):
    net = play(assembly_timeout=10.0)
    net.server.on(1)(lambda session, packet: None)
    peer = net.connect()
    peer.arrive(wire(1)[:3])
    net.pass_time(9.0)
    peer.arrive(wire(1)[3:] + wire(1)[:3])  # the first is complete, another has begun
    net.pass_time(9.0)
    peer.arrive(wire(1)[3:6])
    net.pass_time(0.99)
    assert not peer.is_lost
    net.pass_time(0.02)
    assert peer.is_lost
    assert net.closed == {"assembly_timeout": 1}


def test_half_a_packet_behind_a_handler_that_waits_begins_when_we_read_it(play):
    net = play(assembly_timeout=10.0)
    net.server.on(1)(lambda session, packet: asyncio.sleep(25.0))
    peer = net.connect()
    peer.arrive(wire(1) + wire(2)[:6])
    net.pass_time(25.0 + 9.99)
    assert net.closed == {}
    net.pass_time(0.02)
    assert net.closed == {"assembly_timeout": 1}


def test_half_a_packet_behind_a_rate_is_not_the_peers_fault(play):
    net = play(assembly_timeout=10.0, max_packets_per_second=1.0, rate_burst=1.0)
    net.server.on(1)(lambda session, packet: None)
    peer = net.connect()
    peer.arrive(wire(1) * 40 + wire(1)[:6])
    net.pass_time(38.0)
    assert net.server.stats()["packets_dispatched"] < 41
    net.pass_time(8.0)
    assert net.closed == {}
    net.pass_time(10.0)
    assert net.closed == {"assembly_timeout": 1}


def end_by_close(net, peer):
    peer.protocol.close()


def end_by_abort(net, peer):
    peer.protocol.abort()


def end_by_finish(net, peer):
    peer.protocol.finish()


def end_by_loss(net, peer):
    peer.abort()


def end_by_eof(net, peer):
    peer.protocol.eof_received()


def end_by_stop(net, peer):
    net.loop.create_task(net.server.stop())


@pytest.mark.parametrize("end", [end_by_close, end_by_abort, end_by_finish, end_by_loss, end_by_eof, end_by_stop])
@pytest.mark.parametrize("doing", ["half a packet", "waiting", "taking nothing", "not logged in", "all"])
def test_every_end_lifts_every_deadline(gamenet, play, doing, end):
    every = dict.fromkeys(TIMEOUTS, 10.0)
    net = play(**every, heartbeat=gamenet.Heartbeat(100, 101), max_write_buffer=100_000)
    net.server.require_login(1)
    net.server.on(1)(lambda session, packet: asyncio.sleep(3600))
    peer = net.connect()
    context = net.context
    if doing in ("taking nothing", "all"):
        peer.takes = False
        peer.protocol.send(1, bytes(5000))
        net.loop.turn()
    if doing in ("waiting", "all"):
        peer.arrive(wire(1))
    if doing in ("half a packet", "all"):
        peer.arrive(b"half")
    net.loop.turn()
    assert len(context.timer) >= 3
    end(net, peer)
    if end is end_by_abort:
        assert len(context.timer) == 0  # at once
    net.pass_time(10.1)
    assert peer.is_lost
    assert len(context.timer) == 0
    assert sum(net.closed.values()) == 1
    net.pass_time(100.0)


def test_a_changed_layout_keeps_the_time_of_half_a_packet(play):
    net = play(assembly_timeout=10.0)
    net.server.on(1)(lambda session, packet: None)
    peer = net.connect()
    peer.arrive(wire(1)[:6])
    net.pass_time(5.0)
    peer.protocol.layout = net.gamenet.LINES
    net.pass_time(5.01)
    assert net.closed == {"assembly_timeout": 1}


def test_a_changed_layout_may_complete_the_packet_and_lifts_its_time(play):
    net = play(assembly_timeout=10.0)
    net.server.dispatch.set_default(lambda session, packet: None)
    peer = net.connect()
    peer.arrive(b"hello\n")
    net.pass_time(5.0)
    peer.protocol.layout = net.gamenet.LINES
    net.pass_time(50.0)
    assert net.closed == {}
    assert net.server.stats()["packets_dispatched"] == 1
    assert len(net.context.timer) == 0


@pytest.mark.parametrize("change", ["layout", "transform"])
def test_what_begins_behind_a_change_is_not_put_off_by_its_next_byte(play, change):
    """The bytes were there already: of a line without an end, or of a packet that was not decoded yet."""
    flip = 0x55 if change == "transform" else 0
    net = play(assembly_timeout=10.0, layout=BOOK_HEADER if flip else LINES)
    net.server.dispatch.set_default(lambda session, packet: None)
    peer = net.connect()
    data = bytes(byte ^ flip for byte in wire(1, bytes(40)) + wire(1, bytes(9)))
    peer.arrive(data[:5])
    net.pass_time(4.0)
    if flip:
        peer.protocol.set_transform(decode=lambda data: bytes(byte ^ flip for byte in data))
    else:
        peer.arrive(data[5:58])
        peer.protocol.layout = BOOK_HEADER
        assert net.server.stats()["packets_dispatched"] == 1
    net.pass_time(5.0)
    peer.arrive(data[58:59] if not flip else data[5:6])
    net.pass_time(0.99)
    assert net.closed == {}
    net.pass_time(0.01 + (0 if flip else 4.0))
    assert net.closed == {"assembly_timeout": 1}


def test_a_transform_may_complete_the_packet_and_lifts_its_time(play):
    net = play(assembly_timeout=10.0)
    net.server.on(1)(lambda session, packet: None)
    peer = net.connect()
    peer.arrive(bytes(byte ^ 1 for byte in wire(1)[:6]))
    peer.protocol.set_transform(decode=lambda data: bytes(byte ^ 1 for byte in data))
    net.pass_time(9.0)
    peer.arrive(bytes(byte ^ 1 for byte in wire(1)[6:]))
    net.pass_time(50.0)
    assert net.closed == {}
    assert net.server.stats()["packets_dispatched"] == 1
    peer.arrive(b"\1")
    net.pass_time(10.01)
    assert net.closed == {"assembly_timeout": 1}


# -- a peer that takes nothing


def test_a_peer_that_takes_nothing_is_aborted_in_time(play, caplog):
    net = play(write_timeout=15.0)
    peer = net.connect()
    peer.takes = False
    peer.protocol.send(1, bytes(5000))
    net.pass_time(14.99)
    assert net.closed == {}
    net.pass_time(0.02)
    assert net.closed == {"write_timeout": 1}
    assert "took none of 5008 bytes in 15 s" in caplog.text


def test_a_peer_that_takes_a_little_all_the_time_lives(play):
    net = play(write_timeout=15.0)
    peer = net.connect()
    peer.takes = False
    peer.protocol.send(1, bytes(5000))
    for _ in range(100):
        net.pass_time(14.0)
        peer.take(1)
    assert net.closed == {}
    net.pass_time(30.01)  # noticed within twice the time
    assert net.closed == {"write_timeout": 1}


def test_the_time_to_take_ends_when_all_is_taken_and_begins_anew(play):
    net = play(write_timeout=15.0)
    peer = net.connect()
    for _ in range(10):
        peer.takes = False
        peer.protocol.send(1, bytes(5000))
        net.pass_time(14.5)
        peer.takes = True
        peer.take(10_000)
        net.pass_time(0.7)
    net.pass_time(100.0)
    assert net.closed == {}
    assert len(net.context.timer) == 0


def test_closing_has_a_time_of_its_own(play):
    for timeout, needed in ((None, 5.0), (20.0, 20.0), (1.0, 1.0)):
        net = play(close_timeout=5.0, write_timeout=60.0)
        peer = net.connect()
        peer.takes = False
        peer.protocol.send(1, bytes(5000))
        peer.protocol.close("enough", timeout=timeout)
        net.pass_time(needed - 0.01)
        assert net.closed == {}
        net.pass_time(0.02)
        assert net.closed == {"enough": 1}


def test_closing_in_time_is_no_abort(play):
    net = play(close_timeout=5.0)
    peer = net.connect()
    peer.takes = False
    peer.protocol.send(1, bytes(5000))
    peer.protocol.close("enough")
    peer.protocol.close("again", timeout=60.0)
    net.pass_time(4.99)
    peer.take(10_000)
    net.pass_time(0.0)
    assert (len(peer.taken), net.closed) == (5008, {"enough": 1})


# -- a login


@pytest.fixture
def login_server(play):
    """A login server: packet 1 logs in when its body says so, 2 is for those who are in, 3 logs out."""

    def make(**options):
        net = play(login_timeout=20.0, **options)
        net.server.require_login(1)
        net.handled = []

        @net.server.on(1)
        async def login(session, packet):
            if packet.sequence:
                await asyncio.sleep(packet.sequence)
            session.is_logged_in = packet.body == b"secret"

        net.server.on(2)(lambda session, packet: net.handled.append(packet.sequence))

        @net.server.on(3)
        def logout(session, packet):
            session.is_logged_in = False

        return net

    return make


def test_a_login_has_its_time(login_server, caplog):
    caplog.set_level(logging.INFO, "gamenet")
    net = login_server()
    late, early = net.connect(), net.connect()
    net.pass_time(19.99)
    assert net.closed == {}
    early.arrive(wire(1, b"secret"))
    net.pass_time(100.0)
    assert net.closed == {"login_timeout": 1}
    assert (late.is_lost, early.is_lost) == (True, False)
    assert "no login within 20 s" in caplog.text


def test_packets_before_the_login_are_rejected_and_counted(login_server, caplog):
    net = login_server()
    peer = net.connect()
    peer.arrive(wire(2, sequence=1) + wire(9) + wire(3) + wire(1, b"wrong"))
    net.loop.turn()
    peer.arrive(wire(2, sequence=2) + wire(1, b"secret") + wire(2, sequence=3))
    net.loop.turn()
    assert net.handled == [3]
    rejected = net.server.stats()["rejected"]
    assert (rejected["login"], rejected["unknown"]) == (3, 1)
    assert "packet id 2 before the login" in caplog.text
    assert "no handler for packet id 9" in caplog.text


def test_failed_logins_do_not_prolong_the_time(login_server):
    net = login_server()
    peer = net.connect()
    for _ in range(19):
        peer.arrive(wire(1, b"wrong"))
        net.pass_time(1.0)
    assert net.closed == {}
    net.pass_time(1.01)
    assert net.closed == {"login_timeout": 1}


def test_a_login_that_came_in_time_may_take_long(login_server):
    net = login_server()
    peer = net.connect()
    net.pass_time(19.0)
    peer.arrive(wire(1, b"secret", sequence=50))
    net.pass_time(49.9)
    assert net.closed == {}
    assert not peer.protocol.is_logged_in
    net.pass_time(100.0)
    assert net.closed == {}
    assert peer.protocol.is_logged_in


def test_logins_that_come_one_behind_the_other_do_not_prolong_the_time(login_server):
    net = login_server()
    peer = net.connect()
    peer.arrive(wire(1, b"wrong", sequence=3) * 1000)
    net.pass_time(20.0)
    assert net.closed == {}  # the seventh came in time
    net.pass_time(3.0)
    assert net.closed == {"login_timeout": 1}


def test_logging_out_starts_the_time_again(login_server):
    net = login_server()
    peer = net.connect()
    peer.arrive(wire(1, b"secret"))
    net.pass_time(100.0)
    peer.arrive(wire(3) + wire(2))
    net.pass_time(19.99)
    assert net.handled == []
    peer.arrive(wire(1, b"secret"))
    net.loop.turn()
    peer.arrive(wire(2, sequence=7) + wire(3))
    net.pass_time(19.99)
    assert (net.handled, net.closed) == ([7], {})
    net.pass_time(0.02)
    assert net.closed == {"login_timeout": 1}


def test_without_required_login_there_is_no_time_for_it(play):
    net = play(login_timeout=20.0)
    net.server.on(1)(lambda session, packet: setattr(session, "is_logged_in", False))
    peer = net.connect()
    assert peer.protocol.is_logged_in
    peer.arrive(wire(1) + wire(1))
    net.pass_time(1000.0)
    assert (net.closed, net.server.stats()["rejected"]["login"]) == ({}, 1)


def test_a_login_in_the_opened_hook(play):
    net = play(login_timeout=20.0)
    net.server.require_login(1)
    net.server.on_opened(lambda session: setattr(session, "is_logged_in", True))
    net.connect()
    net.pass_time(1000.0)
    assert net.closed == {}


def test_handlers_registered_after_require_login_and_before(play):
    net, handled = play(), []
    server = net.server
    server.on(1)(lambda session, packet: handled.append("replaced"))
    server.require_login(1, 2)
    server.require_login(3)
    server.on(1)(lambda session, packet: handled.append(1))
    server.on_batch(2)(lambda session, batch: handled.append([packet.sequence for packet in batch]))
    server.on_batch(4)(lambda session, batch: handled.append("batch"))
    server.dispatch.set_default(lambda session, packet: handled.append("default"))

    @server.on(3)
    async def login(session, packet):
        session.is_logged_in = True

    peer = net.connect()
    peer.arrive(wire(4) * 3 + wire(1) + wire(2, b"", 1) + wire(2, b"", 2) + wire(9))
    assert handled == [1, [1, 2]]
    assert server.stats()["rejected"]["login"] == 4
    peer.arrive(wire(3))
    net.loop.turn()
    peer.arrive(wire(4) * 3 + wire(9))
    assert handled[2:] == ["batch", "default"]


def test_a_login_in_a_batch_counts_for_what_follows(play):
    net, handled = play(), []
    net.server.require_login(1)
    net.server.on_batch(1)(lambda session, batch: setattr(session, "is_logged_in", True))
    net.server.on_batch(2)(lambda session, batch: handled.append(len(batch)))
    peer = net.connect()
    peer.arrive(wire(2) * 2 + wire(1) * 2 + wire(2) * 3)
    assert (handled, net.server.stats()["rejected"]["login"]) == ([3], 2)


def test_a_required_login_that_cannot_be(gamenet):
    server = gamenet.Server()
    with pytest.raises(TypeError, match="by which a session logs in"):
        server.require_login()
    for packet in ("1", gamenet.Packet, 1.5, None):
        with pytest.raises(TypeError):
            server.require_login(1, packet)
    assert not server.dispatch.requires_login


# -- handlers


def test_a_handler_that_never_ends_is_cancelled_and_the_session_goes_on(play, caplog):
    net, ended = play(handler_timeout=60.0), []

    @net.server.on(1)
    async def endless(session, packet):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append(net.loop.now)
            session.send(5)
            raise

    net.server.on(2)(lambda session, packet: session.reply(packet))
    peer = net.connect()
    peer.arrive(wire(1) + wire(2, b"next"))
    net.pass_time(59.99)
    assert (ended, peer.taken) == ([], b"")
    net.pass_time(0.02)
    assert ended == [1060.0]
    assert peer.taken == wire(5) + wire(2, b"next")
    assert net.server.stats()["handler_errors"] == 1
    assert "the handler of packet id 1 raised" in caplog.text
    net.pass_time(1000.0)
    assert net.closed == {}


def test_a_handler_that_never_ends_closes_where_that_is_the_policy(play):
    net = play(handler_timeout=60.0, handler_errors="close")
    net.server.on(1)(lambda session, packet: asyncio.sleep(3600))
    net.connect().arrive(wire(1) + wire(1))
    net.pass_time(60.01)
    assert net.closed == {"handler_error": 1}
    assert net.server.stats()["handler_errors"] == 1


@pytest.mark.parametrize("outcome", ["returns", "raises", "says that it is invalid"])
def test_what_a_cancelled_handler_does_then_is_counted_once(play, outcome):
    net = play(handler_timeout=60.0)

    @net.server.on(1)
    async def stubborn(session, packet):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(5.0)
            if outcome == "raises":
                raise ValueError from None
            if outcome != "returns":
                raise net.gamenet.InvalidPacketError from None

    net.server.on(2)(lambda session, packet: session.reply(packet))
    peer = net.connect()
    for _ in range(3):  # its time is its own each time
        peer.taken = b""
        peer.arrive(wire(1) + wire(2))
        net.pass_time(64.9)
        assert peer.taken == b""
        net.pass_time(0.2)
        assert peer.taken == wire(2)
    assert net.server.stats()["handler_errors"] == 3
    assert net.closed == {}


def test_a_handler_that_ignores_its_cancellation_costs_its_session(play, caplog):
    net, gate = play(handler_timeout=60.0), []

    @net.server.on(1)
    async def deaf(session, packet):
        while not gate:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(7.0)

    net.connect().arrive(wire(1) + wire(1))
    net.pass_time(119.9)
    assert net.closed == {}
    net.pass_time(0.2)
    assert net.closed == {"handler_error": 1}
    assert "goes on though it was cancelled" in caplog.text
    assert net.server.stats()["handler_errors"] == 1
    gate.append("open")
    net.pass_time(10.0)
    assert not net.context.tasks


def test_a_handler_that_ends_just_then_is_no_error(play):
    net = play(handler_timeout=60.0)
    done = []

    @net.server.on(1)
    async def punctual(session, packet):
        await asyncio.sleep(packet.sequence / 1000)
        done.append(packet.sequence)

    peer = net.connect()
    for thousandths in (59_999, 60_000):
        peer.arrive(wire(1, sequence=thousandths))
        net.pass_time(61.0)
    assert done[0] == 59_999
    # at the very same moment either may be first, but it is counted as one of both
    assert net.server.stats()["handler_errors"] == 2 - len(done)
    assert net.closed == {}


def test_a_handler_whose_end_is_not_noticed_yet_is_not_overdue(play):
    net = play(handler_timeout=60.0)
    gate = net.loop.create_future()

    @net.server.on(1)
    async def handler(session, packet):
        await gate

    net.connect().arrive(wire(1))
    net.pass_time(59.98)
    gate.set_result(None)
    net.loop.stand_still(0.03)  # the timer fires in the turn in which the handler ends
    net.loop.turn()
    assert net.server.stats()["handler_errors"] == 0


def test_handlers_one_behind_the_other_have_their_time_each(play):
    net = play(handler_timeout=60.0)
    net.server.on(1)(lambda session, packet: asyncio.sleep(59.0))
    net.connect().arrive(wire(1) * 20)
    net.pass_time(20 * 59.0 + 1)
    assert net.server.stats()["packets_dispatched"] == 20
    assert net.server.stats()["handler_errors"] == 0


# -- heartbeats


@pytest.fixture
def beats(play, gamenet):
    def make(interval=10.0, **options):
        return play(heartbeat=gamenet.Heartbeat(100, 101, interval), **options)

    return make


def test_a_peers_pings_are_answered_below_the_handlers_and_before_a_login(beats):
    net = beats(None)
    net.server.require_login(1)
    peer = net.connect()
    peer.arrive(wire(100, b"body", 77) + wire(100, b"", 0) + wire(100, bytes(5000), 1)[:2000])
    peer.arrive(wire(100, bytes(5000), 1)[2000:])
    assert peer.taken == wire(101, b"body", 77) + wire(101) + wire(101, bytes(5000), 1)
    stats = net.server.stats()
    assert (stats["packets_dispatched"], stats["rejected"]["login"], stats["handler_errors"]) == (3, 0, 0)


def test_extra_header_fields_of_a_ping_come_back(gamenet, play):
    layout = LAYOUTS["mongodb"]
    net = play(layout=layout, heartbeat=gamenet.Heartbeat(100, 101))
    peer = net.connect()
    peer.arrive(net.server._codec.frame(100, b"body", 5, {"response_to": -7}))
    assert peer.taken == net.server._codec.frame(101, b"body", 5, {"response_to": -7})


def test_a_pong_that_does_not_fit_is_an_error_of_ours_and_no_end(gamenet, play):
    layout = LAYOUTS["minecraft"]
    net = play(layout=layout, heartbeat=gamenet.Heartbeat(1, 70_000), max_packet_size=100)
    peer = net.connect()
    longest = net.server._codec.frame(1, bytes(98))
    assert len(longest) == 100
    peer.arrive(longest + net.server._codec.frame(1, b"x"))
    assert peer.taken == net.server._codec.frame(70_000, b"x")
    assert net.server.stats()["handler_errors"] == 1
    assert net.closed == {}


def test_our_pings_bring_the_round_trip_time(beats):
    net = beats()
    peer = net.connect()
    session = peer.protocol
    net.pass_time(9.99)
    assert (peer.taken, session.round_trip_time) == (b"", None)
    net.pass_time(0.01)
    assert peer.taken == wire(100, b"", 1)
    peer.arrive(wire(101, b"", 2))  # not the number we sent
    net.pass_time(0.25)
    assert session.round_trip_time is None
    peer.arrive(wire(101, b"", 1) + wire(101, b"", 1))
    assert session.round_trip_time == 0.25
    net.pass_time(5.0)
    peer.arrive(wire(101, b"", 1))  # it was answered
    assert session.round_trip_time == 0.25
    net.pass_time(4.75)
    assert peer.taken == wire(100, b"", 1) + wire(100, b"", 2)


def test_a_lost_pong_is_given_up_after_three_intervals(beats):
    net = beats()
    peer = net.connect()
    net.pass_time(39.9)
    assert peer.taken == wire(100, b"", 1)
    net.pass_time(0.2)
    assert peer.taken == wire(100, b"", 1) + wire(100, b"", 2)
    peer.arrive(wire(101, b"", 1))  # too late
    assert peer.protocol.round_trip_time is None
    peer.arrive(wire(101, b"", 2))
    assert peer.protocol.round_trip_time is not None


def test_a_ping_that_was_left_out_for_a_slow_receiver_is_not_waited_for(beats):
    net = beats(high_watermark=2000, low_watermark=500)
    net.server.when_slow(100, "drop_newest")
    peer = net.connect()
    peer.takes = False
    peer.protocol.send(1, bytes(500))
    net.loop.turn()
    peer.protocol.send(1, bytes(3000))
    net.pass_time(10.1)
    assert net.server.stats()["dropped"]["drop_newest"] == 1
    peer.takes = True
    peer.take(100_000)
    net.pass_time(10.0)
    assert peer.taken.endswith(wire(100, b"", 1))


def test_a_layout_without_sequence_numbers(gamenet, play):
    net = play(layout=LAYOUTS["mqtt"], heartbeat=gamenet.Heartbeat(0xC0, 0xD0, 10.0))
    peer = net.connect()
    net.pass_time(10.0)
    assert peer.taken == b"\xc0\0"
    net.pass_time(0.5)
    peer.arrive(b"\xd0\0")
    assert peer.protocol.round_trip_time == 0.5


def test_a_layout_without_room_for_pings_harms_nobody(gamenet, play, caplog):
    net = play(heartbeat=gamenet.Heartbeat(100, 101, 10.0), idle_timeout=35.0)
    peer, other = net.connect(), net.connect()
    peer.protocol.layout = gamenet.LINES
    net.pass_time(30.0)
    assert peer.taken == b""
    assert other.taken == wire(100, b"", 1)
    assert "cannot ping" in caplog.text
    net.pass_time(6.0)
    assert net.closed == {"idle_timeout": 2}


def test_a_sequence_of_few_bits_begins_again(gamenet, core):
    layout = gamenet.HeaderLayout(
        (gamenet.HeaderField("packet_id", 1), gamenet.HeaderField("packet_size", 1), gamenet.HeaderField("sequence", 1))
    )
    net = FakeNet(gamenet, **UNUSED, layout=layout, heartbeat=gamenet.Heartbeat(1, 2, 1.0))
    peer = net.connect()
    for n in range(600):
        net.pass_time(1.0)
        assert peer.taken == bytes([1, 3, n % 255 + 1])
        peer.taken = b""
        peer.arrive(bytes([2, 3, n % 255 + 1]))
    net.end()


def test_an_idle_peer_that_answers_pings_lives(beats):
    net = beats(idle_timeout=30.0)
    lives, dies = net.connect(), net.connect()
    for _ in range(100):
        net.pass_time(10.0)
        lives.arrive(lives.taken.replace(b"\x64\0", b"\x65\0", 1))
        lives.taken = b""
    assert (lives.is_lost, dies.is_lost) == (False, True)


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_intervals_that_cannot_be(gamenet, interval):
    with pytest.raises(ValueError, match=f"interval {interval} is not above 0 seconds"):
        gamenet.Heartbeat(1, 2, interval)


def test_heartbeats_that_cannot_be(gamenet):
    with pytest.raises(ValueError, match="ping and pong are both packet id 7"):
        gamenet.Heartbeat(7, 7)
    for bad in ("7", 1.5, None, gamenet.Packet):
        with pytest.raises(TypeError):
            gamenet.Server(heartbeat=gamenet.Heartbeat(bad, 2))
    for ping, pong, options in ((70_000, 1, {}), (1, 70_000, {}), (1, 2, {"layout": gamenet.LINES})):
        with pytest.raises(ValueError):
            gamenet.Server(heartbeat=gamenet.Heartbeat(ping, pong), **options)
    with pytest.raises(TypeError, match="heartbeat must be a Heartbeat, got tuple"):
        gamenet.Server(heartbeat=(1, 2))


def test_a_ping_by_hand(beats):
    net = beats(None)
    peer = net.connect()
    session = peer.protocol
    assert session.ping(100)
    assert not session.ping(100)
    net.pass_time(2.0)
    assert not session.ping(100, 2.5)
    assert session.ping(100, 2.0)
    with pytest.raises(ValueError):
        session.ping(70_000, 0.0)
    peer.arrive(wire(101, b"", 2))
    assert session.round_trip_time == 0.0
    session.close()
    assert not session.ping(100)


# -- each for real


async def test_real_silence(net, secure, until):
    server = await net.server(idle_timeout=0.1)
    reader, _ = await net.open(server)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    await until(lambda: server.stats()["closed"] == {"idle_timeout": 1})


async def test_a_real_byte_by_byte_client(net, secure, until):
    server = await net.server(assembly_timeout=0.2)
    server.on(1)(lambda session, packet: session.reply(packet))
    reader, writer = await net.open(server)
    writer.write(wire(1, b"whole") + wire(1)[:1])
    assert await read_packet(reader) == (1, 0, b"whole")

    async def drip():
        while True:
            await asyncio.sleep(0.02)
            writer.write(b"\1" if server.stats()["bytes_in"] > 14 else b"\0")

    dripping = asyncio.ensure_future(drip())
    await until(lambda: sum(server.stats()["closed"].values()))
    dripping.cancel()
    assert server.stats()["closed"] == {"assembly_timeout": 1}


PATIENCE = 1.0 if sys.platform == "win32" else 0.3  # there pieces of 64 KiB are seen to leave, not single bytes


async def test_a_real_peer_that_takes_nothing(net, secure, until):
    server = await net.server(write_timeout=0.3, max_write_buffer=100_000_000)
    await net.open_mute(server)
    await until(lambda: len(server.sessions) == 1)
    (session,) = server.sessions
    for _ in range(1500):
        session.send(1, bytes(8000))
    await until(lambda: server.stats()["closed"] == {"write_timeout": 1})


async def test_a_real_peer_that_takes_a_little_all_the_time(net, secure, until):
    server = await net.server(write_timeout=PATIENCE, max_write_buffer=100_000_000)
    sock = await net.open_mute(server)
    await until(lambda: len(server.sessions) == 1)
    (session,) = server.sessions
    for _ in range(1500):
        session.send(1, bytes(8000))
    enough = threading.Event()

    def nibble():
        taken = 0
        while not enough.wait(0.01) and taken < 4_000_000:
            taken += len(sock.recv(4096))

    nibbling = asyncio.ensure_future(asyncio.to_thread(nibble))
    try:
        await asyncio.sleep(3 * PATIENCE)
        assert server.stats()["closed"] == {}
    finally:
        enough.set()
        await nibbling
    await until(lambda: server.stats()["closed"] == {"write_timeout": 1})


async def test_a_real_peer_that_takes_much_and_then_nothing(net, secure, until):
    """It took so much that writing went on: what it was given then must be seen to wait, by TLS and by Windows too."""
    server = await net.server(write_timeout=PATIENCE, max_write_buffer=100_000_000)
    sock = await net.open_mute(server)
    await until(lambda: len(server.sessions) == 1)
    (session,) = server.sessions
    for _ in range(3000):
        session.send(1, bytes(8000))

    def take(size):
        while size > 0:
            taken = len(sock.recv(65_536))
            assert taken, f"it was closed with {size} bytes to take"
            size -= taken

    await asyncio.to_thread(take, 8_000_000)
    await until(lambda: server.stats()["closed"] == {"write_timeout": 1})


async def test_a_real_login(net, secure, until):
    server = await net.server(start=False, login_timeout=0.2)
    server.require_login(1)
    await net.start(server)
    server.on(1)(lambda session, packet: setattr(session, "is_logged_in", True))
    server.on(2)(lambda session, packet: session.reply(packet))
    late, _ = await net.open(server)
    reader, writer = await net.open(server)
    writer.write(wire(1))
    assert await asyncio.wait_for(late.read(), 10) == b""
    writer.write(wire(2, b"in"))
    assert await read_packet(reader) == (2, 0, b"in")
    assert server.stats()["closed"] == {"login_timeout": 1}


async def test_a_real_handler_that_never_ends(net, secure):
    server = await net.server(handler_timeout=0.1)
    server.on(1)(lambda session, packet: asyncio.sleep(3600))
    server.on(2)(lambda session, packet: session.reply(packet))
    reader, writer = await net.open(server)
    writer.write(wire(1) + wire(2, b"on"))
    assert await read_packet(reader) == (2, 0, b"on")
    assert server.stats()["handler_errors"] == 1


async def test_a_real_close_towards_a_peer_that_does_not_read(net, secure, until):
    server = await net.server(close_timeout=0.2, max_write_buffer=100_000_000)
    await net.open_mute(server)
    await until(lambda: len(server.sessions) == 1)
    (session,) = server.sessions
    for _ in range(1500):
        session.send(1, bytes(8000))
    session.close("enough")
    assert not session.is_closed
    await until(lambda: server.stats()["closed"] == {"enough": 1})


async def test_real_heartbeats_on_both_sides(net, secure, until):
    server = await net.server(idle_timeout=0.5, heartbeat=net.gamenet.Heartbeat(100, 101, 0.05))
    client = await net.connect(server, heartbeat=net.gamenet.Heartbeat(100, 101, 0.05))
    await until(lambda: len(server.sessions) == 1)
    (session,) = server.sessions
    await until(lambda: session.round_trip_time is not None and client.session.round_trip_time is not None)
    await asyncio.sleep(0.8)
    assert session.is_open
    assert client.is_connected
    assert 0 <= session.round_trip_time < 10
