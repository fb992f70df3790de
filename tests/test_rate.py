"""Rates: the token bucket, and sessions that wait for credit, are refused, or are closed, on both twins."""

import asyncio
import math
import os

import pytest
from wire import read_packet, wire

# -- the bucket


def test_what_a_second_is_worth(core):
    bucket = core.RateBucket(100, None, now=5.0)
    for _ in range(100):
        assert not bucket.is_spent
        bucket.take(1.0, 8)
    assert bucket.credit == pytest.approx(0.0, abs=1e-9)
    bucket.take(1.0, 8)
    assert bucket.is_spent
    bucket.refill(5.5)
    assert not bucket.is_spent
    assert bucket.credit == pytest.approx(0.49)


@pytest.mark.parametrize(("packets", "is_spent"), [(9, False), (10, True), (11, True)])
def test_below_at_and_above_the_burst(core, packets, is_spent):
    bucket = core.RateBucket(8, None, 1.25)  # numbers that floats hold exactly
    for _ in range(packets):
        bucket.take(1.0, 100)
    assert bucket.is_spent is is_spent


@pytest.mark.parametrize(("size", "is_spent"), [(1023, False), (1024, True), (1025, True)])
def test_below_at_and_above_the_bytes(core, size, is_spent):
    bucket = core.RateBucket(None, 1024)
    bucket.take(1.0, size)
    assert bucket.is_spent is is_spent


def test_packets_and_bytes_share_one_bucket(core):
    bucket = core.RateBucket(10, 1000)
    bucket.take(1.0, 0)
    assert bucket.credit == pytest.approx(0.9)
    bucket.take(0.0, 100)
    assert bucket.credit == pytest.approx(0.8)
    bucket.take(2.0, 100)
    assert bucket.credit == pytest.approx(0.5)


def test_a_cost_of_nothing(core):
    bucket = core.RateBucket(1, None)
    for _ in range(1000):
        bucket.take(0.0, 60_000)
    assert bucket.credit == 1.0


def test_credit_is_never_above_the_burst(core):
    bucket = core.RateBucket(10, None, 0.5, now=1.0)
    bucket.refill(1e9)
    assert bucket.credit == 0.5
    bucket.take(100.0, 0)
    bucket.refill(1e9 + 100)
    assert bucket.credit == 0.5


def test_a_clock_that_goes_back_gives_nothing(core):
    bucket = core.RateBucket(10, None, now=100.0)
    bucket.take(5.0, 0)
    bucket.refill(50.0)
    assert bucket.credit == pytest.approx(0.5)
    bucket.refill(100.0)
    assert bucket.credit == pytest.approx(0.5)
    bucket.refill(100.25)
    assert bucket.credit == pytest.approx(0.75)


def test_how_long_to_wait(core):
    bucket = core.RateBucket(10, None, now=0.0)
    assert bucket.wait == 0.0
    bucket.take(15.0, 0)
    assert bucket.wait == pytest.approx(0.52)
    bucket.refill(0.52)
    assert not bucket.is_spent
    tiny = core.RateBucket(1000, None, 0.001)
    tiny.take(1.0, 0)
    assert tiny.wait == pytest.approx(0.001)


def test_neither_packets_nor_bytes(core):
    bucket = core.RateBucket(None, None)
    bucket.take(1e9, 1 << 40)
    assert (bucket.is_spent, bucket.affords(1.0, 100)) == (False, 1_000_000)


def test_how_many_packets_a_credit_is_worth(core):
    bucket = core.RateBucket(8, 1024)
    assert bucket.affords(1.0, 0) == 8
    assert bucket.affords(0.0, 128) == 8
    assert bucket.affords(1.0, 128) == 4
    assert bucket.affords(3.0, 0) == 3  # the last one takes more than is there
    assert bucket.affords(0.0, 0) == 1_000_000
    bucket.take(8.0, 0)
    assert bucket.affords(0.0, 0) == 0


@pytest.mark.parametrize("rate", [5e-324, 1e-300, 1e300, math.inf])
def test_huge_and_tiny_rates_stay_numbers(core, rate):
    bucket = core.RateBucket(rate, rate, now=0.0)
    for now in (0.0, 1.0, 2.0):
        bucket.refill(now)
        bucket.take(0.0, 0)
        bucket.take(1.0, 60_000)
        bucket.take(0.0, 0)
        assert not math.isnan(bucket.credit)
        assert not math.isnan(bucket.wait)
        assert bucket.is_spent is (rate < 1)


@pytest.mark.parametrize("bad", [0, -1, -0.5, math.nan])
def test_what_a_bucket_refuses(core, bad):
    with pytest.raises(ValueError, match="packets_per_second .* is not above 0"):
        core.RateBucket(bad, None)
    with pytest.raises(ValueError, match="bytes_per_second .* is not above 0"):
        core.RateBucket(None, bad)
    with pytest.raises(ValueError, match="burst .* is not above 0"):
        core.RateBucket(1, 1, bad)


@pytest.mark.skipif(os.environ.get("GAMENET_PURE") == "1", reason="only the pure twin was asked for")
def test_both_twins_count_the_same(rng):
    from gamenet import _compiled, _pure

    for _ in range(200):
        arguments = (
            rng.choice([None, 0.5, 3, 1000.0, 1e9]), rng.choice([None, 7, 1e6]), rng.choice([0.01, 1.0, 30]),
            rng.choice([0.0, 1e9]),
        )
        now = arguments[3]
        twins = [twin.RateBucket(*arguments) for twin in (_pure, _compiled)]
        for _ in range(100):
            now += rng.choice([-1.0, 0.0, 1e-6, 0.01, 0.3, 5])
            cost, size = rng.choice([0.0, 1.0, 2.5, 1000]), rng.choice([0, 8, 8192])
            for bucket in twins:
                bucket.refill(now)
                bucket.take(cost, size)
            facts = [(b.credit, b.is_spent, b.wait, b.affords(cost, size), b.affords(1.0, 8)) for b in twins]
            assert facts[0] == facts[1]


@pytest.mark.parametrize("name", ["max_packets_per_second", "max_bytes_per_second", "rate_burst"])
@pytest.mark.parametrize("bad", [0, -1, math.nan])
def test_limits_that_cannot_be(gamenet, name, bad):
    with pytest.raises(ValueError, match=name):
        gamenet.Server(**{name: bad})


def test_other_values_that_cannot_be(gamenet):
    with pytest.raises(ValueError, match="rate_burst None"):
        gamenet.Server(rate_burst=None)
    with pytest.raises(ValueError, match="rate_exceeded is 'explode'"):
        gamenet.Server(rate_exceeded="explode")
    for cost in (-1, -0.001, math.nan, math.inf):
        with pytest.raises(ValueError, match="cost"):
            gamenet.Server().on(1, cost=cost)(print)


# -- a stream, with a clock of the test's own


class Player:
    def __init__(self, core, bucket, waits=True, batch=None, cost=1.0):
        self.now, self.due, self.delays, self.refused, self.seen = 0.0, 0.0, [], [], []
        player = self

        class Session(core.Stream):
            def on_yield(self, delay):
                player.delays.append(delay)
                player.due = player.now + delay

            def on_rate_exceeded(self, packet_id):
                player.refused.append(packet_id)

        self.routes, self.ledger = core.RouteTable(), core.Ledger()
        handler = (lambda session, packets: self.seen.extend(p.sequence for p in packets)) if batch else self.handle
        self.routes.set(1, core.Route(handler, is_batch=bool(batch), cost=cost))
        self.session = Session(
            core.HeaderCodec(), core.PoolAllocator(), self.routes, self.ledger, core.FlushQueue(lambda flush: None),
            lambda: self.now,
        )
        self.session.attach(Transport())
        self.session.limit_rate(bucket, waits)

    def handle(self, session, packet):
        self.seen.append(packet.sequence)

    def feed(self, count, start=0, packet_id=1):
        self.session.data_received(b"".join(wire(packet_id, sequence=n) for n in range(start, start + count)))

    def pass_time(self, seconds):
        """Go on when the stream asked to, for so long."""
        end = self.now + seconds
        while self.session.awaits_turn and self.due <= end:
            self.now = self.due
            self.session.go_on()
        self.now = end

    def is_balanced(self):
        ledger = self.ledger
        done = ledger.bytes_dispatched + ledger.bytes_rejected + ledger.bytes_discarded
        return ledger.bytes_in == done + self.session.inbox_size


class Transport:
    def write(self, data):
        pass

    def get_write_buffer_size(self):
        return 0


@pytest.mark.parametrize("batch", [False, True])
def test_who_waits_loses_nothing(core, batch):
    player = Player(core, core.RateBucket(100, None), batch=batch)
    player.feed(1000)
    assert len(player.seen) == 100
    for second in range(1, 10):
        player.pass_time(1.0)
        assert len(player.seen) == pytest.approx(100 + 100 * second, abs=3)
        assert player.is_balanced()
    player.pass_time(1.0)
    assert player.seen == list(range(1000))
    assert player.ledger.rate_waits == player.ledger.yields == len(player.delays) > 5
    assert player.ledger.rejected_rate == 0
    assert not player.session.awaits_turn


@pytest.mark.parametrize("batch", [False, True])
def test_who_stays_below_the_rate_never_waits(core, rng, batch):
    player, sent = Player(core, core.RateBucket(100, 2000, 0.5), batch=batch), 0
    for _ in range(500):
        count = rng.randrange(1, 20)  # 8 bytes and 1 packet are 14 ms
        player.feed(count, sent)
        sent += count
        assert len(player.seen) == sent
        player.now += 0.0141 * count
    assert player.delays == []


@pytest.mark.parametrize("waits", [True, False])
def test_a_long_silence_is_worth_one_burst(core, waits):
    player = Player(core, core.RateBucket(100, None), waits)
    player.now += 3600.0
    player.feed(300)
    assert len(player.seen) == 100


def test_bytes_are_waited_for_too(core):
    player = Player(core, core.RateBucket(None, 800))
    player.feed(300)
    assert len(player.seen) == 100
    player.pass_time(2.1)
    assert len(player.seen) == 300


def test_a_dear_packet(core):
    player = Player(core, core.RateBucket(10, None), cost=5.0)
    player.feed(4)
    assert player.seen == [0, 1]
    player.pass_time(0.3)
    assert player.seen == [0, 1, 2]
    player.pass_time(0.7)
    assert player.seen == [0, 1, 2, 3]


def test_a_packet_that_costs_more_than_the_burst_is_paid_afterwards(core):
    player = Player(core, core.RateBucket(10, None), cost=1000.0)
    player.feed(2)
    assert player.seen == [0]
    assert player.delays[-1] == pytest.approx(99.02)
    player.pass_time(98.0)
    assert player.seen == [0]
    player.pass_time(1.1)
    assert player.seen == [0, 1]


def test_packets_without_a_cost_never_wait(core):
    player = Player(core, core.RateBucket(10, None), cost=0.0)
    player.feed(10_000)
    assert (len(player.seen), player.delays) == (10_000, [])


@pytest.mark.parametrize("waits", [True, False])
def test_ids_that_nobody_handles_are_paid_for(core, waits):
    player = Player(core, core.RateBucket(10, None), waits)
    player.feed(10, packet_id=7)
    player.feed(5, packet_id=1)
    assert player.ledger.rejected_unknown == 10
    assert player.seen == []
    assert player.session.awaits_turn is waits
    assert player.ledger.rejected_rate == (0 if waits else 5)
    assert player.is_balanced()


def test_short_packets_are_paid_for(core):
    player = Player(core, core.RateBucket(10, None))
    player.routes.set(2, core.Route(lambda session, packet: None, min_body_size=4))
    player.feed(20, packet_id=2)
    assert (player.ledger.rejected_short, player.session.awaits_turn) == (10, True)


@pytest.mark.parametrize("batch", [False, True])
def test_who_is_refused_goes_on_when_there_is_credit(core, batch):
    player = Player(core, core.RateBucket(100, None), waits=False, batch=batch)
    player.feed(150)
    assert player.seen == list(range(100))
    assert (player.ledger.rejected_rate, player.ledger.bytes_rejected) == (50, 400)
    assert player.refused == [1] * 50
    player.now += 0.105
    player.feed(100, 1000)
    assert player.seen[100:] == list(range(1000, 1011))
    assert (player.ledger.rejected_rate, player.ledger.rate_waits) == (139, 0)
    assert player.is_balanced()
    assert player.ledger.packets_dispatched == 111


def test_a_refused_packet_costs_nothing(core):
    player = Player(core, core.RateBucket(10, None), waits=False)
    player.feed(10_000)
    player.now += 1.0
    player.feed(1)
    assert len(player.seen) == 11


@pytest.mark.parametrize("batch", [False, True])
def test_a_chunk_in_any_pieces_is_worth_the_same(core, rng, batch):
    stream = b"".join(wire(1, bytes(n % 90), n) for n in range(2000))
    outcomes = []
    for _ in range(2):
        player = Player(core, core.RateBucket(1000, 60_000), waits=False, batch=batch)
        at = 0
        while at < len(stream):
            size = rng.randrange(1, 4000)
            player.session.data_received(stream[at : at + size])
            at += size
        outcomes.append(len(player.seen))
        assert player.is_balanced()
    assert max(outcomes) - min(outcomes) <= (10 if batch else 0)


def test_more_that_comes_while_it_waits(core):
    player = Player(core, core.RateBucket(10, None))
    player.feed(20)
    player.feed(20, 20)
    assert len(player.seen) == 10
    player.pass_time(3.1)
    assert player.seen == list(range(40))


def test_suspended_and_waiting_for_credit_at_once(core):
    player = Player(core, core.RateBucket(10, None))
    player.routes.set(2, core.Route(lambda session, packet: session.suspend()))
    player.session.data_received(b"".join(wire(1, sequence=n) for n in range(9)) + wire(2) + wire(1, sequence=9) * 3)
    assert (player.session.is_suspended, player.session.awaits_turn) == (True, True)
    player.session.resume()
    assert len(player.seen) == 9
    player.session.suspend()
    player.pass_time(1.0)
    assert (len(player.seen), player.session.awaits_turn) == (9, False)
    player.session.resume()
    assert len(player.seen) == 12


def test_the_limit_is_lifted_while_it_waits(core):
    player = Player(core, core.RateBucket(10, None))
    player.feed(100)
    player.session.limit_rate(None)
    player.session.go_on()
    assert (len(player.seen), len(player.delays)) == (100, 1)


def test_shut_while_it_waits(core):
    player = Player(core, core.RateBucket(10, None))
    player.feed(100)
    player.session.shut()
    assert (player.ledger.packets_discarded, player.session.inbox_size) == (90, 0)
    player.session.go_on()
    assert len(player.seen) == 10
    assert player.is_balanced()


def test_a_layout_set_while_it_waits(core):
    from gamenet.layout import HeaderField, HeaderLayout

    fields = [HeaderField(name, 4, "big") for name in ("packet_size", "packet_id", "sequence")]
    other = core.codec_for(HeaderLayout(tuple(fields)), 8192)
    player = Player(core, core.RateBucket(10, None))
    player.session.data_received(b"".join(wire(1, sequence=n) for n in range(10)) + other.frame(1, b"", 10) * 5)
    assert len(player.seen) == 10
    player.session.codec = other
    assert len(player.seen) == 10
    player.pass_time(1.0)
    assert player.seen == [*range(10), *[10] * 5]
    assert player.is_balanced()


def test_a_transform_set_while_it_waits(core):
    player = Player(core, core.RateBucket(10, None))

    def mirrored(data):
        return bytes(byte ^ 0x33 for byte in data)

    plain = b"".join(wire(1, sequence=n) for n in range(10))
    player.session.data_received(plain + mirrored(b"".join(wire(1, sequence=n) for n in range(10, 25))))
    assert len(player.seen) == 10
    player.session.set_transform(decode=mirrored)
    assert len(player.seen) == 10
    player.pass_time(2.0)
    assert player.seen == list(range(25))
    assert player.is_balanced()


def test_a_handler_that_raises_pays_too(core):
    player = Player(core, core.RateBucket(10, None))
    player.routes.set(1, core.Route(lambda session, packet: 1 // 0))
    player.feed(100)
    assert player.ledger.handler_errors == 10


# -- sessions


def packets(count, start=0):
    return b"".join(wire(1, sequence=n) for n in range(start, start + count))


async def limited_server(net, **options):
    """Packets of id 1 are kept, those of id 2 cost nothing and are answered with how many were kept."""
    server, seen = await net.server(**{"max_packets_per_second": 1000, "rate_burst": 0.05, **options}), []
    server.on(1)(lambda session, packet: seen.append(packet.sequence))
    server.on(2, cost=0.0)(lambda session, packet: session.send(2, b"", len(seen)))
    return server, seen


async def test_a_session_waits_for_credit_and_loses_nothing(net):
    server, seen = await limited_server(net)
    reader, writer = await net.open(server)
    loop = asyncio.get_running_loop()
    began = loop.time()
    writer.write(packets(400) + wire(2))
    assert await read_packet(reader) == (2, 400, b"")
    assert seen == list(range(400))
    assert loop.time() - began > 0.3
    stats = server.stats()
    assert stats["rate_waits"] >= 5
    assert stats["rejected"]["rate"] == 0


async def test_one_that_waits_holds_up_no_other(net):
    server, seen = await limited_server(net, max_packets_per_second=1.0, rate_burst=0.5)
    _reader, writer = await net.open(server)
    writer.write(packets(400))
    other_reader, other_writer = await net.open(server)
    for _ in range(5):
        other_writer.write(wire(2))
        await read_packet(other_reader)
    assert len(seen) == 1


async def test_while_it_waits_it_is_not_read(net, until):
    server, _seen = await limited_server(net, max_packets_per_second=10.0, rate_burst=0.1, close_timeout=0.1)
    _reader, writer = await net.open(server)
    for n in range(400):
        writer.write(packets(4096, 4096 * n))
        await asyncio.sleep(0)
    await until(lambda: server.stats()["rate_waits"] > 1)
    assert server.stats()["bytes_buffered"] <= 2 * 262_144
    assert writer.transport.get_write_buffer_size() > 0
    writer.transport.abort()
    for session in server.sessions:
        session.abort()


@pytest.mark.parametrize("policy", ["reject", "close"])
async def test_an_honest_client_is_never_refused(net, policy):
    server, seen = await limited_server(net, max_packets_per_second=10_000, rate_burst=1.0, rate_exceeded=policy)
    reader, writer = await net.open(server)
    for n in range(20):
        writer.write(packets(20, 20 * n))
        await asyncio.sleep(0.002)
    writer.write(wire(2))
    assert await read_packet(reader) == (2, 400, b"")
    assert seen == list(range(400))


async def test_a_session_above_its_rate_is_refused(net, caplog):
    server, seen = await limited_server(net, max_packets_per_second=0.001, rate_burst=9_500, rate_exceeded="reject")
    reader, writer = await net.open(server)
    writer.write(packets(5) + wire(2))
    assert await read_packet(reader) == (2, 5, b"")
    writer.write(packets(100, 5))
    while not server.stats()["rejected"]["rate"]:
        await asyncio.sleep(0.002)
    stats = server.stats()
    assert (len(seen), stats["rejected"]["rate"]) == (10, 95)
    assert stats["bytes_rejected"] == 95 * 8
    assert "packet id 1 is above the session's rate" in caplog.text
    assert stats["closed"] == {}


async def test_a_session_above_its_rate_is_closed(net, until):
    server, seen = await limited_server(net, max_packets_per_second=0.001, rate_burst=9_500, rate_exceeded="close")
    reader, writer = await net.open(server)
    writer.write(packets(100))
    assert await reader.read() == b""
    await until(lambda: server.stats()["closed"] == {"rate_exceeded": 1})
    stats = server.stats()
    assert (len(seen), stats["rejected"]["rate"], stats["packets_discarded"]) == (10, 1, 89)


async def test_the_cost_of_ids_and_of_unknown_ones(net):
    server, _ = await limited_server(net, max_packets_per_second=0.001, rate_burst=99_500, rate_exceeded="reject")
    seen = []
    server.on(3, cost=30)(lambda session, packet: seen.append(3))
    server.on_batch(4, cost=2)(lambda session, batch: seen.extend([4] * len(batch)))
    reader, writer = await net.open(server)
    writer.write(wire(3) + wire(9) * 20 + wire(4) * 10 + wire(2) + wire(3) * 3)  # 30 + 20 + 20 + 0 + 30
    await read_packet(reader)
    while not server.stats()["rejected"]["rate"]:
        await asyncio.sleep(0.002)
    assert seen == [3, *[4] * 10, 3]
    assert (server.stats()["rejected"]["unknown"], server.stats()["rejected"]["rate"]) == (20, 2)


@pytest.mark.parametrize("policy", ["wait", "reject"])
async def test_every_packet_of_a_batch_pays(net, until, policy):
    server, seen = await net.server(max_packets_per_second=0.001, rate_burst=49_500, rate_exceeded=policy), []
    server.on_batch(1)(lambda session, batch: seen.extend(packet.sequence for packet in batch))
    _reader, writer = await net.open(server)
    writer.write(packets(200))
    await until(lambda: len(seen) == 50)
    await until(lambda: server.stats()["rate_waits" if policy == "wait" else "packets_dispatched"])
    assert seen == list(range(50))
    for session in server.sessions:
        session.abort()


async def test_bytes_per_second(net, until):
    server, seen = await limited_server(
        net, max_packets_per_second=None, max_bytes_per_second=0.01, rate_burst=95_000, rate_exceeded="reject"
    )
    _reader, writer = await net.open(server)
    writer.write(b"".join(wire(1, bytes(92), n) for n in range(30)))
    await until(lambda: server.stats()["rejected"]["rate"] == 20)
    assert seen == list(range(10))


async def test_the_peers_end_while_it_waits(net, until):
    server, seen = await limited_server(net)
    reader, writer = await net.open(server)
    writer.write(packets(200) + wire(2))
    writer.write_eof()
    assert await read_packet(reader) == (2, 200, b"")
    assert await reader.read() == b""
    await until(lambda: server.stats()["closed"] == {"peer_closed": 1})
    assert seen == list(range(200))


@pytest.mark.parametrize("end", ["close", "abort", "finish"])
async def test_our_end_while_it_waits(net, until, end):
    server, seen = await limited_server(net, max_packets_per_second=0.01, rate_burst=450)
    reader, writer = await net.open(server)
    writer.write(packets(100))
    await until(lambda: server.stats()["rate_waits"] == 1)
    (session,) = server.sessions
    getattr(session, end)("enough")
    await until(lambda: server.stats()["closed"] == {"enough": 1})
    assert (len(seen), server.stats()["packets_discarded"]) == (5, 95)
    writer.close()
    del reader


async def test_a_connection_lost_while_it_waits(net, until):
    server, _seen = await limited_server(net, max_packets_per_second=0.01, rate_burst=450)
    _reader, writer = await net.open(server)
    writer.write(packets(100))
    await until(lambda: server.stats()["rate_waits"] == 1)
    (session,) = server.sessions
    timer = session._credit_timer
    session.transport.abort()
    await until(lambda: len(server.sessions) == 0)
    assert timer.cancelled()


async def test_stop_while_sessions_wait(net):
    server, _seen = await limited_server(net, max_packets_per_second=0.01, rate_burst=450)
    _reader, writer = await net.open(server)
    writer.write(packets(100))
    while not server.stats()["rate_waits"]:
        await asyncio.sleep(0.002)
    await asyncio.wait_for(server.stop(), 10)
    assert server.stats()["closed"] == {"server_stopped": 1}


async def test_an_async_handler_and_credit(net):
    # slowly: each turn of the loop brings credit, too, and on a slow loop 100 turns bring much of it
    server, seen = await limited_server(net, max_packets_per_second=200, rate_burst=0.2)

    @server.on(3)
    async def waits(session, packet):
        await asyncio.sleep(0)
        seen.append(packet.sequence)

    reader, writer = await net.open(server)
    writer.write(b"".join(wire(1 + 2 * (n % 2), sequence=n) for n in range(200)) + wire(2))
    assert await read_packet(reader) == (2, 200, b"")
    assert seen == list(range(200))
    assert server.stats()["rate_waits"] > 0


async def test_one_that_waits_for_credit_is_not_idle(net, until):
    server, seen = await limited_server(net, max_packets_per_second=10, rate_burst=0.1, idle_timeout=0.15)
    reader, writer = await net.open(server)
    writer.write(packets(7) + wire(2))
    assert await read_packet(reader) == (2, 7, b"")
    assert seen == list(range(7))


async def test_credit_over_tls(net, tls):
    server, seen = await limited_server(net, ssl=tls[0])
    client = await net.connect(server, ssl=tls[1])
    for n in range(300):
        client.send(1, b"", n)
    client.send(2)
    assert (await anext(client)).sequence == 300
    assert seen == list(range(300))
    assert server.stats()["rate_waits"] > 0


async def test_a_client_may_limit_its_server_too(net, until):
    server = await net.server()
    server.on(1)(lambda session, packet: [session.send(2, b"", n) for n in range(100)] and None)
    client = await net.connect(server, max_packets_per_second=1000, rate_burst=0.02)
    client.send(1)
    assert [(await anext(client)).sequence for _ in range(100)] == list(range(100))
    assert client._ledger.rate_waits > 0
