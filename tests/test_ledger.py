"""The ledger: it balances after every turn whatever peers and handlers do, and its marks of what is being handled."""

import asyncio
import contextlib
import struct

import pytest
from layouts import LAYOUTS
from wire import wire


class Transport:
    def write(self, data):
        pass


def test_the_ledger_says_what_is_handled_now(gamenet):
    """Also in a packet handled inside another, and again behind it."""
    core = gamenet._core
    pool, ledger, table = core.PoolAllocator(1024), core.Ledger(), core.RouteTable()
    codec = core.codec_for(gamenet.BOOK_HEADER, 1024)
    flushes = core.FlushQueue(lambda flush: None)
    outer, inner = (core.Stream(codec, pool, table, ledger, flushes, lambda: 0.0) for _ in range(2))
    seen = []

    def look(stream, packet):
        seen.append((ledger.pumping, ledger.packet_id, len(packet) if isinstance(packet, gamenet.Batch) else 1))

    def nest(stream, packet):
        look(stream, packet)
        inner.data_received(codec.frame(1, b"") + codec.frame(2, b"") + codec.frame(2, b""))
        look(stream, packet)

    def fail(stream, packet):
        inner.data_received(codec.frame(1, b""))
        raise KeyboardInterrupt

    table.set(1, core.Route(look))
    table.set(2, core.Route(look, is_batch=True))
    table.set(60000, core.Route(nest))
    table.set(9, core.Route(fail))
    for stream in (outer, inner):
        stream.attach(Transport())
    outer.data_received(codec.frame(60000, b"") + codec.frame(1, b""))
    ids = id(outer), id(inner)
    assert seen == [
        (ids[0], 60000, 1), (ids[1], 1, 1), (ids[1], 2, 2), (ids[0], 60000, 1), (ids[0], 1, 1)
    ]
    assert (ledger.pumping, ledger.packet_id) == (0, 0)
    with pytest.raises(KeyboardInterrupt):
        outer.data_received(codec.frame(9, b""))
    assert (ledger.pumping, ledger.packet_id) == (0, 0)


@pytest.mark.parametrize("waits", [False, True])
def test_bytes_that_cannot_be_decoded_are_accounted_for(gamenet, waits):
    """Those of a chunk, and those that had arrived before the transform was set."""
    core = gamenet._core
    pool, ledger, table = core.PoolAllocator(1024), core.Ledger(), core.RouteTable()
    codec = core.codec_for(gamenet.BOOK_HEADER, 1024)
    stream = core.Stream(codec, pool, table, ledger, core.FlushQueue(lambda flush: None), lambda: 0.0)

    def refuse(data):
        raise ValueError("bad padding")

    table.set(1, core.Route(lambda stream, packet: stream.set_transform(refuse)))
    stream.attach(Transport())
    stream.data_received(codec.frame(1, b"") + (bytes(20) if waits else b""))
    if not waits:
        assert ledger.bytes_in == ledger.bytes_dispatched == 8
        stream.data_received(bytes(20))
    assert (ledger.bytes_in, ledger.bytes_dispatched, ledger.bytes_rejected, ledger.bytes_discarded) == (28, 8, 20, 0)
    assert (ledger.rejected_invalid, stream.is_open, stream.inbox_size) == (1, False, 0)


# -- the balance


class Chaotic:
    """A server whose handlers do everything that a session allows, at random."""

    def __init__(self, gamenet, rng, server):
        self.gamenet, self.rng, self.server = gamenet, rng, server
        server.on(1)(self.handle)
        server.on(2, cost=5)(self.wait)
        server.on_batch(3)(self.handle)
        server.on(4)(self.handle)
        server.on_opened(self.opened)
        server.on_closed(self.closed)
        server.when_slow(7, rng.choice(["drop_oldest", "drop_newest", "keep_latest"]))
        if rng.random() < 0.3:
            server.require_login(1)

    def opened(self, session):
        if self.rng.random() < 0.1:
            self.rng.choice([session.close, session.abort])("at once")

    def closed(self, session, reason):
        check(self.server.stats())
        if self.rng.random() < 0.1:
            raise ValueError("of the hook")

    def handle(self, session, thing):
        do = self.rng.choice([*[self.answer] * 6, self.fail, self.end, self.change, self.halt, self.nest, self.replace])
        do(session, thing)

    async def wait(self, session, packet):
        await asyncio.sleep(self.rng.choice([0, 0.001, 0.01]))
        check(self.server.stats())
        self.handle(session, packet)

    def answer(self, session, thing):
        thing.reply() if isinstance(thing, self.gamenet.Batch) else session.reply(thing)
        session.send_threadsafe(5, b"hello")
        self.server.sessions.broadcast(6, bytes(self.rng.choice([0, 10, 1000])))
        for _ in range(self.rng.randrange(9)):
            with contextlib.suppress(ValueError):  # in the layout that it has now
                session.send(7, bytes(900))

    def fail(self, session, thing):
        raise self.rng.choice([KeyError, self.gamenet.InvalidPacketError])("of the handler")

    def end(self, session, thing):
        if self.rng.random() < 0.2:
            self.rng.choice([session.close, session.finish, session.abort, lambda: session.transport.abort()])()

    def change(self, session, thing):
        def scrambled(data):
            if self.rng.random() < 0.1:
                raise ValueError("of the transform")
            return data[: self.rng.choice([1, 100, len(data)])]

        session.set_transform(self.rng.choice([None, scrambled]), self.rng.choice([None, bytes]))
        with contextlib.suppress(ValueError):
            session.layout = self.rng.choice([session.layout, *LAYOUTS.values()])

    def halt(self, session, thing):
        session.suspend()
        asyncio.get_running_loop().call_later(self.rng.choice([0, 0.01]), session.resume_reading)

    def nest(self, session, thing):
        session.is_logged_in = self.rng.random() < 0.8
        session.data_received(wire(self.rng.choice([1, 2, 3, 4, 9])))

    def replace(self, session, thing):
        self.server.on(4)(self.rng.choice([self.handle, self.wait]))


def hostile_bytes(rng):
    """Packets, some of them short, unknown, cut or mere noise."""
    stream = bytearray()
    for _ in range(rng.randrange(1, 60)):
        body = rng.randbytes(rng.choice([0, 0, 3, 4, 10, 100, 1000]))
        stream += struct.pack("<HHI", rng.choice([1, 1, 1, 2, 3, 3, 3, 4, 9]), 8 + len(body), rng.randrange(9)) + body
    if rng.random() < 0.3:
        stream[rng.randrange(len(stream))] ^= 1 << rng.randrange(8)
    return bytes(stream[: rng.randrange(len(stream))] if rng.random() < 0.2 else stream)


async def attack(net, server, rng):
    for _ in range(3):
        reader, writer = await net.open(server)
        with contextlib.suppress(ConnectionError, TimeoutError):
            for _ in range(rng.randrange(1, 5)):
                data = hostile_bytes(rng)
                while data and not writer.is_closing():
                    size = rng.choice([1, 8, 20, 100, 5000, 100_000])
                    writer.write(data[:size])
                    data = data[size:]
                    await asyncio.sleep(rng.choice([0, 0, 0.001]))
                if rng.random() < 0.5:
                    await asyncio.wait_for(reader.read(1 << 16), 0.02)
        rng.choice([writer.transport.abort, writer.close])()


def chaotic_options(rng):
    """Small limits, so that each is met."""
    return {
        "assembly_timeout": 0.3, "write_timeout": 0.5, "close_timeout": 0.5, "login_timeout": 0.5,
        "idle_timeout": rng.choice([0.2, None]), "max_packet_size": rng.choice([1100, 8192]),
        "max_read_buffer": rng.choice([1, 100, 65536]), "max_write_buffer": rng.choice([10_000, 1 << 20]),
        "high_watermark": 5000, "low_watermark": 1000, "dispatch_budget": rng.choice([1e-6, 1e-4, None]),
        "max_packets_per_second": rng.choice([None, 50.0, 10_000.0]),
        "rate_exceeded": rng.choice(["wait", "reject", "close"]), "unknown_packets": rng.choice(["reject", "close"]),
        "handler_errors": rng.choice(["continue", "close"]), "max_sessions": rng.choice([2, 100]),
    }


@pytest.mark.parametrize("ends_early", [False, True])
async def test_it_balances_after_every_turn(gamenet, net, rng, ends_early):
    for _ in range(3):
        server = await net.server(**chaotic_options(rng))
        Chaotic(gamenet, rng, server)
        attacks = [asyncio.ensure_future(attack(net, server, rng)) for _ in range(5)]
        turns = rng.randrange(1, 200) if ends_early else 5000
        while turns and not all(attack.done() for attack in attacks):
            check(server.stats())
            await asyncio.sleep(0)
            turns -= 1
        for task in attacks:
            task.cancel()
        await asyncio.gather(*attacks, return_exceptions=True)
        await server.stop(rng.choice([0, 0.1]))
        stats = server.stats()
        check(stats)
        assert (stats["sessions"], stats["bytes_buffered"], stats["pool"]["outstanding"]) == (0, 0, 0)


def check(stats):
    """The ledger's promise: every byte that came in, every session and every call is accounted for."""
    accounted = sum(stats[f"bytes_{fate}"] for fate in ("dispatched", "rejected", "discarded", "buffered"))
    assert stats["bytes_in"] == accounted, stats
    assert stats["accepted"] == stats["sessions"] + sum(stats["closed"].values())
    mailbox = stats["mailbox"]
    assert mailbox["accepted"] == mailbox["delivered"] + mailbox["discarded"] + mailbox["waiting"]
