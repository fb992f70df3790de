"""TLS: handshakes that never end, are none, or are cut, on every transport that can do TLS; and how sessions end there."""

import asyncio
import logging
import os
import socket
import ssl
import struct
import sys

import pytest
from wire import read_packet, wire

HOST = "127.0.0.1"
CLIENT_HELLO = bytes.fromhex("1603010200010001fc0303")  # as far as the version


@pytest.fixture(scope="module")
def contexts():
    """Of a server, of a client that trusts it, and of one that does not."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", HOST).configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture
def secure(net, contexts):
    """Starts an echo server with TLS."""

    async def secure(**options):
        server = await net.server(start=False, ssl=contexts[0], **options)
        server.on(1)(lambda session, packet: session.reply(packet))
        await net.start(server)
        return server

    if net.transport == "epoll":
        pytest.skip("the epoll transport leaves TLS to the others")
    return secure


class Raw:
    """A socket that is connected, and says what it likes."""

    def __init__(self, server):
        self.loop = asyncio.get_running_loop()
        self.sock = socket.create_connection((HOST, server.port))
        self.sock.setblocking(False)

    def send(self, data):
        assert self.sock.send(data) == len(data)

    async def end(self):
        """Wait for the end of the connection, in whichever way."""
        try:
            async with asyncio.timeout(10):
                while await self.loop.sock_recv(self.sock, 65536):
                    pass
        except ConnectionError:
            pass
        self.sock.close()

    def close(self):
        self.sock.close()

    def cut(self):
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        linger = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()


@pytest.fixture
def raw(net):
    """Connects a `Raw`; it is closed when the test ends."""

    def raw(server):
        peer = Raw(server)
        net.stack.callback(peer.close)
        return peer

    return raw


def open_sockets():
    number = 0
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        try:
            number += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except FileNotFoundError:
            continue
    return number


async def answers(net, server, contexts):
    client = await net.connect(server, ssl=contexts[1])
    return (await client.request(1, b"x" * 100)).body == b"x" * 100


# -- handshakes


async def test_a_silent_handshake_is_ended_in_time(net, secure, raw, contexts, until):
    server = await secure(handshake_timeout=0.2)
    peers = [raw(server) for _ in range(5)]
    peers[0].send(CLIENT_HELLO)
    await until(lambda: server.stats()["connecting"] == 5)
    assert server._admission.held == 5
    await asyncio.gather(*(peer.end() for peer in peers))
    await until(lambda: server.stats()["refused"] == {"handshake_timeout": 5})
    stats = server.stats()
    assert (stats["accepted"], stats["closed"], stats["connecting"], stats["accept_errors"]) == (0, {}, 0, {})
    assert (server._admission.held, server._admission.held_by_network) == (0, {})
    assert await answers(net, server, contexts)


@pytest.mark.parametrize(
    "said",
    [
        wire(1, b"plain text of our own protocol"),
        b"GET / HTTP/1.1\r\nHost: game\r\n\r\n",
        bytes(300),
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x03\xff\xff" + bytes(65535),
        b"\x15\x03\x03\x00\x02\x02\x28",
    ],
)
async def test_what_is_no_handshake_is_ended_and_counted(net, secure, raw, contexts, until, said):
    server = await secure()
    before_accept, after_accept = raw(server), raw(server)
    before_accept.send(said)
    await until(lambda: server.stats()["connecting"] + sum(server.stats()["refused"].values()) >= 1)
    await asyncio.sleep(0.02)
    after_accept.send(said)
    await asyncio.gather(before_accept.end(), after_accept.end())
    await until(lambda: server.stats()["refused"] == {"handshake_failed": 2})
    assert server._admission.held == 0
    assert await answers(net, server, contexts)


@pytest.mark.parametrize("said", [b"", b"\x16", CLIENT_HELLO])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["cut", "close", "reset"])
async def test_a_connection_cut_in_its_handshake(net, secure, raw, contexts, until, said, when, how):
    server = await secure(handshake_timeout=1.0)
    peers = [raw(server) for _ in range(3)]
    for peer in peers:
        if said:
            peer.send(said)
        if when == "after":
            await until(lambda: server.stats()["connecting"])
            await asyncio.sleep(0.01)
        getattr(peer, how)()
    await until(lambda: sum(server.stats()["refused"].values()) + sum(server.stats()["accept_errors"].values()) == 3)
    # libuv looks at a socket no more that has an error, and aiofastnet, which has read what came before, waits for it
    overlooked = {"handshake_timeout"} if (net.transport, how, when) == ("fast", "reset", "before") else set()
    assert set(server.stats()["refused"]) <= {"handshake_failed"} | overlooked
    assert server._admission.held == 0
    assert await answers(net, server, contexts)


async def test_a_client_that_does_not_trust_the_server(net, secure, contexts, until):
    server = await secure()
    for _ in range(3):
        with pytest.raises(ssl.SSLError):
            async with net.gamenet.connect(HOST, server.port, ssl=contexts[2]):
                pass
    await until(lambda: server._admission.held == 0)
    assert server.stats()["sessions"] == 0
    assert await answers(net, server, contexts)


async def test_no_version_in_common(net, secure, contexts, until):
    server = await secure()
    contexts[0].minimum_version = ssl.TLSVersion.TLSv1_3
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        with pytest.raises(OSError):
            async with net.gamenet.connect(HOST, server.port, ssl=old):
                pass
        await until(lambda: server.stats()["refused"] == {"handshake_failed": 1})
    finally:
        contexts[0].minimum_version = ssl.TLSVersion.TLSv1_2
    assert server._admission.held == 0


async def test_failed_handshakes_leave_few_lines_with_the_peer_and_no_traceback(net, secure, raw, until, caplog):
    caplog.set_level(logging.DEBUG)
    server = await secure()
    for _ in range(100):
        peer = raw(server)
        peer.send(b"no handshake at all\r\n")
    await until(lambda: server.stats()["refused"] == {"handshake_failed": 100})
    lines = [record for record in caplog.records if record.name == "gamenet"]
    assert 1 <= len(lines) <= 10 + 10 * 10  # ten a second, and the wait is ten seconds at most
    assert {record.levelno for record in lines} == {logging.INFO}
    assert "('127.0.0.1'," in lines[0].getMessage()
    assert "handshake_failed" in lines[0].getMessage()
    assert not any(record.exc_info for record in caplog.records)
    assert not any(record.levelno > logging.INFO for record in caplog.records)


# -- how many


async def test_handshakes_count_as_sessions_until_they_end(net, secure, raw, contexts, until):
    server = await secure(max_sessions=4, handshake_timeout=0.5)
    silent = [raw(server) for _ in range(4)]
    await until(lambda: server.stats()["connecting"] == 4)
    refused = raw(server)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(refused.loop.sock_recv(refused.sock, 1), 10)
    assert server.stats()["refused"] == {"server_full": 1}
    silent[0].close()
    await until(lambda: server._admission.held == 3)
    assert await answers(net, server, contexts)
    await asyncio.gather(*(peer.end() for peer in silent[1:]))
    for _ in range(3):
        assert await answers(net, server, contexts)
    assert server.stats()["sessions"] == 4
    with pytest.raises(OSError):
        async with net.gamenet.connect(HOST, server.port, ssl=contexts[1]):
            pass
    assert server.stats()["refused"]["server_full"] == 2


async def test_one_address_cannot_take_all_handshakes(net, secure, raw, until):
    server = await secure(max_sessions_per_address=2, handshake_timeout=30)
    for _ in range(5):
        raw(server)
    await until(lambda: server.stats()["refused"] == {"address_full": 3})
    assert server.stats()["connecting"] == 2


async def test_a_wave_of_honest_clients_is_let_in_to_the_last(net, secure, contexts):
    server = await secure(max_sessions=60, max_accepts_per_second=200)
    assert all(await asyncio.gather(*(answers(net, server, contexts) for _ in range(60))))
    stats = server.stats()
    assert (stats["accepted"], stats["refused"], stats["connecting"]) == (60, {}, 0)


async def test_descriptors_are_given_back(net, secure, raw, contexts, until):
    server = await secure(handshake_timeout=0.1)
    assert await answers(net, server, contexts)
    before = open_sockets()
    for _ in range(5):
        peers = [raw(server) for _ in range(8)]
        for peer, how in zip(peers, ["cut", "close", "reset", "send", "send", "close", "reset", "none"], strict=True):
            if how == "send":
                peer.send(b"garbage" * 10)
            elif how != "none":
                getattr(peer, how)()
        await until(lambda: not server.stats()["connecting"] and server._admission.held == 1)
        for peer in peers:
            peer.close()
    await until(lambda: open_sockets() == before)


# -- stopping


async def test_stop_aborts_handshakes_at_once(net, secure, raw, until):
    server = await secure(handshake_timeout=3600)
    before = open_sockets()
    peers = [raw(server) for _ in range(20)]
    for peer in peers[::2]:
        peer.send(CLIENT_HELLO)
    await until(lambda: server.stats()["connecting"] == 20)
    await asyncio.wait_for(server.stop(timeout=3600), 10)
    await asyncio.gather(*(peer.end() for peer in peers))
    stats = server.stats()
    assert (stats["refused"], stats["connecting"], server._admission.held) == ({"server_stopped": 20}, 0, 0)
    await until(lambda: sys.platform != "linux" or open_sockets() == before - 1)


def heard_of(server):
    """Connections that were reset; on Windows also before they were accepted."""
    stats = server.stats()
    return sum(stats["refused"].values()) + sum(stats["accept_errors"].values())


async def test_stop_does_not_wait_for_handshakes_whose_peers_are_gone(net, secure, raw, until):
    """Their sockets cannot be shut down any more, and aiofastnet on uvloop has not heard of it."""
    server = await secure(handshake_timeout=30)
    for _ in range(5):
        peer = raw(server)
        peer.send(CLIENT_HELLO)
        peer.reset()
    await until(lambda: server._admission.held + heard_of(server) == 5)
    await asyncio.sleep(0.05)
    await asyncio.wait_for(server.stop(timeout=3600), 10)
    assert (server.stats()["connecting"], server._admission.held) == (0, 0)


@pytest.mark.parametrize("turns", range(6))
async def test_stop_in_every_turn_of_a_handshake(net, secure, raw, contexts, until, turns):
    """Also in the first, when asyncio's TLS does not notice that it is closed."""
    server = await secure(handshake_timeout=3600)
    before = open_sockets()
    peers = [raw(server) for _ in range(4)]
    honest = asyncio.ensure_future(answers(net, server, contexts))
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.wait_for(server.stop(timeout=5), 10)
    await asyncio.gather(*(peer.end() for peer in peers))
    await asyncio.wait([honest])
    honest.exception()  # it may have been in time, or not
    assert (len(server.sessions), server._admission.held, server.stats()["connecting"]) == (0, 0, 0)
    await until(lambda: sys.platform != "linux" or open_sockets() <= before - 1)
    await net.start(server)
    assert await answers(net, server, contexts)


async def test_it_starts_again_with_tls_on_the_same_port(net, secure, raw, contexts):
    server = await secure()
    port = server.port
    for _ in range(2):
        raw(server)
        assert await answers(net, server, contexts)
        await asyncio.wait_for(server.stop(), 10)
        await server.start(HOST, port)
    assert await answers(net, server, contexts)


# -- how sessions end


class Deaf:
    """A TLS client that does not answer, not even the end: its TLS stands still after the handshake."""

    def __init__(self, server, context):
        self.raw = Raw(server)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=HOST)

    async def shake_hands(self):
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                self.incoming.write(await self.raw.loop.sock_recv(self.raw.sock, 65536))
        await self._flush()

    async def send(self, data):
        self.tls.write(data)
        await self._flush()

    async def _flush(self):
        if self.outgoing.pending:
            await self.raw.loop.sock_sendall(self.raw.sock, self.outgoing.read())


@pytest.fixture
async def deaf(net, contexts):
    async def deaf(server):
        client = Deaf(server, contexts[1])
        net.stack.callback(client.raw.close)
        await client.shake_hands()
        await client.send(wire(1, b"here"))
        return client

    return deaf


async def test_an_end_that_the_peer_does_not_answer_is_cut_short(net, secure, deaf, until, caplog):
    server = await secure(close_timeout=0.2)
    client = await deaf(server)
    await until(lambda: server.stats()["packets_dispatched"] == 1)
    (session,) = server.sessions
    session.close("game over")
    assert not session.is_closed
    await until(lambda: session.is_closed)
    await client.raw.end()
    assert server.stats()["closed"] == {"game over": 1}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_abort_really_ends_it(net, secure, deaf, until):
    server = await secure(close_timeout=3600)
    for close_before in (False, True):
        client = await deaf(server)
        await until(lambda: len(server.sessions) == 1 and next(iter(server.sessions)).peername)
        (session,) = server.sessions
        if close_before:
            session.close("in order")
        session.abort("at once")
        await until(lambda: session.is_closed)  # noqa: B023
        await client.raw.end()
    assert server.stats()["closed"] == {"at once": 1, "in order": 1}


async def test_stop_does_not_wait_for_a_peer_that_does_not_answer(net, secure, deaf, until):
    server = await secure(close_timeout=3600)
    clients = [await deaf(server) for _ in range(3)]
    await until(lambda: len(server.sessions) == 3)
    await asyncio.wait_for(server.stop(timeout=0.2), 10)
    assert server.stats()["closed"] == {"server_stopped": 3}
    await asyncio.gather(*(client.raw.end() for client in clients))


NO_RECORDS = {
    "garbage": bytes(range(200, 256)) * 9,
    "plain text": wire(1, b"plain text"),
    "zeros": bytes(100),
    "a record that nobody sealed": b"\x17\x03\x03\x00\x40" + bytes(range(64)),
    "an alert in the clear": b"\x15\x03\x03\x00\x02\x02\x28",
    "another hello": CLIENT_HELLO + bytes(506),
    "a record that is too long": b"\x17\x03\x03\xff\xff" + bytes(65535),
}


@pytest.mark.parametrize("said", NO_RECORDS)
async def test_what_is_no_record_ends_the_session_that_sent_it(net, secure, deaf, contexts, until, said, caplog):
    server = await secure(close_timeout=0.3)
    other = await net.connect(server, ssl=contexts[1])
    client = await deaf(server)
    await client.send(wire(1, b"whole") + wire(1, b"half")[:10])
    await until(lambda: server.stats()["packets_dispatched"] == 2)
    await client.raw.loop.sock_sendall(client.raw.sock, NO_RECORDS[said])
    await client.raw.end()
    await until(lambda: len(server.sessions) == 1)
    stats = server.stats()
    (reason,) = stats["closed"]
    assert reason in ("network_error", "incomplete_packet")
    assert (stats["bytes_discarded"], stats["packets_discarded"], stats["handler_errors"]) == (10, 0, 0)
    assert not any(record.exc_info for record in caplog.records)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 1
    assert (await other.request(1, b"alive")).body == b"alive"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("size", [0, 3, 20])
async def test_a_connection_cut_in_a_record(net, secure, deaf, until, how, size):
    server = await secure(close_timeout=0.3)
    client = await deaf(server)
    await until(lambda: server.stats()["packets_dispatched"] == 1)
    client.tls.write(wire(1, b"never whole"))
    client.raw.send(client.outgoing.read()[:size])
    await asyncio.sleep(0.02)
    getattr(client.raw, how)()
    await until(lambda: not server.sessions and not server._admission.held)
    assert sum(server.stats()["closed"].values()) == 1
    assert set(server.stats()["closed"]) <= {"network_error", "peer_closed"}
    assert server.stats()["packets_dispatched"] == 1


async def test_an_orderly_end_reaches_the_peer(net, secure, contexts, until):
    server = await secure()
    reader, writer = await asyncio.open_connection(HOST, server.port, ssl=contexts[1])
    net.stack.callback(writer.close)
    writer.write(wire(1, b"last words"))
    assert await read_packet(reader) == (1, 0, b"last words")
    (session,) = server.sessions
    session.send(2, b"good-bye")
    session.close("in order")
    assert await read_packet(reader) == (2, 0, b"good-bye")
    assert await reader.read() == b""
    await until(lambda: server.stats()["closed"] == {"in order": 1})


async def test_a_handshake_done_while_it_stops_is_refused(net, secure, contexts, until):
    """Its session opens when nobody is accepted any more, and is told so."""
    server = await secure(close_timeout=0.5)
    client = await net.connect(server, ssl=contexts[1])
    connecting = [asyncio.ensure_future(answers(net, server, contexts)) for _ in range(10)]
    async with asyncio.timeout(10):
        while not server.stats()["connecting"]:
            await asyncio.sleep(0)  # each turn: on Windows they come one by one, and are soon done
    await asyncio.wait_for(server.stop(), 10)
    await asyncio.wait(connecting)
    for task in connecting:
        task.exception()
    assert (len(server.sessions), server._admission.held) == (0, 0)
    stats = server.stats()
    assert stats["accepted"] == sum(stats["closed"].values())
    assert set(stats["refused"]) <= {"server_stopped", "handshake_failed"}
    await until(lambda: not client.is_connected)
