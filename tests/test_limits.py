"""Every limit of `gamenet.Limits`: one below it, at it and one above; what it may be; and that the docs say so."""

import asyncio
import dataclasses
import re
import sys
from pathlib import Path

import pytest
from fakenet import FakeNet
from wire import wire

DOCS = Path(__file__).parents[1] / "docs"
NEVER = dict.fromkeys(
    ["idle_timeout", "assembly_timeout", "login_timeout", "write_timeout", "handler_timeout", "link_timeout"]
)
LITTLE = 0.01  # seconds


@pytest.fixture
def play(gamenet):
    """`play(**options)`: a server without sockets, that has only the timeouts that are given."""
    nets = []

    def make(**options):
        nets.append(FakeNet(gamenet, **{**NEVER, **options}))
        return nets[-1]

    yield make
    for net in nets:
        net.end()


# -- below, at and above. `step` is -1, 0 or 1

CASES = []


def case(function):
    """Of the limit that has its name."""
    CASES.append(function)
    return function


@case
def max_packet_size(play, step):
    net = play(max_packet_size=100)
    net.server.on(1)(lambda session, packet: session.reply(packet))
    peer = net.connect()
    frame = wire(1, bytes(92 + step))
    peer.arrive(frame[:8])  # the header alone says it
    net.loop.turn()
    assert peer.is_lost is (step > 0)
    if step > 0:
        assert net.closed == {"invalid_packet": 1}
        with pytest.raises(ValueError, match="a packet of 101 bytes does not fit, limit 100"):
            net.connect().protocol.send(1, bytes(93))
    else:
        peer.arrive(frame[8:])
        assert peer.taken == frame


@case
def max_sessions(play, step):
    net = play(max_sessions=3)
    for _ in range(3 + step):
        net.connect()
    assert len(net.server.sessions) == min(3, 3 + step)
    assert net.server.stats()["refused"] == ({"server_full": 1} if step > 0 else {})


@case
def max_sessions_per_address(play, step):
    net = play(max_sessions_per_address=3)
    for _ in range(3 + step):
        net.connect()
    assert len(net.server.sessions) == min(3, 3 + step)
    assert net.server.stats()["refused"] == ({"address_full": 1} if step > 0 else {})


@case
def max_accepts_per_second(play, step):
    net = play()
    net.start()
    pace = net.gamenet.admission.Pace(4.0, 100.0)
    for _ in range(3 + step):
        pace.take()
    assert (pace.delay(100.0) > 0) is (step > 0)  # the next one


@case
def handshake_timeout(play, step):
    net = play(handshake_timeout=10.0, resume=True)
    peer = net.connect()  # and says nothing
    net.pass_time(10.0 + step * LITTLE)
    assert peer.is_lost is (step >= 0)


@case
def idle_timeout(play, step):
    net = play(idle_timeout=30.0)
    peer = net.connect()
    net.pass_time(7.0)
    peer.arrive(b"\1")
    net.pass_time(30.0 + step * LITTLE)
    assert net.closed == ({"idle_timeout": 1} if step >= 0 else {})


@case
def assembly_timeout(play, step):
    net = play(assembly_timeout=10.0)
    peer = net.connect()
    for byte in wire(1, bytes(20))[:10]:
        peer.arrive(bytes([byte]))
        net.pass_time(1.0 + (step * LITTLE if net.loop.now == 1009.0 else 0))
    assert net.closed == ({"assembly_timeout": 1} if step >= 0 else {})


@case
def login_timeout(play, step):
    net = play(login_timeout=20.0)
    net.server.require_login(1)
    net.server.on(1)(lambda session, packet: None)
    peer = net.connect()
    net.pass_time(10.0)
    peer.arrive(wire(1))  # one that fails
    net.pass_time(10.0 + step * LITTLE)
    assert net.closed == ({"login_timeout": 1} if step >= 0 else {})


@case
def write_timeout(play, step):
    net = play(write_timeout=15.0)
    peer = net.connect()
    peer.takes = False
    peer.protocol.send(1, bytes(100))
    net.pass_time(15.0 + step * LITTLE)
    assert net.closed == ({"write_timeout": 1} if step >= 0 else {})


@case
def handler_timeout(play, step):
    net = play(handler_timeout=60.0)
    net.server.on(1)(lambda session, packet: asyncio.sleep(3600))
    net.connect().arrive(wire(1))
    net.pass_time(60.0 + step * LITTLE)
    assert net.server.stats()["handler_errors"] == (step >= 0)


@case
def close_timeout(play, step):
    net = play(close_timeout=5.0)
    peer = net.connect()
    peer.takes = False
    peer.protocol.send(1, bytes(100))
    peer.protocol.close("enough")
    net.pass_time(5.0 + step * LITTLE)
    assert net.closed == ({"enough": 1} if step >= 0 else {})


@case
def max_read_buffer(play, step):
    net = play(max_read_buffer=1000)
    peer = net.connect()
    peer.protocol.suspend()
    peer.arrive(bytes(500))
    assert peer.is_reading
    peer.arrive(bytes(500 + step))
    assert peer.is_reading is (step < 0)


def slow(play, **options):
    """A peer that takes nothing: a byte and a header of it are with the transport."""
    net = play(high_watermark=1000, low_watermark=100, **options)
    peer = net.connect()
    peer.takes = False
    peer.protocol.send(1, b"1")
    net.loop.turn()
    assert peer.is_paused
    return net, peer


@case
def high_watermark(play, step):
    _net, peer = slow(play)
    peer.protocol.send(1, bytes(1000 + step - 9 - 8))
    peer.protocol.resume_writing()  # looks at once, where one that sends looks above 1000 in the outbox
    peer.protocol.pause_writing()
    assert peer.protocol.unsent_size == 1000 + step
    assert peer.is_reading is (step <= 0)


@case
def low_watermark(play, step):
    net, peer = slow(play)
    session = peer.protocol
    session.send(1, bytes(2000))
    assert not peer.is_reading
    peer.take(9)  # what follows goes to the transport
    session.send(1, bytes(100 + step - 8))
    peer.take(2008)
    assert session.unsent_size == 100 + step
    net.loop.turn()
    assert peer.is_reading is (step <= 0)


@case
def max_write_buffer(play, step):
    net, peer = slow(play, max_write_buffer=5000)
    session = peer.protocol
    room = 5000 + session._burst - session.unsent_size
    session.send(1, bytes(2000 - 8))
    session.send(1, bytes(room - 2000 - 8 + step))
    net.loop.turn()
    assert net.closed == ({"slow_receiver": 1} if step > 0 else {})


def seat(net):
    """A peer that was welcomed, and has answered."""
    resume, peer = net.gamenet.resume, net.connect()
    hello = resume.Hello(magic=resume.MAGIC, version=resume.VERSION, seat=0, secret=bytes(16), received=0, window=65_536)
    peer.arrive(resume.record(hello))
    peer.arrive(resume.record(resume.Ack(received=0)))
    return peer


@case
def link_timeout(play, step):
    net = play(link_timeout=15.0, resume=True)
    peer = seat(net)
    net.pass_time(15.0 + step * LITTLE)
    assert peer.is_lost is (step >= 0)
    assert net.server.stats()["seats"]["away"] == (step >= 0)
    net.loop.run_until_complete(net.server.stop())


@case
def resume_timeout(play, step):
    net = play(resume_timeout=30.0, resume=True)
    seat(net).abort()
    net.loop.turn()
    net.pass_time(30.0 + step * LITTLE)
    assert net.closed == ({"resume_timeout": 1} if step >= 0 else {})
    net.loop.run_until_complete(net.server.stop())


@case
def max_resume_buffer(play, step):
    net = play(max_resume_buffer=20_000, resume=True)
    seat(net)
    (session,) = net.server.sessions
    for size in (8000, 8000, 4000 + step):
        assert not session.is_write_paused
        session.send(1, bytes(size - 8))
        net.loop.turn()
    assert session.is_write_paused is (step >= 0)
    net.loop.run_until_complete(net.server.stop())


@case
def max_seats_away(play, step):
    net = play(max_seats_away=3, resume=True)
    for _ in range(3 + step):
        seat(net).abort()
        net.loop.turn()
    seats = net.server.stats()["seats"]
    assert (seats["away"], seats["given_up"]) == (min(3, 3 + step), step > 0)
    net.loop.run_until_complete(net.server.stop())


def counted(net, packets, size=8):
    """How many of so many packets, of so many bytes, are dispatched."""
    net.server.on(1)(lambda session, packet: None)
    net.connect().arrive(wire(1, bytes(size - 8)) * packets)
    stats = net.server.stats()
    assert stats["packets_dispatched"] + stats["rejected"]["rate"] == packets
    return stats["packets_dispatched"]


@case
def max_packets_per_second(play, step):
    assert counted(play(max_packets_per_second=8, rate_exceeded="reject"), 8 + step) == min(8, 8 + step)


@case
def max_bytes_per_second(play, step):
    assert counted(play(max_bytes_per_second=1024, rate_exceeded="reject"), 8 + step, 128) == min(8, 8 + step)


@case
def rate_burst(play, step):
    net = play(max_packets_per_second=8, rate_burst=2.0, rate_exceeded="reject")
    assert counted(net, 16 + step) == min(16, 16 + step)


@case
def dispatch_budget(play, step):
    net, seen = play(dispatch_budget=0.5), []

    @net.server.on(1)
    def slow(session, packet):
        seen.append(packet.sequence)
        net.loop.stand_still(0.0625 * (1 + step / 64))

    net.connect().arrive(wire(1) * 9)  # the first look is behind the eighth
    assert len(seen) == (8 if step >= 0 else 9)
    assert net.server.stats()["yields"] == (step >= 0)
    net.loop.turn()
    assert len(seen) == 9


@case
def max_mailbox(play, step):
    net, called = play(max_mailbox=4), []
    net.connect()
    taken = [net.server.call_soon(called.append, n) for n in range(4 + step)]
    assert taken == [True] * min(4, 4 + step) + [False] * (step > 0)
    net.loop.turn()
    assert called == list(range(min(4, 4 + step)))
    assert net.server.stats()["mailbox"]["refused"] == (step > 0)


class Beaten:
    """A loop of which only the beats of a watchdog are seen."""

    def call_soon_threadsafe(self, callback):
        pass


@case
def watchdog_timeout(play, step):
    net = play()
    net.start()
    watch = net.gamenet.watchdog._Watch(net.server._watchdog, Beaten(), 1.0, None)
    watch._sent, watch._taken = 100.0, 101.0 + step / 64
    watch._look()
    assert net.server.stats()["blocked"] == (step >= 0)
    watch._log.close()


@pytest.mark.parametrize("step", [-1, 0, 1], ids=["below", "at", "above"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_below_at_and_above(play, case, step):
    case(play, step)


def test_none_is_forgotten(gamenet):
    assert sorted(case.__name__ for case in CASES) == sorted(field.name for field in dataclasses.fields(gamenet.Limits))


# -- what they may be

NUMBERS_OF_THINGS = {
    "max_packet_size": 8, "max_sessions": 1, "max_sessions_per_address": 1, "max_read_buffer": 1, "low_watermark": 0,
    "max_write_buffer": 1, "max_resume_buffer": 16_384, "max_seats_away": 1, "max_mailbox": 1,
}  # with the lowest
MAY_BE_NONE = {
    "max_sessions_per_address", "max_accepts_per_second", "idle_timeout", "assembly_timeout", "login_timeout",
    "write_timeout", "handler_timeout", "link_timeout", "max_packets_per_second", "max_bytes_per_second",
    "dispatch_budget", "watchdog_timeout",
}


def names(gamenet):
    return {field.name: field.default for field in dataclasses.fields(gamenet.Limits)}


def test_the_lowest_of_each_and_one_below(gamenet):
    for name, lowest in NUMBERS_OF_THINGS.items():
        assert getattr(gamenet.Server(**{name: lowest}).limits, name) == lowest
        with pytest.raises(ValueError, match=rf"{lowest - 1}\b.*\b{lowest}\b"):
            gamenet.Server(**{name: lowest - 1})
    assert gamenet.Limits(high_watermark=1, low_watermark=1).high_watermark == 1
    with pytest.raises(ValueError, match="high_watermark 0 is below 1"):
        gamenet.Limits(high_watermark=0, low_watermark=0)
    for name in names(gamenet).keys() - NUMBERS_OF_THINGS.keys() - {"high_watermark"}:
        assert getattr(gamenet.Limits(**{name: 5e-324}), name) == 5e-324
        for bad in (0, 0.0, -1, float("nan")):
            with pytest.raises(ValueError, match=f"{name} {bad} is not above 0"):
                gamenet.Limits(**{name: bad})


def test_low_watermark_below_at_and_above_the_high_one(gamenet):
    for low in (999, 1000):
        assert gamenet.Limits(high_watermark=1000, low_watermark=low).low_watermark == low
    with pytest.raises(ValueError, match="low_watermark 1001 is above high_watermark 1000"):
        gamenet.Limits(high_watermark=1000, low_watermark=1001)


def test_the_highest_of_each_and_one_above(gamenet):
    """What is larger than any memory would fail in each session that opens, and not here."""
    for name in [*NUMBERS_OF_THINGS.keys() - {"low_watermark"}, "high_watermark"]:
        highest = 1 << 28 if name == "max_mailbox" else sys.maxsize
        assert getattr(gamenet.Limits(**{name: highest}), name) == highest
        with pytest.raises(ValueError, match=f"{name} {highest + 1} is above {highest}"):
            gamenet.Limits(**{name: highest + 1})


@pytest.mark.parametrize("name", ["max_packet_size", "max_read_buffer", "max_write_buffer", "high_watermark"])
def test_a_server_with_the_highest_serves(play, name):
    net = play(**{name: sys.maxsize})
    net.server.on(1)(lambda session, packet: session.reply(packet))
    peer = net.connect()
    peer.arrive(wire(1, b"hello"))
    peer.takes = False
    peer.arrive(wire(1, b"waits") * 3)
    assert peer.taken + peer.waiting == wire(1, b"hello") + wire(1, b"waits") * 3


def test_what_is_no_number_is_named(gamenet):
    for name in names(gamenet):
        is_int = name in NUMBERS_OF_THINGS or name == "high_watermark"
        for bad in ["5", b"5", [5], 5j, *([5.0, float("inf"), float("nan")] if is_int else [])]:
            with pytest.raises(TypeError, match=f"{name} must be {'an int' if is_int else 'a number'}, got "):
                gamenet.Server(**{name: bad})


def test_which_may_be_none(gamenet):
    for name in names(gamenet):
        if name in MAY_BE_NONE:
            assert getattr(gamenet.Server(**{name: None}).limits, name) is None
        else:
            with pytest.raises((TypeError, ValueError), match=f"{name} "):
                gamenet.Server(**{name: None})


# -- the docs


def rows():
    """The table of docs/sessions.md: default, meaning and reason by name."""
    found = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", (DOCS / "sessions.md").read_text(), re.M)
    return {name: rest for name, *rest in found}


def test_each_is_documented_with_its_default_and_a_reason(gamenet):
    table = rows()
    assert sorted(table) == sorted(names(gamenet))
    for name, default in names(gamenet).items():
        said, meaning, reason = table[name]
        number, _, none = said.partition(", or ")
        assert number.replace(",", "") == str(default), name
        assert (default is None or none == "None") is (name in MAY_BE_NONE), name
        assert len(meaning) > 5 < len(reason), name


def test_each_has_its_reason_in_the_source_too(gamenet):
    source = Path(gamenet.limits.__file__).read_text()
    for name in names(gamenet):
        assert re.search(rf'^    {name}: [^\n]+\n    """[^"]{{40,}}"""$', source, re.M), name


def test_each_threat_names_a_limit_that_there_is(gamenet):
    said = set(re.findall(r"`((?:max|\w+)_\w+)`", (DOCS / "security.md").read_text()))
    kinds = ("max_", "_timeout", "_watermark", "_burst", "_budget")
    limits = {name for name in said if name.startswith("max_") or name.endswith(kinds)}
    assert limits <= set(names(gamenet))
    assert names(gamenet).keys() - limits == {"low_watermark", "max_mailbox"}  # no threat of a peer's
