"""Turns: packets of a flood leave the others their time, on both twins, with a clock of the test's own and for real."""

import asyncio
import math
import socket
from contextlib import suppress

import pytest
from wire import read_packet, wire


class Loop:
    """What a stream needs of a loop: a clock that handlers move, and turns that the test starts."""

    def __init__(self):
        self.now = 100.0
        self.soon = []

    def time(self):
        return self.now

    def call_soon(self, callback):
        self.soon.append(callback)

    def turn(self):
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


class Transport:
    def __init__(self):
        self.written = b""

    def write(self, data):
        self.written += data

    def get_write_buffer_size(self):
        return 0


class Player:
    """A stream with a handler that takes `cost` seconds, and what became of its packets."""

    def __init__(self, core, loop, turns, cost=0.001, batch=False):
        self.seen, self.yields, self.loop = [], 0, loop
        player = self

        class Session(core.Stream):
            def on_yield(self, delay):
                player.yields += 1
                turns.add(self.go_on)

        self.routes, self.ledger = core.RouteTable(), core.Ledger()
        self.cost = cost
        self.routes.set(1, core.Route(self.handle_batch if batch else self.handle, is_batch=batch))
        self.session = Session(
            core.HeaderCodec(), core.PoolAllocator(), self.routes, self.ledger, core.FlushQueue(loop.call_soon),
            loop.time, turns=turns,
        )
        self.session.attach(Transport())

    def handle(self, session, packet):
        self.seen.append(packet.sequence)
        self.loop.now += self.cost

    def handle_batch(self, session, batch):
        for packet in batch:
            self.handle(session, packet)

    def feed(self, count, start=0):
        self.session.data_received(b"".join(wire(1, sequence=n) for n in range(start, start + count)))
        return self


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def turns(core, loop):
    return core.TurnQueue(loop.call_soon, loop.time, 0.005)


def finish(loop, limit=100_000):
    turns = 0
    while loop.soon:
        loop.turn()
        turns += 1
        assert turns < limit
    return turns


# -- the queue


def test_a_turn_ends_after_its_budget(loop, turns):
    assert turns.look(0.0) == 0.0
    assert not turns.is_over
    loop.now += 0.0049
    assert turns.look(1.0) == pytest.approx(0.0049)
    assert not turns.is_over
    loop.now += 0.0002
    turns.look(1.0)
    assert turns.is_over
    loop.turn()
    turns.look(0.0)
    assert not turns.is_over


def test_a_turn_began_when_its_chunk_came(loop, turns):
    turns.look(0.0)
    loop.turn()
    loop.now += 1.0
    assert turns.look(0.006) == 0.006
    assert turns.is_over


def test_whoever_waits_is_called_once_a_turn_in_the_order_of_coming(loop, turns):
    called = []

    def again():
        called.append("again")
        turns.add(again)

    turns.add(lambda: called.append("first"))
    turns.add(again)
    assert (len(turns), called) == (2, [])
    loop.turn()
    assert called == ["first", "again"]
    loop.turn()
    assert called == ["first", "again", "again"]
    assert (len(turns), len(loop.soon)) == (1, 1)


def test_the_slices_of_a_turn_share_the_budget(loop, turns):
    spent = []

    def spend():
        began = loop.now
        while not turns.is_over:
            loop.now += 0.00001
            turns.look(0.0)
        spent.append(loop.now - began)

    for _ in range(5):
        turns.add(spend)
    loop.turn()
    assert spent == pytest.approx([0.001] * 5, abs=0.00002)


def test_one_who_raises_takes_nobodys_turn(loop, turns):
    called = []

    def bad():
        raise KeyboardInterrupt

    for callback in (bad, lambda: called.append(1), lambda: called.append(2)):
        turns.add(callback)
    with pytest.raises(KeyboardInterrupt):
        loop.turn()
    loop.turn()
    assert (called, len(turns)) == ([1, 2], 0)
    finish(loop)


def test_the_loop_is_not_asked_for_turns_that_nobody_needs(loop, turns):
    turns.look(0.0)
    turns.look(0.0)
    assert len(loop.soon) == 1
    assert finish(loop) == 1
    turns.add(lambda: None)
    assert finish(loop) == 2


def test_without_an_end(core, loop):
    turns = core.TurnQueue(loop.call_soon, loop.time, math.inf)
    turns.look(0.0)
    loop.now += 1e6
    turns.look(1e6)
    assert not turns.is_over
    assert turns.budget == math.inf


# -- a stream


def test_a_chunk_below_the_budget_is_dispatched_at_once(core, loop, turns):
    player = Player(core, loop, turns, cost=0.0004).feed(12)
    assert (player.seen, player.yields) == (list(range(12)), 0)


def test_what_is_above_the_budget_waits_for_the_next_turn_and_keeps_its_order(core, loop, turns):
    player = Player(core, loop, turns, cost=0.001).feed(1000)
    first = len(player.seen)
    assert 5 <= first <= 16  # the first look comes before it is known how slow the handler is
    assert player.session.awaits_turn
    assert player.session.inbox_size == 8 * (1000 - first)
    loop.turn()
    assert 1 <= len(player.seen) - first <= 9
    finish(loop)
    assert player.seen == list(range(1000))
    assert not player.session.awaits_turn
    assert player.ledger.yields == player.yields > 100
    assert player.ledger.bytes_dispatched == player.ledger.bytes_in == 8000


def test_a_slow_handler_is_found_out_quickly_and_for_good(core, loop, turns):
    """Later turns overrun the budget by one packet, whatever the handler takes."""
    Player(core, loop, turns, cost=0.002).feed(200)
    loop.turn()
    loop.turn()
    for _ in range(20):
        began = loop.now
        loop.turn()
        assert loop.now - began <= 0.005 + 0.002


@pytest.mark.parametrize("cost", [0.000002, 0.00002, 0.0002])
def test_a_turn_overruns_its_budget_by_little(core, loop, turns, cost):
    player = Player(core, loop, turns, cost=cost)
    player.feed(20_000)
    player.feed(20_000, 20_000)
    finish(loop)
    player.feed(40_000, 40_000)
    for _ in range(3):
        began = loop.now
        loop.turn()
        assert loop.now - began <= 0.005 + max(cost, 0.00032) * 1.01
    finish(loop)
    assert player.seen == list(range(80_000))


def test_many_who_flood_take_a_turn_of_the_same_length(core, loop, turns):
    players = [Player(core, loop, turns, cost=0.00002).feed(3000) for _ in range(20)]
    loop.turn()
    lengths = []
    while loop.soon:
        began = loop.now
        loop.turn()
        lengths.append(loop.now - began)
    assert max(lengths) <= 0.005 + 20 * 0.0002
    for player in players:
        assert player.seen == list(range(3000))


def test_many_who_flood_take_turns(core, loop, turns):
    """None of them is served before the others by more than some slices."""
    players = [Player(core, loop, turns, cost=0.0001).feed(2000) for _ in range(8)]
    for _ in range(50):
        loop.turn()
    shares = [len(player.seen) for player in players]
    assert min(shares) > 0.7 * max(shares)
    finish(loop)


def test_many_chunks_in_one_turn_are_one_turn(core, loop, turns):
    """uvloop reads up to 32 times before it does anything else."""
    player = Player(core, loop, turns, cost=0.00001)
    for n in range(32):
        player.feed(100, 100 * n)
    assert len(player.seen) < 700
    finish(loop)
    assert player.seen == list(range(3200))


def test_small_chunks_are_looked_at_too(core, loop, turns):
    """A chunk with fewer packets than there are between two looks."""
    player = Player(core, loop, turns, cost=0.001)
    for n in range(40):
        player.feed(3, 3 * n)
        if player.session.awaits_turn:
            break
    assert len(player.seen) <= 20
    finish(loop)


def test_one_packet_at_a_time_never_waits(core, loop, turns):
    player = Player(core, loop, turns, cost=0.05)
    for n in range(300):
        player.feed(1, n)
    assert (player.seen, player.yields) == (list(range(300)), 0)


def test_chunks_that_come_while_packets_wait_are_read_in_their_order(core, loop, turns, rng):
    """Windows' Proactor brings one more after it was asked to pause."""
    player, count = Player(core, loop, turns, cost=0.0005), 0
    for _ in range(30):
        more = rng.randrange(1, 60)
        chunk = b"".join(wire(1, sequence=n) for n in range(count, count + more))
        cut = rng.randrange(len(chunk))
        player.session.data_received(chunk[:cut])
        if rng.random() < 0.5:
            loop.turn()
        player.session.data_received(chunk[cut:])
        count += more
    finish(loop)
    assert player.seen == list(range(count))


def test_a_run_counts_for_what_it_takes(core, loop, turns):
    player = Player(core, loop, turns, cost=0.00001, batch=True)
    chunk = b"".join(wire(1, sequence=n) + wire(1, sequence=n) + wire(9) for n in range(3000))
    player.routes.set(9, core.Route(lambda session, packet: None))
    player.session.data_received(chunk)
    assert 200 < len(player.seen) < 1200
    finish(loop)
    assert player.seen == [n for n in range(3000) for _ in range(2)]


# -- batches


class Runs(Player):
    """A player with a batch handler that takes `cost` seconds a packet, and `fixed` a run."""

    def __init__(self, core, loop, turns, cost=0.00002, fixed=0.0, route=None):
        super().__init__(core, loop, turns, cost, batch=True)
        self.fixed, self.runs = fixed, []
        self.route = core.Route(lambda session, batch: self.run(batch), is_batch=True) if route is None else route
        self.routes.set(1, self.route)

    def run(self, batch):
        self.runs.append(len(batch))
        self.loop.now += self.fixed
        self.handle_batch(None, batch)


def test_runs_become_as_long_as_their_handler_is_quick(core, loop, turns):
    """20 us a packet, of which a quarter of the budget holds 62: as long as all are that are timed."""
    player = Runs(core, loop, turns).feed(20_000)
    finish(loop)
    assert player.runs[:3] == [4096, 64, 64]
    assert max(player.runs[1:]) == 64
    assert player.seen == list(range(20_000))
    player.cost = 0.000005
    player.feed(20_000, 20_000)
    finish(loop)
    assert 128 <= max(player.runs[-20:]) <= 250
    player.cost = 0.0
    player.feed(30_000, 40_000)
    finish(loop)
    assert max(player.runs) == 4096
    assert player.route.longest_run == 4096
    assert player.seen == list(range(70_000))


def test_what_one_session_taught_holds_for_the_next(core, loop, turns):
    first = Runs(core, loop, turns).feed(8000)
    second = Runs(core, loop, turns, route=core.Route(lambda session, batch: second.run(batch), is_batch=True))
    second.routes.set(1, first.route)
    finish(loop)
    first.runs.clear()
    second.feed(8000)
    assert max(first.runs) == 64


def test_many_who_flood_a_batch_handler_take_short_turns(core, loop, turns):
    players = [Runs(core, loop, turns)]
    players += [Runs(core, loop, turns, route=players[0].route) for _ in range(9)]
    players[0].feed(5000)
    for player in players:
        player.feed(5000, 5000)
    loop.turn()
    while loop.soon:
        began = loop.now
        loop.turn()
        assert loop.now - began <= 10 * 64 * 0.00002 + 0.005


def test_a_handler_that_takes_long_for_each_run_keeps_its_runs(core, loop, turns):
    """As numpy's do: fewer packets would not make it quicker."""
    player = Runs(core, loop, turns, cost=0.0, fixed=0.00124).feed(30_000)
    finish(loop)
    assert player.runs == [4096] * 7 + [30_000 - 7 * 4096]


@pytest.mark.parametrize(("packets", "seconds", "longest"), [
    (4096, 1.0, 4096), (4096, 1.001, 4091), (4096, 2.0, 2048), (100, 2.0, 64), (64, 100.0, 64), (1000, 4.0, 250),
    (4096, 0.0, 4096),
])
def test_what_a_route_learns(core, packets, seconds, longest):
    route = core.Route(print, is_batch=True)
    core.routes.learn_run(route, packets, seconds, 1.0)
    assert route.longest_run == longest


@pytest.mark.parametrize(("packets", "seconds", "longest"), [
    (256, 0.49, 512), (256, 0.5, 256), (256, 0.51, 256), (255, 0.1, 256), (256, 1.0, 256), (256, 1.001, 255),
])
def test_what_a_route_learns_of_shorter_runs(core, packets, seconds, longest):
    route = core.Route(print, is_batch=True)
    core.routes.learn_run(route, 4096, 16.0, 1.0)
    assert route.longest_run == 256
    core.routes.learn_run(route, packets, seconds, 1.0)
    assert route.longest_run == longest


def test_a_run_without_an_end_of_turns(core, loop):
    turns = core.TurnQueue(loop.call_soon, loop.time, math.inf)
    player = Runs(core, loop, turns, cost=1.0).feed(9000)
    assert player.runs == [4096, 4096, 808]


def test_without_a_queue_nothing_waits(core, loop):
    player = Player(core, loop, None, cost=1.0).feed(1000)
    assert len(player.seen) == 1000


def test_a_handler_that_closes(core, loop, turns):
    player = Player(core, loop, turns)
    player.routes.set(2, core.Route(lambda session, packet: session.shut()))
    player.session.data_received(b"".join(wire(1, sequence=n) for n in range(50)) + wire(2) + wire(1) * 100)
    finish(loop)
    assert player.seen == list(range(50))
    assert (player.session.inbox_size, player.ledger.packets_discarded) == (0, 100)


def test_shut_while_packets_wait(core, loop, turns):
    player = Player(core, loop, turns).feed(500)
    seen = len(player.seen)
    player.session.shut()
    assert player.session.inbox_size == 0
    finish(loop)
    player.session.detach()
    assert (len(player.seen), player.ledger.packets_discarded) == (seen, 500 - seen)


def test_suspend_and_a_turn_at_once(core, loop, turns):
    player = Player(core, loop, turns)
    player.routes.set(2, core.Route(lambda session, packet: session.suspend()))
    player.session.hold()
    player.session.data_received(b"".join(wire(1, sequence=n) for n in range(4)) + wire(2) + wire(1, sequence=4) * 100)
    player.session.go_on()
    assert (player.seen, player.session.is_suspended, player.session.awaits_turn) == ([0, 1, 2, 3], True, False)
    player.session.hold()
    player.session.resume()  # it still waits for its turn
    assert len(player.seen) == 4
    player.session.suspend()
    player.session.go_on()
    assert (len(player.seen), player.session.is_suspended, player.session.awaits_turn) == (4, True, False)
    player.session.resume()
    finish(loop)
    assert len(player.seen) == 104


def test_hold_and_go_on(core, loop, turns):
    player = Player(core, loop, turns, cost=0.0)
    player.session.hold()
    player.feed(3)
    assert (player.seen, player.session.awaits_turn, player.session.inbox_size) == ([], True, 24)
    player.session.go_on()
    assert (player.seen, player.session.awaits_turn, player.yields) == ([0, 1, 2], False, 0)


def test_a_keyboard_interrupt_ends_the_turn_and_nothing_else(core, loop, turns):
    player = Player(core, loop, turns, cost=0.0)

    def interrupted(session, packet):
        raise KeyboardInterrupt

    player.routes.set(2, core.Route(interrupted))
    with pytest.raises(KeyboardInterrupt):
        player.session.data_received(wire(1, sequence=1) + wire(2) + wire(1, sequence=2))
    assert player.session.awaits_turn
    finish(loop)
    assert player.seen == [1, 2]


def test_a_layout_set_while_packets_wait(core, loop, turns):
    from gamenet.layout import HeaderField, HeaderLayout

    player = Player(core, loop, turns)
    fields = [HeaderField(name, 4, "big") for name in ("packet_size", "packet_id", "sequence")]
    other = core.codec_for(HeaderLayout(tuple(fields)), 8192)

    def change(session, packet):
        session.codec = other

    player.routes.set(2, core.Route(change))
    player.session.data_received(
        b"".join(wire(1, sequence=n) for n in range(60)) + wire(2) + b"".join(other.frame(1, b"", n) for n in range(60, 90))
    )
    assert len(player.seen) < 60
    finish(loop)
    assert player.seen == list(range(90))


def test_a_transform_set_while_packets_wait(core, loop, turns):
    """Whole packets that wait were not decoded yet: they are now."""
    player = Player(core, loop, turns)
    player.session.hold()
    player.session.data_received(b"".join(bytes(byte ^ 0x5A for byte in wire(1, sequence=n)) for n in range(50)))
    player.session.set_transform(decode=lambda data: bytes(byte ^ 0x5A for byte in data))
    assert player.seen == []
    player.session.go_on()
    finish(loop)
    assert player.seen == list(range(50))
    assert player.ledger.bytes_in == player.ledger.bytes_dispatched == 400


# -- sessions


async def slow_server(net, **options):
    """Packets of id 1 take some time; those of id 2 are answered with how many of id 1 there were so far."""
    server, seen = await net.server(**{"dispatch_budget": 0.001, **options}), []

    @server.on(1)
    def slow(session, packet):
        seen.append(packet.sequence)
        for _ in range(200):
            pass

    server.on(2)(lambda session, packet: session.send(2, b"", len(seen)))
    return server, seen


def flood(count, start=0):
    return b"".join(wire(1, sequence=n) for n in range(start, start + count))


async def test_nothing_is_lost_and_all_is_in_order(net, until):
    server, seen = await slow_server(net)
    reader, writer = await net.open(server)
    writer.write(flood(30_000) + wire(2))
    assert await read_packet(reader) == (2, 30_000, b"")
    assert seen == list(range(30_000))
    assert server.stats()["yields"] > 0
    assert server.stats()["bytes_buffered"] == 0


async def test_another_client_is_served_while_one_floods(net):
    server, seen = await slow_server(net)
    _flood_reader, flood_writer = await net.open(server)
    reader, writer = await net.open(server)
    writer.write(wire(2))
    await read_packet(reader)
    count = 60_000
    flood_writer.write(flood(count))
    between, answered = [], 0
    while len(seen) < count:
        before = len(seen)
        writer.write(wire(2))
        _, at, _ = await read_packet(reader)
        answered += at < count
        between.append(at - before)
    assert answered > 2
    assert max(between) < count // 2
    assert seen == list(range(count))


async def test_many_who_flood_share_the_turns(net, until):
    server, seen = await net.server(dispatch_budget=0.001), {}

    @server.on(1)
    def slow(session, packet):
        seen.setdefault(session.id, []).append(packet.sequence)
        for _ in range(200):
            pass

    clients = [await net.open(server) for _ in range(6)]
    for _reader, writer in clients:
        writer.write(flood(8000))
    await until(lambda: sum(map(len, seen.values())) == 48_000, 60)
    assert list(seen.values()) == [list(range(8000))] * 6


@pytest.mark.parametrize("count", [5, 20_000])
async def test_the_peers_end_waits_for_the_packets_before_it(net, until, count):
    server, seen = await slow_server(net)
    reader, writer = await net.open(server)
    writer.write(flood(count) + wire(2))
    writer.write_eof()
    assert await read_packet(reader) == (2, count, b"")
    assert await reader.read() == b""
    await until(lambda: server.stats()["closed"] == {"peer_closed": 1})
    assert seen == list(range(count))


async def test_the_peers_end_in_the_middle_of_a_packet(net, until):
    server, seen = await slow_server(net)
    _reader, writer = await net.open(server)
    writer.write(flood(20_000) + b"half")
    writer.write_eof()
    await until(lambda: server.stats()["closed"] == {"incomplete_packet": 1})
    assert seen == list(range(20_000))
    assert server.stats()["bytes_discarded"] == 4


async def test_the_peers_end_over_tls(net, until, tls):
    server, seen = await slow_server(net, ssl=tls[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=tls[1], server_hostname="localhost")
    writer.write(flood(20_000))
    await writer.drain()
    writer.close()
    await until(lambda: len(server.stats()["closed"]) == 1)
    assert seen == list(range(20_000))
    del reader


async def test_an_end_over_tls_is_no_way_around_the_turns(net, until, tls):
    """The peer's farewell lies in one chunk with as many packets as it holds."""
    server, seen = await slow_server(net, ssl=tls[0])
    sock = await asyncio.to_thread(dial, server, tls[1])
    net.stack.callback(sock.close)
    count, most = 20_000, 0
    saying = asyncio.ensure_future(asyncio.to_thread(say_and_end, sock, flood(count)))
    while not server.stats()["closed"]:
        before = len(seen)
        await asyncio.sleep(0)
        most = max(most, len(seen) - before)
    await saying
    assert seen == list(range(count))
    assert server.stats()["closed"] == {"peer_closed": 1}
    assert most < count // 4


def dial(server, context):
    sock = context.wrap_socket(socket.create_connection(("127.0.0.1", server.port)), server_hostname="localhost")
    sock.settimeout(10)
    return sock


def say_and_end(sock, data):
    sock.sendall(data)
    with suppress(OSError):
        sock.unwrap()


async def test_a_flood_over_tls(net, tls):
    server, seen = await slow_server(net, ssl=tls[0])
    client = await net.connect(server, ssl=tls[1])
    for n in range(20_000):
        client.send(1, b"", n)
    client.send(2)
    assert (await anext(client)).sequence == 20_000
    assert seen == list(range(20_000))


async def test_a_session_closed_while_its_packets_wait(net, until):
    server, seen = await slow_server(net)
    server.on(3)(lambda session, packet: other(session).close("enough"))

    def other(session):
        return next(one for one in server.sessions if one is not session)

    _reader, writer = await net.open(server)
    writer.write(wire(2))
    _, other_writer = await net.open(server)
    writer.write(flood(60_000))
    await until(lambda: len(seen) > 100)
    other_writer.write(wire(3))
    await until(lambda: server.stats()["closed"] == {"enough": 1})
    assert len(seen) < 60_000
    assert seen == list(range(len(seen)))


async def test_a_connection_lost_while_packets_wait(net, until):
    server, seen = await slow_server(net)
    _reader, writer = await net.open(server)
    writer.write(flood(60_000))
    await until(lambda: len(seen) > 100)
    (session,) = server.sessions
    session.abort("gone")
    at = len(seen)
    await until(lambda: server.stats()["closed"] == {"gone": 1})
    await asyncio.sleep(0.02)
    assert len(seen) == at


async def test_memory_of_a_flood_is_bounded(net, until):
    server, seen = await slow_server(net)
    _reader, writer = await net.open(server)
    writer.write(flood(100_000))
    largest = 0
    while len(seen) < 100_000:
        largest = max(largest, server.stats()["bytes_buffered"])
        await asyncio.sleep(0)
    assert 0 < largest <= 2 * 262_144


async def test_async_handlers_among_a_flood(net):
    server, seen = await slow_server(net)

    @server.on(3)
    async def waits(session, packet):
        await asyncio.sleep(0)
        seen.append(packet.sequence)

    reader, writer = await net.open(server)
    writer.write(b"".join(flood(300, 301 * n) + wire(3, sequence=301 * n + 300) for n in range(60)) + wire(2))
    assert await read_packet(reader) == (2, 60 * 301, b"")
    assert seen == list(range(60 * 301))


async def test_a_clients_handlers_take_turns_too(net, until):
    server = await net.server(max_write_buffer=1 << 30)

    @server.on(1)
    def answer(session, packet):
        for n in range(20_000):
            session.send(1, b"", n)

    client, seen, ticks = await net.connect(server, dispatch_budget=0.001), [], 0

    def slow(session, packet):
        seen.append(packet.sequence)
        for _ in range(200):
            pass

    client.dispatch.register(1, slow)
    client.send(1)
    while len(seen) < 20_000:
        ticks += 1
        await asyncio.sleep(0)
    assert seen == list(range(20_000))
    assert client._ledger.yields > 0
    assert ticks > 5


async def test_no_budget_at_all(net):
    server, seen = await slow_server(net, dispatch_budget=None)
    reader, writer = await net.open(server)
    writer.write(flood(20_000) + wire(2))
    await read_packet(reader)
    assert (len(seen), server.stats()["yields"]) == (20_000, 0)


@pytest.mark.parametrize("budget", [0, -1, math.nan])
def test_budgets_that_cannot_be(gamenet, budget):
    with pytest.raises(ValueError, match="dispatch_budget"):
        gamenet.Server(dispatch_budget=budget)
