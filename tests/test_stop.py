"""Stopping: nobody new, answers of running handlers, a gap-free prefix of what was sent, and an end in time."""

import asyncio
import ssl
import sys
import time
from contextlib import suppress

import pytest
from fakenet import FakeNet
from program import ON_WINE, STOP, outcome, program
from wire import read_packet, wire

# -- server.stop()


async def numbers(reader):
    """The sequence numbers that arrive until the end, which may be a reset."""
    seen = []
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            seen.append((await read_packet(reader, 60))[1])  # two hundred of them may keep a slow machine busy
    return seen


async def test_nobody_new_comes_in(net, secure, until):
    server = await net.server()
    gate = asyncio.Event()
    server.on(1)(lambda session, packet: gate.wait())
    port = server.port
    _, writer = await net.open(server)
    writer.write(wire(1))
    await until(lambda: server.stats()["packets_dispatched"] == 1)
    stopping = asyncio.ensure_future(server.stop(5.0))
    await asyncio.sleep(0.02)
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)
    assert not stopping.done()
    gate.set()
    await stopping
    assert server.stats()["closed"] == {"server_stopped": 1}


async def test_running_handlers_finish_and_their_answers_arrive(net, secure, until):
    server = await net.server(close_timeout=20.0)

    @server.on(1)
    async def slow(session, packet):
        await asyncio.sleep(0.1)
        session.reply(packet)

    peers = [await net.open(server) for _ in range(5)]
    for _, writer in peers:
        writer.write(wire(1, b"answered") + wire(1, b"never begun"))
    await until(lambda: server.stats()["packets_dispatched"] == 5)
    await server.stop()
    for reader, _ in peers:
        assert await read_packet(reader) == (1, 0, b"answered")
        assert await reader.read() == b""
    stats = server.stats()
    assert stats["closed"] == {"server_stopped": 5}
    assert (stats["packets_dispatched"], stats["packets_discarded"], stats["handler_errors"]) == (5, 5, 0)


async def test_a_slow_client_that_reads_gets_everything_by_the_deadline_of_the_stop(net, secure, until):
    """Also if that is later than `close_timeout`."""
    server = await net.server(close_timeout=0.3, max_write_buffer=100_000_000)
    sock = await net.open_mute(server)
    await until(lambda: len(server.sessions) == 1)
    (session,) = server.sessions
    for n in range(600):
        session.send(2, bytes(8000), n)

    def read_slowly():
        data = bytearray()
        began = time.monotonic()
        while more := sock.recv(32_768):
            data += more
            time.sleep(max(0.0, 0.9 * len(data) / 4_804_800 - (time.monotonic() - began)))
        sock.close()
        return bytes(data)

    reading = asyncio.ensure_future(asyncio.to_thread(read_slowly))
    await server.stop(60.0)
    assert await reading == b"".join(wire(2, bytes(8000), n) for n in range(600))
    assert server.stats()["closed"] == {"server_stopped": 1}


async def test_what_does_not_drain_is_aborted_and_what_came_has_no_gap(net, secure, until):
    server = await net.server(max_write_buffer=100_000_000)
    socks = [await net.open_mute(server) for _ in range(3)]
    await until(lambda: len(server.sessions) == 3)
    for n in range(600):
        server.sessions.broadcast(2, bytes(8000), n)
    await server.stop(0.2)
    assert server.stats()["closed"] == {"server_stopped": 3}
    whole = b"".join(wire(2, bytes(8000), n) for n in range(600))
    for sock in socks:
        data = await asyncio.to_thread(read_to_the_end, sock)
        assert 0 < len(data) < len(whole)
        assert data == whole[: len(data)]


def read_to_the_end(sock):
    data = bytearray()
    with suppress(OSError):
        while more := sock.recv(1 << 20):
            data += more
    return bytes(data)


@pytest.mark.parametrize("timeout", [0, 0.05])
async def test_a_short_deadline_cancels_handlers(net, until, timeout):
    server, ended = await net.server(), []

    @server.on(1)
    async def endless(session, packet):
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(session.is_open)

    _, writer = await net.open(server)
    writer.write(wire(1))
    await until(lambda: server.stats()["packets_dispatched"] == 1)
    await asyncio.wait_for(server.stop(timeout), 10)
    assert ended == [False]
    assert server.stats()["handler_errors"] == 0


async def test_handlers_that_ignore_their_cancellation_do_not_hold_it_up(net, until, caplog):
    server, gate = await net.server(), asyncio.Event()

    @server.on(1)
    async def deaf(session, packet):
        while not gate.is_set():
            with suppress(asyncio.CancelledError):
                await gate.wait()

    _, writer = await net.open(server)
    writer.write(wire(1))
    await until(lambda: server.stats()["packets_dispatched"] == 1)
    try:
        await asyncio.wait_for(server.stop(0.05), 10)
        assert "1 handlers go on after their sessions were closed" in caplog.text
    finally:
        gate.set()  # or a failure would never end


async def test_a_negative_deadline_is_refused_and_nothing_stops(net):
    server = await net.server()
    with pytest.raises(ValueError, match="timeout -1 is below 0 seconds"):
        await server.stop(-1)
    assert server.is_listening


async def test_stopping_from_a_handler_does_not_wait_for_that_handler(net, secure, until):
    server = await net.server(close_timeout=3600.0)
    after = []

    @server.on(1)
    async def stop(session, packet):
        session.reply(packet)
        try:
            await server.stop()
        finally:
            after.append(session.send(1))

    @server.on(2)
    async def slow(session, packet):
        await asyncio.sleep(0.1)
        session.reply(packet)

    reader, writer = await net.open(server)
    other_reader, other_writer = await net.open(server)
    other_writer.write(wire(2, b"slow"))
    await until(lambda: server.stats()["packets_dispatched"] == 1)
    writer.write(wire(1, b"last"))
    assert await read_packet(reader) == (1, 0, b"last")
    assert await read_packet(other_reader) == (2, 0, b"slow")
    await until(lambda: server.stats()["closed"] == {"server_stopped": 2})
    await until(lambda: after == [False])


async def test_stopping_from_the_hooks(net, until):
    server = await net.server(start=False)
    stops = []
    server.on_opened(lambda session: stops.append(asyncio.ensure_future(server.stop())))
    server.on_closed(lambda session, reason: stops.append(asyncio.ensure_future(server.stop())))
    await net.start(server)
    reader, _ = await net.open(server)
    with suppress(ConnectionError):
        assert await reader.read() == b""
    await until(lambda: len(stops) == 2)
    await asyncio.gather(*stops)
    assert server.stats()["closed"] == {"server_stopped": 1}


async def test_it_starts_again_after_every_stop(net, secure, until):
    server = await net.server()
    server.on(1)(lambda session, packet: session.reply(packet))
    for n in range(1, 4):
        reader, writer = await net.open(server)
        writer.write(wire(1, b"x", n))
        assert await read_packet(reader) == (1, n, b"x")
        await asyncio.gather(server.stop(), server.stop(0.5))
        assert await reader.read() == b""
        with pytest.raises(RuntimeError):
            _ = server.port
        await net.start(server)
    assert server.stats()["accepted"] == 3


async def starts_tasks(loop):
    """Skips where uvloop gives asyncio's eager factory a keyword that it does not take yet, as on Python 3.13.0."""
    coroutine = asyncio.sleep(0)
    try:
        await loop.create_task(coroutine)
    except TypeError:
        coroutine.close()
        pytest.skip("this loop and asyncio's eager tasks do not go together")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 has eager tasks")
async def test_tasks_that_start_at_once_change_nothing(net, until):
    """With `asyncio.eager_task_factory` the whole of a stop may be done before its task is known."""
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        await starts_tasks(loop)
        server = await net.server(close_timeout=3600.0)

        @server.on(1)
        async def stop(session, packet):
            session.reply(packet)
            await server.stop()

        for n in range(1, 4):
            await server.stop()
            await net.start(server)
            reader, writer = await net.open(server)
            writer.write(wire(1, b"last", n))
            assert await read_packet(reader) == (1, n, b"last")
            assert await asyncio.wait_for(reader.read(), 20) == b""
            await until(lambda: server.stats()["closed"] == {"server_stopped": n})  # noqa: B023
    finally:
        loop.set_task_factory(factory)


async def test_starting_while_it_stops_waits_for_the_end(net, until):
    server = await net.server()
    gate = asyncio.Event()
    server.on(1)(lambda session, packet: gate.wait())
    _, writer = await net.open(server)
    writer.write(wire(1))
    await until(lambda: server.stats()["packets_dispatched"] == 1)
    stopping = asyncio.ensure_future(server.stop(30.0))
    await asyncio.sleep(0)
    starting = asyncio.ensure_future(net.start(server))
    await asyncio.sleep(0.02)
    assert not starting.done()
    gate.set()
    await stopping
    await starting
    assert server.is_listening


async def test_two_hundred_busy_clients_lose_nothing_that_was_answered(net, until):
    server = await net.server(close_timeout=30.0)
    answered = {}

    @server.on(1)
    async def count(session, packet):
        if packet.sequence % 7 == 0:
            await asyncio.sleep(0.001)
        answered[session.peername] = packet.sequence
        session.reply(packet)

    async def play():
        reader, writer = await net.open(server)
        name = writer.get_extra_info("sockname")
        receiving = asyncio.ensure_future(numbers(reader))
        with suppress(ConnectionError, RuntimeError):  # uvloop's, of a transport that is closed
            for n in range(1, 100_000):
                writer.write(wire(1, bytes(n % 100), n))
                if n % 20 == 0:
                    await asyncio.sleep(0.005)
                    await writer.drain()
                if receiving.done():
                    break
        seen = await receiving
        # a reset may take answers with it that were not read yet: what came is a prefix, without a gap
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) <= answered.get(name, 0)
        return len(seen)

    players = [asyncio.ensure_future(play()) for _ in range(200)]
    await until(lambda: len(answered) == 200 and server.stats()["packets_dispatched"] > 5000, 60)
    await server.stop()
    assert sum(await asyncio.gather(*players)) > 0
    assert server.stats()["closed"] == {"server_stopped": 200}
    assert server.stats()["handler_errors"] == 0


def test_a_handshake_that_outlives_the_server_is_no_session(gamenet):
    """It began before the stop and ends after it, or even after the next start."""
    net = FakeNet(gamenet)
    told = []
    net.server.on_opened(told.append)
    for start_again in (False, True):
        net.start()
        listener = net.server._listener
        net.loop.run_until_complete(net.server.stop())
        if start_again:
            net.start()
        late = net.connect(listener)
        net.loop.turn()
        assert late.is_lost
    stats = net.server.stats()
    assert (told, stats["accepted"], stats["refused"]) == ([], 0, {"server_stopped": 2})
    net.end()


def test_what_draining_takes_of_the_loop_counts_as_well(gamenet):
    """Encrypting megabytes for a slow peer holds up the loop, before anything is waited for."""
    net = FakeNet(gamenet)
    for peer in (net.connect(), net.connect()):
        peer.close = lambda: net.loop.stand_still(0.4)
    stopping = net.loop.create_task(net.server.stop(1.0))
    net.loop.turn()
    net.pass_time(0.15)
    assert not stopping.done()
    net.pass_time(0.1)
    assert stopping.done()
    assert net.closed == {"server_stopped": 2}
    net.end()


# -- gamenet.run

LOOPS = ["asyncio", pytest.param("auto", id="fastest")]
CONTEXT = """
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain({path!r})
server.ssl = context
"""


@pytest.fixture(params=["plain", "tls"])
def security(request, tmp_path):
    """Lines for a program that serves in plain or over TLS, and the context of its clients."""
    if request.param == "plain":
        return "", None
    authority = pytest.importorskip("trustme").CA()
    path = tmp_path / "server.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return CONTEXT.format(path=str(path)), client


needs_signals = pytest.mark.skipif(ON_WINE, reason="wine has no console that could send Ctrl+Break")

ANSWERS_LATE = """
@server.on(1)
async def handler(session, packet):
    await asyncio.sleep(0.5)
    session.reply(packet)
"""

IS_DEAF = """
@server.on(1)
async def handler(session, packet):
    session.reply(packet)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
"""

USES_A_THREAD = """
@server.on(1)
async def handler(session, packet):
    session.reply(packet)
    await asyncio.to_thread(time.sleep, 4.0)
"""

COUNTS = """
@server.on(1)
async def handler(session, packet):
    await asyncio.sleep(0.001 if packet.sequence % 5 else 0)
    session.reply(packet)
"""


@needs_signals
@pytest.mark.no_sanitizer
@pytest.mark.parametrize("loop", LOOPS)
async def test_a_signal_lets_handlers_answer(loop, security):
    with program(security[0] + ANSWERS_LATE, loop) as (process, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=security[1])
        writer.write(wire(1, b"late") + wire(1, b"never begun"))
        await asyncio.sleep(0.2)
        process.send_signal(STOP)
        assert await read_packet(reader) == (1, 0, b"late")
        assert await reader.read() == b""
        writer.close()
        assert await outcome(process) == (0, "after {'server_stopped': 1}", "")


@needs_signals
@pytest.mark.no_sanitizer
@pytest.mark.parametrize("loop", LOOPS)
async def test_a_deaf_handler_does_not_keep_the_program(loop):
    with program(IS_DEAF, loop, "close_timeout=0.2") as (process, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(wire(1, b"x"))
        assert await read_packet(reader) == (1, 0, b"x")
        process.send_signal(STOP)
        code, said, complaints = await outcome(process)
        writer.close()
        assert (code, said) == (0, "after {'server_stopped': 1}")
        assert complaints.splitlines() == [
            "1 handlers go on after their sessions were closed: they ignore their end",
            "1 tasks ignore their cancellation and are left behind",
        ]


@needs_signals
@pytest.mark.no_sanitizer
@pytest.mark.parametrize("loop", LOOPS)
async def test_a_thread_does_not_keep_the_server(loop):
    """No thread can be ended: the program waits for it at its own end, after `run()`, and has said so."""
    with program(USES_A_THREAD, loop, "close_timeout=0.2") as (process, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(wire(1, b"x"))
        assert await read_packet(reader) == (1, 0, b"x")
        asked = time.monotonic()
        process.send_signal(STOP)
        assert await asyncio.to_thread(process.stdout.readline) == "after {'server_stopped': 1}\n"
        assert time.monotonic() - asked < 3.0  # 0.2 s and some, on a machine at rest
        writer.close()
        said = "what was handed to a thread goes on, and the program ends when that has ended"
        assert await outcome(process) == (0, "", said)


def test_what_is_allowed_beyond_the_deadline_is_less_than_a_second(gamenet):
    run = gamenet.run.__globals__  # the module's name is the function's
    assert gamenet.server._HANDLER_TIMEOUT + run["_CANCEL_TIMEOUT"] + run["_THREADS_TIMEOUT"] < 1.0


@needs_signals
@pytest.mark.no_sanitizer
@pytest.mark.parametrize("loop", LOOPS)
async def test_a_signal_among_busy_clients_leaves_prefixes(loop, security):
    async def play(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=security[1])
        receiving = asyncio.ensure_future(numbers(reader))
        with suppress(ConnectionError, RuntimeError):  # uvloop's, of a transport that is closed
            for n in range(1, 20_000):
                writer.write(wire(1, b"x" * (n % 50), n))
                if n % 10 == 0:
                    await asyncio.sleep(0.002)
                if receiving.done() or writer.is_closing():
                    break
        seen = await receiving
        writer.close()
        assert seen == list(range(1, len(seen) + 1))
        return len(seen)

    with program(security[0] + COUNTS, loop) as (process, port):
        players = [asyncio.ensure_future(play(port)) for _ in range(50)]
        await asyncio.sleep(1.5 if security[1] else 0.5)
        process.send_signal(STOP)
        assert sum(await asyncio.gather(*players)) > 0
        assert await outcome(process) == (0, "after {'server_stopped': 50}", "")
