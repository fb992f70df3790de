"""Which transports and which kind of session a server takes, and what it says when they are not there."""

import asyncio
import importlib.util
import sys
from contextlib import nullcontext

import pytest
from wire import wire

from gamenet import transports
from gamenet.session import BufferedSession, Session
from gamenet.transports import choose_client, choose_server

HAS_AIOFASTNET = importlib.util.find_spec("aiofastnet") is not None
HAS_EPOLL = sys.platform == "linux" and transports.backend == "compiled"


@pytest.fixture(params=[choose_client, choose_server])
def choose(request):
    return request.param


async def test_the_loops_own_transports_are_always_there(choose):
    loop = asyncio.get_running_loop()
    chosen = choose("asyncio", loop)
    reads_by_itself = sys.platform == "win32" and isinstance(loop, asyncio.ProactorEventLoop)
    assert chosen.name == "asyncio"
    assert chosen.session_type is (Session if reads_by_itself else BufferedSession)


@pytest.mark.skipif(sys.platform == "win32", reason="asyncio's loop there reads by itself")
async def test_auto_takes_the_fastest_that_is_there():
    fastest = "fast" if HAS_AIOFASTNET else "asyncio"
    loop = asyncio.get_running_loop()
    assert choose_client("auto", loop).name == choose_client("epoll", loop).name == fastest
    assert choose_server("auto", loop).name == ("epoll" if HAS_EPOLL else fastest)
    assert choose_server("auto", loop, has_tls=True).name == fastest


async def test_without_aiofastnet_auto_is_asyncio_and_fast_says_what_is_missing(monkeypatch, choose):
    monkeypatch.setitem(sys.modules, "aiofastnet", None)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "aiofastnet" else find_spec(name))
    loop = asyncio.get_running_loop()
    assert choose_client("auto", loop).name == choose_server("auto", loop, has_tls=HAS_EPOLL).name == "asyncio"
    with pytest.raises((ModuleNotFoundError, RuntimeError), match="aiofastnet|Proactor"):
        choose("fast", loop)


async def test_other_names_are_refused(choose):
    with pytest.raises(ValueError, match="transport is 'iocp', not"):
        choose("iocp", asyncio.get_running_loop())


@pytest.mark.parametrize(
    ("platform", "backend", "has_tls", "reason"),
    [
        ("win32", "compiled", False, "is for Linux"),
        ("linux", "pure", False, "needs the compiled gamenet"),
        ("linux", "compiled", True, "serves plain TCP, not TLS"),
    ],
)
async def test_epoll_says_why_it_cannot_be(monkeypatch, platform, backend, has_tls, reason):
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(transports, "backend", backend)
    monkeypatch.setattr(transports.sys, "platform", platform)
    with pytest.raises(RuntimeError, match=f"transport 'epoll' {reason}; 'auto' takes what is there"):
        choose_server("epoll", loop, has_tls)


async def test_a_view_kept_from_the_receive_buffer_is_never_read_over(net):
    net.check.allow_views = True
    server, kept = await net.server(), []

    @server.on(1)
    def handler(session, packet):
        kept.append((packet.sequence, packet.view()))
        session.reply(packet)

    client = await net.connect(server)
    for n in range(50):
        await client.request(1, bytes([n]) * 500)
    assert [bytes(view) for _, view in kept] == [bytes([n]) * 500 for n in range(50)]


@pytest.fixture
def reading(core):
    """A stream that is read into, and a function that brings it bytes as a loop does."""
    routes, kept = core.RouteTable(), []
    receiver = core.Receiver(4096)
    stream = core.Stream(
        core.HeaderCodec(), core.PoolAllocator(), routes, core.Ledger(), core.FlushQueue(lambda flush: None), lambda: 0.0,
        receiver=receiver,
    )
    stream.attach(Sink())

    def read(data):
        buffer = stream.get_buffer(-1)
        buffer[: len(data)] = data
        stream.buffer_updated(len(data))

    return routes, kept, read, stream


class Sink:
    def write(self, data):
        pass


def test_the_same_block_is_read_into_while_nobody_keeps_anything(core, reading):
    routes, _, read, stream = reading
    routes.set(1, core.Route(lambda session, packet: (packet.body, bytes(packet.view()))))
    read(wire(1, b"first"))
    before = stream.get_buffer(-1)
    for n in range(5):
        read(wire(1, bytes([n]) * 100))
        assert stream.get_buffer(-1) is before


@pytest.mark.parametrize("ending", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("keep", ["packet", "view"])
def test_what_a_handler_kept_is_never_read_over_however_the_handler_ended(core, reading, keep, ending):
    routes, kept, read, _ = reading

    def handler(session, packet):
        kept.append(packet if keep == "packet" else packet.view())
        if ending:
            raise ending

    routes.set(1, core.Route(handler))
    for n in range(10):
        with pytest.raises(KeyboardInterrupt) if ending is KeyboardInterrupt else nullcontext():
            read(wire(1, bytes([n]) * 100))
    bodies = [thing.body if keep == "packet" else bytes(thing) for thing in kept]
    assert bodies == [bytes([n]) * 100 for n in range(10)]


def test_what_is_read_never_overtakes_what_waits(core, reading):
    routes, kept, read, stream = reading
    routes.set(1, core.Route(lambda session, packet: (kept.append(packet.body), session.suspend())[1]))
    bodies = [bytes([n]) * n for n in range(1, 20)]
    data = b"".join(wire(1, body) for body in bodies)
    for at in range(0, len(data), 3):
        read(data[at : at + 3])
        if at % 9 == 0:
            stream.resume()
    for _ in bodies:
        stream.resume()
    assert kept == bodies


def test_half_a_packet_and_waiting_packets_outlive_the_read(core, reading):
    routes, kept, read, stream = reading
    routes.set(1, core.Route(lambda session, packet: kept.append(packet.body)))
    data = wire(1, b"a" * 100) + wire(1, b"b" * 100) + wire(1, b"c" * 100)
    read(data[:150])
    stream.suspend()
    read(data[150:250])
    read(data[250:])
    assert kept == [b"a" * 100]
    stream.resume()
    assert kept == [b"a" * 100, b"b" * 100, b"c" * 100]
    assert stream.inbox_size == 0
