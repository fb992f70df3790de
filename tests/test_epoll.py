"""The epoll transport: the same scripts on the loop's own transport and on ours, and what only ours promises.

Our end is a plain `asyncio.Protocol`, a `BufferedProtocol` or a compiled stream; the other end is a raw socket.
"""

import asyncio
import errno
import gc
import importlib
import importlib.util
import inspect
import os
import random
import socket
import struct
import sys
import warnings
from collections import Counter
from contextlib import suppress
from itertools import chain

import pytest
import pytest_asyncio
from wire import wire

import gamenet

if sys.platform != "linux" or gamenet.backend != "compiled":
    pytest.skip("the epoll transport is for Linux and the compiled gamenet", allow_module_level=True)

import resource

from gamenet import _compiled as compiled
from gamenet import listener
from gamenet.admission import Admission
from gamenet.transports import epoll_acceptor
from gamenet.transports.epoll import EpollTransport, Poller
from gamenet.transports.sockets import listen

SMALL = 4096  # bytes of a socket's buffer where a test wants a backlog
LARGE = 1 << 20  # more than the kernel takes from us while such a peer does not read
READ_SIZES = [65536, 262144]  # that one read of ours, or of asyncio's, brings at most
NEW_LOOPS = [asyncio.new_event_loop]
if importlib.util.find_spec("uvloop"):
    NEW_LOOPS.append(importlib.import_module("uvloop").new_event_loop)


# -- the two ends


class End:
    """Our end. It notes what it is told; the reaction of a callback's name, if there is one, comes after the note."""

    def __init__(self, **reactions):
        super().__init__()
        self.reactions = reactions
        self.calls = []  # their names, but for data
        self.data = bytearray()
        self.transport = None
        self.lost = asyncio.get_running_loop().create_future()

    def react(self, name, *values):
        reaction = self.reactions.get(name)
        return reaction(self, *values) if reaction else None

    def note(self, name):
        self.calls.append(name)
        return self.react(name)

    def took(self, data):
        assert "connection_lost" not in self.calls
        self.data += data
        self.react("data")

    def connection_made(self, transport):
        self.transport = transport
        self.note("connection_made")

    def eof_received(self):
        return self.note("eof_received")

    def pause_writing(self):
        self.note("pause_writing")

    def resume_writing(self):
        self.note("resume_writing")

    def connection_lost(self, error):
        if not self.lost.done():
            self.lost.set_result(error)
        self.note("connection_lost")


class PlainEnd(End, asyncio.Protocol):
    def data_received(self, data):
        self.took(data)


class BufferedEnd(End, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        self.buffer = bytearray(3000)
        return self.react("get_buffer") or memoryview(self.buffer)

    def buffer_updated(self, nbytes):
        self.took(self.buffer[:nbytes])


class EchoStream(compiled.Stream, asyncio.BufferedProtocol):
    """A stream that puts the packets it cut together again."""

    def __init__(self):
        routes = compiled.RouteTable()
        routes.set(1, compiled.Route(lambda stream, packet: stream.took(wire(1, packet.body, packet.sequence))))
        queue = compiled.FlushQueue(asyncio.get_running_loop().call_soon)
        parts = compiled.HeaderCodec(), compiled.PoolAllocator(), routes, compiled.Ledger(), queue, lambda: 0.0
        super().__init__(*parts, receiver=compiled.Receiver())

    def on_handler_error(self, packet_id, error):
        asyncio.get_running_loop().call_exception_handler({"message": "handler", "exception": error})


class StreamEnd(End, EchoStream):
    def connection_made(self, transport):
        self.attach(transport)
        super().connection_made(transport)


class Peer:
    """The other end: a raw socket."""

    def __init__(self, sock):
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    def send(self, data):
        """Send in this very moment, before the loop goes on."""
        assert self.sock.send(data) == len(data)

    async def send_all(self, data):
        await self.loop.sock_sendall(self.sock, data)

    async def receive(self, size):
        received = bytearray()
        while len(received) < size:
            data = await asyncio.wait_for(self.loop.sock_recv(self.sock, size - len(received)), 10)
            assert data, f"the stream ended after {len(received)} of {size} bytes"
            received += data
        return received

    async def receive_to_end(self):
        received = bytearray()
        while data := await asyncio.wait_for(self.loop.sock_recv(self.sock, 65536), 10):
            received += data
        return received

    def end(self):
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()


class EpollServer:
    """What `loop.create_server()` returns, of our listener and acceptor."""

    def __init__(self, loop, sockets, factory):
        self.admission = Admission(10_000)
        self.failures = []
        try:
            self.listener = listener.Listener(
                loop, sockets, self.admission, self.new_acceptor, factory, lambda *failed: self.failures.append(failed)
            )
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        self.listener.start()

    def new_acceptor(self, failed):
        self.acceptor = epoll_acceptor.EpollAcceptor(asyncio.get_running_loop(), failed)
        return self.acceptor

    @property
    def sockets(self):
        return self.listener.sockets

    def is_serving(self):
        return bool(self.listener.sockets)

    def close(self):
        self.listener.close()

    async def wait_closed(self):
        await self.listener.wait_closed()
        await asyncio.shield(self.acceptor.poller.finished)


class Network:
    """Listeners and connections of one test, by one kind of transport."""

    def __init__(self, kind):
        self.kind = kind
        self.loop = asyncio.get_running_loop()
        self.is_uvloops = kind == "loop" and type(self.loop).__module__.startswith("uvloop")
        self.complaints = []  # contexts of the loop's exception handler
        self.servers = []
        self.peers = []
        self.ends = []

    def skip_uvloops(self, reason):
        """Where uvloop's own transports are no reference."""
        if self.is_uvloops:
            pytest.skip(f"uvloop's own {reason}")

    def skip_asyncios(self, reason):
        """Where asyncio's own transports are no reference, either: since 3.12 they keep views of what they are given."""
        if self.kind == "loop" and sys.version_info >= (3, 12):
            pytest.skip(f"asyncio's own {reason}")

    async def listen(self, make, host="127.0.0.1", port=0, backlog=1000):
        def factory():
            end = make()
            self.ends.append(end)
            return end

        if self.kind == "loop":
            server = await self.loop.create_server(factory, host, port, backlog=backlog)
        else:
            server = EpollServer(self.loop, await listen(self.loop, host, port, backlog), factory)
        self.servers.append(server)
        return server

    def start_connecting(self, server, small=False):
        """A peer that the kernel has connected, and whom we did not accept yet."""
        sock = socket.socket()
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(server.sockets[0].getsockname())
        sock.setblocking(False)
        self.peers.append(Peer(sock))
        return self.peers[-1]

    async def connect(self, end_type=PlainEnd, small=False, **reactions):
        """A new connection: our end, once it was told, and the peer. Small: few bytes fit into the sockets."""
        server = await self.listen(lambda: end_type(**reactions))
        ends = len(self.ends)
        peer = self.start_connecting(server, small)
        await until(lambda: len(self.ends) > ends and self.ends[-1].transport is not None)
        end = self.ends[-1]
        if small:
            end.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        return end, peer

    async def fill(self, end, size=LARGE):
        """Have our end write more than the sockets take; returns it."""
        data = random.Random(size).randbytes(size)
        end.transport.write(data)
        await turns()
        assert end.transport.get_write_buffer_size() > size // 4
        return data

    async def stop(self):
        for peer in self.peers:
            peer.close()
        for server in self.servers:
            server.close()
        for end in self.ends:
            if end.transport is not None and "connection_lost" not in end.calls:
                end.transport.abort()
        for end in self.ends:
            if end.transport is not None:
                await asyncio.wait_for(asyncio.shield(end.lost), 10)
        for server in self.servers:
            await asyncio.wait_for(server.wait_closed(), 10)
        await turns()


async def turns(number=5):
    """Let the loop do what it has to do now."""
    for _ in range(number):
        await asyncio.sleep(0)


async def until(condition, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0)


def open_sockets():
    """Descriptors of sockets and of epoll sets that this process has."""
    kinds = Counter()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            kinds[os.readlink(f"/proc/self/fd/{name}").partition("[")[0]] += 1
    return {kind: kinds[kind] for kind in ("socket:", "anon_inode:")}


@pytest_asyncio.fixture(params=["loop", "epoll"])
async def network(request):
    """Afterwards everything is closed, nobody complained, and every connection began and ended once."""
    before = open_sockets()
    network = Network(request.param)
    network.loop.set_exception_handler(lambda loop, context: network.complaints.append(context))
    yield network
    await network.stop()
    if network.kind == "loop":  # asyncio's own may end a connection twice, and stumble over it
        network.complaints = [said for said in network.complaints if "_call_connection_lost" not in said["message"]]
    assert network.complaints == []
    for end in network.ends:
        assert Counter(end.calls)["connection_made"] == Counter(end.calls)["connection_lost"] == 1
        assert end.calls.index("connection_lost") == len(end.calls) - 1
        writing = [call for call in end.calls if call.endswith("_writing")]
        assert writing == ["pause_writing", "resume_writing"] * (len(writing) // 2) + writing[len(writing) // 2 * 2 :]
    assert open_sockets() == before


only_epoll = pytest.mark.parametrize("network", ["epoll"], indirect=True)
every_end = pytest.mark.parametrize("end_type", [PlainEnd, BufferedEnd, StreamEnd])


def packets(size, seed=0):
    """Whole packets of `size` bytes together, in no order: a stream puts them together again."""
    rng, parts, left = random.Random(size + seed), [], size
    while left:
        body = min(rng.choice([0, 3, 100, 5000]), left - 8)
        body += left - 8 - body if left - 8 - body < 8 else 0
        parts.append(wire(1, rng.randbytes(body), len(parts)))
        left -= len(parts[-1])
    return b"".join(parts)


def shown(end):
    return end.calls, bytes(end.data)


# -- the interface


def test_it_has_every_method_of_asyncios_transport():
    for name in dir(asyncio.Transport):
        if not name.startswith("_"):
            ours, theirs = (getattr(owner, name) for owner in (EpollTransport, asyncio.Transport))
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name


async def test_a_transport_knows_its_addresses_and_its_socket(network):
    end, peer = await network.connect()
    info = end.transport.get_extra_info
    assert info("peername") == peer.sock.getsockname()
    assert info("sockname") == peer.sock.getpeername()
    assert info("socket").fileno() >= 0
    assert info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert (info("sslcontext"), info("cipher", "none")) == (None, "none")
    assert end.transport.get_protocol() is end


async def test_a_transport_says_what_it_does(network):
    end, _ = await network.connect(small=True)
    transport = end.transport
    assert (transport.is_closing(), transport.is_reading(), transport.can_write_eof()) == (False, True, True)
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    transport.resume_reading()
    transport.resume_reading()
    assert transport.is_reading()
    await network.fill(end)
    transport.close()
    assert (transport.is_closing(), transport.is_reading()) == (True, False)
    transport.resume_reading()
    assert not transport.is_reading()


@only_epoll
async def test_it_shows_itself_in_every_state(network):
    end, _ = await network.connect(small=True)
    states = [repr(end.transport)]
    await network.fill(end)
    end.transport.close()
    states.append(repr(end.transport))
    end.transport.abort()
    await end.lost
    states.append(repr(end.transport))
    assert [state.rpartition(",")[0].split()[-1] for state in states] == ["open", "closing", "lost"]
    assert all(str(end.transport.get_extra_info("peername")) in state for state in states)


async def test_what_is_over_stays_over(network):
    network.skip_uvloops("raises RuntimeError then")
    network.skip_asyncios("writelines() raises TypeError then")
    end, peer = await network.connect()
    transport = end.transport
    peername = transport.get_extra_info("peername")
    transport.close()
    await end.lost
    await turns()
    transport.write(b"more")
    transport.writelines([b"more"])
    transport.pause_reading()
    transport.resume_reading()
    transport.write_eof()
    transport.close()
    transport.abort()
    transport.set_write_buffer_limits(high=0)
    await turns()
    assert transport.is_closing()
    assert not transport.is_reading()
    assert transport.get_write_buffer_size() == 0
    assert transport.get_extra_info("peername") == peername
    assert end.calls == ["connection_made", "connection_lost"]
    assert await peer.receive_to_end() == b""


async def test_asyncios_streams_run_on_it(network):
    async def echo(reader, writer):
        while data := await reader.read(10_000):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    def make():
        reader = asyncio.StreamReader(limit=4096)
        return asyncio.StreamReaderProtocol(reader, echo)

    server = await network.listen(make)
    network.ends.clear()
    for number in range(3):
        peer, data = network.start_connecting(server), random.Random(number).randbytes(300_000)
        answer = asyncio.ensure_future(peer.receive_to_end())
        await peer.send_all(data)
        peer.end()
        assert await answer == data
        network.ends.clear()


# -- reading


@every_end
async def test_a_connection_is_told_of_its_life_in_order(network, end_type):
    end, peer = await network.connect(end_type)
    data = packets(100)
    peer.send(data)
    await until(lambda: len(end.data) == 100)
    assert shown(end) == (["connection_made"], data)
    peer.close()
    assert await end.lost is None
    assert shown(end) == (["connection_made", "eof_received", "connection_lost"], data)


@every_end
@pytest.mark.parametrize("size", [0, 8, 3000, *chain(*([size - 8, size - 1, size, size + 8] for size in READ_SIZES))])
async def test_an_end_that_comes_together_with_the_last_bytes_is_noticed(network, end_type, size):
    end, peer = await network.connect(end_type)
    end.transport.pause_reading()
    data = packets(size)
    sending = asyncio.ensure_future(peer.send_all(data))
    if size < 3 * SMALL:
        await sending
        peer.end()
    end.transport.resume_reading()
    await sending
    peer.sock.close()
    assert await asyncio.wait_for(end.lost, 10) is None
    assert shown(end) == (["connection_made", "eof_received", "connection_lost"], data)


@every_end
@pytest.mark.parametrize("size", [8, 65536, 100_000])
async def test_what_came_before_we_accepted_is_read(network, end_type, size):
    server = await network.listen(end_type)
    peer, data = network.start_connecting(server), packets(size)
    sent = peer.sock.send(data)
    if sent == size:
        peer.end()
    await until(lambda: network.ends and len(network.ends[0].data) >= sent - 5008)
    if sent < size:
        await peer.send_all(data[sent:])
    peer.close()
    assert await network.ends[0].lost is None
    assert bytes(network.ends[0].data) == data


@every_end
async def test_bytes_around_an_urgent_one_are_all_read(network, end_type):
    server = await network.listen(end_type)
    peer, data = network.start_connecting(server), packets(3000)
    peer.send(data[:1000])
    peer.sock.send(b"!", socket.MSG_OOB)
    peer.send(data[1000:])
    await until(lambda: network.ends and len(network.ends[0].data) >= 3000)
    peer.send(data)
    await until(lambda: len(network.ends[0].data) >= 6000)
    assert network.ends[0].data == data * 2


@every_end
async def test_nothing_is_read_while_reading_is_paused(network, end_type):
    end, peer = await network.connect(end_type)
    end.transport.pause_reading()
    first, second = packets(1000), packets(2000)
    peer.send(first)
    await turns()
    peer.send(second)
    await turns()
    assert not end.data
    end.transport.resume_reading()
    await until(lambda: len(end.data) == 3000)
    end.transport.pause_reading()
    end.transport.resume_reading()
    await turns()
    peer.send(first)
    await until(lambda: len(end.data) == 4000)
    assert end.data == first + second + first


@pytest.mark.parametrize("end_type", [PlainEnd, BufferedEnd])
async def test_reading_that_pauses_with_every_piece_loses_none(network, end_type):
    def pause_for_a_turn(end):
        end.transport.pause_reading()
        network.loop.call_soon(end.transport.resume_reading)

    end, peer = await network.connect(end_type, data=pause_for_a_turn)
    data = packets(600_000)
    await peer.send_all(data)
    peer.close()
    assert await asyncio.wait_for(end.lost, 10) is None
    assert end.data == data


@every_end
async def test_an_end_while_reading_is_paused_comes_after_the_bytes_before_it(network, end_type):
    end, peer = await network.connect(end_type)
    end.transport.pause_reading()
    data = packets(2000)
    peer.send(data)
    peer.close()
    await turns()
    assert shown(end) == (["connection_made"], b"")
    end.transport.resume_reading()
    assert await end.lost is None
    assert shown(end) == (["connection_made", "eof_received", "connection_lost"], data)


async def test_an_end_alone_while_reading_is_paused_is_told_when_it_goes_on(network):
    end, peer = await network.connect()
    end.transport.pause_reading()
    await turns()
    peer.end()
    await turns()
    assert end.calls == ["connection_made"]
    end.transport.resume_reading()
    assert await end.lost is None


@only_epoll  # asyncio's starts to read all the same, up to Python 3.11
async def test_reading_paused_while_the_connection_is_made_goes_on_later(network):
    end, peer = await network.connect(connection_made=lambda end: end.transport.pause_reading())
    peer.send(b"early")
    await turns()
    assert not end.data
    end.transport.resume_reading()
    await until(lambda: end.data == b"early")


@pytest.mark.parametrize("end_type", [PlainEnd, BufferedEnd])
async def test_a_protocol_may_be_replaced_while_it_is_called(network, end_type):
    def replace(end):
        end.transport.set_protocol(new)
        new.connection_made(end.transport)
        end.connection_lost(None)  # the fixture wants it

    new = StreamEnd()
    end, peer = await network.connect(end_type, data=replace)
    network.ends.append(new)
    peer.send(b"old")
    await until(lambda: end.data == b"old")
    assert new.transport.get_protocol() is new
    data = packets(1000)
    peer.send(data)
    peer.close()
    assert await new.lost is None
    assert (bytes(end.data), shown(new)) == (b"old", (["connection_made", "eof_received", "connection_lost"], data))


@only_epoll
async def test_a_stream_may_be_replaced_in_its_own_handler_and_die(network):
    """The transport held the only reference to it."""

    class Dying(EchoStream):
        def connection_made(self, transport):
            self.attach(transport)
            self.transport_ = transport

        def took(self, data):
            handled.append(data)
            if len(handled) == 1:
                self.transport_.set_protocol(new)
                new.transport = self.transport_
                new.calls.append("connection_made")

        def __del__(self):
            handled.append("gone")

    handled, new = [], PlainEnd()
    server = await network.listen(Dying)
    peer = network.start_connecting(server)
    await until(lambda: network.ends)
    network.ends[:] = [new]
    await turns()
    peer.send(packets(300))
    await until(lambda: "gone" in handled)
    assert b"".join(handled[:-1]) == packets(300)
    peer.send(b"new")
    await until(lambda: new.data == b"new")


# -- writing


@pytest.mark.parametrize("size", [0, 1, 3000, LARGE])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, type("Bytes", (bytes,), {})])
async def test_bytes_of_every_kind_are_sent(network, kind, size):
    end, peer = await network.connect()
    data = random.Random(size).randbytes(size)
    end.transport.write(kind(data))
    end.transport.write(b"last")
    assert await peer.receive(size + 4) == data + b"last"


async def test_what_was_written_is_not_seen_to_change(network):
    network.skip_uvloops("refers to what it was given")
    network.skip_asyncios("refers to what it was given")
    end, peer = await network.connect(small=True)
    before = await network.fill(end)
    data = bytearray(b"a" * LARGE)
    end.transport.write(data)
    data[:] = b"b" * LARGE
    assert await peer.receive(2 * LARGE) == before + b"a" * LARGE


async def test_other_things_are_refused_and_the_connection_goes_on(network):
    network.skip_uvloops("does not look at nothing")
    end, peer = await network.connect()
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError):
            end.transport.write(wrong)
    end.transport.write(b"right")
    assert await peer.receive(5) == b"right"


@pytest.mark.parametrize("sizes", [(1, 5), (1000, 3000), (0, 100_000)])
async def test_a_backlog_of_many_pieces_arrives_in_order(network, rng, sizes):
    end, peer = await network.connect(small=True)
    expected = bytearray(await network.fill(end, 65536 * 2))
    for number in range(300):
        piece = rng.randbytes(rng.randint(*sizes))
        expected += piece
        if number % 3:
            end.transport.write(piece)
        else:
            end.transport.writelines(iter([piece[:2], b"", bytearray(piece[2:])]))
    end.transport.close()
    assert await peer.receive_to_end() == expected
    assert await end.lost is None


async def test_the_protocol_is_paused_above_the_high_mark_and_resumed_at_the_low_one(network):
    seen = []
    end, peer = await network.connect(
        small=True, resume_writing=lambda end: seen.append(end.transport.get_write_buffer_size())
    )
    end.transport.set_write_buffer_limits(high=200_000, low=50_000)
    assert end.transport.get_write_buffer_limits() == (50_000, 200_000)
    data = await network.fill(end)
    end.transport.write(b"x")
    assert end.calls == ["connection_made", "pause_writing"]
    assert await peer.receive(LARGE + 1) == data + b"x"
    await until(lambda: end.calls == ["connection_made", "pause_writing", "resume_writing"])
    assert seen[0] <= 50_000


async def test_no_byte_may_wait_where_the_high_mark_is_zero(network):
    end, peer = await network.connect(small=True)
    end.transport.set_write_buffer_limits(high=0)
    data = await network.fill(end)
    assert end.calls == ["connection_made", "pause_writing"]
    assert await peer.receive(LARGE) == data
    await until(lambda: end.calls[-1] == "resume_writing")
    assert end.transport.get_write_buffer_size() == 0


async def test_a_mark_below_what_waits_pauses_at_once(network):
    end, _ = await network.connect(small=True)
    end.transport.set_write_buffer_limits(high=10 * LARGE)
    await network.fill(end)
    assert end.calls == ["connection_made"]
    end.transport.set_write_buffer_limits(high=1000)
    assert end.calls == ["connection_made", "pause_writing"]


async def test_marks_have_defaults_and_are_checked(network):
    network.skip_uvloops("has another default for the low mark")
    end, _ = await network.connect()
    limits = end.transport.get_write_buffer_limits
    assert limits() == (16384, 65536)
    end.transport.set_write_buffer_limits(low=100)
    assert limits() == (100, 400)
    end.transport.set_write_buffer_limits(high=100)
    assert limits() == (25, 100)
    for wrong in ({"high": 5, "low": 6}, {"low": -1}, {"high": -1}):
        with pytest.raises(ValueError):
            end.transport.set_write_buffer_limits(**wrong)
    assert limits() == (25, 100)


async def test_a_protocol_may_write_while_it_is_paused_and_resumed(network):
    def pause(end):
        end.transport.write(b"<pause>")

    def resume(end):
        if end.calls.count("resume_writing") < 4:
            end.transport.write(b"<resume>" + b"x" * 150_000)
        else:
            end.transport.close()

    end, peer = await network.connect(small=True, pause_writing=pause, resume_writing=resume)
    data = await network.fill(end)
    expected = data + b"<pause>" + (b"<resume>" + b"x" * 150_000 + b"<pause>") * 3
    assert await peer.receive_to_end() == expected
    assert await end.lost is None


@pytest.mark.parametrize("has_backlog", [False, True])
async def test_the_end_of_our_stream_follows_its_last_byte_and_reading_goes_on(network, has_backlog):
    end, peer = await network.connect(small=True, eof_received=lambda end: True)
    data = await network.fill(end) if has_backlog else b""
    end.transport.write(b"last")
    end.transport.write_eof()
    end.transport.write_eof()
    with pytest.raises(RuntimeError, match="write_eof"):
        end.transport.write(b"too late")
    assert await peer.receive_to_end() == data + b"last"
    peer.send(b"still here")
    await until(lambda: end.data == b"still here")
    assert not end.transport.is_closing()
    peer.end()
    await until(lambda: "eof_received" in end.calls)
    end.transport.close()
    assert await end.lost is None


@every_end
async def test_a_half_closed_connection_can_still_be_written_to(network, end_type):
    end, peer = await network.connect(end_type, small=True, eof_received=lambda end: True)
    peer.end()
    await until(lambda: "eof_received" in end.calls)
    end.transport.pause_reading()
    end.transport.resume_reading()
    data = await network.fill(end)
    assert await peer.receive(LARGE) == data
    end.transport.write(b"bye")
    end.transport.close()
    assert await peer.receive_to_end() == b"bye"
    assert await end.lost is None


async def test_an_end_without_an_answer_closes_after_what_was_written(network):
    end, peer = await network.connect(small=True)
    data = await network.fill(end)
    peer.end()
    await until(lambda: end.transport.is_closing())
    assert await peer.receive_to_end() == data
    assert await end.lost is None


# -- ending


async def test_close_sends_what_is_left_and_what_is_written_meanwhile(network):
    end, peer = await network.connect(small=True)
    data = await network.fill(end)
    end.transport.close()
    end.transport.close()
    end.transport.write(b"after")
    assert await peer.receive_to_end() == data + b"after"
    assert await end.lost is None


@every_end
async def test_close_reads_nothing_more(network, end_type):
    end, peer = await network.connect(end_type, small=True)
    await network.fill(end)
    end.transport.close()
    end.transport.resume_reading()
    peer.send(packets(100))
    peer.end()
    with suppress(ConnectionError):  # a socket that is closed with bytes in it resets the connection
        await peer.receive_to_end()
    assert await end.lost is None
    assert shown(end) == (["connection_made", "pause_writing", *end.calls[2:-1], "connection_lost"], b"")
    assert "eof_received" not in end.calls


@every_end
async def test_abort_drops_what_is_left(network, end_type):
    end, peer = await network.connect(end_type, small=True)
    await network.fill(end)
    end.transport.abort()
    end.transport.abort()
    end.transport.close()
    end.transport.write(b"after")
    assert end.transport.get_write_buffer_size() == 0 or network.is_uvloops
    assert end.transport.is_closing()
    assert "connection_lost" not in end.calls
    assert await end.lost is None
    assert len(await peer.receive_to_end()) < LARGE


async def test_abort_ends_a_close_whose_peer_does_not_read(network):
    end, _ = await network.connect(small=True)
    await network.fill(end)
    end.transport.close()
    await turns()
    assert "connection_lost" not in end.calls
    end.transport.abort()
    assert await end.lost is None


def close(end):
    end.transport.close()


def abort(end):
    end.transport.abort()


def close_and_abort(end):
    end.transport.close()
    end.transport.write(b"more")
    end.transport.abort()
    end.transport.write_eof()


@pytest.mark.parametrize("ending", [close, abort, close_and_abort])
@pytest.mark.parametrize("callback", ["connection_made", "data", "eof_received", "pause_writing", "resume_writing"])
async def test_a_connection_may_be_ended_in_every_callback(network, callback, ending):
    if network.kind == "loop" and callback == "resume_writing" and ending is not close:
        pytest.skip("asyncio ends it twice")
    end, peer = await network.connect(small=True, **{callback: ending})
    if callback == "data":
        peer.send(b"data")
    elif callback == "pause_writing":
        end.transport.write(bytes(LARGE))
        if ending is close:
            await peer.receive(LARGE)
    elif callback == "resume_writing":
        await network.fill(end)
        await peer.receive(LARGE // 2)
        if ending is close:
            await peer.receive(LARGE // 2)
        else:
            with suppress(ConnectionError):
                await peer.receive_to_end()
    elif callback == "eof_received":
        peer.end()
    assert await asyncio.wait_for(end.lost, 10) is None


@every_end
async def test_nothing_is_read_behind_a_close_in_the_middle(network, end_type):
    server = await network.listen(lambda: end_type(data=close))
    peer, data = network.start_connecting(server), packets(200_000)
    peer.sock.send(data)
    await until(lambda: network.ends and network.ends[0].lost.done())
    assert 0 < len(network.ends[0].data) <= max(READ_SIZES)
    size = len(network.ends[0].data)
    await turns()
    assert len(network.ends[0].data) == size


async def test_a_connection_that_another_ended_in_this_turn_is_not_called(network):
    def end_others(end):
        for other in network.ends:
            if other is not end:
                other.transport.abort()

    server = await network.listen(lambda: PlainEnd(data=end_others))
    peers = [network.start_connecting(server) for _ in range(20)]
    await until(lambda: len(network.ends) == 20 and network.ends[-1].transport)
    await turns()
    for peer in peers:
        peer.send(b"data")
        peer.end()
    await until(lambda: sum(end.lost.done() for end in network.ends) == 20)
    assert sorted(bytes(end.data) for end in network.ends) == [b""] * 19 + [b"data"]


async def test_a_reset_is_told_as_the_error_that_it_is(network):
    end, peer = await network.connect()
    peer.reset()
    assert isinstance(await end.lost, ConnectionResetError)
    assert end.calls == ["connection_made", "connection_lost"]


@every_end
async def test_bytes_before_a_reset_are_read(network, end_type):
    end, peer = await network.connect(end_type, small=True)
    await network.fill(end)
    data = packets(1000)
    peer.send(data)
    peer.reset()
    assert isinstance(await end.lost, ConnectionError)
    assert end.data == data


async def test_a_reset_while_reading_is_paused_is_told_when_it_goes_on(network):
    end, peer = await network.connect()
    end.transport.pause_reading()
    peer.reset()
    await turns()
    assert end.calls == ["connection_made"]
    end.transport.resume_reading()
    assert isinstance(await end.lost, ConnectionResetError)


async def test_a_reset_while_reading_is_paused_ends_a_connection_that_sends(network):
    end, peer = await network.connect(small=True)
    await network.fill(end)
    end.transport.pause_reading()
    peer.reset()
    assert isinstance(await end.lost, ConnectionError)


async def test_a_reset_ends_a_close_that_still_sends(network):
    end, peer = await network.connect(small=True)
    await network.fill(end)
    end.transport.close()
    peer.reset()
    assert isinstance(await end.lost, ConnectionError)


async def test_writing_to_a_peer_that_is_gone_ends_the_connection(network):
    end, peer = await network.connect()
    end.transport.pause_reading()
    peer.reset()
    end.transport.write(b"hello")
    end.transport.write(b"hello")
    assert isinstance(await end.lost, ConnectionError)


@only_epoll
async def test_the_end_of_our_stream_to_a_peer_that_is_gone_ends_the_connection(network):
    end, peer = await network.connect()
    end.transport.pause_reading()
    peer.reset()
    end.transport.write_eof()
    assert isinstance(await end.lost, OSError)


# -- protocols that fail


class Oops(Exception):
    pass


def fail(end):
    raise Oops


def complaints_of(network):
    taken = [type(context["exception"]) for context in network.complaints]
    network.complaints.clear()
    return taken


@pytest.mark.parametrize("callback", ["data", "eof_received", "get_buffer"])
async def test_a_protocol_that_fails_to_read_is_reported_and_ended(network, callback):
    if callback == "get_buffer":
        network.skip_uvloops("does not keep the error")
    end, peer = await network.connect(BufferedEnd, **{callback: fail})
    with suppress(ConnectionError):
        peer.send(b"data")
        peer.end()
    assert isinstance(await end.lost, Oops)
    assert complaints_of(network) == [Oops]
    with suppress(ConnectionError):
        assert await peer.receive_to_end() == b""


async def test_a_cancellation_out_of_a_protocol_ends_its_connection_and_not_the_others(network):
    def cancel(end):
        raise asyncio.CancelledError

    end, peer = await network.connect(data=cancel)
    other, other_peer = await network.connect()
    peer.send(b"data")
    other_peer.send(b"data")
    assert isinstance(await end.lost, asyncio.CancelledError)
    await until(lambda: other.data == b"data")
    assert complaints_of(network) == [asyncio.CancelledError]


async def test_an_empty_buffer_is_an_error(network):
    end, peer = await network.connect(BufferedEnd, get_buffer=lambda end: Empty())
    peer.send(b"data")
    assert isinstance(await end.lost, RuntimeError)
    assert complaints_of(network) == [RuntimeError]


class Empty(bytearray):
    def __bool__(self):
        return True


@pytest.mark.parametrize("callback", ["pause_writing", "resume_writing"])
async def test_a_protocol_that_fails_to_pause_is_reported_and_goes_on(network, callback):
    end, peer = await network.connect(small=True, **{callback: fail})
    data = await network.fill(end)
    assert await peer.receive(LARGE) == data
    await until(lambda: end.calls[-1] == "resume_writing")
    await turns()
    assert complaints_of(network) == [Oops]
    end.transport.write(b"more")
    assert await peer.receive(4) == b"more"


async def test_a_protocol_that_fails_at_the_end_is_reported_and_its_socket_closed(network):
    end, peer = await network.connect(connection_lost=fail)
    end.transport.close()
    assert await peer.receive_to_end() == b""
    await turns()
    assert complaints_of(network) == [Oops]


@only_epoll
async def test_a_protocol_that_fails_at_the_beginning_is_reported_and_ended(network):
    server = await network.listen(lambda: PlainEnd(connection_made=fail))
    peer = network.start_connecting(server)
    assert await peer.receive_to_end() == b""
    assert isinstance(await network.ends[0].lost, Oops)
    assert complaints_of(network) == [Oops]


@only_epoll
async def test_a_socket_for_which_no_protocol_can_be_made_is_closed(network):
    def make():
        made.append(1)
        if len(made) == 1:
            raise Oops
        return PlainEnd()

    made = []
    server = await network.listen(make)
    first, second = network.start_connecting(server), network.start_connecting(server)
    assert await first.receive_to_end() == b""
    assert server.admission.accept_errors == {"Oops": 1}
    second.send(b"hello")
    await until(lambda: network.ends and network.ends[0].data == b"hello")


@only_epoll
async def test_a_socket_that_epoll_does_not_take_is_ended_with_the_reason(network, tmp_path):
    lost = asyncio.get_running_loop().create_future()

    class Told(PlainEnd):
        def __init__(self):
            super().__init__()
            self.lost = lost

    poller = Poller(network.loop)
    with (tmp_path / "file").open("w") as file:  # epoll takes no files
        poller.connect(FileSocket(file), None, Told())
        assert len(poller) == 1
        assert (await lost).errno == errno.EPERM
        await turns()
    assert len(poller) == 0
    poller.finish()


class FileSocket:
    """As much of a socket as a transport needs before it is connected."""

    def __init__(self, file):
        self.file = file

    def fileno(self):
        return -1 if self.file.closed else self.file.fileno()

    def close(self):
        self.file.close()


# -- a handler that stops the loop


@pytest.fixture(params=NEW_LOOPS, ids=lambda new_loop: new_loop.__module__.partition(".")[0])
def own_loop(request):
    """A loop that the test runs, and stops, itself."""
    before = open_sockets()
    loop = request.param()
    yield loop
    loop.close()
    gc.collect()
    assert open_sockets() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("end_type", [PlainEnd, StreamEnd])
def test_a_handler_that_stops_the_loop_takes_nothing_from_the_others(own_loop, end_type, error):
    def interrupt(end):
        if len(stops) < 3 and end is network.ends[len(stops)]:
            stops.append(end)
            raise error

    async def begin():
        network = Network("epoll")
        server = await network.listen(lambda: end_type(data=interrupt))
        for _ in range(20):
            network.start_connecting(server)
        await until(lambda: len(network.ends) == 20 and network.ends[-1].transport)
        await turns()
        return network

    async def receive():
        await until(lambda: [bytes(end.data) for end in network.ends] == [packet] * 20)

    stops, packet = [], wire(1, b"x" * 100)
    network = own_loop.run_until_complete(begin())
    for peer in network.peers:
        peer.send(packet)
    task = own_loop.create_task(receive())
    while len(stops) < 3:  # uvloop calls all of them before it stops
        with pytest.raises(error):
            own_loop.run_until_complete(task)
    own_loop.run_until_complete(task)
    own_loop.run_until_complete(network.stop())


def test_a_protocol_that_stops_the_loop_at_its_beginning_is_connected_all_the_same(own_loop):
    def interrupt(end):
        raise KeyboardInterrupt

    async def begin():
        network = Network("epoll")
        await network.listen(lambda: PlainEnd(connection_made=interrupt))
        return network

    async def receive():
        network.start_connecting(network.servers[0]).send(b"hello")
        await until(lambda: network.ends and network.ends[0].data == b"hello")

    network = own_loop.run_until_complete(begin())
    task = own_loop.create_task(receive())
    with pytest.raises(KeyboardInterrupt):
        own_loop.run_until_complete(task)
    own_loop.run_until_complete(task)
    own_loop.run_until_complete(network.stop())


@only_epoll
async def test_a_handler_that_runs_the_loop_itself_endangers_nobody(network):
    """As with nest_asyncio: the set is served, and connections are over, inside a handler."""
    if type(network.loop).__module__.startswith("uvloop"):
        pytest.skip("uvloop cannot be run inside itself")

    def nest(end):
        for other in ends[::2]:
            other.transport.abort()
        for _ in range(3):
            network.loop._run_once()
        gc.collect()
        network.servers[0].acceptor.poller.wake()
        for _ in range(100):  # the turn that we are in counted on those that ours has run
            network.loop.call_soon(int)

    server = await network.listen(lambda: PlainEnd(data=nest))
    peers = [network.start_connecting(server) for _ in range(21)]
    await until(lambda: len(network.ends) == 21 and network.ends[-1].transport)
    await turns()
    ends = network.ends[:]
    for peer in peers[1:]:
        peer.send(b"data")
    await until(lambda: all(end.data == b"data" for end in ends[1::2]))
    await turns()
    assert not any(end.data for end in ends[::2])
    # asyncio itself does not call us from within ourselves
    assert all("cannot enter context" in str(context["exception"]) for context in network.complaints)
    network.complaints.clear()


def test_a_forgotten_transport_is_warned_of_and_its_socket_closed(own_loop):
    async def begin():
        network = Network("epoll")
        _, peer = await network.connect()
        network.servers[0].close()
        peer.sock.setblocking(True)
        return peer.sock

    with own_loop.run_until_complete(begin()) as peer, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        own_loop.close()
        gc.collect()
        assert peer.recv(1) == b""
    # whichever the collector finds first, the transport or its socket
    assert [str(warning.message)[:8] for warning in caught] == ["unclosed"]


# -- the listener


async def test_a_thousand_that_come_at_once_are_accepted(network):
    server = await network.listen(PlainEnd)
    peers = [network.start_connecting(server) for _ in range(1000)]
    for number, peer in enumerate(peers):
        peer.send(b"%d" % number)
    await until(lambda: sum(bool(end.data) for end in network.ends) == 1000)
    assert {int(end.data) for end in network.ends} == set(range(1000))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "", None])
async def test_it_listens_on_every_address_of_its_host(network, host):
    server = await network.listen(PlainEnd, host)
    assert server.is_serving()
    families = [listening.family for listening in server.sockets]
    assert len(families) == len(set(families)) >= 1
    if not host:
        assert set(families) == {socket.AF_INET, socket.AF_INET6} or not has_ipv6()
    for number, listening in enumerate(server.sockets):
        peer = socket.create_connection(listening.getsockname()[:2])
        await until(lambda: len(network.ends) == number + 1)  # noqa: B023
        peer.close()
        await network.ends[-1].lost
    server.close()
    assert (server.is_serving(), len(server.sockets)) == (False, 0)


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


async def test_a_taken_port_is_an_error_and_nothing_stays_open(network):
    server = await network.listen(PlainEnd)
    before = open_sockets()
    with pytest.raises(OSError) as caught:
        await network.listen(PlainEnd, port=server.sockets[0].getsockname()[1])
    assert caught.value.errno == errno.EADDRINUSE
    gc.collect()
    assert open_sockets() == before


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_one_taken_address_of_two_is_an_error_and_nothing_stays_open(network):
    with socket.create_server(("::", 0), family=socket.AF_INET6) as taken:
        before = open_sockets()
        with pytest.raises(OSError) as caught:
            await network.listen(PlainEnd, None, taken.getsockname()[1])
        assert caught.value.errno == errno.EADDRINUSE
        assert open_sockets() == before


@only_epoll
async def test_without_ipv6_it_listens_on_ipv4(network, monkeypatch):
    original = socket.socket.__init__

    def without_ipv6(self, family=-1, *values, **options):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        original(self, family, *values, **options)

    monkeypatch.setattr(socket.socket, "__init__", without_ipv6)
    server = await network.listen(PlainEnd, None)
    assert [listening.family for listening in server.sockets] == [socket.AF_INET]
    if has_ipv6():
        with pytest.raises(OSError):
            await network.listen(PlainEnd, "::1")


@only_epoll
async def test_nothing_stays_open_where_no_epoll_set_can_be_had(network, monkeypatch):
    before = open_sockets()

    def no_poller(loop):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(epoll_acceptor, "Poller", no_poller)
    with pytest.raises(OSError):
        await network.listen(PlainEnd)
    assert open_sockets() == before


async def test_connections_outlive_their_listener(network):
    end, peer = await network.connect()
    network.servers[0].close()
    network.servers[0].close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(peer.sock.getpeername())
    peer.send(b"hello")
    await until(lambda: end.data == b"hello")
    end.transport.write(b"hello")
    assert await peer.receive(5) == b"hello"


@pytest.mark.parametrize("callback", ["make", "connection_made", "data", "connection_lost"])
async def test_a_listener_may_be_closed_in_every_callback(network, callback):
    if callback == "make" and network.kind == "loop":
        pytest.skip("asyncio asserts that it is not")

    def make():
        if callback == "make":
            server.close()
        return PlainEnd(**{callback: lambda end: server.close()})

    server = await network.listen(make)
    peers = [network.start_connecting(server) for _ in range(5)]
    with suppress(ConnectionError):
        peers[0].send(b"data")
        peers[0].end()
    await until(lambda: not server.is_serving())
    await turns()


@only_epoll
async def test_wait_closed_waits_for_the_last_connection(network):
    server = await network.listen(PlainEnd)
    waiters = [asyncio.ensure_future(server.wait_closed()) for _ in range(3)]
    await turns()
    peer = network.start_connecting(server)
    await until(lambda: network.ends and network.ends[0].transport)
    network.ends[0].transport.abort()
    await network.ends[0].lost
    await turns()
    second = network.start_connecting(server)
    await until(lambda: len(network.ends) == 2 and network.ends[1].transport)
    server.close()
    waiters[0].cancel()
    await turns()
    assert [waiter.done() for waiter in waiters] == [True, False, False]
    second.send(b"still served")
    await until(lambda: network.ends[1].data == b"still served")
    second.close()
    await asyncio.gather(*waiters[1:])
    assert network.ends[1].lost.done()
    await server.wait_closed()
    peer.close()


@only_epoll
async def test_wait_closed_returns_where_nobody_ever_came(network):
    server = await network.listen(PlainEnd)
    server.close()
    await server.wait_closed()


@pytest.fixture
def fast_retry(monkeypatch):
    monkeypatch.setattr(listener, "RETRY_SECONDS", 0.01)


@only_epoll  # asyncio says so a hundred times, libuv drops connections
async def test_without_descriptors_it_says_so_and_goes_on_later(network, fast_retry, caplog):
    server = await network.listen(PlainEnd)
    peers = [network.start_connecting(server) for _ in range(6)]
    for number, peer in enumerate(peers):
        peer.send(b"%d" % number)
    with NoDescriptors(but=3):
        await until(lambda: server.admission.accept_errors)
        await until(lambda: sum(bool(end.data) for end in network.ends) == 3)
    assert list(server.admission.accept_errors) == ["EMFILE"]
    assert "nobody is accepted for the time being: EMFILE; 3 connections go on" in caplog.text
    await until(lambda: sum(bool(end.data) for end in network.ends) == 6)
    assert sorted(bytes(end.data) for end in network.ends) == [b"%d" % number for number in range(6)]


class NoDescriptors:
    """No descriptor is left to this process but so many."""

    def __init__(self, but):
        self.but = but

    def __enter__(self):
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + self.but + 2, self.limits[1]))
        self.taken = []
        with suppress(OSError):
            while True:
                self.taken.append(os.dup(0))
        for _ in range(self.but):
            os.close(self.taken.pop())

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)
        for descriptor in self.taken:
            os.close(descriptor)


@only_epoll
async def test_without_descriptors_nobody_is_asked_until_it_is_time(network, monkeypatch):
    class Loop:
        """As much of a loop as a server needs, with timers that the test looks at."""

        def __getattr__(self, name):
            return getattr(network.loop, name)

        def call_later(self, *call):
            later.append(call)
            return network.loop.call_later(3600, int)

    def no_memory(self):
        calls.append(self)
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    calls, later = [], []
    server = await network.listen(PlainEnd)
    server.listener._loop = Loop()
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "accept", no_memory)
        network.start_connecting(server).send(b"hello")
        await turns(20)
    assert len(calls) == len(later) == server.admission.accept_pauses == 1
    assert server.admission.accept_errors == {"ENOBUFS": 1}
    assert later[0][0] == 0.5
    later[0][1](*later[0][2:])
    await until(lambda: network.ends and network.ends[0].data == b"hello")


@only_epoll
async def test_a_listener_closed_while_it_waits_for_descriptors_stays_closed(network, monkeypatch, fast_retry):
    def no_descriptor(self):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    server = await network.listen(PlainEnd)
    monkeypatch.setattr(socket.socket, "accept", no_descriptor)
    network.start_connecting(server)
    await until(lambda: server.admission.accept_errors)
    server.close()
    tries = server.admission.accept_errors.total()
    waited = asyncio.Event()
    network.loop.call_later(0.05, waited.set)
    await waited.wait()
    assert server.admission.accept_errors.total() == tries
    await server.wait_closed()


async def test_a_connection_that_is_gone_before_it_is_accepted_is_nothing_special(network, monkeypatch):
    network.skip_uvloops("accepts in C")
    server = await network.listen(PlainEnd)
    accept, outcomes = socket.socket.accept, [ConnectionAbortedError, InterruptedError]

    def aborted(self):
        if outcomes:
            raise outcomes.pop()
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", aborted)
    network.start_connecting(server).send(b"hello")
    await until(lambda: network.ends and network.ends[0].data == b"hello")
    assert not outcomes


# -- everything at once


class Chatter(PlainEnd):
    """Writes what `rng` says in pieces that it says, pauses reading now and then, and ends as its plan is."""

    def __init__(self, plan):
        super().__init__()
        self.plan = plan
        self.rng = random.Random(plan.seed)
        self.rest = plan.ours
        self.is_paused = self.is_over = False

    def connection_made(self, transport):
        super().connection_made(transport)
        if self.rng.random() < 0.5:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        self.go_on()

    def go_on(self):
        """Write some, and come back in a later turn."""
        if "connection_lost" in self.calls:
            return
        for _ in range(self.rng.randrange(6)):
            self.write_some()
        if self.plan.aborts_after <= len(self.plan.ours) - len(self.rest):
            self.transport.abort()
        if self.rest:
            asyncio.get_running_loop().call_soon(self.go_on)
        elif self.plan.ends_first:
            self.transport.write_eof()
        self.close_when_done()

    def write_some(self):
        if not self.rest or (self.is_paused and self.rng.random() < 0.9):
            return
        piece = self.rest[: self.rng.choice([0, 1, 100, 5000, 100_000])]
        self.rest = self.rest[len(piece) :]
        kind = self.rng.randrange(4)
        if kind == 3:
            self.transport.writelines([piece[:10], piece[10:]])
        else:
            self.transport.write((bytes, bytearray, memoryview)[kind](piece))

    def data_received(self, data):
        super().data_received(data)
        if self.rng.random() < 0.3:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self.rng.choice([0, 0.001]), self.transport.resume_reading)
        if self.rng.random() < 0.3:
            self.write_some()

    def eof_received(self):
        super().eof_received()
        self.is_over = True
        self.close_when_done()
        return True

    def close_when_done(self):
        if self.is_over and not self.rest:
            self.transport.close()

    def pause_writing(self):
        super().pause_writing()
        self.is_paused = True

    def resume_writing(self):
        super().resume_writing()
        self.is_paused = False
        self.write_some()
        self.close_when_done()


class Plan:
    """What both ends of one connection will send, and how it ends."""

    def __init__(self, rng):
        self.seed = rng.randrange(1 << 32)
        self.ours = rng.randbytes(rng.choice([0, 10, 70_000, 300_000]))
        self.theirs = rng.randbytes(rng.choice([0, 10, 65536, 300_000]))
        self.kind = rng.choice(["peer ends", "peer ends", "we end", "abort", "reset"])
        self.ends_first = self.kind == "we end"
        self.aborts_after = rng.randrange(len(self.ours) + 1) if self.kind == "abort" else 1 << 60


async def talk(peer, plan):
    """The peer's side of a plan; returns what it received."""
    rng, received = random.Random(plan.seed + 1), bytearray()

    async def send():
        at = 0
        while at < len(plan.theirs):
            size = rng.choice([1, 100, 3000, 65536])
            await peer.send_all(plan.theirs[at : at + size])
            at += size
            if plan.kind == "reset" and rng.random() < 0.2:
                break
            if rng.random() < 0.5:
                await asyncio.sleep(0)
        if plan.kind != "reset":
            peer.end()

    async def receive():
        while data := await peer.loop.sock_recv(peer.sock, rng.choice([100, 65536])):
            received.extend(data)

    with suppress(ConnectionError, *([OSError] if plan.kind == "abort" else [])):
        if plan.kind == "reset":
            await send()
            peer.reset()
        else:
            await asyncio.gather(send(), receive())
    return received


async def test_many_connections_that_do_everything_lose_no_byte(network, rng):
    network.skip_asyncios("tries for ever to write an empty chunk")
    plans = [Plan(rng) for _ in range(60)]
    waiting = iter(plans)
    server = await network.listen(lambda: Chatter(next(waiting)))
    peers = [network.start_connecting(server, small=rng.random() < 0.3) for _ in plans]
    async with asyncio.timeout(60):
        received = await asyncio.gather(*map(talk, peers, plans))
        await until(lambda: len(network.ends) == len(plans))
        errors = await asyncio.gather(*(end.lost for end in network.ends))
    for plan, end, theirs, error in zip(plans, network.ends, received, errors, strict=True):
        assert plan.ours.startswith(bytes(theirs))
        assert plan.theirs.startswith(bytes(end.data))
        if plan.kind in ("peer ends", "we end"):
            assert error is None
            assert (bytes(theirs), bytes(end.data)) == (plan.ours, plan.theirs)
        elif plan.kind == "abort":
            assert error is None or isinstance(error, ConnectionError)


@only_epoll
async def test_connections_that_end_each_other_at_random_are_never_touched_again(network, rng):
    def end_some(end):
        for other in rng.sample(network.ends, 3):
            if other.transport is not None:
                rng.choice([close, abort, close_and_abort, write])(other)

    def write(end):
        with suppress(RuntimeError):
            end.transport.write(bytes(rng.randrange(100_000)))

    server = await network.listen(lambda: PlainEnd(data=end_some, eof_received=end_some, connection_lost=end_some))
    peers = [network.start_connecting(server) for _ in range(150)]
    await until(lambda: len(network.ends) == 150 and network.ends[-1].transport)
    for peer in rng.sample(peers, 150):
        with suppress(OSError):
            rng.choice([lambda peer: peer.send(b"data"), lambda peer: peer.send(b"data"), Peer.end, Peer.reset])(peer)
        if rng.random() < 0.1:
            await turns(1)
    await turns()
    gc.collect()
    assert sum("connection_lost" in end.calls for end in network.ends) > 20


@only_epoll
async def test_ended_transports_are_freed(network):
    def transports():
        gc.collect()
        return sum(isinstance(thing, EpollTransport) for thing in gc.get_objects())

    before = transports()
    for ending in (close, abort, close_and_abort) * 2:
        end, peer = await network.connect(data=ending)
        peer.send(b"hello")
        await end.lost
    assert transports() > before
    end = None
    network.ends.clear()
    await turns()
    assert transports() == before
