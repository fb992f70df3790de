"""Slow receivers: what waits for them, what may be left out, and when they are cut off; on both twins."""

import asyncio
import socket
import struct
import tracemalloc

import pytest
from layouts import LAYOUTS
from wire import read_packet, wire

CHAT, MOVE, SHOT, STATE, OTHER = 1, 2, 3, 4, 5


# -- which packets, which policy


@pytest.fixture
def parts(gamenet):
    """Policies for ids, the codec, a ledger and a function that makes a backlog of so many bytes."""

    class Move(gamenet.Packet, id=MOVE):
        player: gamenet.u32
        team: gamenet.u16
        x: gamenet.u32

    class Parts:
        packet = Move
        policies = gamenet.backlog.SlowPolicies()
        codec = gamenet._core.HeaderCodec()
        ledger = gamenet._core.Ledger()

        def backlog(self, limit=1000):
            return gamenet.backlog.Backlog(self.policies, limit, self.ledger)

        def add(self, backlog, packet_id, body=b"", sequence=0):
            return backlog.add(self.codec, wire(packet_id, body, sequence))

    return Parts()


def taken(backlog, size=1 << 30):
    """(id, sequence) of what is taken."""
    return [struct.unpack_from("<HHI", frame)[::2] for frame in backlog.take(size)]


def test_without_a_rule_everything_waits_in_its_order(parts):
    backlog = parts.backlog(100)
    for n in range(50):
        assert parts.add(backlog, CHAT, bytes(n), n)
    assert (len(backlog), backlog.size) == (50, sum(8 + n for n in range(50)))
    assert taken(backlog) == [(CHAT, n) for n in range(50)]
    assert (len(backlog), backlog.size, backlog.take(100)) == (0, 0, [])


def test_take_gives_about_so_many_bytes_and_at_least_one_frame(parts):
    backlog = parts.backlog()
    for n in range(10):
        parts.add(backlog, CHAT, bytes(92), n)
    assert [n for _, n in taken(backlog, 1)] == [0]
    assert [n for _, n in taken(backlog, 200)] == [1, 2]
    assert [n for _, n in taken(backlog, 201)] == [3, 4, 5]
    assert backlog.size == 400
    assert backlog.take(0) == []


@pytest.mark.parametrize(("size", "kept"), [(92, True), (91, True), (93, False)])
def test_drop_newest_below_at_and_above_the_limit(parts, size, kept):
    parts.policies.set(SHOT, "drop_newest")
    backlog = parts.backlog(200)
    parts.add(backlog, CHAT, bytes(92))
    assert parts.add(backlog, SHOT, bytes(size)) is kept
    assert parts.ledger.dropped_newest == (not kept)
    assert backlog.size == 100 + (8 + size) * kept


@pytest.mark.parametrize(("size", "kept"), [(92, [0, 1]), (91, [0, 1]), (93, [1])])
def test_drop_oldest_below_at_and_above_the_limit(parts, size, kept):
    parts.policies.set(SHOT, "drop_oldest")
    backlog = parts.backlog(200)
    parts.add(backlog, SHOT, bytes(92), 0)
    assert parts.add(backlog, SHOT, bytes(size), 1)
    assert parts.ledger.dropped_oldest == 2 - len(kept)
    assert [n for _, n in taken(backlog)] == kept


def test_drop_oldest_leaves_a_suffix_and_what_has_no_rule(parts):
    parts.policies.set(SHOT, "drop_oldest")
    backlog = parts.backlog(300)
    for n in range(40):
        parts.add(backlog, SHOT, bytes(12), n)
        if n % 10 == 0:
            parts.add(backlog, CHAT, bytes(12), n)
    left = taken(backlog)
    assert [n for packet_id, n in left if packet_id == CHAT] == [0, 10, 20, 30]
    assert [n for packet_id, n in left if packet_id == SHOT] == list(range(29, 40))
    assert left.index((CHAT, 30)) == left.index((SHOT, 30)) + 1
    assert parts.ledger.dropped_oldest == 29


def test_drop_oldest_makes_room_for_others(parts):
    parts.policies.set(SHOT, "drop_oldest")
    backlog = parts.backlog(100)
    for n in range(5):
        parts.add(backlog, SHOT, bytes(12), n)
    parts.add(backlog, CHAT, bytes(1000))
    assert taken(backlog) == [(CHAT, 0)]
    assert parts.ledger.dropped_oldest == 5


def test_a_drop_oldest_above_the_limit_by_itself(parts):
    parts.policies.set(SHOT, "drop_oldest")
    backlog = parts.backlog(100)
    parts.add(backlog, SHOT, bytes(500), 1)
    assert (len(backlog), backlog.size, parts.ledger.dropped_oldest) == (0, 0, 1)
    parts.add(backlog, SHOT, bytes(5), 2)
    assert taken(backlog) == [(SHOT, 2)]


def test_keep_latest_of_an_id(parts):
    parts.policies.set(STATE, "keep_latest")
    backlog = parts.backlog()
    for n in range(10):
        parts.add(backlog, STATE, bytes(n), n)
        parts.add(backlog, CHAT, b"", n)
    assert backlog.size == 8 + 9 + 80
    left = taken(backlog)
    assert left == [*((CHAT, n) for n in range(9)), (STATE, 9), (CHAT, 9)]
    assert parts.ledger.dropped_latest == 9


@pytest.mark.parametrize("key", ["player", ("player",), ("player", "team"), ("team", "x")])
def test_keep_latest_of_each_key(parts, key):
    parts.policies.set(parts.packet, "keep_latest", key)
    backlog, latest = parts.backlog(), {}
    names = (key,) if isinstance(key, str) else key
    for n in range(200):
        fields = {"player": n % 7, "team": n % 3, "x": n % 11}
        parts.add(backlog, MOVE, struct.pack("<IHI", *fields.values()), n)
        latest[tuple(fields[name] for name in names)] = n
    assert [n for _, n in taken(backlog)] == sorted(latest.values())
    assert parts.ledger.dropped_latest == 200 - len(latest)
    assert backlog.size == 0


def test_a_key_that_was_given_away_is_forgotten(parts):
    """A receiver that is always a little behind must not make us remember every key there ever was."""
    parts.policies.set(parts.packet, "keep_latest", "player")
    backlog = parts.backlog()
    tracemalloc.start()
    try:
        for n in range(20_000):
            parts.add(backlog, MOVE, struct.pack("<IHI", n, 0, 0), n % 65_536)
            if n % 10 == 9:
                backlog.take(9 * 18)
            if n == 1000:
                before = tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 1000 * 18 * 30
    parts.add(backlog, MOVE, struct.pack("<IHI", 0, 0, 0))
    assert parts.ledger.dropped_latest == 0


def test_a_body_without_the_key_has_a_key_of_its_own(parts):
    parts.policies.set(parts.packet, "keep_latest", "player")
    backlog = parts.backlog()
    for n in range(4):
        parts.add(backlog, MOVE, b"", n)
        parts.add(backlog, MOVE, struct.pack("<IHI", 0, 0, 0), n)
    assert taken(backlog) == [(MOVE, 3), (MOVE, 3)]


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "keep_latest"])
def test_several_packets_in_one_frame_stay_together(parts, policy):
    parts.policies.set(SHOT, policy)
    backlog = parts.backlog(10)
    frame = wire(SHOT, b"a") + wire(SHOT, b"b") + wire(CHAT)
    for _ in range(3):
        assert backlog.add(parts.codec, frame)
    assert backlog.take(1 << 20) == [frame] * 3


@pytest.mark.parametrize("frame", [b"", b"abc", wire(SHOT, b"abc")[:-1], struct.pack("<HHI", SHOT, 3, 0), b"\xff" * 20])
def test_what_is_no_packet_waits_as_it_leaves_a_fast_session(parts, frame):
    parts.policies.set(SHOT, "drop_newest")
    backlog = parts.backlog(1)
    assert backlog.add(parts.codec, frame)
    assert backlog.take(1000) == [frame]


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_any_layout(gamenet, name):
    layout = LAYOUTS[name]
    codec = gamenet._core.codec_for(layout, min(8192, layout.max_packet_size))
    policies, ledger = gamenet.backlog.SlowPolicies(), gamenet._core.Ledger()
    body = bytes(b"\1" * max(0, getattr(layout, "min_packet_size", 0) - codec.header_size))
    frame = codec.frame(0, body[: len(body) - len(codec.ending)] if body else b"")
    policies.set(0, "keep_latest")
    backlog = gamenet.backlog.Backlog(policies, 100, ledger)
    for _ in range(5):
        assert backlog.add(codec, frame)
    assert backlog.take(1000) == [frame]
    assert ledger.dropped_latest == 4


def test_every_frame_is_delivered_or_dropped_or_waits(parts, rng):
    parts.policies.set(SHOT, "drop_newest")
    parts.policies.set(STATE, "keep_latest")
    parts.policies.set(OTHER, "drop_oldest")
    parts.policies.set(parts.packet, "keep_latest", "player")
    backlog, accepted, delivered, last = parts.backlog(2000), 0, 0, {}
    for n in range(5000):
        packet_id = rng.choice([CHAT, MOVE, SHOT, STATE, OTHER])
        accepted += parts.add(backlog, packet_id, struct.pack("<I", rng.randrange(9)) + bytes(rng.randrange(90)), n)
        if rng.random() < 0.02:
            frames = backlog.take(rng.choice([1, 500, 1 << 20]))
            delivered += len(frames)
            for frame in frames:
                packet_id, _, sequence = struct.unpack_from("<HHI", frame)
                assert sequence > last.get(packet_id, -1)
                last[packet_id] = sequence
        assert backlog.size == sum(map(len, backlog._frames.values()))
    ledger = parts.ledger
    assert accepted == delivered + ledger.dropped_oldest + ledger.dropped_latest + len(backlog)
    assert accepted + ledger.dropped_newest == 5000
    assert min(ledger.dropped_oldest, ledger.dropped_latest, ledger.dropped_newest) > 50
    assert len(backlog._old) <= len(backlog)


def test_rules_that_cannot_be(parts, gamenet):
    rules = parts.policies
    with pytest.raises(ValueError, match="policy is 'drop_all', not one of disconnect, drop_oldest"):
        rules.set(1, "drop_all")
    with pytest.raises(ValueError, match="a key is for 'keep_latest', not for 'drop_oldest'"):
        rules.set(parts.packet, "drop_oldest", "player")
    with pytest.raises(ValueError, match="a bare id has no fields"):
        rules.set(1, "keep_latest", "player")
    with pytest.raises(AttributeError, match="Move has no field 'speed'"):
        rules.set(parts.packet, "keep_latest", "speed")
    with pytest.raises((TypeError, ValueError)):
        rules.set("1", "drop_oldest")
    with pytest.raises(TypeError):
        rules.set(print, "drop_oldest")
    assert not rules
    rules.set(1, "drop_oldest")
    assert rules
    rules.set(1, "disconnect")
    assert not rules


# -- sessions whose peer does not read


class Peer:
    """A plain socket with small buffers that reads when it is told to."""

    def __init__(self, sock):
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.held = b""

    def send(self, data):
        self.sock.send(data)

    async def packets(self, count=None):
        """The next packets as (id, sequence, body); all until the end if `count` is None."""
        found = []
        while count is None or len(found) < count:
            while len(self.held) < 8 or len(self.held) < struct.unpack_from("<HHI", self.held)[1]:
                data = await asyncio.wait_for(self.loop.sock_recv(self.sock, 1 << 18), 10)
                if not data:
                    assert count is None
                    assert self.held == b""
                    return found
                self.held += data
            at = 0
            while at + 8 <= len(self.held):
                packet_id, size, sequence = struct.unpack_from("<HHI", self.held, at)
                if at + size > len(self.held) or len(found) == count:
                    break
                found.append((packet_id, sequence, self.held[at + 8 : at + size]))
                at += size
            self.held = self.held[at:]
        return found


async def slow_server(net, **options):
    server = await net.server(start=False, **options)

    @server.on_opened
    def small(session):
        session.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)

    return server


async def peer_of(net, server, until):
    """A peer, and its session."""
    known = set(server.sessions)
    sock = socket.socket()
    net.stack.callback(sock.close)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    await until(lambda: len(server.sessions) > len(known))
    (session,) = set(server.sessions) - known
    return Peer(sock), session


async def stuff(session, size=1000):
    """Send until the peer's and our own socket are full and stay so, a turn at a time; returns how many packets."""
    sent = looks = 0
    while looks < 4:
        if session.is_write_paused:
            looks += 1
            if looks < 4:
                await asyncio.sleep(0.01)
        else:
            assert session.send(CHAT, bytes(size), sent)
            sent += 1
            looks = 0
            await asyncio.sleep(0)
    return sent


WAYS = ["send", "send_packet", "reply", "send_frame", "broadcast", "room", "batch"]


def sender(net, server, session, way):
    """`send(id, body, sequence)` in one of the ways."""
    raw = net.gamenet.RawPacket
    room = server.sessions.room("all")
    room.add(session)

    def send(packet_id, body, sequence):
        if way == "send":
            return session.send(packet_id, body, sequence)
        if way == "send_packet":
            return session.send(raw(packet_id, body, sequence))
        if way == "reply":
            return session.reply(raw(9, b"", sequence), raw(packet_id, body))
        if way == "send_frame":
            return session.send_frame(wire(packet_id, body, sequence))
        if way == "broadcast":
            return bool(server.sessions.broadcast(packet_id, body, sequence))
        return bool(room.broadcast(packet_id, body, sequence))

    return send


@pytest.mark.parametrize("way", [way for way in WAYS if way != "batch"])
@pytest.mark.parametrize("size", [20, 5000])
async def test_each_policy_keeps_its_promise(net, until, way, size):
    server = await slow_server(net, high_watermark=30_000, low_watermark=1000)
    server.when_slow(SHOT, "drop_newest")
    server.when_slow(OTHER, "drop_oldest")
    server.when_slow(STATE, "keep_latest")
    await net.start(server)
    peer, session = await peer_of(net, server, until)
    chats = await stuff(session)
    send = sender(net, server, session, way)
    count = 3000 if size == 20 else 40
    sent = {SHOT: [], OTHER: [], STATE: [], CHAT: list(range(chats))}
    for n in range(count):
        for packet_id in (SHOT, OTHER, STATE, *([CHAT] if n % 20 == 0 else [])):
            if send(packet_id, n.to_bytes(4, "little") + bytes(size), chats + n):
                sent[packet_id].append(chats + n)
            else:
                assert packet_id == SHOT
    dropped = server.stats()["dropped"]
    assert session.is_open
    assert session.outbox_size == session.backlog.size
    session.send(CHAT, b"end", 1 << 20)
    packets = []
    while not packets or packets[-1][2] != b"end":
        packets += await peer.packets(1)
    got = {packet_id: [n for i, n, _ in packets if i == packet_id] for packet_id in sent}
    assert got[CHAT] == [*sent[CHAT], 1 << 20]
    assert got[SHOT] == sent[SHOT]
    assert got[SHOT] == list(range(chats, chats + len(got[SHOT])))  # the first ones
    assert len(got[SHOT]) == count - dropped["drop_newest"] < count
    assert got[OTHER] == list(range(chats + count - len(got[OTHER]), chats + count))  # the last ones
    assert len(got[OTHER]) == count - dropped["drop_oldest"] < count
    assert got[STATE] == [chats + count - 1]
    assert dropped["keep_latest"] == count - 1
    order = [(n, (SHOT, OTHER, STATE, CHAT).index(i)) for i, n, _ in packets[chats:]]
    assert order == sorted(order)
    for packet_id, n, body in packets[chats:-1]:
        assert body == (n - chats).to_bytes(4, "little") + bytes(size), packet_id
    stats = server.stats()
    assert stats["packets_out"] == len(packets) + dropped["drop_oldest"] + dropped["keep_latest"]
    assert stats["bytes_out"] == sum(8 + len(body) for _, _, body in packets)
    await until(lambda: session.unsent_size == 0)  # Windows tells in a later turn that a write is done


async def test_the_latest_of_each_player(net, until):
    server = await slow_server(net, high_watermark=10_000, low_watermark=1000)

    class Move(net.gamenet.Packet, id=MOVE):
        player: net.gamenet.u32
        x: net.gamenet.u32

    server.when_slow(Move, "keep_latest", key="player")
    await net.start(server)
    peer, session = await peer_of(net, server, until)
    chats = await stuff(session)
    for n in range(5000):
        server.sessions.broadcast(Move(player=n % 50, x=n))
    assert len(session.backlog) == 50
    packets = await peer.packets(chats + 50)
    assert [struct.unpack("<II", body) for _, _, body in packets[chats:]] == [(n % 50, n) for n in range(4950, 5000)]
    await until(lambda: session.backlog is None)
    session.send(Move(player=1, x=9))
    session.send(Move(player=1, x=10))  # nobody is slow any more
    assert [struct.unpack("<II", body) for _, _, body in await peer.packets(2)] == [(1, 9), (1, 10)]


async def test_a_batch_is_answered_packet_by_packet(net, until):
    server = await slow_server(net, high_watermark=100_000, low_watermark=1000)
    server.when_slow(OTHER, "drop_oldest")
    answers = []

    @server.on_batch(OTHER)
    def answer(session, batch):
        while not session.is_write_paused:
            session.send(CHAT, bytes(1000))
        answers.extend(packet.sequence for packet in batch)
        assert batch.reply()

    await net.start(server)
    peer, session = await peer_of(net, server, until)
    peer.send(b"".join(wire(OTHER, bytes(92), n) for n in range(60)))
    await until(lambda: answers == list(range(60)))
    for n in range(60, 73):
        session.send(OTHER, bytes(8092), n)
    session.send(CHAT, b"end")
    packets = []
    while not packets or packets[-1][2] != b"end":
        packets += await peer.packets(1)
    dropped = server.stats()["dropped"]["drop_oldest"]
    assert dropped > 10
    assert [n for packet_id, n, _ in packets if packet_id == OTHER] == list(range(dropped, 73))


@pytest.mark.parametrize("name", ["mongodb", "minecraft", "postgresql"])
async def test_policies_under_another_layout(net, until, name):
    layout = LAYOUTS[name]
    server = await slow_server(net, layout=layout, high_watermark=5000, low_watermark=1000)
    server.when_slow(STATE, "keep_latest")
    await net.start(server)
    peer, session = await peer_of(net, server, until)
    sent = b""
    while not session.is_write_paused:
        session.send(CHAT, bytes(500))
        sent += session.codec.frame(CHAT, bytes(500))
        await asyncio.sleep(0)
    for n in range(1000):
        session.send(STATE, bytes([n % 256]) * 100)
    session.send(CHAT, b"end")
    sent += session.codec.frame(STATE, bytes([999 % 256]) * 100) + session.codec.frame(CHAT, b"end")
    received = b""
    while len(received) < len(sent):
        received += await asyncio.wait_for(peer.loop.sock_recv(peer.sock, 1 << 16), 10)
    assert received == sent
    assert server.stats()["dropped"]["keep_latest"] == 999


async def test_a_layout_that_changes_while_packets_wait(net, until):
    server = await slow_server(net, high_watermark=5000, low_watermark=1000)
    server.when_slow(STATE, "keep_latest")
    await net.start(server)
    peer, session = await peer_of(net, server, until)
    chats = await stuff(session)
    session.send(STATE, b"old", 1)
    session.send(STATE, b"older", 2)
    session.layout = LAYOUTS["mongodb"]
    server.sessions.broadcast(STATE, b"new", 3)
    other = session.codec
    packets = await peer.packets(chats)
    assert len(packets) == chats
    expected = other.frame(STATE, b"new", 3)
    held = peer.held
    while len(held) < len(expected):
        held += await asyncio.wait_for(peer.loop.sock_recv(peer.sock, 1 << 16), 10)
    assert held == expected


async def test_what_was_sent_before_a_transform_is_left_as_it_was(net, until):
    server = await slow_server(net, high_watermark=50_000, low_watermark=1000)
    server.when_slow(STATE, "keep_latest")
    await net.start(server)
    peer, session = await peer_of(net, server, until)
    chats = await stuff(session)
    session.send(STATE, b"plain", 1)
    session.set_transform(encode=lambda data: bytes(byte ^ 0x77 for byte in data))
    session.send(STATE, b"stale", 2)
    session.send(STATE, b"secret", 3)
    assert (await peer.packets(chats + 1))[-1] == (STATE, 1, b"plain")
    expected = bytes(byte ^ 0x77 for byte in wire(STATE, b"secret", 3))
    held = peer.held
    while len(held) < len(expected):
        held += await asyncio.wait_for(peer.loop.sock_recv(peer.sock, 1 << 16), 10)
    assert held == expected


async def test_close_delivers_the_backlog(net, until):
    server = await slow_server(net, high_watermark=100_000)
    server.when_slow(STATE, "keep_latest")
    await net.start(server)
    peer, session = await peer_of(net, server, until)
    chats = await stuff(session)
    for n in range(100):
        session.send(STATE, b"", n)
        session.send(CHAT, bytes(300), n)
    session.close("goodbye")
    assert session.send(CHAT) is False
    assert session.backlog is None
    packets = await peer.packets()
    assert [n for packet_id, n, _ in packets if packet_id == CHAT] == [*range(chats), *range(100)]
    assert [n for packet_id, n, _ in packets if packet_id == STATE] == [99]
    await until(lambda: server.stats()["closed"] == {"goodbye": 1})


async def test_closing_with_a_backlog_ends_by_the_deadline(net, until):
    server = await slow_server(net, close_timeout=0.2)
    server.when_slow(STATE, "drop_newest")
    await net.start(server)
    _peer, session = await peer_of(net, server, until)
    await stuff(session)
    session.send(CHAT, bytes(8000))
    session.close("enough")
    await until(lambda: server.stats()["closed"] == {"enough": 1})


# -- the hard limit


@pytest.mark.parametrize("with_policies", [False, True])
@pytest.mark.parametrize(("beyond", "is_cut_off"), [(-1, False), (0, False), (1, True)])
async def test_below_at_and_above_max_write_buffer(net, until, beyond, is_cut_off, with_policies):
    server = await slow_server(net, high_watermark=10_000, low_watermark=1000, max_write_buffer=30_000)
    if with_policies:
        server.when_slow(STATE, "keep_latest")
    await net.start(server)
    _peer, session = await peer_of(net, server, until)
    await stuff(session)
    limit = session._burst + 30_000
    while limit + beyond - session.unsent_size > 8000 + 9:
        session.send(CHAT, bytes(4000))
    session.send(CHAT, bytes(limit + beyond - session.unsent_size - 8))
    assert session.is_open is not is_cut_off
    if not is_cut_off:
        assert session.unsent_size == limit + beyond
        session.abort("the test ends")
    await until(lambda: server.stats()["closed"] == {"slow_receiver" if is_cut_off else "the test ends": 1})


async def test_what_may_be_left_out_never_cuts_anybody_off(net, until):
    server = await slow_server(net, high_watermark=20_000, low_watermark=1000, max_write_buffer=60_000)
    server.when_slow(OTHER, "drop_oldest")
    server.when_slow(SHOT, "drop_newest")
    server.when_slow(STATE, "keep_latest")
    await net.start(server)
    _peer, session = await peer_of(net, server, until)
    await stuff(session)
    for n in range(3000):
        for packet_id in (OTHER, SHOT, STATE):
            session.send(packet_id, bytes(1000), n)
        assert session.unsent_size <= session._burst + 60_000
        if n % 100 == 0:
            await asyncio.sleep(0)
    assert session.is_open


@pytest.mark.parametrize("reads", [True, False])
async def test_five_megabytes_in_one_turn(net, until, reads):
    """Who reads gets it all; who does not is cut off by what later turns add."""
    server = await net.server(write_timeout=None, max_packet_size=65_000)

    @server.on(CHAT)
    def much(session, packet):
        for n in range(1000):
            assert session.send(OTHER, bytes(5000), n)
        session.send(STATE)

    reader, writer = await net.open(server)
    if not reads:
        writer.transport.pause_reading()
    writer.write(wire(CHAT))
    if reads:
        for n in range(1000):
            assert await read_packet(reader) == (OTHER, n, bytes(5000))
            if n % 100 == 0:
                server.sessions.broadcast(MOVE, exclude=None) if n % 200 == 1 else None
        assert await read_packet(reader) == (STATE, 0, b"")
        assert server.stats()["closed"] == {}
        return
    await until(lambda: server.stats()["packets_out"] == 1001)
    (session,) = server.sessions
    before = session.unsent_size
    if before > 1_048_576:
        await asyncio.sleep(0.01)
        assert session.is_open
    while session.is_open:
        server.sessions.broadcast(MOVE, bytes(60_000))
        await asyncio.sleep(0)
        assert session.unsent_size < before + 1_048_576 + 2 * 60_008 + 65_536
    await until(lambda: server.stats()["closed"] == {"slow_receiver": 1})


async def test_a_burst_to_one_who_is_behind_already_counts(net, until):
    server = await slow_server(net, max_write_buffer=100_000, high_watermark=10_000, low_watermark=100)
    await net.start(server)
    _peer, session = await peer_of(net, server, until)
    await stuff(session)
    for _ in range(1000):
        session.send(CHAT, bytes(1000))
    assert not session.is_open
    await until(lambda: server.stats()["closed"] == {"slow_receiver": 1})


async def test_who_took_everything_may_have_another_burst(net, until):
    server = await slow_server(net, max_write_buffer=50_000, high_watermark=10_000, low_watermark=100)
    await net.start(server)
    peer, session = await peer_of(net, server, until)
    for _ in range(5):
        for n in range(200):
            assert session.send(CHAT, bytes(1000), n)
        assert [n for _, n, _ in await peer.packets(200)] == list(range(200))
        await until(lambda: not session.unsent_size and not session.is_write_paused)
    assert session.is_open


# -- backpressure


async def test_reading_pauses_above_the_high_watermark_and_goes_on_at_the_low_one(net, until):
    server = await slow_server(net, high_watermark=20_000, low_watermark=5000)
    seen = []
    server.on(OTHER)(lambda session, packet: seen.append(packet.sequence))
    await net.start(server)
    peer, session = await peer_of(net, server, until)
    await stuff(session)
    while session.unsent_size <= 20_000 - 600:
        session.send(CHAT, bytes(500))
    peer.send(wire(OTHER, b"", 1))
    await until(lambda: seen == [1])  # below it
    while session.unsent_size <= 20_000:
        session.send(CHAT, bytes(500))
    # what is in our outbox is looked at when the outbox alone is above it, or the transport asks to wait
    for _ in range(50):
        session.send(CHAT, bytes(500))
    assert not session.transport.is_reading()
    peer.send(wire(OTHER, b"", 2))
    await asyncio.sleep(0.05)
    assert seen == [1]
    await peer.packets(server.stats()["packets_out"])
    await until(lambda: seen == [1, 2])
    assert session.transport.is_reading()


async def test_what_asks_for_too_much_waits_until_it_was_taken(net, until):
    """A chunk of small requests with large answers: they are answered as the peer takes them."""
    server = await slow_server(net, high_watermark=20_000, low_watermark=5000, max_write_buffer=100_000)
    largest = []

    @server.on(OTHER)
    def large(session, packet):
        session.send(OTHER, bytes(2000), packet.sequence)
        largest.append(session.unsent_size)

    await net.start(server)
    peer, session = await peer_of(net, server, until)
    for n in range(0, 2000, 500):
        peer.send(b"".join(wire(OTHER, b"", m) for m in range(n, n + 500)))
        await asyncio.sleep(0.01)
    assert len(largest) < 500
    assert session.inbox_size > 0
    packets = await peer.packets(2000)
    assert [n for _, n, _ in packets] == list(range(2000))
    assert max(largest) < 20_000 + 65_536 + 3 * 2008
    assert server.stats()["closed"] == {}


async def test_the_peers_end_while_its_requests_wait_for_room(net, until):
    server = await slow_server(net, high_watermark=20_000, low_watermark=5000)
    server.on(OTHER)(lambda session, packet: session.send(OTHER, bytes(2000), packet.sequence))
    await net.start(server)
    peer, session = await peer_of(net, server, until)
    peer.send(b"".join(wire(OTHER, b"", n) for n in range(400)))
    peer.sock.shutdown(socket.SHUT_WR)
    await until(lambda: session.awaits_turn)
    assert [n for _, n, _ in await peer.packets()] == list(range(400))
    await until(lambda: server.stats()["closed"] == {"peer_closed": 1})


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_our_end_while_requests_wait_for_room(net, until, end):
    server = await slow_server(net, high_watermark=20_000, low_watermark=5000, close_timeout=0.1)
    server.on(OTHER)(lambda session, packet: session.send(OTHER, bytes(2000), packet.sequence))
    await net.start(server)
    peer, session = await peer_of(net, server, until)
    peer.send(b"".join(wire(OTHER, b"", n) for n in range(400)))
    await until(lambda: session.awaits_turn)
    getattr(session, end)("enough")
    await until(lambda: server.stats()["closed"] == {"enough": 1})
    assert server.stats()["packets_discarded"] > 100


async def test_waiting_for_room_for_credit_and_for_a_turn_at_once(net, until):
    server = await slow_server(
        net, high_watermark=20_000, low_watermark=5000, max_packets_per_second=400, rate_burst=0.1, dispatch_budget=1e-5
    )
    server.on(OTHER)(lambda session, packet: session.send(OTHER, bytes(2000), packet.sequence))
    await net.start(server)
    peer, _session = await peer_of(net, server, until)
    for n in range(0, 400, 100):
        peer.send(b"".join(wire(OTHER, b"", m) for m in range(n, n + 100)))
        await asyncio.sleep(0.02)
    assert [n for _, n, _ in await peer.packets(400)] == list(range(400))
    stats = server.stats()
    assert stats["rate_waits"] > 0
    assert stats["closed"] == {}


# -- one stuck among many


async def one_is_stuck(net, until, count, broadcasts):
    server = await net.server(max_write_buffer=64 << 20, write_timeout=None)
    received = []

    async def read(client):
        packets = [(await anext(client)).sequence for _ in range(broadcasts)]
        received.append(packets)

    clients = [await net.connect(server, max_queued=100_000) for _ in range(count - 1)]
    stuck = await net.connect(server)
    await until(lambda: len(server.sessions) == count)
    stuck.session.transport.pause_reading()
    readers = [asyncio.ensure_future(read(client)) for client in clients]
    largest = 0
    for n in range(broadcasts):
        assert server.sessions.broadcast(MOVE, bytes(1016), n) == count
        if n % 5 == 4:
            await asyncio.sleep(0)
            largest = max(largest, sum(session.unsent_size for session in server.sessions))
    await asyncio.wait_for(asyncio.gather(*readers), 60)
    assert received == [list(range(broadcasts))] * (count - 1)
    assert server.stats()["closed"] == {}
    by_peer = {session.peername: session for session in server.sessions}
    assert sum(session.unsent_size for session in server.sessions) <= broadcasts * 1024
    assert len(by_peer) == count
    stuck.session.abort()
    for session in server.sessions:
        session.abort()
    return largest


async def test_one_stuck_receiver_holds_up_no_other(net, until):
    largest = await one_is_stuck(net, until, 40, 300)
    assert largest < 40 * 300 * 1024


async def test_one_stuck_receiver_over_tls(net, until, tls):
    net.tls = tls
    await one_is_stuck(net, until, 10, 300)


async def test_a_stuck_receiver_costs_bounded_memory(net, until):
    """What may be left out is not kept, however long it takes."""
    server = await slow_server(net, high_watermark=65_536, watchdog_timeout=None)  # its lines take memory, too
    server.when_slow(MOVE, "drop_oldest")
    await net.start(server)
    _peer, session = await peer_of(net, server, until)
    await stuff(session)
    tracemalloc.start()
    try:
        for n in range(20_000):
            server.sessions.broadcast(MOVE, bytes(1016), n)
            if n == 200:
                before = tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 1_000_000
    assert session.is_open
    assert session.unsent_size < 200_000


async def test_a_slow_receiver_over_tls_gets_everything(net, until, tls):
    server = await net.server(ssl=tls[0], high_watermark=20_000, low_watermark=5000)
    server.on(OTHER)(lambda session, packet: session.send(OTHER, bytes(2000), packet.sequence))
    client = await net.connect(server, ssl=tls[1], max_queued=10)
    for n in range(3000):
        client.send(OTHER, b"", n)
    await asyncio.sleep(0.05)
    got = [(await anext(client)).sequence for _ in range(3000)]
    assert got == list(range(3000))
