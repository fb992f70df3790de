"""Four threads, started at once, against one server: everything accepted arrives once and in each thread's order."""

import asyncio
import itertools
import struct
import sys
import threading
import time
from collections import Counter, deque

import pytest

THREADS = 4
SESSIONS = 100
SENDS = {"compiled": 50_000, "pure": 10_000}  # of each thread; one takes the pure twin many times as long
NUMBERED = struct.Struct("<HHIBI")  # a packet: id, size, sequence, thread, number
PACKET_ID = 7


@pytest.fixture(autouse=True)
def eager_switches():
    """Threads change places fifty times as often as they usually do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


class Threads:
    """Runs `work(index)` in four threads behind a barrier. What one of them raises is raised at the end."""

    def __init__(self, work):
        self._barrier = threading.Barrier(THREADS)
        self._work = work
        self._errors = []
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(THREADS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        for thread in self._threads:
            thread.join(60)
        assert not self.are_at_work
        assert self._errors == []

    @property
    def are_at_work(self):
        return any(thread.is_alive() for thread in self._threads)

    def _run(self, index):
        try:
            self._barrier.wait(30)
            self._work(index)
        except BaseException as error:
            self._errors.append(error)

    async def done(self, seconds=120):
        async with asyncio.timeout(seconds):
            while self.are_at_work:
                await asyncio.sleep(0.005)


class Peer(asyncio.Protocol):
    """Keeps what it is sent."""

    def __init__(self):
        self.data = bytearray()
        self.is_open = True

    def data_received(self, data):
        self.data += data

    def connection_lost(self, error):
        self.is_open = False

    def numbers(self):
        """Of each thread, the numbers that came, in their order."""
        assert len(self.data) % NUMBERED.size == 0
        found = [[] for _ in range(THREADS)]
        for packet_id, size, _, thread, number in NUMBERED.iter_unpack(self.data):
            assert (packet_id, size) == (PACKET_ID, NUMBERED.size)
            found[thread].append(number)
        return found


async def peers_of(net, server, count):
    """Connections to `server`: their sessions, in the order of the peers that are returned with them."""
    loop = asyncio.get_running_loop()
    peers = {}
    for _ in range(count):
        transport, peer = await loop.create_connection(Peer, "127.0.0.1", server.port)
        net.stack.callback(transport.close)
        peers[transport.get_extra_info("sockname")] = peer
    async with asyncio.timeout(20):
        while len(server.sessions) < count:
            await asyncio.sleep(0.002)
    sessions = list(server.sessions)
    return sessions, [peers[session.peername] for session in sessions]


def send(session, thread, number):
    """Until it is accepted; False if the session is closed."""
    body = NUMBERED.pack(0, 0, 0, thread, number)[8:]
    while not session.send_threadsafe(PACKET_ID, body):
        if not session.is_open:
            return False
        time.sleep(0.001)  # it is full
    return True


async def test_each_threads_numbers_once_and_in_order_at_every_session(net):
    server = await net.server()
    sessions, peers = await peers_of(net, server, SESSIONS)
    sends = SENDS[net.gamenet.backend]

    def work(thread):
        for number in range(sends):
            assert send(sessions[number % SESSIONS], thread, number)

    with Threads(work) as threads:
        await threads.done()
    expected = THREADS * sends * NUMBERED.size
    async with asyncio.timeout(60):
        while sum(len(peer.data) for peer in peers) < expected:
            await asyncio.sleep(0.005)
    for place, peer in enumerate(peers):
        assert peer.numbers() == [list(range(place, sends, SESSIONS))] * THREADS
    stats = server.stats()["mailbox"]
    assert stats["accepted"] == stats["delivered"] == THREADS * sends
    assert stats["discarded"] == stats["waiting"] == 0


@pytest.mark.parametrize("max_mailbox", [16, 65_536])
async def test_a_server_that_stops_half_way_accounts_for_everything(net, max_mailbox):
    """Accepted = delivered + discarded; what is delivered has arrived, and is the first part of what was accepted."""
    server = await net.server(max_mailbox=max_mailbox, close_timeout=30.0)
    sessions, peers = await peers_of(net, server, SESSIONS)
    accepted = [[[] for _ in range(THREADS)] for _ in range(SESSIONS)]

    def work(thread):
        for number in itertools.count():
            place = number % SESSIONS
            if not send(sessions[place], thread, number):
                break
            accepted[place][thread].append(number)

    with Threads(work) as threads:
        async with asyncio.timeout(60):
            while server.stats()["mailbox"]["delivered"] < 4 * SESSIONS:
                await asyncio.sleep(0)
        await server.stop()
        await threads.done()
    async with asyncio.timeout(30):
        while any(peer.is_open for peer in peers):
            await asyncio.sleep(0.005)
    stats = server.stats()["mailbox"]
    arrived = 0
    for place, peer in enumerate(peers):
        for thread, numbers in enumerate(peer.numbers()):
            assert numbers == accepted[place][thread][: len(numbers)]
            arrived += len(numbers)
    assert stats["accepted"] == sum(len(numbers) for of_session in accepted for numbers in of_session)
    assert stats["accepted"] == stats["delivered"] + stats["discarded"]
    assert stats["delivered"] == arrived
    assert stats["waiting"] == 0
    assert stats["refused"] >= THREADS


async def test_a_server_that_is_aborted_half_way_accounts_for_everything(net):
    server = await net.server(dispatch_budget=1e-9)
    sessions, _ = await peers_of(net, server, 4)
    accepted, count = [0] * THREADS, 4000

    def work(thread):
        for number in range(count):
            accepted[thread] += session_or_call(number, thread)

    def session_or_call(number, thread):
        if number % 3 == 0:
            return server.call_soon(bool, number)
        if number % 3 == 1:
            return server.sessions.broadcast_threadsafe(PACKET_ID, b"")
        return sessions[number % 4].send_threadsafe(PACKET_ID, bytes([thread]))

    with Threads(work) as threads:
        while not server.stats()["mailbox"]["delivered"]:
            await asyncio.sleep(0)
        await server.stop(timeout=0)
        await threads.done()
    stats = server.stats()["mailbox"]
    assert stats["accepted"] == sum(accepted) == stats["delivered"] + stats["discarded"]
    assert stats["accepted"] + stats["refused"] == THREADS * count
    assert stats["waiting"] == 0


async def test_calls_and_broadcasts_keep_each_threads_order_among_sends(net):
    server = await net.server()
    sessions, peers = await peers_of(net, server, 3)
    room = server.sessions.room("all")
    for session in sessions:
        room.add(session)
    called = [[] for _ in range(THREADS)]
    count = 1200

    def work(thread):
        for number in range(count):
            body = NUMBERED.pack(0, 0, 0, thread, number)[8:]
            if number % 3 == 0:
                assert room.broadcast_threadsafe(PACKET_ID, body)
            elif number % 3 == 1:
                assert sessions[thread % 3].send_threadsafe(PACKET_ID, body)
            else:
                assert server.call_soon(note, thread, number, body)

    def note(thread, number, body):
        called[thread].append(number)
        sessions[thread % 3].send(PACKET_ID, body)

    with Threads(work) as threads:
        await threads.done()
    async with asyncio.timeout(30):
        while sum(len(peer.data) for peer in peers) < THREADS * count // 3 * 5 * NUMBERED.size:
            await asyncio.sleep(0.005)
    assert called == [list(range(2, count, 3))] * THREADS
    for place, peer in enumerate(peers):
        for thread, numbers in enumerate(peer.numbers()):
            assert numbers == list(range(0, count, 1 if thread % 3 == place else 3))


async def test_sessions_that_come_and_go_while_threads_send(net):
    """A session that closes takes nothing with it that was for another one."""
    server = await net.server()
    sessions, peers = await peers_of(net, server, 20)
    accepted = [Counter() for _ in range(THREADS)]
    rounds = 300

    def work(thread):
        for number in range(rounds):
            for place, session in enumerate(sessions):
                accepted[thread][place] += send(session, thread, number)

    with Threads(work) as threads:
        for session in sessions[10:]:
            await asyncio.sleep(0.001)
            session.close()
        await threads.done()
    async with asyncio.timeout(30):
        while any(peer.is_open for peer in peers[10:]) or server.stats()["mailbox"]["waiting"]:
            await asyncio.sleep(0.005)
    async with asyncio.timeout(30):
        while any(len(peer.data) < THREADS * rounds * NUMBERED.size for peer in peers[:10]):
            await asyncio.sleep(0.005)
    for peer in peers[:10]:
        assert peer.numbers() == [list(range(rounds))] * THREADS
    arrived = 0
    for peer in peers:
        for numbers in peer.numbers():
            assert numbers == list(range(len(numbers)))
            arrived += len(numbers)
    stats = server.stats()["mailbox"]
    assert stats["accepted"] == sum(count for of_thread in accepted for count in of_thread.values())
    assert (stats["delivered"], stats["discarded"]) == (arrived, stats["accepted"] - arrived)


async def test_a_mailbox_that_is_first_used_by_four_threads_at_once(gamenet):
    """Its ring is made by whoever comes first."""
    loop = asyncio.get_running_loop()
    log = gamenet.logs.LimitedLogger(gamenet.server.logger, loop.time)
    for _ in range(100):
        mailbox, seen = gamenet.loop_mailbox.LoopMailbox(), []
        mailbox.open(loop, log, gamenet._core.Ledger())

        def work(thread, mailbox=mailbox, seen=seen):
            for number in range(3):
                assert mailbox.put((seen.append, ((thread, number),)))

        with Threads(work):
            pass
        await mailbox.settle(30)
        assert sorted(seen) == [(thread, number) for thread in range(THREADS) for number in range(3)]
        assert mailbox.close() == 0


class Given:
    """What a handler gave away, read by four threads while the handler, or what comes after it, still runs."""

    def __init__(self, read):
        self._read = read
        self._given = deque()
        self._is_over = False
        self.seen = [0] * THREADS

    def give(self, session, thing):
        self._given.append(thing)

    def over(self):
        self._is_over = True

    def work(self, thread):
        while True:
            over = self._is_over  # first: what was given before is seen then
            try:
                thing = self._given.popleft()
            except IndexError:
                if over:
                    return
                time.sleep(0)
                continue
            self.seen[thread] += self._read(thing)


def move_class(gamenet):
    """A packet whose fields must fit each other: its number, that number's bits the other way round, and its text."""

    class Move(gamenet.Packet, id=PACKET_ID):
        number: gamenet.u32
        inverse: gamenet.u32
        text: str = gamenet.char(48)

    return Move


def read_move(move):
    for _ in range(3):
        number = move.number
        assert move.inverse == number ^ 0xFFFFFFFF
        assert move.text == f"number {number}"
        assert move.body == bytes(move.view())
        assert move.body[:4] == number.to_bytes(4, "little")
    return 1


def read_moves(batch):
    numbers = list(batch.column("number"))
    assert [move.number for move in batch for _ in range(read_move(move))] == numbers
    return len(numbers)


@pytest.mark.parametrize("by_batch", [False, True], ids=["packets", "batches"])
async def test_what_handlers_give_to_other_threads_stays_true(net, by_batch):
    """When the handler has returned its packet is moved out of the chunk: in the middle of what the others read."""
    server = await net.server()
    given = Given(read_moves if by_batch else read_move)
    move = move_class(net.gamenet)
    (server.on_batch if by_batch else server.on)(move)(given.give)
    _, writer = await net.open(server)
    codec = net.gamenet._core.HeaderCodec()
    moves = [move(number, number ^ 0xFFFFFFFF, f"number {number}") for number in range(300)]
    frames = b"".join([codec.frame(PACKET_ID, packet.body) for packet in moves])
    rounds = 10

    with Threads(given.work) as threads:
        try:
            for _ in range(rounds):
                writer.write(frames[:-7])
                await writer.drain()
                await asyncio.sleep(0.005)
                writer.write(frames[-7:])
            async with asyncio.timeout(60):
                while server.stats()["packets_dispatched"] < rounds * len(moves):
                    await asyncio.sleep(0.002)
        finally:
            given.over()
        await threads.done()
    assert sum(given.seen) == rounds * len(moves)


class Site:
    """A server with some clients, in a thread and on a loop of its own."""

    def __init__(self, gamenet, move, data, seconds):
        self.server = gamenet.Server(session_data=data, watchdog_timeout=0.05)
        self.server.on(move)(self._moved)
        self.server.on_batch(PACKET_ID + 1)(lambda session, batch: batch.reply())
        self._gamenet, self._move, self._seconds = gamenet, move, seconds
        self._answer = move(1, 1 ^ 0xFFFFFFFF, "number 1")
        self.answered = 0

    def _moved(self, session, packet):
        read_move(packet)
        session.data.append(packet.number)
        session.reply(packet, self._answer)

    async def run(self):
        async with self.server:
            end = time.monotonic() + self._seconds
            await asyncio.gather(*[self._play(end) for _ in range(5)])

    async def _play(self, end):
        while time.monotonic() < end:
            async with self._gamenet.connect("127.0.0.1", self.server.port, packets=[self._move]) as client:
                for number in range(20):
                    client.send(PACKET_ID + 1, b"run")
                    move = self._move(number, number ^ 0xFFFFFFFF, f"number {number}")
                    read_move(await client.request(move, timeout=30))
                    self.answered += 1


def test_servers_in_two_threads_share_classes_and_tell_others_what_they_do(gamenet, monkeypatch):
    """Two more threads send, ask and scrape all the while, also while the first server stops."""
    metrics = pytest.importorskip("gamenet.metrics", reason="prometheus-client is not installed")
    client = pytest.importorskip("prometheus_client")
    monkeypatch.setattr(gamenet.server.logger, "disabled", True)
    move = move_class(gamenet)
    data = gamenet.ObjectPool(list, reset=list.clear)
    sites = [Site(gamenet, move, data, seconds) for seconds in (0.6, 1.2)]
    registry = client.CollectorRegistry()
    for number, site in enumerate(sites):
        metrics.export(site.server, name=str(number), handlers=True, registry=registry)
    running = len(sites)
    lock = threading.Lock()
    called = [0]

    def work(thread):
        nonlocal running
        if thread < len(sites):
            try:
                asyncio.run(sites[thread].run())
            finally:
                with lock:
                    running -= 1
        while running:
            for site in sites:
                ask(site.server) if thread == 2 else tell(site.server, thread)

    def ask(server):
        assert server.stats()["mailbox"]["waiting"] >= 0
        client.generate_latest(registry)
        for session in server.sessions:
            assert session.is_closed in (True, False)
            assert session.codec is server.sessions._codec
            assert session.close_reason is None or session.close_reason in list(gamenet.CloseReason)
            assert repr(session).startswith(f"<Session {session.id} ")

    def tell(server, thread):
        for session in server.sessions:
            session.send_threadsafe(PACKET_ID + 2, b"hello")
        server.sessions.broadcast_threadsafe(sites[0]._answer)
        called[0] += thread == 3 and server.call_soon(len, ())
        time.sleep(0.002)

    with Threads(work):
        pass
    for site in sites:
        stats = site.server.stats()
        assert site.answered >= 20
        assert stats["handler_errors"] == stats["pool"]["outstanding"] == stats["sessions"] == 0
        assert stats["mailbox"]["accepted"] == stats["mailbox"]["delivered"] + stats["mailbox"]["discarded"]
        assert stats["bytes_in"] == stats["bytes_dispatched"] + stats["bytes_discarded"] + stats["bytes_rejected"]
    assert data.stats()["outstanding"] == 0
    assert called[0] > 0
