"""Sessions that outlive their connections: the protocol on plain bytes, then servers and clients, on both twins."""

import asyncio
import random
import ssl
import time
from contextlib import asynccontextmanager, suppress

import pytest
from fakenet import FakeNet
from virtual import names, run
from wire import wire

LONG = [0.01] * 100_000


# -- without I/O


@pytest.fixture
def resume(gamenet):
    """`gamenet.resume`, of one twin."""
    return gamenet.resume


class End:
    """One end over a connection that loses what is on the way."""

    def __init__(self, resume, pool):
        self.resume, self.pool = resume, pool
        self.stream = resume.ResumableStream()
        self.got = b""
        self.wire = b""  # what we wrote to the link that is up

    def send(self, data):
        self.wire += self.stream.sending(data)

    def connect(self, other):
        """A new link: what was on the way is lost, both say what they have."""
        for end, peer in ((self, other), (other, self)):
            end.reader = self.resume.new_reader(self.pool)
            end.stream.acknowledged(peer.stream.promise())
        for end in (self, other):
            end.wire = end.stream.resending()

    def take(self, other, size):
        """Receive up to `size` bytes of what the other end wrote."""
        chunk, other.wire = other.wire[:size], other.wire[size:]
        self.reader.feed(chunk)
        for packet in self.reader:
            if packet.packet_id == self.resume.DATA:
                self.got += packet.body
                if self.stream.handed_on(packet.body_size):
                    self.wire += self.stream.ack()
            else:
                self.wire += self.stream.acknowledged(self.resume.read_ack(packet))


@pytest.mark.parametrize("seed", range(5))
def test_no_byte_is_lost_or_doubled_however_it_is_cut(resume, seed):
    rng = random.Random(seed)
    pool = resume.new_pool(4)
    one, two = End(resume, pool), End(resume, pool)
    one.connect(two)
    sent = {one: b"", two: b""}
    for _ in range(4000):
        end = rng.choice((one, two))
        other = two if end is one else one
        data = rng.randbytes(rng.choice((1, 8, 100, 5000, 40_000 if not rng.randrange(20) else 3)))
        sent[end] += data
        end.send(data)
        other.take(end, rng.randrange(30_000))
        if not rng.randrange(20):
            one.connect(two)
    one.connect(two)
    while one.wire or two.wire:
        two.take(one, 1 << 20)
        one.take(two, 1 << 20)
    assert two.got == sent[one]
    assert one.got == sent[two]
    for end in (one, two):
        assert end.stream.unacknowledged < resume.ACK_EVERY
    assert pool.stats()["outstanding"] == 0


def test_acks_are_checked(gamenet, resume):
    stream = resume.ResumableStream()
    stream.sending(b"12345")
    stream.sending(b"678")
    stream.acknowledged(0)
    stream.acknowledged(6)
    assert stream.resending()[4:] == b"78"
    assert stream.unacknowledged == 2
    assert [stream.reaches(received) for received in (5, 6, 8, 9)] == [False, True, True, False]
    for received in (5, 9):
        with pytest.raises(gamenet.InvalidPacketError, match=f"ACK of {received} bytes, between 6 and 8"):
            stream.acknowledged(received)
    stream.acknowledged(8)
    assert stream.resending() == b""
    assert stream.unacknowledged == 0


def test_no_more_than_the_window_is_on_the_way(resume):
    stream, reader = resume.ResumableStream(100), resume.new_reader(resume.new_pool(1))

    def bodies(records):
        reader.feed(records)
        return b"".join(packet.body for packet in reader)

    assert bodies(stream.sending(b"a" * 99)) == b"a" * 99
    assert not stream.is_full
    assert bodies(stream.sending(b"b")) == b"b"
    assert stream.is_full
    assert stream.sending(b"c" * 150) == b""
    assert stream.sending(b"d" * 50) == b""
    assert [stream.reaches(received) for received in (100, 101)] == [True, False]  # sent, but not on its way
    assert bodies(stream.acknowledged(99)) == b"c" * 99
    assert bodies(stream.acknowledged(199)) == b"c" * 51 + b"d" * 49
    assert stream.unacknowledged == 101
    assert bodies(stream.resending()) == b"c" * 51 + b"d" * 49
    stream.window = 20
    assert bodies(stream.resending()) == b"c" * 20
    assert bodies(stream.ending()) == b"c" * 31 + b"d" * 50
    assert bodies(stream.acknowledged(300)) == b""
    assert stream.unacknowledged == 0


def test_a_large_piece_is_not_copied_for_each_acknowledgement(resume):
    stream = resume.ResumableStream(65_536)
    size = 16_000_000
    stream.sending(bytes(size))
    began = time.process_time()
    for received in range(0, size, resume.ACK_EVERY):
        stream.acknowledged(received)
    assert time.process_time() - began < 4.0  # half a minute when it is
    assert stream.unacknowledged <= resume.ACK_EVERY


def test_an_ack_is_due_at_its_size_and_not_below(resume):
    stream = resume.ResumableStream()
    assert not stream.handed_on(resume.ACK_EVERY - 1)
    assert stream.handed_on(1)
    assert stream.ack() == resume.record(resume.Ack(received=resume.ACK_EVERY))
    assert not stream.handed_on(1)


def test_large_writes_become_several_records(resume):
    stream = resume.ResumableStream()
    data = bytes(range(256)) * 13
    reader = resume.new_reader(resume.new_pool(1))
    reader.feed(stream.sending(data))
    bodies = [packet.body for packet in reader]
    assert b"".join(bodies) == data
    assert [len(body) for body in bodies] == [1024, 1024, 1024, 256]


def test_secrets(resume):
    assert len({resume.new_secret() for _ in range(1000)}) == 1000
    assert resume.same_secret(b"x" * 16, b"x" * 16)
    assert not resume.same_secret(b"x" * 16, b"y" * 16)


def test_the_bytes_of_the_protocol(resume):
    """The wire format, as docs/client.md has it."""
    hello = resume.Hello(magic=resume.MAGIC, version=1, seat=2, secret=b"s" * 16, received=3, window=65_536)
    assert resume.record(hello).hex(" ", 1) == (
        "01 32 00 00 67 6e 72 0a 01 00 02 00 00 00 00 00 00 00" + " 73" * 16
        + " 03 00 00 00 00 00 00 00 00 00 01 00 00 00 00 00"
    )
    welcome = resume.Welcome(version=1, resumed=True, seat=2, secret=b"s" * 16, received=3, window=65_536)
    assert resume.record(welcome).hex(" ", 1) == (
        "02 2f 00 00 01 00 01 02 00 00 00 00 00 00 00" + " 73" * 16
        + " 03 00 00 00 00 00 00 00 00 00 01 00 00 00 00 00"
    )
    assert resume.ResumableStream().sending(b"ab").hex() == "0306000061" + "62"
    assert resume.record(resume.Ack(received=258)).hex() == "040c0000" + "0201000000000000"
    assert (resume.record(resume.PING).hex(), resume.record(resume.END).hex()) == ("05040000", "06040000")


# -- servers and clients in memory


@asynccontextmanager
async def world(gamenet, *, start=True, **options):
    """A resuming server that echoes packet 1, in memory: (net, server)."""
    server = gamenet.Server(**{"idle_timeout": None, "resume": True, **options})
    server.on(1)(lambda session, packet: session.reply(packet))
    server.told = []
    server.on_opened(lambda session: server.told.append("opened"))
    server.on_away(lambda session: server.told.append("away"))
    server.on_resumed(lambda session: server.told.append("resumed"))
    server.on_closed(lambda session, reason: server.told.append(reason))
    async with gamenet.testing.leak_check(), gamenet.testing.MemoryNetwork() as net:
        await net.serve(server, 4000)
        yield net, server


def client_of(gamenet, net, **options):
    states = []
    options = {"on_state": states.append, "rng": random.Random(1), "resume": True, "backoff": LONG, **options}
    client = gamenet.ReconnectingClient("127.0.0.1", 4000, transport=net.transports, **options)
    client.seen = states
    return client


async def settle():
    await asyncio.sleep(0.1)


def test_an_orderly_life(gamenet):
    async def main():
        async with world(gamenet) as (net, server):
            async with client_of(gamenet, net) as client:
                await client.connected()
                assert (await client.request(1, b"hello")).body == b"hello"
                assert server.stats()["sessions"] == 1
            await settle()
            assert server.told == ["opened", "peer_closed"]
            assert server.stats()["closed"] == {"peer_closed": 1}
            assert server.stats()["seats"]["away"] == 0

    run(gamenet, main)


def test_the_server_may_end_it(gamenet):
    async def main():
        async with world(gamenet) as (net, server):
            server.on(2)(lambda session, packet: (session.send(3, b"last"), session.close())[0])
            async with client_of(gamenet, net, backoff=[]) as client:
                await client.connected()
                client.send(2)
                assert (await anext(client)).body == b"last"
                assert await client.wait_closed() == "given_up"
                assert gamenet.Lost("peer_closed") in client.seen
            await settle()
            assert server.told == ["opened", "closed"]

    run(gamenet, main)


@pytest.mark.parametrize("end", ["cut", "reset"])
def test_the_session_goes_on_over_another_connection(gamenet, end):
    async def main():
        async with world(gamenet) as (net, server), client_of(gamenet, net) as client:
            await client.connected()
            session = next(iter(server.sessions))
            session.data = "its data"
            room = server.sessions.room("arena")
            room.add(session)
            for turn in range(5):
                getattr(net, end)()
                await asyncio.sleep(0)
                client.send(1, bytes([turn]))
                room.broadcast(2, bytes([turn]))
                await settle()
                got = sorted([(await anext(client)).body, (await anext(client)).body])
                assert got == [bytes([turn])] * 2
            assert list(server.sessions) == [session]
            assert session.data == "its data"
            assert session in room
            assert server.told == ["opened", *["away", "resumed"] * 5]
            assert server.stats()["seats"]["resumed"] == client.stats()["resumed"] == 5
            assert gamenet.Connected(resumed=True) in client.seen

    run(gamenet, main)


def test_requests_go_on_across_a_loss(gamenet):
    async def main():
        async with world(gamenet) as (net, server):

            @server.on(2)
            async def slow(session, packet):
                await asyncio.sleep(2)
                session.reply(packet)

            async with client_of(gamenet, net, backoff=[1] * 10) as client:
                await client.connected()
                asking = asyncio.ensure_future(client.request(2, b"?", timeout=10.0))
                await settle()
                net.reset()
                await asyncio.sleep(0.5)
                assert isinstance(client.state, gamenet.Waiting)
                while_away = asyncio.ensure_future(client.request(1, b"!", timeout=10.0))
                assert (await asking).body == b"?"
                assert (await while_away).body == b"!"

    run(gamenet, main)


def test_a_seat_is_kept_for_its_time_and_no_longer(gamenet):
    async def main():
        for away, resumed in ((29.9, True), (30.1, False)):
            async with world(gamenet) as (net, server), client_of(gamenet, net, backoff=[away, *LONG]) as client:
                await client.connected()
                asking = asyncio.ensure_future(client.request(1, timeout=100.0))
                await asyncio.sleep(0)
                net.cut()
                await asyncio.sleep(away + 1)
                assert client.seen[-1] == gamenet.Connected(resumed=resumed)
                if resumed:
                    assert server.told == ["opened", "away", "resumed"]
                    await asking
                else:
                    assert server.told == ["opened", "away", "resume_timeout", "opened"]
                    seats = server.stats()["seats"]
                    assert (seats["expired"], seats["unknown"], seats["away"]) == (1, 1, 0)
                    with pytest.raises(gamenet.SessionClosedError, match="seat_unknown"):
                        await asking
                await client.request(1)

    run(gamenet, main)


def test_being_away_is_no_silence(gamenet):
    """Neither the idle nor the write timeout of the session counts while it has no link."""

    async def main():
        options = {"idle_timeout": 5.0, "write_timeout": 5.0, "resume_timeout": 100.0}
        async with world(gamenet, **options) as (net, server), client_of(gamenet, net, backoff=[60, *LONG]) as client:
            await client.connected()
            session = next(iter(server.sessions))
            net.cut()
            await settle()
            assert session.is_away
            assert session.send(2, b"waits")
            await asyncio.sleep(61)
            assert server.told == ["opened", "away", "resumed"]
            assert not session.is_away
            assert (await anext(client)).body == b"waits"
            await asyncio.sleep(5.1)
            assert "idle_timeout" in server.told

    run(gamenet, main)


def test_what_waits_for_one_who_is_away_is_bounded(gamenet):
    async def main():
        options = {"max_write_buffer": 100_000, "resume_timeout": 100.0}
        async with world(gamenet, **options) as (net, server), client_of(gamenet, net, backoff=[60, *LONG]) as client:
            await client.connected()
            session = next(iter(server.sessions))
            net.cut()
            await settle()
            sent = 0
            while session.send(2, bytes(1000)):
                sent += 1
            assert 90 <= sent <= 110
            await settle()
            assert server.told == ["opened", "away", "slow_receiver"]
            await asyncio.sleep(61)
            assert client.seen[-1] == gamenet.Connected(resumed=False)

    run(gamenet, main)


def test_slow_policies_hold_for_one_who_is_away(gamenet):
    async def main():
        async with world(gamenet) as (net, server), client_of(gamenet, net, backoff=[5, *LONG]) as client:
            server.when_slow(2, "keep_latest")
            await client.connected()
            session = next(iter(server.sessions))
            net.cut()
            await settle()
            for n in range(100):
                session.send(2, bytes([n]))
            await asyncio.sleep(6)
            assert (await anext(client)).body == bytes([99])
            assert server.stats()["dropped"]["keep_latest"] == 99

    run(gamenet, main)


def test_a_frozen_link_is_lost_on_both_sides_and_the_session_is_not(gamenet):
    async def main():
        async with world(gamenet) as (net, server), client_of(gamenet, net) as client:
            await client.connected()
            await asyncio.sleep(200)
            assert client.stats()["connections"] == 1  # quiet links live
            net.freeze()
            client.send(1, b"late")
            await asyncio.sleep(16)
            assert gamenet.Lost("link_timeout") in client.seen
            net.thaw()
            await asyncio.sleep(31)
            assert (await anext(client)).body == b"late"
            assert server.stats()["accepted"] == 1
            assert client.stats()["resumed"] >= 1

    run(gamenet, main)


def test_a_second_link_takes_over_from_a_half_dead_one(gamenet):
    """The client's end is gone, the server has not noticed."""

    async def main():
        async with world(gamenet) as (net, server), client_of(gamenet, net) as client:
            await client.connected()
            session = next(iter(server.sessions))
            old = client._seat.transport.link
            old.transport._peer.freeze()
            old.transport._connection_lost(ConnectionResetError())
            session.send(2, b"into the void")
            await settle()
            assert client.stats()["resumed"] == 1
            assert (await anext(client)).body == b"into the void"
            assert list(server.sessions) == [session]
            assert server.told == ["opened", "resumed"]

    run(gamenet, main)


def test_a_server_that_restarted_begins_anew_and_says_so(gamenet):
    async def main():
        async with world(gamenet) as (net, server):
            greeted = []

            async def greet(client):
                greeted.append(client.state)

            async with client_of(gamenet, net, greet=greet) as client:
                await client.connected()
                net.cut()
                await settle()
                assert client.seen[-1] == gamenet.Connected(resumed=True)
                assert len(greeted) == 1
                await server.stop(0)
                await server.start("127.0.0.1", 4000)
                await settle()
                assert client.seen[-1] == gamenet.Connected(resumed=False)
                assert len(greeted) == 2
                assert (await client.request(1, b"x")).body == b"x"

    run(gamenet, main)


def test_the_ledger_balances_across_connections(gamenet, resume):
    """Half a packet is cut off, waits while its sender is away, and is completed, or discarded at the end."""

    async def main():
        async with world(gamenet) as (net, server):
            frame = gamenet.HeaderCodec().frame(1, bytes(100))
            for completes in (True, False):
                sender = resume.ResumableStream()
                reader, writer = await net.open(4000)
                first = await shake_hands(resume, reader, writer)
                writer.write(sender.sending(frame + frame[:50]))
                await settle()
                writer.close()
                await settle()
                check_ledger(server, buffered=50, sessions=1)
                if completes:
                    reader, writer = await net.open(4000)
                    again = await shake_hands(resume, reader, writer, first.seat, first.secret)
                    assert again.received == 158
                    sender.acknowledged(again.received)
                    writer.write(sender.sending(frame[50:]))
                    writer.write(resume.record(resume.END))
                    await settle()
                    writer.close()
                    assert server.stats()["bytes_dispatched"] == 2 * 108
                else:
                    await asyncio.sleep(31)
                    assert server.stats()["bytes_discarded"] == 50
                check_ledger(server, buffered=0, sessions=0)
            assert server.stats()["accepted"] == 2
            assert server.stats()["closed"] == {"peer_closed": 1, "resume_timeout": 1}

    run(gamenet, main)


def check_ledger(server, buffered, sessions):
    stats = server.stats()
    assert (stats["bytes_buffered"], stats["sessions"]) == (buffered, sessions)
    counted = sum(stats[f"bytes_{fate}"] for fate in ("dispatched", "rejected", "discarded", "buffered"))
    assert stats["bytes_in"] == counted
    assert stats["accepted"] == stats["sessions"] + sum(stats["closed"].values())


def test_the_server_stops_while_somebody_is_away(gamenet):
    async def main():
        async with world(gamenet) as (net, server), client_of(gamenet, net, backoff=[20]) as client:
            await client.connected()
            net.cut()
            await settle()
            await server.stop()
            assert server.told == ["opened", "away", "server_stopped"]
            assert not server.sessions

    run(gamenet, main)


def test_seats_away_are_bounded(gamenet):
    async def main():
        async with world(gamenet, max_seats_away=2) as (net, server):
            clients = [client_of(gamenet, net, backoff=[10 + n, *LONG]) for n in range(3)]
            for client in clients:
                client.start()
                await client.connected()
            net.cut()
            await settle()
            assert server.stats()["seats"]["away"] == 2
            assert server.stats()["seats"]["given_up"] == 1
            assert server.told[3:].count("away") == 3
            assert "seat_given_up" in server.told
            await asyncio.sleep(20)
            assert sorted(client.seen[-1].resumed for client in clients) == [False, True, True]
            for client in clients:
                await client.close()

    run(gamenet, main)


def test_a_full_server_keeps_the_places_of_who_is_away(gamenet):
    async def main():
        async with world(gamenet, max_sessions=2) as (net, server):
            clients = [client_of(gamenet, net, backoff=[20, *LONG]) for _ in range(2)]
            for client in clients:
                client.start()
                await client.connected()
            net.cut()
            await settle()
            late = client_of(gamenet, net, backoff=[1] * 100)
            async with late:
                await asyncio.sleep(10)
                assert server.stats()["refused"]["server_full"] >= 9
                assert "the server is full" in str(late.seen[-1].error)
                await asyncio.sleep(15)
                assert all(client.stats()["resumed"] == 1 for client in clients)
                assert not late.is_connected
                await clients[0].close()
                await asyncio.sleep(2)
                assert late.is_connected
                assert server.stats()["sessions"] == 2
            await clients[1].close()
            await settle()
            assert server._admission.held == 0

    run(gamenet, main)


def test_a_place_is_free_again_when_its_time_is_over(gamenet):
    async def main():
        async with world(gamenet, max_sessions=1) as (net, server):
            async with client_of(gamenet, net, backoff=[1000]) as first:
                await first.connected()
                net.cut()
                async with client_of(gamenet, net, backoff=[1] * 100) as second:
                    await asyncio.sleep(29)
                    assert not second.is_connected
                    await asyncio.sleep(3)
                    assert second.is_connected
            assert server.stats()["seats"]["expired"] == 1

    run(gamenet, main)


class Peers:
    """Plain peers of chosen addresses, in memory, that were welcomed and have answered."""

    def __init__(self, resume, net):
        self.resume, self.net = resume, net

    async def come(self, host):
        self.net.host = host
        reader, writer = await self.net.open(4000)
        await shake_hands(self.resume, reader, writer)
        writer.write(self.resume.record(self.resume.Ack(received=0)))
        await asyncio.sleep(0.01)
        return writer

    async def come_and_go(self, host):
        (await self.come(host)).close()
        await asyncio.sleep(0.01)


@pytest.fixture
def addressed(gamenet, monkeypatch):
    """Connections in memory come from `net.host`."""
    pair = gamenet.testing.network.memory_pair

    def from_host(client, server, *, addresses, **options):
        (_, port), theirs = addresses
        host = getattr(from_host.net, "host", "127.0.0.1")
        return pair(client, server, addresses=((host, port), theirs), **options)

    monkeypatch.setattr(gamenet.testing.network, "memory_pair", from_host)
    return from_host


def test_one_address_has_no_more_seats_than_connections(gamenet, resume, addressed):
    async def main():
        async with world(gamenet, max_sessions_per_address=2) as (net, server):
            addressed.net, peers = net, Peers(resume, net)
            await peers.come_and_go("192.0.2.9")
            for n in range(1, 6):
                await peers.come_and_go("192.0.2.1")
                assert server.stats()["seats"]["away"] == 1 + min(n, 2)
            assert server.stats()["seats"]["given_up"] == 3
            stays = await peers.come("192.0.2.1")
            assert server.stats()["seats"]["away"] == 2
            stays.close()
            await asyncio.sleep(31)
            assert server.stats()["seats"]["away"] == 0
            assert not server._seats._away_of

    run(gamenet, main)


def test_who_comes_and_goes_displaces_only_himself(gamenet, resume, addressed):
    async def main():
        async with world(gamenet, max_seats_away=10) as (net, server):
            addressed.net, peers = net, Peers(resume, net)
            for n in range(4):
                await peers.come_and_go(f"198.51.100.{n}")
            for _ in range(50):
                await peers.come_and_go("192.0.2.1")
            assert server.stats()["seats"]["away"] == 10
            kept = [seat.network for seat in server._seats._away.values()]
            assert kept == [f"198.51.100.{n}" for n in range(4)] + ["192.0.2.1"] * 6

    run(gamenet, main)


def test_a_handshake_that_drips_is_ended_in_time(gamenet, resume):
    """Bytes behind the WELCOME that make no record are no sign of life."""

    async def main():
        async with world(gamenet, handshake_timeout=5.0) as (net, server):
            reader, writer = await net.open(4000)
            await shake_hands(resume, reader, writer)
            for byte in resume.record(resume.Ack(received=0))[:6]:
                writer.write(bytes([byte]))
                await asyncio.sleep(1)
            assert server._admission.held == 0
            assert server.told == []
            writer.close()

    run(gamenet, main)


@pytest.mark.parametrize("packets", [12, 100])
def test_coming_back_again_and_again_piles_nothing_up(gamenet, resume, packets):
    """A session that does not read keeps what one link brought, and not what each of them did. 12 packets are less
    than `max_resume_buffer`: the link is read, and its end is seen; with 100 the next link takes over.
    """

    async def main():
        options = {"max_resume_buffer": 16_384, "max_read_buffer": 1000}
        async with world(gamenet, **options) as (net, server):
            got, go_on = [], asyncio.Event()

            @server.on(1)
            async def slow(session, packet):
                got.append(packet.sequence)
                await go_on.wait()

            codec = gamenet.HeaderCodec()
            stream = b"".join(codec.frame(1, bytes(992), n) for n in range(packets))
            seat, secret, received = 0, bytes(16), 0
            for _ in range(50):
                reader, writer = await net.open(4000)
                welcome = await shake_hands(resume, reader, writer, seat, secret)
                seat, secret = welcome.seat, welcome.secret
                assert welcome.received >= received
                received = welcome.received
                writer.write(resume.record(resume.Ack(received=0)))
                rest = stream[received:]
                for start in range(0, len(rest), 1000):
                    writer.write(gamenet.HeaderCodec(resume._LAYOUT).frame(resume.DATA, rest[start : start + 1000]))
                await asyncio.sleep(0.01)
                transport = next(iter(server._seats._seats.values())).transport
                assert transport._pending_size <= 16_384 + 262_144
                assert len(got) == 1
                writer.transport.abort()
                await asyncio.sleep(0.01)
            assert server.told.count("away") == (50 if packets == 12 else 0)
            go_on.set()
            reader, writer = await net.open(4000)
            welcome = await shake_hands(resume, reader, writer, seat, secret)
            writer.write(resume.ResumableStream(1 << 20).sending(stream[welcome.received :]))
            await settle()
            assert got == list(range(packets))
            writer.close()

    run(gamenet, main)


HELLO = "01 32 00 00 67 6e 72 0a 01 00"


@pytest.mark.parametrize(
    "first",
    [
        bytes(8),
        b"GET / HTTP/1.1\r\n\r\n",
        bytes.fromhex("01 31 00 00") + bytes(45),  # too short
        bytes.fromhex(HELLO.replace("67", "68")) + bytes(34) + b"\1" + bytes(5),  # another magic
        bytes.fromhex(HELLO.replace("01 00", "02 00")) + bytes(34) + b"\1" + bytes(5),  # another version
        bytes.fromhex(HELLO) + bytes(32) + bytes.fromhex("ff 3f 00 00 00 00 00 00"),  # a window of 16,383
        bytes.fromhex("03 05 00 00 61"),  # data without a seat
        bytes.fromhex("06 04 00 00"),
    ],
)
def test_who_does_not_say_hello_is_refused(gamenet, first):
    async def main():
        async with world(gamenet) as (net, server):
            reader, writer = await net.open(4000)
            writer.write(first)
            with suppress(ConnectionError):
                assert await reader.read() == b""
            await settle()
            assert server.told == []
            assert server._admission.held == 0
            writer.close()

    run(gamenet, main)


def test_who_says_nothing_is_refused_in_time(gamenet):
    async def main():
        async with world(gamenet, handshake_timeout=3.0) as (net, server):
            reader, writer = await net.open(4000)
            await asyncio.sleep(2.9)
            assert server._admission.held == 1
            await asyncio.sleep(0.2)
            assert server._admission.held == 0
            assert server.stats()["seats"]["refused"] == 1
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(gamenet, main)


async def shake_hands(resume, reader, writer, seat=0, secret=bytes(16), received=0, window=16_384):
    hello = resume.Hello(magic=resume.MAGIC, version=1, seat=seat, secret=secret, received=received, window=window)
    writer.write(resume.record(hello))
    record = await reader.readexactly(4 + resume.Welcome.body_size_of())
    return resume.Welcome.unpack(record[4:])


@pytest.fixture
def linked(gamenet, resume):
    """`linked(**options)`: a server without sockets, and a peer that has a seat; packet 1 is kept in `net.seen`."""
    nets = []

    def make(**options):
        net = FakeNet(gamenet, resume=True, idle_timeout=None, **options)
        nets.append(net)
        net.seen = []
        net.server.on(1)(lambda session, packet: net.seen.append(packet.sequence))
        peer = net.connect()
        values = {"seat": 0, "secret": bytes(16), "received": 0, "window": 65_536}
        hello = resume.Hello(magic=resume.MAGIC, version=resume.VERSION, **values)
        peer.arrive(resume.record(hello))
        peer.arrive(resume.record(resume.Ack(received=0)))
        peer.taken = b""
        return net, peer

    yield make
    for net in nets:
        net.loop.run_until_complete(net.server.stop())
        net.end()


def as_records(resume, count):
    """So many packets, each in a record of its own."""
    frames = (wire(1, sequence=n) for n in range(count))
    return b"".join(resume._CODEC.frame(resume.DATA, frame) for frame in frames)


@pytest.mark.parametrize("count", [1023, 1024, 1025, 5000])
def test_small_records_without_end_take_turns(linked, resume, count):
    net, peer = linked()
    peer.arrive(as_records(resume, count) + resume.record(resume.PING))
    assert len(net.seen) == min(count, 1024)
    assert peer.is_reading is (count < 1023)
    for turn in range(2, 7):
        net.loop.turn(1)
        assert len(net.seen) <= 1024 * turn
    assert net.seen == list(range(count))
    assert peer.taken.endswith(resume.record(resume.Ack(received=8 * count)))
    assert peer.is_reading
    assert net.closed == {}


@pytest.mark.parametrize("is_secured", [False, True])
def test_an_end_behind_many_records_is_heard(linked, resume, is_secured):
    net, peer = linked()
    peer.is_secured = is_secured
    peer.arrive(as_records(resume, 5000) + resume.record(resume.END))
    if is_secured:
        peer.end()  # in the same chunk
    net.loop.turn(20)
    assert net.seen == list(range(5000))
    assert net.closed == {"peer_closed": 1}


def test_a_loss_behind_many_records_loses_none(linked, resume):
    """What was not taken is not acknowledged, and comes again."""
    net, peer = linked()
    peer.arrive(as_records(resume, 5000))
    peer.abort()
    net.loop.turn(20)
    assert net.seen == list(range(len(net.seen)))
    assert 1024 <= len(net.seen) < 5000
    assert net.server.stats()["seats"]["away"] == 1
    (session,) = net.server.sessions
    assert session.transport.stream.received == 8 * len(net.seen)


def test_a_session_that_does_not_read_meanwhile(linked, resume):
    net, peer = linked(max_resume_buffer=16_384, max_read_buffer=1000)
    (session,) = net.server.sessions
    session.suspend()
    peer.arrive(as_records(resume, 5000))
    net.loop.turn(20)
    assert net.seen == []
    assert not peer.is_reading
    peer.arrive(resume.record(resume.PING))
    session.resume_reading()
    net.loop.turn(20)
    assert net.seen == list(range(5000))
    assert peer.is_reading


def test_a_rest_is_taken_before_more_is_read(linked, resume):
    net, peer = linked()
    peer.arrive(as_records(resume, 2000))
    peer.protocol.pause_reading()
    peer.protocol.resume_reading()
    assert not peer.is_reading
    net.loop.turn()
    assert (net.seen, peer.is_reading) == (list(range(2000)), True)


def test_many_records_and_one_that_cannot_be(linked, resume):
    net, peer = linked()
    peer.arrive(as_records(resume, 3000) + b"\x63\4\0\0")
    net.loop.turn(20)
    assert net.seen == list(range(3000))
    assert net.closed == {"invalid_packet": 1}


def test_a_wrong_secret_is_a_new_seat_and_harms_nobody(gamenet, resume):
    async def main():
        async with world(gamenet) as (net, server), client_of(gamenet, net) as client:
            await client.connected()
            seat = client._seat
            reader, writer = await net.open(4000)
            welcome = await shake_hands(resume, reader, writer, seat.number, b"guess" + bytes(11))
            assert not welcome.resumed
            assert welcome.seat != seat.number
            assert welcome.secret != seat.secret
            assert server.stats()["seats"]["unknown"] == 1
            assert server.told == ["opened"]  # the guest has not said anything yet
            await client.request(1)
            assert client.stats()["connections"] == 1
            writer.close()

    run(gamenet, main)


def test_a_seat_that_was_never_used_is_no_session(gamenet, resume):
    """The WELCOME may have been lost: nobody is told of anybody."""

    async def main():
        async with world(gamenet) as (net, server):
            reader, writer = await net.open(4000)
            await shake_hands(resume, reader, writer)
            writer.close()
            await settle()
            assert server.stats()["seats"]["away"] == 1
            await asyncio.sleep(31)
            assert server.stats()["seats"]["away"] == 0
            assert server.told == []
            assert server._admission.held == 0

    run(gamenet, main)


@pytest.mark.parametrize(
    "record",
    ["04 0c 00 00 ff 00 00 00 00 00 00 00", "04 05 00 00 00", "07 04 00 00", "01 04 00 00", "03 ff ff ff", "03 00 00 00"],
)
def test_records_that_cannot_be_end_the_session(gamenet, resume, record):
    async def main():
        async with world(gamenet) as (net, server):
            reader, writer = await net.open(4000)
            await shake_hands(resume, reader, writer)
            writer.write(resume.record(resume.Ack(received=0)))
            writer.write(bytes.fromhex(record))
            await settle()
            assert server.told == ["opened", "invalid_packet"]
            assert server.stats()["seats"]["away"] == 0
            writer.close()

    run(gamenet, main)


@pytest.mark.parametrize("received", [1, 1 << 60])
def test_having_received_what_was_not_sent_is_no_resume(gamenet, resume, received):
    async def main():
        async with world(gamenet) as (net, server):
            reader, writer = await net.open(4000)
            first = await shake_hands(resume, reader, writer)
            writer.write(resume.record(resume.Ack(received=0)))
            await settle()
            writer.close()
            await settle()
            reader, writer = await net.open(4000)
            second = await shake_hands(resume, reader, writer, first.seat, first.secret, received)
            assert not second.resumed
            await settle()
            assert server.told == ["opened", "away", "invalid_packet"]
            writer.close()

    run(gamenet, main)


def test_a_hello_that_comes_too_late_harms_nobody(gamenet, resume):
    """A client gave an attempt up whose HELLO was still on its way, and went on over another connection."""

    async def main():
        async with world(gamenet) as (net, server), client_of(gamenet, net) as client:
            await client.connected()
            for _ in range(4):
                await client.request(1, bytes(1000))
            seat = client._seat
            acknowledged = next(iter(server._seats._seats.values())).transport.stream.acknowledged_up_to
            assert acknowledged > 2000
            reader, writer = await net.open(4000)
            late = {"seat": seat.number, "secret": seat.secret, "received": acknowledged - 1, "window": 65_536}
            writer.write(resume.record(resume.Hello(magic=resume.MAGIC, version=1, **late)))
            with suppress(ConnectionError):
                assert await reader.read() == b""
            assert server.stats()["seats"]["refused"] == 1
            await client.request(1)
            assert client.stats()["connections"] == 1
            assert server.told == ["opened"]
            reader, writer = await net.open(4000)
            late["received"] += 1  # as old, and not to be told from one of now: the client comes back once more
            writer.write(resume.record(resume.Hello(magic=resume.MAGIC, version=1, **late)))
            await settle()
            writer.close()
            await settle()
            await client.request(1)
            assert server.stats()["accepted"] == 1
            assert client.stats()["resumed"] == client.stats()["lost"] == 1

    run(gamenet, main)


def test_a_session_that_closes_is_not_resumed(gamenet, resume):
    """Its client cannot take what is sent before the end, and comes by another connection."""

    async def main():
        async with world(gamenet) as (net, server):
            reader, writer = await net.open(4000)
            first = await shake_hands(resume, reader, writer)
            writer.write(resume.record(resume.Ack(received=0)))
            await settle()
            writer.transport.pause_reading()
            session = next(iter(server.sessions))
            for _ in range(40):
                session.send(3, bytes(8000))
            session.close()  # but what it has to write does not leave
            await settle()
            assert server.stats()["sessions"] == 1
            reader, again = await net.open(4000)
            second = await shake_hands(resume, reader, again, first.seat, first.secret)
            assert not second.resumed
            assert second.seat != first.seat
            again.close()
            writer.transport.abort()

    run(gamenet, main)


class FakeServer(asyncio.Protocol):
    """Answers each HELLO with the next of some WELCOMEs, and an ACK."""

    def __init__(self, resume, welcomes, hellos):
        self.resume, self.welcomes, self.hellos, self.reader = resume, welcomes, hellos, None

    def connection_made(self, transport):
        self.transport = transport
        self.reader = self.resume.new_reader(self.resume.new_pool(1))

    def data_received(self, data):
        self.reader.feed(data)
        for packet in self.reader:
            if packet.packet_id == 1 and self.welcomes:
                self.hellos.append(self.resume.read_hello(packet))
                fields = {"version": 1, "resumed": False, "seat": 7, "secret": b"s" * 16, "received": 0, "window": 65_536}
                welcome = self.resume.Welcome(**fields | self.welcomes.pop(0))
                self.transport.write(self.resume.record(welcome) + self.resume.record(self.resume.Ack(received=0)))


@pytest.mark.parametrize(
    "wrong", [{"resumed": True}, {"received": 1}, {"received": (1 << 64) - 1}, {"window": 16_383}, {"version": 2}], ids=str
)
def test_a_welcome_that_cannot_be_is_a_failed_attempt(gamenet, resume, wrong):
    async def main():
        hellos = []
        async with gamenet.testing.leak_check(), gamenet.testing.MemoryNetwork() as net:
            welcomes = [wrong, {}]
            net.transports.listen("", 4000, lambda: FakeServer(resume, welcomes, hellos))
            async with client_of(gamenet, net, backoff=[1]) as client:
                await client.connected()
                assert names(client.seen) == ["Connecting", "Waiting", "Connecting", "Connected"]
                assert not client.seen[-1].resumed
                assert [hello.seat for hello in hellos] == [0, 0]
                assert client.send(1, b"it works")

    run(gamenet, main)


def test_who_is_welcomed_back_to_a_session_that_ended_meanwhile_begins_anew(gamenet, resume):
    async def main():
        hellos = []
        async with gamenet.testing.leak_check(), gamenet.testing.MemoryNetwork() as net:
            welcomes = [{}, {"resumed": True}, {}]
            net.transports.listen("", 4000, lambda: FakeServer(resume, welcomes, hellos))
            async with client_of(gamenet, net, backoff=[1, 1]) as client:
                await client.connected()
                net.to_client = gamenet.testing.chaos(stall=(0, 1.0))
                net.reset()
                await asyncio.sleep(1.5)
                assert isinstance(client.state, gamenet.Connecting)
                client.session.abort("enough")
                await client.connected()
                assert [hello.seat for hello in hellos] == [0, 7, 0]
                assert not client.state.resumed

    run(gamenet, main)


def test_a_silent_link_is_lost_and_not_its_session(gamenet):
    """With heartbeats as well, whose silence would end a session."""

    async def main():
        heartbeat = gamenet.Heartbeat(10, 11, interval=2.0)
        async with (
            world(gamenet, heartbeat=heartbeat) as (net, server),
            client_of(gamenet, net, heartbeat=heartbeat) as client,
        ):
            await client.connected()
            net.freeze()
            client.send(1, b"late")
            await asyncio.sleep(16)
            net.thaw()
            await settle()
            assert (await anext(client)).body == b"late"
            assert gamenet.Lost("link_timeout") in client.seen
            assert server.stats()["accepted"] == 1

    run(gamenet, main)


@pytest.mark.parametrize("restarted", [False, True])
def test_what_is_queued_while_it_is_away_survives_a_server_that_restarts(gamenet, restarted):
    async def main():
        async with world(gamenet) as (net, server):
            got = []
            server.on(2)(lambda session, packet: got.append(packet.body))
            options = {"keep_queued": True, "queue_size": 4, "backoff": [3, *LONG]}
            async with client_of(gamenet, net, **options) as client:
                await client.connected()
                client.send(2, b"before")
                await settle()
                net.reset()
                await settle()
                assert client.send(2, b"one")
                assert await asyncio.to_thread(client.send_threadsafe, 2, b"two")
                asking = asyncio.ensure_future(client.request(1, b"three", timeout=20.0))
                await settle()
                assert client.send(2, b"four")
                assert not client.send(2, b"one too many")
                assert (client.stats()["queued"], client.stats()["sends_refused"]) == (4, 1)
                if restarted:
                    await server.stop(0)
                    await server.start("127.0.0.1", 4000)
                await client.connected()
                assert client.send(2, b"five")
                assert (await asking).body == b"three"
                await settle()
                assert got == [b"before", b"one", b"two", b"four", b"five"]
                assert client.seen[-1] == gamenet.Connected(resumed=not restarted)

    run(gamenet, main)


def test_a_queue_leaves_room_for_what_the_session_holds(gamenet):
    async def main():
        async with world(gamenet) as (net, server):
            got = []
            server.on(2)(lambda session, packet: got.append(packet.sequence))
            options = {"keep_queued": True, "max_write_buffer": 40_000, "backoff": [3, *LONG]}
            async with client_of(gamenet, net, **options) as client:
                await client.connected()
                net.freeze()
                taken = [client.send(2, bytes(992), n) for n in range(10)]
                net.thaw()
                net.reset()
                await settle()
                taken += [client.send(2, bytes(992), n) for n in range(10, 40)]
                assert taken == [True] * 20 + [False] * 20
                await asyncio.sleep(4)
                assert got == list(range(20))

    run(gamenet, main)


def test_a_server_without_resume_is_given_up(gamenet):
    async def main():
        async with world(gamenet, resume=False) as (net, _server), client_of(gamenet, net, backoff=[1, 1]) as client:
            assert await client.wait_closed() == "given_up"
            assert "before a WELCOME" in str(client.seen[-1].error)

    run(gamenet, main)


def test_a_reader_that_does_not_read_holds_up_the_sender_and_no_ack(gamenet):
    """Both send more than every buffer holds, and read late: nobody waits for ever."""

    async def main():
        options = {"max_resume_buffer": 16_384, "write_timeout": None, "handler_timeout": None}
        options |= {"max_write_buffer": 10_000_000, "high_watermark": 10_000_000}  # no session stops reading for it
        async with world(gamenet, **options) as (net, server):
            got = []

            @server.on(2)
            async def slow(session, packet):
                got.append(packet.sequence)
                if len(got) % 500 == 1:
                    for n in range(500):
                        session.send(3, bytes(1000), n)
                    await asyncio.sleep(3)

            async with client_of(gamenet, net, max_queued=10, **options) as client:
                await client.connected()
                for n in range(3000):
                    client.send(2, bytes(1000), n)
                await asyncio.sleep(5)
                answers = [(await anext(client)).sequence for _ in range(3000)]
                assert answers == list(range(500)) * 6
                await asyncio.sleep(5)
                assert got == list(range(3000))

    run(gamenet, main)


@pytest.mark.parametrize("windows", [(65_536, 65_536), (16_384, 65_536), (65_536, 16_384)])
@pytest.mark.parametrize("packets", [15, 33, 400])
def test_both_ends_come_back_with_much_to_say(gamenet, packets, windows):
    """More than the watermark waits at each, so that neither would read before the other did."""

    async def main():
        async with world(gamenet, max_resume_buffer=windows[0]) as (net, server):
            got, heard = [], []
            server.on(2)(lambda session, packet: got.append(packet.sequence))
            client = client_of(gamenet, net, backoff=[3, *LONG], max_resume_buffer=windows[1])
            async with client:
                await client.connected()
                session = next(iter(server.sessions))
                net.reset()
                await settle()
                for n in range(packets):
                    assert client.send(2, bytes(2000), n)
                    assert session.send(2, bytes(2000), n)
                await asyncio.sleep(4)
                async with asyncio.timeout(5):
                    for _ in range(packets):
                        heard.append((await anext(client)).sequence)
                    while len(got) < packets:
                        await settle()
                assert got == heard == list(range(packets))
                assert server.told == ["opened", "away", "resumed"]

    run(gamenet, main)


def test_a_slow_link_brings_what_both_ends_have_to_say(gamenet):
    """The server does not read before it is rid of what it has: for longer than the client's `write_timeout`."""

    async def main():
        async with world(gamenet) as (net, server), client_of(gamenet, net, backoff=[3, *LONG]) as client:
            server.on(2)(lambda session, packet: None)
            await client.connected()
            session = next(iter(server.sessions))
            net.reset()
            await settle()
            net.to_server = net.to_client = gamenet.testing.chaos(drip=(1000, 0.1))
            for n in range(300):
                assert client.send(2, bytes(2000), n)
                assert session.send(2, bytes(2000), n)
            for n in range(300):
                assert (await anext(client)).sequence == n
            assert asyncio.get_running_loop().time() > 60
            while server.stats()["packets_dispatched"] < 300:
                await settle()
            assert server.told == ["opened", "away", "resumed"]

    run(gamenet, main)


def test_what_waits_at_the_end_leaves_before_it(gamenet):
    """More than the window: it is not acknowledged any more, and the peer takes it at its own pace."""

    async def main():
        async with world(gamenet) as (net, server):
            server.on(2)(lambda session, packet: [session.send(3, bytes(4000), n) for n in range(100)] and session.close())
            async with client_of(gamenet, net, backoff=[]) as client:
                await client.connected()
                client.send(2)
                assert [(await anext(client)).sequence for _ in range(100)] == list(range(100))
                assert await client.wait_closed() == "given_up"
            await settle()
            assert server.told == ["opened", "closed"]

    run(gamenet, main)


def test_who_asks_and_does_not_read_makes_nothing_grow(gamenet, resume):
    async def main():
        async with world(gamenet, write_timeout=None) as (net, server):
            reader, writer = await net.open(4000)
            await shake_hands(resume, reader, writer)
            writer.write(resume.record(resume.Ack(received=0)))
            await settle()
            writer.transport.pause_reading()
            link = next(iter(server._seats._seats.values())).transport.link
            pings = resume.record(resume.PING) * 1000
            for _ in range(200):
                writer.write(pings)
                await asyncio.sleep(0.001)
            assert link.transport.get_write_buffer_size() < 100_000  # what made it full
            frame = gamenet.HeaderCodec().frame(9, bytes(992))
            writer.write(resume.ResumableStream().sending(frame * 3))
            await settle()
            writer.transport.resume_reading()
            answers = b""
            while not answers.endswith(resume.record(resume.Ack(received=3000))):  # the one that waited
                answers += await reader.read(1 << 20)
            assert answers.count(resume.record(resume.Ack(received=3000))) == 1
            assert link.transport.get_write_buffer_size() == 0
            writer.close()

    run(gamenet, main)


@pytest.mark.parametrize(("window", "on_the_way"), [(16_384, 16_384), (1 << 40, 20_000)])
def test_no_more_is_on_the_way_than_both_ends_say(gamenet, resume, window, on_the_way):
    async def main():
        async with world(gamenet, max_resume_buffer=20_000) as (net, server):
            reader, writer = await net.open(4000)
            await shake_hands(resume, reader, writer, window=window)
            writer.write(resume.record(resume.Ack(received=0)))
            await settle()
            session = next(iter(server.sessions))
            for n in range(100):
                session.send(3, bytes(1000), n)
            await settle()
            records = resume.new_reader(resume.new_pool(1))
            records.feed(await reader.read(1 << 20))
            assert sum(packet.body_size for packet in records) == on_the_way
            writer.close()

    run(gamenet, main)


def test_who_is_lost_while_the_server_stops_is_not_waited_for(gamenet):
    async def main():
        async with world(gamenet) as (net, server), client_of(gamenet, net, backoff=[]) as client:

            @server.on(2)
            async def slow(session, packet):
                await asyncio.sleep(20)

            await client.connected()
            client.send(2)
            await settle()
            stopping = asyncio.ensure_future(server.stop(30.0))
            await settle()
            net.reset()
            await settle()
            assert server.told == ["opened", "server_stopped"]
            await asyncio.wait_for(stopping, 1.0)

    run(gamenet, main)


def test_an_attempt_that_ends_in_the_turn_of_its_welcome_doubles_nothing(gamenet, monkeypatch):
    """What came with the WELCOME, to a session that does not read, comes again with the next one."""

    async def main():
        deadlines = []
        connect_deadline = gamenet.reconnect.connect_deadline
        handshake = gamenet.client_seat.ClientLink.handshake

        @asynccontextmanager
        async def and_remember(*values):
            async with connect_deadline(*values), asyncio.timeout(None) as deadline:
                deadlines.append(deadline)
                yield

        def too_late(link, packet):
            if len(deadlines) in (2, 3):
                deadlines[-1].reschedule(asyncio.get_running_loop().time())
            handshake(link, packet)

        monkeypatch.setattr(gamenet.reconnect, "connect_deadline", and_remember)
        monkeypatch.setattr(gamenet.client_seat.ClientLink, "handshake", too_late)
        async with world(gamenet) as (net, server):
            options = {"max_queued": 4, "max_read_buffer": 1000, "max_resume_buffer": 16_384}
            async with client_of(gamenet, net, **options) as client:
                await client.connected()
                session = next(iter(server.sessions))
                for n in range(100):
                    session.send(3, bytes(100), n)
                    if not n % 20:
                        await asyncio.sleep(0)
                await settle()
                net.reset()
                await settle()
                assert names(client.seen)[3:] == ["Waiting", "Connecting"] * 3 + ["Connected"]
                assert [(await anext(client)).sequence for _ in range(100)] == list(range(100))
                await settle()
                assert not client._queue

    run(gamenet, main)


@pytest.mark.parametrize("turns", range(12))
def test_closing_at_any_turn_of_a_handshake_leaves_nothing(gamenet, turns):
    async def main():
        for begin in ("new", "resumed"):
            async with world(gamenet) as (net, server):
                client = client_of(gamenet, net, backoff=[0] * 1000)
                client.start()
                if begin == "resumed":
                    await client.connected()
                    net.reset()
                for _ in range(turns):
                    await asyncio.sleep(0)
                await client.close()
                assert client.close_reason == "closed"
                assert client.session.transport is None
                await asyncio.sleep(31)
                assert server.stats()["seats"]["away"] == 0
                assert not server.sessions

    run(gamenet, main)


def test_what_a_client_did_not_read_before_a_loss_is_sent_again_and_read_once(gamenet):
    async def main():
        async with world(gamenet) as (net, server):
            options = {"max_queued": 4, "max_read_buffer": 1000, "max_resume_buffer": 16_384}
            async with client_of(gamenet, net, **options) as client:
                await client.connected()
                session = next(iter(server.sessions))
                for n in range(300):
                    session.send(3, bytes(100), n)
                    if not n % 20:
                        await asyncio.sleep(0)
                for turn in range(3):
                    await settle()
                    assert client._seat.transport._pending_size > 0
                    net.reset()
                    await settle()
                    assert client.stats()["resumed"] == turn + 1
                assert [(await anext(client)).sequence for _ in range(300)] == list(range(300))
                assert client.stats()["lost"] == 3

    run(gamenet, main)


PACKETS, CUTS = 10_000, 100


def cut_places(rng):
    """Where the next connection ends, in bytes of a direction: often within the handshake."""
    place = rng.choice((rng.randrange(60), rng.randrange(60, 400), rng.randrange(400, 12_000)))
    return {rng.choice(("reset", "half_close")): place, "split": (1, rng.choice((3, 50, 5000))), "seed": rng.random()}


@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_packets_cut_a_hundred_times(gamenet, seed):
    """Both ways, at random bytes of a connection, its handshake and its acks among them."""

    async def main():
        rng = random.Random(seed)
        chaos = gamenet.testing.chaos
        async with world(gamenet, max_resume_buffer=16_384) as (net, server):
            heard, asked = [], []

            def disturb(state):
                net.to_server = net.to_client = None
                if isinstance(state, gamenet.Connecting) and client.stats()["attempts"] <= CUTS:
                    setattr(net, rng.choice(("to_server", "to_client")), chaos(**cut_places(rng)))

            @server.on(2)
            def handler(session, packet):
                asked.append(int.from_bytes(packet.body[:4], "little"))
                session.send(3, packet.body)

            async def read():
                async for packet in client:
                    heard.append(int.from_bytes(packet.body[:4], "little"))

            client = client_of(gamenet, net, on_state=disturb)
            async with client:
                reading = asyncio.ensure_future(read())
                await client.connected()
                for n in range(PACKETS):
                    while not client.send(2, n.to_bytes(4, "little") + bytes(rng.randrange(60))):
                        await asyncio.sleep(0.001)
                    if not n % 10:
                        await asyncio.sleep(0.002)
                while len(heard) < PACKETS:
                    await asyncio.sleep(0.1)
                stats = client.stats()
            await reading
            assert asked == heard == list(range(PACKETS))
            assert server.stats()["accepted"] == 1
            assert server.stats()["bytes_in"] == server.stats()["bytes_dispatched"]
            assert stats["attempts"] > CUTS
            print(f"{stats}, {server.stats()['seats']}")

    run(gamenet, main)


async def test_ten_thousand_packets_over_sockets(net, until):
    gamenet = net.gamenet
    rng = random.Random(7)
    options = {"resume": True} if net.transport != "epoll" else {"resume": True, "transport": "auto"}
    server = await net.server(**options)
    heard, asked = [], []

    @server.on(2)
    def handler(session, packet):
        asked.append(packet.sequence)
        session.reply(packet)

    async def read():
        async for packet in client:
            heard.append(packet.sequence)

    async with gamenet.testing.ChaosProxy("127.0.0.1", server.port) as proxy:
        options = {"transport": net.transport, "backoff": [0.001] * 10_000, "resume": True}
        client = gamenet.ReconnectingClient("127.0.0.1", proxy.port, **options)
        async with client:
            await client.connected()
            reading = asyncio.ensure_future(read())
            for n in range(1, PACKETS + 1):
                assert client.send(2, rng.randbytes(rng.randrange(60)), n)
                if not n % 100:
                    await asyncio.sleep(rng.random() * 0.005)
                    rng.choice((proxy.cut, proxy.reset))()
                elif not n % 10:
                    await asyncio.sleep(0)
            await until(lambda: len(heard) == PACKETS, 60)
            assert client.stats()["resumed"] >= 10
        await reading
    assert asked == heard == list(range(1, PACKETS + 1))
    assert server.stats()["accepted"] == 1


async def test_over_tls(net, until):
    gamenet, trustme = net.gamenet, pytest.importorskip("trustme")
    authority = trustme.CA()
    theirs, ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(ours)
    server = await net.server(ssl=theirs, resume=True, transport="auto" if net.transport == "epoll" else net.transport)
    server.on(1)(lambda session, packet: session.reply(packet))
    async with gamenet.testing.ChaosProxy("127.0.0.1", server.port) as proxy:
        options = {"transport": net.transport, "backoff": [0.01] * 1000, "resume": True, "ssl": ours}
        async with gamenet.ReconnectingClient("127.0.0.1", proxy.port, **options) as client:
            await client.connected()
            for turn in range(4):
                (proxy.cut if turn % 2 else proxy.reset)()
                client.send(1, bytes([turn]))
                assert (await asyncio.wait_for(anext(client), 20)).body == bytes([turn])
            assert client.stats()["resumed"] >= 1
        await until(lambda: not server.sessions)
    assert server.stats()["accepted"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_slow_links_and_attempts_that_come_too_late(gamenet, seed):
    """Connections drip and stall, and attempts are cut off by their own deadline, also behind the WELCOME."""

    async def main():
        rng = random.Random(seed)
        options = {"max_resume_buffer": 16_384, "link_timeout": 0.5}
        async with world(gamenet, **options) as (net, server):
            heard, asked = [], []

            def disturb(state):
                net.to_server = net.to_client = None
                if isinstance(state, gamenet.Connecting) and client.stats()["attempts"] <= 200:
                    for way in ("to_server", "to_client"):
                        setattr(net, way, gamenet.testing.chaos(**slowness(rng)))

            @server.on(2)
            def handler(session, packet):
                asked.append(packet.sequence)
                session.send(3, packet.body, packet.sequence)

            async def read():
                async for packet in client:
                    heard.append(packet.sequence)

            client = client_of(gamenet, net, on_state=disturb, connect_timeout=0.05, link_timeout=0.5)
            async with client:
                reading = asyncio.ensure_future(read())
                await client.connected()
                for n in range(2000):
                    assert client.send(2, bytes(rng.randrange(60)), n)
                    if not n % 10:
                        await asyncio.sleep(0.02)
                while len(heard) < 2000:
                    await asyncio.sleep(0.1)
            await reading
            assert asked == heard == list(range(2000))
            assert server.stats()["accepted"] == 1

    run(gamenet, main)


def slowness(rng):
    """What may happen to a direction of the next connection: at least 6 KB a second get through."""
    settings = {"seed": rng.random()}
    if rng.random() < 0.7:
        settings["drip"] = rng.randrange(60, 200), rng.choice((0.004, 0.01))
    if rng.random() < 0.4:
        settings["stall"] = rng.randrange(3000), rng.choice((0.03, 0.2, 2.0))
    if rng.random() < 0.4:
        settings[rng.choice(("reset", "half_close"))] = rng.randrange(3000)
    return settings


def test_epoll_cannot_resume(gamenet):
    with pytest.raises(ValueError, match="transport 'epoll' knows sessions only"):
        gamenet.Server(resume=True, transport="epoll")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"max_resume_buffer": 16_383}, "max_resume_buffer 16383 is below 16384"),
        ({"max_seats_away": 0}, "max_seats_away 0 is below 1"),
        ({"resume_timeout": 0}, "resume_timeout 0 is not above 0 seconds"),
        ({"link_timeout": 0}, "link_timeout 0 is not above 0 seconds"),
    ],
)
def test_limits_are_checked(gamenet, option, text):
    with pytest.raises(ValueError, match=text):
        gamenet.Limits(**option)
    gamenet.Limits(max_resume_buffer=16_384, max_seats_away=1, link_timeout=None)


def test_states_of_a_loss(gamenet):
    async def main():
        async with world(gamenet) as (net, _server), client_of(gamenet, net) as client:
            await client.connected()
            net.reset()
            await settle()
            assert names(client.seen) == ["Connecting", "Connected", "Lost", "Waiting", "Connecting", "Connected"]

    run(gamenet, main)
