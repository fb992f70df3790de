"""The chaos proxy: real TCP connections, disturbed."""

import asyncio
import contextlib

import pytest
from program import ON_WINE
from wire import reset

from gamenet.testing import ChaosProxy, chaos


class Peer(asyncio.Protocol):
    """The far end of every connection: echoes, and writes down how it ended."""

    def __init__(self, peers):
        peers.append(self)
        self.data = b""
        self.sizes = []
        self.events = []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data
        self.sizes.append(len(data))
        self.transport.write(data)

    def eof_received(self):
        self.events.append("eof")

    def connection_lost(self, error):
        self.events.append("lost" if error is None else type(error).__name__)


@pytest.fixture
def echo():
    """`async with echo(chaos...) as (peers, proxy)`: an echo server behind a proxy."""

    @contextlib.asynccontextmanager
    async def echo(*settings, **options):
        peers = []
        server = await asyncio.get_running_loop().create_server(lambda: Peer(peers), "127.0.0.1", 0)
        try:
            async with ChaosProxy("127.0.0.1", server.sockets[0].getsockname()[1], *settings, **options) as proxy:
                yield peers, proxy
            assert proxy.connections == 0
        finally:
            server.close()

    return echo


async def read(reader, size):
    return await asyncio.wait_for(reader.readexactly(size), 10)


async def ending(reader):
    """How a connection ends that brings nothing more."""
    try:
        data = await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return "reset"
    return data


def was_reset(peer):
    """Under wine a RST that comes while nobody waits to read is read as an end in order, by a blocking recv() too."""
    events = peer.events[1:] if ON_WINE and peer.events[:1] == ["eof"] else peer.events
    return events in (["ConnectionResetError"], *([["lost"]] if ON_WINE else []))


async def test_bytes_pass_both_ways(echo, rng):
    data = rng.randbytes(500_000)
    async with echo() as (peers, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        assert proxy.port != 0
        writer.write(data)
        assert await read(reader, len(data)) == data
        assert proxy.connections == 1
        writer.write_eof()
        assert await ending(reader) == b""
        writer.close()
    assert peers[0].events == ["eof", "lost"]


async def test_byte_by_byte(echo):
    async with echo(to_server=chaos(split=1)) as (peers, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(b"abcdefgh" * 10)
        assert await read(reader, 80) == b"abcdefgh" * 10
        assert len(peers[0].sizes) > 1  # the system may glue some
        writer.close()


@pytest.mark.parametrize(
    "settings",
    [{"split": 50}, {"coalesce": (900, 0.005)}, {"drip": (3000, 0.001)}, {"stall": (1000, 0.01)}],
    ids=str,
)
async def test_chaos_loses_nothing(echo, settings, rng):
    data = rng.randbytes(20_000)
    async with echo(chaos(**settings), seed=5, capacity=1000) as (_peers, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(data)
        assert await read(reader, len(data)) == data
        writer.close()


async def test_reset_after_some_bytes(echo, until):
    async with echo(to_server=chaos(reset=5)) as (peers, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(b"abcdefgh")
        assert await ending(reader) in ("reset", b"abcde")
        await until(lambda: was_reset(peers[0]))
        writer.close()


async def test_half_close_after_some_bytes(echo):
    async with echo(to_server=chaos(half_close=5)) as (peers, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(b"abcdefgh")
        assert await ending(reader) == b"abcde"
        assert peers[0].data == b"abcde"
        writer.close()


async def test_backpressure_passes_through(echo):
    async with echo(to_server=chaos(stall=0), capacity=5000) as (_peers, proxy):
        _reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.transport.set_write_buffer_limits(0)
        for _ in range(200):
            writer.write(bytes(1_000_000))
            if writer.transport.get_write_buffer_size():
                break
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.05)
        writer.transport.abort()


async def test_refuse_and_accept(echo):
    async with echo() as (_peers, proxy):
        port = proxy.port
        reader, writer = await asyncio.open_connection(proxy.host, port)
        writer.write(b"a")
        await read(reader, 1)
        await proxy.refuse()
        await proxy.refuse()
        assert proxy.port == port
        with pytest.raises(OSError):
            await asyncio.open_connection(proxy.host, port)
        writer.write(b"b")
        assert await read(reader, 1) == b"b"
        await proxy.accept()
        await proxy.accept()
        assert proxy.port == port
        other_reader, other = await asyncio.open_connection(proxy.host, port)
        other.write(b"c")
        assert await read(other_reader, 1) == b"c"
        for each in (writer, other):
            each.close()


async def test_reset_on_command(echo, until):
    async with echo() as (peers, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(b"a")
        await read(reader, 1)
        proxy.reset()
        assert await ending(reader) == "reset"
        await until(lambda: was_reset(peers[0]))
        await until(lambda: proxy.connections == 0)
        writer.close()


async def test_cut_on_command(echo, until):
    async with echo() as (peers, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(b"a")
        await read(reader, 1)
        proxy.cut()
        assert await ending(reader) == b""
        await until(lambda: peers[0].events == ["eof", "lost"])
        await until(lambda: proxy.connections == 0)
        writer.close()


async def test_freeze_and_thaw(echo):
    async with echo() as (peers, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(b"a")
        await read(reader, 1)
        proxy.freeze()
        writer.write(b"b")
        other_reader, other = await asyncio.open_connection(proxy.host, proxy.port)
        other.write(b"c")
        await asyncio.sleep(0.05)
        assert b"".join(peer.data for peer in peers) == b"a"
        proxy.thaw()
        assert (await read(reader, 1), await read(other_reader, 1)) == (b"b", b"c")
        for each in (writer, other):
            each.close()


async def test_a_reset_of_the_peer_passes_through(echo, until):
    async with echo() as (peers, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(b"a")
        await read(reader, 1)
        reset(peers[0].transport)
        assert await ending(reader) == "reset"
        await until(lambda: proxy.connections == 0)
        writer.close()


async def test_a_target_that_is_not_there():
    async with ChaosProxy("127.0.0.1", 1) as proxy:
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        assert await ending(reader) == "reset"
        writer.close()


async def test_closing_ends_what_is_open_and_may_be_done_twice(echo):
    async with echo(chaos(stall=0)) as (_peers, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(b"a")
        await asyncio.sleep(0.02)
        await proxy.close()
        await proxy.close()
        assert await ending(reader) in ("reset", b"")
        writer.close()


@pytest.mark.parametrize("end", ["close", "reset", "abort"])
async def test_a_connection_that_is_being_made_ends_too(echo, end):
    """However far it is: accepted, connecting, connected on one side."""
    for turns in range(30):
        async with echo() as (_peers, proxy):
            reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
            for _ in range(turns % 15):
                await asyncio.sleep(0)
            if end == "abort":
                writer.transport.abort()
                await asyncio.sleep(0)
            elif end == "reset":
                proxy.reset()
            async with asyncio.timeout(10):
                await proxy.close()
            assert proxy.connections == 0
            if end == "close":
                assert await ending(reader) in ("reset", b"")
            writer.close()


def test_what_cannot_be():
    with pytest.raises(ValueError, match="capacity 0 is below 1"):
        ChaosProxy("127.0.0.1", 1, capacity=0)
    with pytest.raises(TypeError, match="to_server takes what chaos\\(\\) gives, got 3"):
        ChaosProxy("127.0.0.1", 1, to_server=3)
    with pytest.raises(RuntimeError, match="was not started"):
        _ = ChaosProxy("127.0.0.1", 1).port


async def test_gamenet_behind_it(gamenet, net, until):
    server = await net.server()
    server.on(1)(lambda session, packet: session.reply(packet))
    proxy = gamenet.testing.ChaosProxy("127.0.0.1", server.port, gamenet.testing.chaos(split=9))
    async with proxy, gamenet.connect(proxy.host, proxy.port) as client:
        answers = await asyncio.gather(*(client.request(1, bytes([n]) * 300) for n in range(10)))
        assert [answer.body for answer in answers] == [bytes([n]) * 300 for n in range(10)]
        proxy.reset()
        assert await client.wait_closed() == "network_error"
        await until(lambda: server.stats()["closed"] == {"network_error": 1})
