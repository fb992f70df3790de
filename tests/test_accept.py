"""Accepting: that no error ends it, what a shortage of descriptors does, and whom the limits let in."""

import asyncio
import errno
import gc
import importlib.util
import json
import os
import socket
import ssl
import struct
import sys
import time
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from wire import read_packet, wire

HOST = "127.0.0.1"
PURE_ONLY = os.environ.get("GAMENET_PURE") == "1"
ON_LINUX = sys.platform == "linux"


async def echoing(net, **options):
    server = await net.server(start=False, **options)
    server.on(1)(lambda session, packet: session.reply(packet))
    await net.start(server)
    return server


class Peer:
    """A raw socket that plays a client of `server`, from an address of its own if it is given one."""

    def __init__(self, server, source=None):
        self.loop = asyncio.get_running_loop()
        self.sock = socket.socket()
        try:
            if source is not None:
                self.sock.bind((source, 0))
            self.sock.connect((HOST, server.port))  # the system connects, whether we accept or not
            self.sock.setblocking(False)
        except BaseException:
            self.sock.close()
            raise

    async def is_served(self):
        """True if a packet comes back, False if the connection is ended instead."""
        try:
            await self.loop.sock_sendall(self.sock, wire(1, b"hello"))
            answer = await asyncio.wait_for(self.loop.sock_recv(self.sock, 100), 10)
        except ConnectionError:
            return False
        assert answer in (b"", wire(1, b"hello"))
        return answer != b""

    async def end(self):
        """What comes last: nothing, if the end is orderly."""
        return await asyncio.wait_for(self.loop.sock_recv(self.sock, 1), 10)

    def close(self):
        self.sock.close()

    def reset(self):
        linger = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()


@pytest.fixture
def connect(net):
    """Connects a `Peer`; it is closed when the test ends."""

    def connect(server, source=None):
        peer = Peer(server, source)
        net.stack.callback(peer.close)
        return peer

    return connect


@pytest.fixture(params=["watching", "asking"])
def way(request, net, monkeypatch):
    """How it is accepted: where the loop watches sockets, and by `sock_accept()` where it cannot."""
    if request.param == "asking":

        def cannot(self):
            raise NotImplementedError

        monkeypatch.setattr(net.gamenet.listener.Listener, "_watch", cannot)
    monkeypatch.setattr(net.gamenet.listener, "RETRY_SECONDS", 0.02)
    return request.param


class Failing(list):
    def __init__(self):
        super().__init__()
        self.times = []

    def fail(self):
        if self:
            self.times.append(asyncio.get_running_loop().time())
            raise self.pop(0)


@pytest.fixture
def failing(monkeypatch):
    """A list of what the next calls of `accept()` raise before they work again; `times` says when they did."""
    errors, accept = Failing(), socket.socket.accept

    def accept_or_fail(self):
        errors.fail()
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", accept_or_fail)
    if sys.platform == "win32":  # the Proactor loop accepts by AcceptEx
        accept_ex = asyncio.IocpProactor.accept

        def accept_ex_or_fail(self, listening):
            errors.fail()
            return accept_ex(self, listening)

        monkeypatch.setattr(asyncio.IocpProactor, "accept", accept_ex_or_fail)
    return errors


def error(number):
    return OSError(number, os.strerror(number))


class WindowsError_(OSError):
    """As Windows raises them: the number that counts is `winerror`."""

    def __init__(self, number):
        super().__init__(errno.EINVAL, f"[WinError {number}]")
        self.winerror = number


# made anew for each test: an exception keeps the frames that it was raised in
OF_ONE = {
    "ECONNABORTED": partial(error, errno.ECONNABORTED),
    "EPROTO": partial(error, errno.EPROTO),
    "EPERM": partial(error, errno.EPERM),
    "ECONNRESET": partial(error, errno.ECONNRESET),
    "WinError 59": partial(WindowsError_, 59),
    "WinError 64": partial(WindowsError_, 64),
    "WinError 1236": partial(WindowsError_, 1236),
    "WSA 10053": partial(WindowsError_, 10053),
    "WSA 10054": partial(WindowsError_, 10054),
}
OF_ALL = {
    "EMFILE": partial(error, errno.EMFILE),
    "ENFILE": partial(error, errno.ENFILE),
    "ENOBUFS": partial(error, errno.ENOBUFS),
    "ENOMEM": partial(error, errno.ENOMEM),
    "EINVAL": partial(error, errno.EINVAL),
    "WSA 10024": partial(WindowsError_, 10024),
    "WSA 10055": partial(WindowsError_, 10055),
    "WinError 8": partial(WindowsError_, 8),
}


# -- errors


@pytest.mark.parametrize("name", OF_ONE)
async def test_an_error_of_one_connection_is_counted_and_the_next_are_served(net, way, failing, connect, name, caplog):
    server = await echoing(net)
    failing.extend(OF_ONE[name]() for _ in range(3))
    peers = [connect(server) for _ in range(4)]
    assert all([await peer.is_served() for peer in peers])
    stats = server.stats()
    assert sum(stats["accept_errors"].values()) == 3
    assert (stats["accept_pauses"], stats["refused"], stats["accepted"]) == (0, {}, 4)
    assert caplog.text == ""


@pytest.mark.parametrize("name", OF_ALL)
async def test_a_shortage_pauses_accepting_once_and_for_a_while(net, way, failing, connect, name, caplog):
    server = await echoing(net)
    live = connect(server)
    assert await live.is_served()
    failing.extend(OF_ALL[name]() for _ in range(4))
    peers = [connect(server) for _ in range(4)]
    assert await live.is_served()
    assert all([await peer.is_served() for peer in peers])
    stats = server.stats()
    assert (sum(stats["accept_errors"].values()), stats["refused"], stats["accepted"]) == (4, {}, 5)
    assert all(after - before > 0.015 for before, after in pairwise(failing.times))
    # on a slow machine the attempts may lie so far apart that they look like several shortages
    assert 1 <= stats["accept_pauses"] <= 4
    assert caplog.text.count("nobody is accepted for the time being") == stats["accept_pauses"]


async def test_a_socket_that_cannot_be_watched_again_is_tried_again(net, way, failing, connect, monkeypatch):
    """The loop's own epoll set takes no more for the moment (ENOSPC, ENOMEM): the pause goes on."""
    if way == "asking" or sys.platform == "win32":  # by asyncio's Proactor loop
        pytest.skip("nothing is watched there")
    server, failures = await echoing(net), [error(errno.ENOSPC), MemoryError(), error(errno.ENOMEM)]
    listener = server._listener
    watch = listener._watch

    def fail_to_watch():
        if failures:
            raise failures.pop(0)
        watch()

    monkeypatch.setattr(listener, "_watch", fail_to_watch)
    failing.append(error(errno.EMFILE))
    assert await connect(server).is_served()
    stats = server.stats()
    assert stats["accept_errors"] == {"EMFILE": 1, "ENOSPC": 1, "MemoryError": 1, "ENOMEM": 1}
    assert (stats["accepted"], failures) == (1, [])


async def test_what_is_no_oserror_does_not_end_it_either(net, way, failing, connect, caplog):
    if way == "watching":
        pytest.skip("accept() itself raises nothing else; a loop's sock_accept() may")
    server = await echoing(net)
    failing.append(RuntimeError("a loop in trouble"))
    assert await connect(server).is_served()
    assert server.stats()["accept_errors"] == {"RuntimeError": 1}


@pytest.mark.parametrize(
    ("raised", "name"),
    [
        (error(errno.EMFILE), "EMFILE"),
        (WindowsError_(64), "WinError 64"),
        (WindowsError_(121), "WinError 121"),
        (OSError("no number"), "OSError"),
        (RuntimeError("x"), "RuntimeError"),
        (TimeoutError(), "TimeoutError"),
        (None, "NoneType"),
    ],
)
def test_the_names_of_errors(gamenet, raised, name):
    assert gamenet.listener.error_name(raised) == name


def test_windows_names_lose_their_prefix(gamenet, monkeypatch):
    monkeypatch.setitem(errno.errorcode, 10024, "WSAEMFILE")
    assert gamenet.listener.error_name(WindowsError_(10024)) == "EMFILE"


async def test_who_cannot_be_prepared_is_lost_alone(net, way, connect, monkeypatch):
    def failing_prepare(sock):
        if not failed:
            failed.append(sock)
            raise error(errno.EINVAL)
        prepare(sock)

    failed, prepare = [], net.gamenet.listener.prepare
    monkeypatch.setattr(net.gamenet.listener, "prepare", failing_prepare)
    server = await echoing(net)
    peers = [connect(server) for _ in range(3)]
    assert sorted([await peer.is_served() for peer in peers if peer is not peers[0]]) == [True, True]
    assert failed[0].fileno() == -1
    stats = server.stats()
    assert (stats["accept_errors"], stats["accepted"], server._admission.held) == ({"EINVAL": 1}, 2, 2)


async def test_a_session_that_cannot_be_made_is_lost_alone(net, way, connect, caplog, until):
    def failing_session():
        if not failed:
            failed.append(1)
            raise MemoryError
        return new_session()

    failed, server = [], await echoing(net)
    new_session, server._listener._new_session = server._listener._new_session, failing_session
    first, second = connect(server), connect(server)
    assert await second.is_served()
    assert await first.end() == b""
    assert server.stats()["accept_errors"] == {"MemoryError": 1}
    assert server._admission.held == 1
    assert "could not be taken" in caplog.text


async def test_a_transport_that_cannot_be_made_is_lost_alone(net, way, connect, until):
    server = await echoing(net)
    acceptor = server._listener._acceptor
    if net.transport == "epoll":
        poller, acceptor.poller = acceptor.poller, FailingPoller()
    else:
        connect_accepted, acceptor._connect_accepted_socket = acceptor._connect_accepted_socket, fail_to_connect
    lost = connect(server)
    assert await lost.end() == b""
    assert (server.stats()["accept_errors"], server._admission.held) == ({"ENOSPC": 1}, 0)
    if net.transport == "epoll":
        acceptor.poller = poller
    else:
        acceptor._connect_accepted_socket = connect_accepted
    assert await connect(server).is_served()


async def test_a_task_factory_that_fails_loses_one_alone(net, connect, until):
    if net.transport == "epoll" or sys.platform == "win32":
        pytest.skip("the epoll transport needs no tasks, and Windows' Proactor needs one itself to accept")
    server, loop = await echoing(net), asyncio.get_running_loop()

    def fail(loop, coroutine, **options):
        loop.set_task_factory(None)
        raise TypeError("an unexpected keyword")

    lost = connect(server)
    loop.set_task_factory(fail)
    await until(lambda: server.stats()["accept_errors"])
    assert server.stats()["accept_errors"] == {"TypeError": 1}
    assert await lost.end() == b""
    assert server._admission.held == 0
    assert await connect(server).is_served()


async def fail_to_connect(factory, sock):
    raise error(errno.ENOSPC)


class FailingPoller:
    def connect(self, sock, peername, session):
        raise error(errno.ENOSPC)


async def test_a_hook_that_raises_stops_nobody(net, way, connect, caplog):
    server = await echoing(net)

    @server.on_opened
    def opened(session):
        raise ValueError("opened")

    assert all([await connect(server).is_served() for _ in range(3)])
    assert server.stats()["handler_errors"] == 3


async def test_a_peer_that_reset_its_connection_before_it_was_accepted_is_accounted_for(net, way, connect, until):
    server, peernames = await echoing(net, max_sessions_per_address=5), []
    server.on_opened(lambda session: peernames.append(session.peername))
    stats = server.stats
    for number in range(1, 21):
        for _ in range(5):
            connect(server).reset()
        came = 5 * number
        await until(lambda: stats()["accepted"] + sum(stats()["accept_errors"].values()) == came)  # noqa: B023
        await until(lambda: not server._admission.held)
    assert await connect(server).is_served()
    assert stats()["refused"] == {}
    assert {peername[0] for peername in peernames} == {HOST}  # also where the system does not know any more
    assert server._admission.held_by_network == {HOST: 1}


async def test_the_proactors_task_is_asked_for_its_exception(gamenet):
    """As the Proactor does it, on every system."""
    loop, complaints = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))

    class Loop:
        def __init__(self):
            self._proactor = self

        def accept(self, listening):
            async def accept_coro():
                await future

            future = loop.create_future()
            loop.create_task(accept_coro())
            loop.call_later(0.01, future.set_exception if listening is None else future.set_result, outcome)
            return future

        def __getattr__(self, name):
            return getattr(loop, name)

    sock_accept, before = gamenet.transports.proactor.sock_accept, loop.get_task_factory()
    outcome = WindowsError_(64)
    with pytest.raises(WindowsError_):
        await sock_accept(Loop(), None)
    outcome = (1, 2)
    assert await sock_accept(Loop(), "a socket") == (1, 2)
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []
    assert loop.get_task_factory() is before


def test_a_loop_that_cannot_watch_sockets(gamenet):
    """As Windows' Proactor loop, whose way this is."""

    class Loop(asyncio.SelectorEventLoop):
        def add_reader(self, fd, callback, *args):
            raise NotImplementedError

    async def main():
        server = gamenet.Server(transport="asyncio")
        server.on(1)(lambda session, packet: session.reply(packet))
        async with server, gamenet.connect(HOST, server.port, transport="asyncio") as client:
            assert (await client.request(1, b"x")).body == b"x"
            assert server._listener._tasks
        assert not server.is_listening

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


# -- no descriptors left

LOOPS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
TRANSPORTS = ["asyncio", *(["fast"] if importlib.util.find_spec("aiofastnet") else [])]
TRANSPORTS += ["epoll"] if ON_LINUX else []
STARVED = [
    (backend, transport, loop, is_tls)
    for backend in (["pure"] if PURE_ONLY else ["pure", "compiled"])
    for transport in TRANSPORTS
    for loop in LOOPS
    for is_tls in (False, True)
    if (backend, transport) != ("pure", "epoll")
    if not is_tls or (transport != "epoll" and (backend == "compiled" or PURE_ONLY))
]


def certified(folder):
    """Arguments of a server that has a certificate, and the context of its clients."""
    authority = pytest.importorskip("trustme").CA()
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return [str(folder / "server.pem")], client


class Starved:
    """The process of `support/starved.py`."""

    def __init__(self, process):
        self.process = process

    async def ask(self, command):
        self.process.stdin.write(command.encode() + b"\n")
        return (await asyncio.wait_for(self.process.stdout.readline(), 20)).decode().strip()

    async def stats(self):
        return json.loads(await self.ask("stats"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit that a process can lower")
@pytest.mark.parametrize(("backend", "transport", "loop", "is_tls"), STARVED)
async def test_without_descriptors_live_sessions_go_on_and_the_rest_waits(backend, transport, loop, is_tls, tmp_path):
    if type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
        pytest.skip("the server has its own process and loop; once is enough")
    certificate, context = certified(tmp_path) if is_tls else ([], None)
    script = Path(__file__).parent / "support" / "starved.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), transport, loop, *certificate,
        env={**os.environ, "GAMENET_PURE": str(int(backend == "pure"))},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    starved = Starved(process)
    writers, waiting = [], []

    async def connect():
        reader, writer = await asyncio.open_connection(HOST, port, ssl=context)
        writers.append(writer)
        return reader, writer

    async def ping_when_connected(connecting):
        await ping(*await connecting)

    async def ping(reader, writer):
        writer.write(wire(1, b"ping"))
        assert await asyncio.wait_for(read_packet(reader), 20) == (1, 0, b"ping")

    async def play(connection):
        for _ in range(40):
            await ping(*connection)
            await asyncio.sleep(0.05)

    try:
        port = int(await asyncio.wait_for(process.stdout.readline(), 20))
        live = [await connect() for _ in range(5)]
        await asyncio.gather(*(ping(*connection) for connection in live))
        assert await starved.ask("starve") == "starve"
        waiting = [asyncio.ensure_future(connect()) for _ in range(60)]
        while not (before := await starved.stats())["accept_pauses"]:
            await asyncio.sleep(0.01)
        await asyncio.gather(*(play(connection) for connection in live))  # some 2 s
        after = await starved.stats()
        accepted = after["accepted"]
        assert 5 < accepted < 65
        assert (after["sessions"], after["refused"], after["closed"]) == (accepted, {}, {})
        assert set(after["accept_errors"]) == {"EMFILE"}
        # 20 % of a core for what took at least two seconds: spinning would take all of it
        assert after["cpu"] - before["cpu"] < 0.4 + 200 * 0.002  # the pings' share, generously

        # descriptors that come free one by one are used at once
        for reader, writer in live[:3]:
            writer.close()
            assert await reader.read() == b""
        served = [asyncio.ensure_future(ping_when_connected(connecting)) for connecting in waiting]
        async with asyncio.timeout(20):
            while sum(task.done() for task in served) < accepted - 5 + 3:
                await asyncio.sleep(0.01)
        # and when there are enough nobody waits
        assert await starved.ask("relieve") == "relieve"
        relieved_since = time.monotonic()
        await asyncio.wait_for(asyncio.gather(*served), 20)
        assert time.monotonic() - relieved_since < 2.0
        assert (await starved.stats())["accepted"] == 65
    finally:
        for connecting in waiting:
            connecting.cancel()
        for writer in writers:
            writer.close()
        process.stdin.close()
        _, log = await asyncio.wait_for(process.communicate(), 20)
    lines = log.decode().splitlines()
    assert 1 <= len(lines) <= 10, lines
    assert all(line.startswith("nobody is accepted for the time being: EMFILE") for line in lines)
    assert process.returncode == 0


# -- limits


async def test_max_sessions_at_below_and_above(net, way, connect, until):
    server = await echoing(net, max_sessions=3)
    peers = [connect(server) for _ in range(3)]
    assert all([await peer.is_served() for peer in peers])
    refused = [connect(server) for _ in range(2)]
    assert [await peer.is_served() for peer in refused] == [False, False]
    stats = server.stats()
    assert (stats["sessions"], stats["accepted"], stats["refused"]) == (3, 3, {"server_full": 2})
    peers[0].close()
    await until(lambda: len(server.sessions) == 2)
    assert await connect(server).is_served()
    assert all([await peer.is_served() for peer in peers[1:]])
    assert stats["closed"] == {}


async def test_who_is_refused_costs_no_session(net, way, connect, until):
    server = await echoing(net, max_sessions=1)
    made, listener = [], server._listener
    new_session = listener._new_session
    listener._new_session = lambda: made.append(1) or new_session()
    assert await connect(server).is_served()
    for _ in range(10):
        assert not await connect(server).is_served()
    assert len(made) == 1


async def test_a_refusal_is_a_reset(net, way, connect):
    server = await echoing(net, max_sessions=1)
    assert await connect(server).is_served()
    refused = connect(server)
    with pytest.raises(ConnectionResetError):
        await refused.end()


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no other loopback address until one is made")
async def test_max_sessions_per_address(net, way, connect, until):
    server = await echoing(net, max_sessions_per_address=2, max_sessions=5)
    first = [connect(server, "127.0.0.1") for _ in range(2)]
    assert all([await peer.is_served() for peer in first])
    assert not await connect(server, "127.0.0.1").is_served()
    second = [connect(server, "127.0.0.2") for _ in range(2)]
    assert all([await peer.is_served() for peer in second])
    assert not await connect(server, "127.0.0.2").is_served()
    assert await connect(server, "127.0.0.3").is_served()
    assert not await connect(server, "127.0.0.4").is_served()
    assert server.stats()["refused"] == {"address_full": 2, "server_full": 1}
    assert server._admission.held_by_network == {"127.0.0.1": 2, "127.0.0.2": 2, "127.0.0.3": 1}
    first[0].close()
    await until(lambda: len(server.sessions) == 4)
    assert await connect(server, "127.0.0.1").is_served()
    await server.stop()
    assert (server._admission.held, server._admission.held_by_network) == (0, {})


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no other loopback address until one is made")
async def test_nobody_is_refused_below_the_limits(net, way, connect, until, rng):
    """The oracle: what a model of the limits lets in is served, everybody else is refused, and nobody else."""
    server = await echoing(net, max_sessions=12, max_sessions_per_address=3)
    inside, refused = [], {}
    for _ in range(150):
        if inside and rng.random() < 0.45:
            _, peer = inside.pop(rng.randrange(len(inside)))
            rng.choice([peer.close, peer.reset])()
            await until(lambda: len(server.sessions) == len(inside))
            continue
        source = f"127.0.0.{rng.randrange(1, 7)}"
        here = sum(other == source for other, _ in inside)
        reason = "server_full" if len(inside) == 12 else "address_full" if here == 3 else None
        peer = connect(server, source)
        assert await peer.is_served() == (reason is None)
        if reason is None:
            inside.append((source, peer))
        else:
            refused[reason] = refused.get(reason, 0) + 1
    assert all([await peer.is_served() for _, peer in inside])
    assert server.stats()["refused"] == refused


async def test_a_wave_at_the_limit_is_let_in_to_the_last(net, way, connect):
    server = await echoing(net, max_sessions=300, max_sessions_per_address=300)
    peers = [connect(server) for _ in range(300)]
    assert all(await asyncio.gather(*(peer.is_served() for peer in peers)))
    assert not await connect(server).is_served()
    assert server.stats()["refused"] == {"server_full": 1}


async def test_the_pace_delays_and_refuses_nobody(net, way, connect):
    server = await echoing(net, max_accepts_per_second=10)
    started = asyncio.get_running_loop().time()
    peers = [connect(server) for _ in range(15)]
    assert all(await asyncio.gather(*(peer.is_served() for peer in peers)))
    elapsed = asyncio.get_running_loop().time() - started
    assert elapsed > 5 / 10 - 0.02  # ten at once, the rest as it may
    stats = server.stats()
    assert (stats["accepted"], stats["refused"], stats["accept_pauses"]) == (15, {}, 0)
    assert 1 <= stats["accepts_delayed"] <= 5


async def test_who_stays_below_the_pace_is_not_delayed(net, way, connect):
    server = await echoing(net, max_accepts_per_second=1000)
    for _ in range(50):
        assert await connect(server).is_served()
    assert server.stats()["accepts_delayed"] == 0


async def test_a_session_that_came_by_no_listener_is_counted_too(net, connect):
    server = await echoing(net, max_sessions=2, max_sessions_per_address=1)
    context = server._context

    class Transport(asyncio.Transport):
        def __init__(self, peername):
            super().__init__({"peername": peername})
            self.aborted = False

        def set_write_buffer_limits(self, high=None, low=None):
            pass

        def abort(self):
            self.aborted = True

    sessions = []
    for peername in [("192.0.2.1", 1), ("192.0.2.1", 2), ("192.0.2.2", 1), ("192.0.2.3", 1)]:
        sessions.append(net.gamenet.Session(context))
        sessions[-1].connection_made(Transport(peername))
    assert [session.transport.aborted for session in sessions] == [False, True, False, True]
    assert not await connect(server).is_served()
    assert server.stats()["refused"] == {"address_full": 1, "server_full": 2}
    for session in sessions:
        session.connection_lost(None)
    assert server._admission.held == 0
    assert await connect(server).is_served()


# -- coming and going


def open_sockets():
    """How many descriptors of sockets this process has, where the system tells."""
    number = 0
    for name in os.listdir("/proc/self/fd") if ON_LINUX else ():
        with suppress(FileNotFoundError):
            number += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return number


async def test_ten_thousand_connects_and_disconnects_leave_nothing(net, connect, until):
    server = await echoing(net)
    assert await connect(server).is_served()
    gc.collect()
    before = open_sockets()
    for number in range(100):
        peers = [Peer(server) for _ in range(100)]
        if number % 10:  # the system keeps the port of an orderly end for a while
            for peer in peers:
                peer.reset()
        else:
            assert all(await asyncio.gather(*(peer.is_served() for peer in peers)))
            for peer in peers:
                peer.close()
        came = 1 + 100 * (number + 1)
        # Windows tells us of who is gone before it was accepted, others let us accept it
        await until(lambda: server._accepted + server._admission.accept_errors.total() == came)  # noqa: B023
        await until(lambda: server._admission.held == 1)
    gc.collect()
    await until(lambda: open_sockets() == before)
    assert server._admission.held_by_network == {HOST: 1}
    assert (server.stats()["refused"], server.stats()["accept_pauses"]) == ({}, 0)


async def test_it_starts_again_on_the_same_port_at_once(net, way, connect):
    server = await echoing(net)
    port = server.port
    for _ in range(3):
        peer = connect(server)
        assert await peer.is_served()
        await server.stop()
        assert not server.is_listening
        await server.start(HOST, port)
        assert server.addresses == [(HOST, port)]
    assert await connect(server).is_served()


async def test_stopping_ends_those_who_have_just_come(net, way, connect, until):
    server = await echoing(net)
    for turns in range(8):
        before = open_sockets()
        peers = [connect(server) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(server.stop(), 10)
        assert (len(server.sessions), server._admission.held, server.stats()["connecting"]) == (0, 0, 0)
        for peer in peers:
            with suppress(ConnectionError):
                assert await peer.end() == b""
            peer.close()
        await until(lambda: not ON_LINUX or open_sockets() == before - 1)  # noqa: B023
        await net.start(server)


async def test_stopping_while_accepting_pauses(net, way, failing, connect, until):
    server = await echoing(net)
    failing.extend(error(errno.EMFILE) for _ in range(1000))
    peers = [connect(server) for _ in range(3)]
    await until(lambda: server.stats()["accept_pauses"])
    await asyncio.wait_for(server.stop(), 10)
    failing.clear()
    for peer in peers:
        assert not await peer.is_served()
    await net.start(server)
    assert await connect(server).is_served()


async def test_stopping_while_the_pace_holds_somebody_back(net, way, connect, until):
    server = await echoing(net, max_accepts_per_second=0.5)
    assert await connect(server).is_served()
    peers = [connect(server) for _ in range(3)]
    await asyncio.sleep(0.05)
    await asyncio.wait_for(server.stop(), 10)
    for peer in peers:
        assert not await peer.is_served()
    assert server.stats()["accepted"] == 1


async def test_two_starts_at_a_time_make_one_server_with_its_seats(net, way):
    if net.transport == "epoll":
        pytest.skip("with resume that is another one")
    server = await net.server(start=False, resume=True)
    outcomes = await asyncio.gather(net.start(server), net.start(server), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "RuntimeError"]
    assert server._listener._new_session.__self__ is server._seats


async def test_two_starts_at_a_time_make_one_server(net, way, connect):
    server = await net.server(start=False)
    outcomes = await asyncio.gather(net.start(server), net.start(server), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "RuntimeError"]
    assert server.is_listening


async def test_a_listener_closed_by_the_first_who_came_asks_for_nobody_else(net, way, connect, until):
    server, opened = await echoing(net), []
    listener = server._listener
    server.on_opened(lambda session: opened.append(session) or listener.close())
    for _ in range(3):
        connect(server)
    await until(lambda: opened)
    await asyncio.sleep(0.05)
    stats = server.stats()
    assert (stats["accept_errors"], stats["accept_pauses"]) == ({}, 0)
    if net.transport == "epoll" and way == "watching":  # who is connected while it is accepted
        assert stats["accepted"] == 1


async def test_a_listener_that_is_closed_twice(net, way):
    server = await echoing(net)
    listener = server._listener
    listener.close()
    listener.close()
    await listener.wait_closed()
    assert (listener.addresses, listener.sockets) == ([], ())


# -- listening


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_all_addresses_have_the_same_port(net, way):
    server = await net.server(start=False)
    server.on(1)(lambda session, packet: session.reply(packet))
    await server.start(None, 0)
    net.stack.push_async_callback(server.stop)
    assert {address[0] for address in server.addresses} == {"0.0.0.0", "::"}
    assert {address[1] for address in server.addresses} == {server.port}
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as sock:
            sock.connect((host, server.port))
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, wire(1, b"x"))
            assert await asyncio.wait_for(loop.sock_recv(sock, 100), 10) == wire(1, b"x")
            assert list(server._admission.held_by_network) in (["127.0.0.1"], ["::/64"])
        while server._admission.held:
            await asyncio.sleep(0.001)


async def test_a_free_port_is_looked_for_again_if_only_one_family_has_it(net, monkeypatch):
    sockets = net.gamenet.transports.sockets
    listen_on, calls = sockets._listen_on, []

    def taken_at_first(family, address, backlog):
        calls.append(address)
        if len(calls) in (2, 4):
            raise error(errno.EADDRINUSE)
        return listen_on(family, address, backlog)

    async def two_addresses(*_, **__):
        return [(socket.AF_INET, 0, 0, "", (host, 0)) for host in ("127.0.0.1", "127.0.0.2")]

    monkeypatch.setattr(sockets, "_listen_on", taken_at_first)
    fake = type("Loop", (), {"getaddrinfo": staticmethod(two_addresses)})()
    try:
        listening = await sockets.listen(fake, "two", 0)
    finally:
        monkeypatch.undo()
    ports = {sock.getsockname()[1] for sock in listening}
    for sock in listening:
        sock.close()
    assert (len(listening), len(ports)) == (2, 1)
    assert len(calls) >= 6  # more where the number was taken in earnest


async def test_accepted_sockets_send_small_packets_at_once(net, way, connect):
    server = await echoing(net)
    assert await connect(server).is_served()
    (session,) = server.sessions
    sock = session.transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
