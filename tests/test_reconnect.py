"""The client that comes back, on both twins: in virtual time, and through a proxy on real sockets."""

import asyncio
import random
import socket
import ssl
import threading
from contextlib import asynccontextmanager

import pytest
from virtual import names, run


@asynccontextmanager
async def world(gamenet, *, handlers=True, **options):
    """A server that echoes packet 1, in memory: (net, server)."""
    server = gamenet.Server(**{"idle_timeout": None, **options})
    if handlers:
        server.on(1)(lambda session, packet: session.reply(packet))
    async with gamenet.testing.leak_check(), gamenet.testing.MemoryNetwork() as net:
        await net.serve(server, 4000)
        yield net, server


def client_of(gamenet, net, **options):
    states = []
    options.setdefault("on_state", states.append)
    options.setdefault("rng", random.Random(1))
    client = gamenet.ReconnectingClient("127.0.0.1", 4000, transport=net.transports, **options)
    client.seen = states
    return client


def test_it_connects_asks_and_ends(gamenet):
    async def main():
        async with world(gamenet) as (net, _server):
            async with client_of(gamenet, net) as client:
                assert client.state is None
                await client.connected()
                assert (await client.request(1, b"hello")).body == b"hello"
                assert client.is_connected
                assert client.close_reason is None
            assert names(client.seen) == ["Connecting", "Connected", "Closed"]
            assert client.close_reason == "closed"
            assert not client.is_connected
            assert [packet async for packet in client] == []
            assert not client.send(1)
            assert client.stats()["sends_refused"] == 1
            await client.close()
            with pytest.raises(RuntimeError, match="started already"):
                client.start()

    run(gamenet, main)


@pytest.mark.parametrize("end", ["cut", "reset"])
def test_it_comes_back_when_an_established_link_dies(gamenet, end):
    async def main():
        async with world(gamenet) as (net, _server), client_of(gamenet, net) as client:
            for turn in range(3):
                await client.connected()
                await client.request(1)
                await asyncio.sleep(60)
                getattr(net, end)()
                await asyncio.sleep(31)
                assert client.stats()["connections"] == turn + 2
            reason = "peer_closed" if end == "cut" else "network_error"
            assert client.seen[2] == gamenet.Lost(reason)
            waiting = client.seen[3]
            assert isinstance(waiting, gamenet.Waiting)
            assert 0 <= waiting.seconds <= 1
            assert waiting.attempt == 1
            assert reason in str(waiting.error)
            assert names(client.seen) == ["Connecting", *["Connected", "Lost", "Waiting", "Connecting"] * 3, "Connected"]

    run(gamenet, main)


def test_connected_waits_behind_an_end_that_nobody_was_told_of_yet(gamenet):
    async def main():
        async with world(gamenet) as (net, _server), client_of(gamenet, net) as client:
            await client.connected()
            client.session.abort()
            assert isinstance(client.state, gamenet.Connected)
            await client.connected()
            await client.request(1)
            assert client.stats()["connections"] == 2

    run(gamenet, main)


def test_a_frozen_link_is_noticed_by_its_heartbeats(gamenet):
    async def main():
        heartbeat = gamenet.Heartbeat(10, 11, interval=2.0)
        async with (
            world(gamenet, heartbeat=heartbeat) as (net, _server),
            client_of(gamenet, net, heartbeat=heartbeat) as client,
        ):
            await client.connected()
            await asyncio.sleep(100)
            assert client.stats()["connections"] == 1
            net.freeze()
            await asyncio.sleep(6.1)
            assert gamenet.Lost("idle_timeout") in client.seen
            net.thaw()
            await client.connected()
            await client.request(1)

    run(gamenet, main)


def test_receive_goes_on_across_connections(gamenet):
    async def main():
        async with world(gamenet) as (net, _server), client_of(gamenet, net) as client:
            await client.connected()
            waiting = asyncio.ensure_future(client.receive(timeout=60.0))
            await asyncio.sleep(1)
            net.reset()
            await asyncio.sleep(1)
            await client.connected()
            client.send(1, b"back")
            assert (await waiting).body == b"back"
            with pytest.raises(TimeoutError, match="no packet within 60.0 s"):
                await client.receive(timeout=60.0)

    run(gamenet, main)


def test_it_gives_up_with_the_last_error(gamenet):
    async def main():
        async with world(gamenet) as (net, _server):
            await net.refuse()
            async with client_of(gamenet, net) as client:
                with pytest.raises(gamenet.SessionClosedError, match="given_up") as told:
                    await client.connected()
                assert isinstance(told.value.__cause__, ConnectionRefusedError)
                assert names(client.seen) == ["Connecting", "Waiting"] * 5 + ["Connecting", "GivenUp"]
                assert [state.attempt for state in client.seen[:-1]] == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
                assert isinstance(client.seen[-1].error, ConnectionRefusedError)
                waits = [state.seconds for state in client.seen if isinstance(state, gamenet.Waiting)]
                assert all(seconds <= ceiling for seconds, ceiling in zip(waits, [1, 2, 4, 8, 16], strict=True))
                assert asyncio.get_running_loop().time() == pytest.approx(sum(waits), abs=1e-3)
                with pytest.raises(gamenet.SessionClosedError, match="given_up"):
                    await anext(client)
                with pytest.raises(gamenet.SessionClosedError, match="given_up") as told:
                    await client.receive(timeout=1.0)
                assert isinstance(told.value.__cause__, ConnectionRefusedError)
                assert await client.wait_closed() == "given_up"
                assert [state async for state in client.states()] == [client.seen[-1]]

    run(gamenet, main)


def test_for_ever(gamenet):
    async def main():
        async with world(gamenet) as (net, _server):
            await net.refuse()
            async with client_of(gamenet, net, backoff=gamenet.Backoff(attempts=None)) as client:
                await asyncio.sleep(86_400)
                assert client.stats()["attempts"] > 2880
                await net.accept()
                await client.connected()

    run(gamenet, main)


def test_any_iterable_of_delays(gamenet):
    async def main():
        async with world(gamenet) as (net, _server):
            await net.refuse()
            async with client_of(gamenet, net, backoff=[1, 5]) as client:
                assert await client.wait_closed() == "given_up"
            assert asyncio.get_running_loop().time() == pytest.approx(6, abs=1e-3)
            async with client_of(gamenet, net, backoff=[-1]) as client:
                await client.wait_closed()
            assert "a delay of -1 s" in str(client.seen[-1].error)

    run(gamenet, main)


def test_fault_32_a_server_that_accepts_and_closes_is_not_hammered(gamenet):
    async def main():
        async with world(gamenet) as (net, server):
            server.on_opened(lambda session: session.close())
            async with client_of(gamenet, net) as client:
                async with asyncio.timeout(1000):
                    assert await client.wait_closed() == "given_up"
                assert client.stats()["connections"] == 6
                waits = [state.seconds for state in client.seen if isinstance(state, gamenet.Waiting)]
                assert len(waits) == 5
                assert asyncio.get_running_loop().time() >= sum(waits)

    run(gamenet, main)


@pytest.mark.parametrize(("lived", "attempts"), [(9.9, [2, 3, 4]), (10.1, [1, 1, 1])])
def test_the_back_off_starts_anew_behind_a_stable_link_only(gamenet, lived, attempts):
    async def main():
        async with world(gamenet) as (net, _server), client_of(gamenet, net) as client:
            for _ in attempts:
                await client.connected()
                await asyncio.sleep(lived)
                net.cut()
                await asyncio.sleep(0.001)  # the end is seen
            assert [state.attempt for state in client.seen if isinstance(state, gamenet.Waiting)] == attempts

    run(gamenet, main)


def test_connecting_has_a_deadline(gamenet):
    async def main():
        async with world(gamenet) as (net, _server):

            async def never(client):
                await asyncio.Event().wait()

            async with client_of(gamenet, net, greet=never, backoff=[1], connect_timeout=3.0) as client:
                await client.wait_closed()
            assert asyncio.get_running_loop().time() == pytest.approx(7, abs=0.01)
            assert "no connection to 127.0.0.1 port 4000 within 3.0 s" in str(client.seen[-1].error)
            assert "Connected" not in names(client.seen)

    run(gamenet, main)


def test_requests_fail_with_the_link_and_between_two(gamenet):
    async def main():
        async with world(gamenet, handlers=False) as (net, server), client_of(gamenet, net) as client:
            server.on(1)(lambda session, packet: None)
            await client.connected()
            asking = asyncio.ensure_future(client.request(1, timeout=100.0))
            await asyncio.sleep(20)
            net.reset()
            with pytest.raises(gamenet.SessionClosedError, match="network_error"):
                await asking
            with pytest.raises(gamenet.SessionClosedError, match="not connected: "):
                await client.request(1)

    run(gamenet, main)


def test_the_iteration_goes_on_across_links(gamenet):
    async def main():
        async with world(gamenet) as (net, _server), client_of(gamenet, net) as client:
            packets = aiter(client)
            for turn in range(4):
                await client.connected()
                client.send(1, bytes([turn]))
                await asyncio.sleep(11)  # it waits unread while the link dies
                net.cut()
                await asyncio.sleep(1.1)
                assert (await anext(packets)).body == bytes([turn])

    run(gamenet, main)


def test_packets_that_nobody_takes_stay_bounded_across_links(gamenet):
    async def main():
        async with world(gamenet) as (net, server):

            @server.on_opened
            def flood(session):
                for _ in range(50):
                    session.send(2)

            async with client_of(gamenet, net, max_queued=10, backoff=[0.1] * 1000) as client:
                for _ in range(20):
                    await client.connected()
                    await asyncio.sleep(0.5)
                    net.reset()
                    await asyncio.sleep(0.5)
                assert client.stats()["connections"] == 21
                assert len(client._queue) == 10

    run(gamenet, main)


def test_queued_sends_leave_in_order_when_it_is_back(gamenet):
    async def main():
        async with world(gamenet, handlers=False) as (net, server):
            got = []
            server.on(1)(lambda session, packet: got.append(packet.body[0]))
            async with client_of(gamenet, net, keep_queued=True, queue_size=5) as client:
                assert [client.send(1, bytes([n])) for n in range(4)] == [True] * 4
                assert client.send(gamenet.RawPacket(1, b"\4", 7))
                assert not client.send(1, b"\5")
                assert (client.stats()["queued"], client.stats()["sends_refused"]) == (5, 1)
                with pytest.raises(TypeError, match="brings its own body"):
                    client.send(gamenet.RawPacket(1), b"x")
                with pytest.raises(ValueError):
                    client.send(1, bytes(70_000))
                await client.connected()
                await asyncio.sleep(1)
                assert (got, client.stats()["queued"]) == ([0, 1, 2, 3, 4], 0)

    run(gamenet, main)


def test_queued_sends_leave_before_what_on_state_sends(gamenet):
    async def main():
        async with world(gamenet, handlers=False) as (net, server):
            got = []
            server.on(1)(lambda session, packet: got.append(packet.body))

            def on_state(state):
                if isinstance(state, gamenet.Connected):
                    assert client.send(1, b"back")

            async with client_of(gamenet, net, keep_queued=True, on_state=on_state) as client:
                client.send(1, b"queued")
                await client.connected()
                await asyncio.sleep(1)
            assert got == [b"queued", b"back"]

    run(gamenet, main)


def test_what_is_queued_follows_the_layout_that_the_greeting_agrees_on(gamenet):
    async def main():
        field = gamenet.HeaderField
        wide = gamenet.HeaderLayout((field("packet_size", 4), field("packet_id", 2), field("sequence", 4)))
        async with world(gamenet, handlers=False) as (net, server):
            got = []
            server.on(1)(lambda session, packet: got.append(packet.body))

            @server.on(2)
            def switch(session, packet):
                session.reply(packet)
                session.layout = wide

            async def greet(client):
                answer = client.request(2)
                await answer
                client.layout = wide

            async with client_of(gamenet, net, greet=greet, keep_queued=True) as client:
                assert client.send(1, b"queued")
                await client.connected()
                assert client.send(1, b"sent")
                assert await asyncio.to_thread(client.send_threadsafe, 1, b"from a thread")
                await asyncio.sleep(1)
                assert got == [b"queued", b"sent", b"from a thread"]
                assert client.stats()["connections"] == 1

    run(gamenet, main)


def test_a_request_that_is_queued_waits_for_its_connection(gamenet):
    """One whose connection dies fails; one that no connection has seen does not."""

    async def main():
        async with world(gamenet) as (net, _server):
            greeted = []

            async def greet(client):
                greeted.append(client.session)
                if len(greeted) == 1:
                    net.reset()
                    await asyncio.sleep(1)

            async with client_of(gamenet, net, greet=greet, keep_queued=True, backoff=[1] * 9) as client:
                asking = asyncio.ensure_future(client.request(1, b"?", timeout=10.0))
                assert (await asking).body == b"?"
                assert len(greeted) == 2
                await net.refuse()
                net.reset()
                await asyncio.sleep(0.1)
                asking = asyncio.ensure_future(client.request(1, b"?", timeout=100.0))
                with pytest.raises(gamenet.SessionClosedError, match="given_up"):
                    await asking

    run(gamenet, main)


def test_queueing_belongs_to_the_thread_of_the_loop(gamenet):
    async def main():
        async with world(gamenet) as (net, _server), client_of(gamenet, net, keep_queued=True) as client:
            with pytest.raises(gamenet.WrongThreadError, match="send_threadsafe"):
                await asyncio.to_thread(client.send, 1)
            assert client.stats()["queued"] == 0

    run(gamenet, main)


def test_other_threads_send_while_it_is_away_connected_and_closing(gamenet):
    async def main():
        async with world(gamenet, handlers=False) as (net, server):
            got = []
            server.on(1)(lambda session, packet: got.append(packet.body))
            await net.refuse()
            async with client_of(gamenet, net, keep_queued=True, queue_size=2) as client:
                for body in (b"a", b"b", b"too much"):
                    assert await asyncio.to_thread(client.send_threadsafe, 1, body)
                assert (client.stats()["queued"], client.stats()["sends_refused"]) == (2, 1)
                with pytest.raises(ValueError):
                    await asyncio.to_thread(client.send_threadsafe, 1, bytes(70_000))
                await net.accept()
                await client.connected()
                assert await asyncio.to_thread(client.send_threadsafe, 1, b"c")
                await asyncio.sleep(1)
                net.cut()
                await asyncio.sleep(0)
                assert await asyncio.to_thread(client.send_threadsafe, gamenet.RawPacket(1, b"d"))
                await asyncio.sleep(31)
                assert got == [b"a", b"b", b"c", b"d"]
                thread = threading.Thread(target=client.send_threadsafe, args=(1, b"e"))
                thread.start()
                thread.join()
            await asyncio.sleep(1)
            assert got[-1] == b"e"
            assert not await asyncio.to_thread(client.send_threadsafe, 1)

    run(gamenet, main)


def test_queued_sends_are_bounded_in_bytes(gamenet):
    async def main():
        async with world(gamenet) as (net, _server):
            await net.refuse()
            async with client_of(gamenet, net, keep_queued=True, max_write_buffer=2000) as client:
                assert [client.send(1, bytes(492)) for _ in range(3)] == [True, True, False]
                assert not client.send(1)

    run(gamenet, main)


def test_without_being_asked_nothing_is_queued(gamenet):
    async def main():
        async with world(gamenet) as (net, _server), client_of(gamenet, net) as client:
            assert not client.send(1)
            assert client.stats()["queued"] == 0
            assert client.stats()["sends_refused"] == 1

    run(gamenet, main)


def test_greeting_comes_before_everything_else(gamenet):
    async def main():
        async with world(gamenet, handlers=False) as (net, server):
            got = []

            @server.on(1)
            def handler(session, packet):
                got.append(packet.body)
                session.reply(packet)

            async def greet(client):
                assert (await client.request(1, b"login")).body == b"login"
                await asyncio.sleep(1)

            async with client_of(gamenet, net, greet=greet, keep_queued=True) as client:
                client.send(1, b"first")
                await asyncio.sleep(0.5)
                assert not client.is_connected
                client.send(1, b"second")
                await client.connected()
                await asyncio.sleep(20)
                net.cut()
                await asyncio.sleep(5)
            assert got == [b"login", b"first", b"second", b"login"]

    run(gamenet, main)


@pytest.mark.parametrize("resume", [False, True])
def test_a_greeting_whose_link_dies_fails_at_once(gamenet, resume):
    async def main():
        async with world(gamenet, handlers=False, resume=resume) as (net, server):
            server.on(1)(lambda session, packet: None)
            server.on(2)(lambda session, packet: session.reply(packet))

            async def greet(client):
                await client.request(1 + (client.stats()["attempts"] > 1), timeout=100.0)

            options = {"connect_timeout": 50.0, "backoff": [0, 0], "resume": resume}
            async with client_of(gamenet, net, greet=greet, **options) as client:
                await asyncio.sleep(1)
                assert not client.is_connected
                net.reset()
                await asyncio.sleep(0.1)
                assert names(client.seen) == ["Connecting", "Waiting", "Connecting", "Connected"]
                assert "network_error" in str(client.seen[1].error)
                assert not client.seen[-1].resumed  # what was not greeted is not gone on with

    run(gamenet, main)


def test_a_greeting_that_fails_ends_its_connection(gamenet):
    async def main():
        async with world(gamenet) as (net, server):

            async def greet(client):
                await client.request(1)
                raise OSError("not like this")

            async with client_of(gamenet, net, greet=greet, backoff=[60]) as client:
                await asyncio.sleep(1)
                assert names(client.seen) == ["Connecting", "Waiting"]
                assert not server.sessions
                assert server.stats()["closed"] == {"peer_closed": 1}

    run(gamenet, main)


def test_what_a_greeting_raises(gamenet):
    async def main():
        async with world(gamenet) as (net, _server):
            raised = [OSError("no route"), gamenet.SessionClosedError("gone"), gamenet.AuthenticationError("wrong")]

            async def greet(client):
                raise raised.pop(0)

            async with client_of(gamenet, net, greet=greet) as client:
                await client.wait_closed()
            assert isinstance(client.seen[-1].error, gamenet.AuthenticationError)
            assert client.stats()["attempts"] == 3

            async def close(client):
                await client.close()

            async with client_of(gamenet, net, greet=close) as client:
                await client.wait_closed()
            assert "cannot close its client" in str(client.seen[-1].error)

    run(gamenet, main)


def test_states_are_iterated_from_the_present_one_on(gamenet):
    async def main():
        async with world(gamenet) as (net, _server):
            client = client_of(gamenet, net)
            seen = []

            async def listen():
                seen.extend([state async for state in client.states()])

            async with client:
                listening = asyncio.ensure_future(listen())
                await client.connected()
                late = client.states()
                assert await anext(late) == gamenet.Connected(resumed=False)
                waiting = asyncio.ensure_future(anext(late))
                await asyncio.sleep(0)
                with pytest.raises(RuntimeError, match="somebody else"):
                    await anext(late)
                waiting.cancel()
            await listening
            assert seen == client.seen
            assert [state async for state in late] == [gamenet.Closed()]

    run(gamenet, main)


def test_a_listener_that_raises_changes_nothing(gamenet, caplog):
    async def main():
        async with world(gamenet) as (net, _server):

            def on_state(state):
                raise KeyError("mine")

            async with client_of(gamenet, net, on_state=on_state) as client:
                await client.connected()
                await client.request(1)

    run(gamenet, main)
    assert "on_state() raised at Connecting" in caplog.text


@pytest.mark.parametrize("externally", [False, True])
@pytest.mark.parametrize("disturbed", ["not", "refused", "cut"])
def test_ending_at_any_turn_leaves_nothing(gamenet, disturbed, externally):
    """Closed, or its task cancelled, after 0, 1, 2, ... turns of the loop: in every state, at every await."""

    async def main():
        async def greet(client):
            await client.request(1)

        for turns in range(40):
            async with world(gamenet) as (net, server):
                if disturbed == "refused":
                    await net.refuse()
                client = client_of(gamenet, net, greet=greet, keep_queued=True, backoff=[0, 0.1, 0, 5])
                client.start()
                for turn in range(turns):
                    await asyncio.sleep(0)
                    if disturbed == "cut" and turn % 10 == 9:
                        net.cut()
                if externally:
                    client._task.cancel()
                    await asyncio.wait([client._task])
                    assert client.close_reason == "closed" or (client.close_reason is None and turns == 0)
                await client.close()
                assert client.close_reason == "closed"
                assert client._task.done()
                assert client.seen[-1] == gamenet.Closed()
                assert client.session.transport is None
                for _ in range(3):
                    await asyncio.sleep(0)
                assert len(server.sessions) == 0

    run(gamenet, main)


def test_close_itself_may_be_cancelled(gamenet):
    async def main():
        for turns in range(8):
            async with world(gamenet) as (net, _server):
                client = client_of(gamenet, net)
                client.start()
                await client.connected()
                closing = asyncio.ensure_future(client.close())
                for _ in range(turns):
                    await asyncio.sleep(0)
                closing.cancel()
                await asyncio.wait([closing])
                if turns:
                    assert client.close_reason == "closed"
                await client.close()

    run(gamenet, main)


def test_the_name_is_looked_up_for_each_attempt(gamenet, monkeypatch):
    async def main():
        asked = []

        async def getaddrinfo(host, port, **_):
            asked.append(host)
            if len(asked) % 2:
                raise socket.gaierror(socket.EAI_AGAIN, "try again")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", unused))]

        with socket.socket() as taken:  # bound, and nobody listens there
            taken.bind(("127.0.0.1", 0))
            unused = taken.getsockname()[1]
            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
            async with gamenet.testing.leak_check():
                client = gamenet.ReconnectingClient("game.test", unused, transport="asyncio", backoff=[0.01] * 3)
                async with client:
                    await client.wait_closed()
        assert asked == ["game.test"] * 4
        assert isinstance(client.state.error, OSError)

    run(gamenet, main)


FLEET = 200


def test_a_fleet_does_not_return_in_one_wave(gamenet):
    """All 200 lose their server at once; it is back after 3 seconds. Nobody is told how to spread."""

    async def main():
        loop = asyncio.get_running_loop()
        back = []
        server = gamenet.Server(idle_timeout=None)
        async with gamenet.testing.leak_check(), gamenet.testing.MemoryNetwork() as net:
            await net.serve(server, 4000)
            backoff = gamenet.Backoff(attempts=None)
            clients = [client_of(gamenet, net, backoff=backoff, rng=random.Random(n)) for n in range(FLEET)]
            for client in clients:
                client.start()
            await asyncio.sleep(60)
            assert len(server.sessions) == FLEET
            down = loop.time()
            await server.stop(0)
            await asyncio.sleep(3.0)
            await server.start("127.0.0.1", 4000)
            server.on_opened(lambda session: back.append(loop.time() - down - 3.0))
            await asyncio.sleep(120)
            assert len(back) == len(server.sessions) == FLEET
            for client in clients:
                await client.close()
        return back

    back = sorted(run(gamenet, main))
    quarters = [back[len(back) * n // 4] for n in (1, 2, 3)]
    busiest = max(sum(start <= moment < start + 0.1 for moment in back) for start in back)
    print(f"back after {back[0]:.2f} to {back[-1]:.2f} s, quarters {quarters}, at most {busiest} in 0.1 s")
    assert quarters[2] - quarters[0] > 1.0  # the middle half takes longer than a second
    assert busiest < FLEET * 0.1


async def test_through_a_proxy_that_refuses_cuts_and_resets(net, until):
    gamenet = net.gamenet
    server = await net.server()
    server.on(1)(lambda session, packet: session.reply(packet))
    async with gamenet.testing.ChaosProxy("127.0.0.1", server.port) as proxy:
        options = {"transport": net.transport, "backoff": [0.02] * 1000}
        async with gamenet.ReconnectingClient("127.0.0.1", proxy.port, **options) as client:
            for turn in range(6):
                await client.connected()
                assert (await client.request(1, bytes([turn]))).body == bytes([turn])
                if turn % 3 == 2:
                    await proxy.refuse()
                (proxy.cut if turn % 2 else proxy.reset)()
                await until(lambda: not client.is_connected)
                if turn % 3 == 2:
                    attempts = client.stats()["attempts"]
                    await until(lambda before=attempts: client.stats()["attempts"] >= before + 2)
                    await proxy.accept()
            await client.connected()
            assert client.stats()["connections"] == 7


async def test_a_proxy_that_freezes(net, until):
    gamenet = net.gamenet
    heartbeat = gamenet.Heartbeat(10, 11, interval=0.1)
    server = await net.server(heartbeat=gamenet.Heartbeat(10, 11, interval=None))
    async with gamenet.testing.ChaosProxy("127.0.0.1", server.port) as proxy:
        options = {"transport": net.transport, "heartbeat": heartbeat, "backoff": [0.02] * 1000}
        async with gamenet.ReconnectingClient("127.0.0.1", proxy.port, **options) as client:
            await client.connected()
            proxy.freeze()
            await until(lambda: client.stats()["lost"] >= 1)
            proxy.thaw()
            await client.connected()


@pytest.mark.parametrize("resume", [False, True])
async def test_cancelling_behind_connection_made_leaves_nothing(net, secure, monkeypatch, until, resume):
    """Whoever makes the connection has not returned it yet. `close()` then does not wait for ever."""
    options = {"resume": resume} if net.transport != "epoll" or not resume else {"resume": True, "transport": "auto"}
    server = await net.server(**options)
    client = net.gamenet.ReconnectingClient(
        "127.0.0.1", server.port, transport=net.transport, ssl=net.tls[1], resume=resume
    )
    protocol = net.gamenet.client_seat.ClientLink if resume else type(client.session)
    connection_made = protocol.connection_made
    made = []

    def and_cancel(self, transport):
        connection_made(self, transport)
        if self is client.session or (resume and not made):
            made.append(self)
            client._task.cancel()

    monkeypatch.setattr(protocol, "connection_made", and_cancel)
    client.start()
    await asyncio.wait([client._task])
    async with asyncio.timeout(10):
        await client.close()
    await until(lambda: made[0].is_closed)
    assert client.close_reason == "closed"
    await until(lambda: not server.sessions)


async def test_closing_during_a_tls_handshake_that_never_ends(net, until):
    heard = []

    async def silent(reader, writer):
        heard.append(await reader.read(1))
        while await reader.read(65_536):
            pass
        heard.append(b"")
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    try:
        port = listening.sockets[0].getsockname()[1]
        context = ssl.create_default_context()
        client = net.gamenet.ReconnectingClient("127.0.0.1", port, ssl=context, transport=net.transport)
        client.start()
        await until(lambda: heard)
        await client.close()
        assert client.close_reason == "closed"
        await until(lambda: len(heard) == 2)
    finally:
        listening.close()


def test_a_back_off_that_is_none_is_refused_at_once(gamenet):
    async def main():
        with pytest.raises(TypeError, match=r"backoff .*a Backoff or an iterable of seconds.* int"):
            gamenet.ReconnectingClient("127.0.0.1", 1, backoff=5)

    run(gamenet, main)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"stable_after": -1}, "stable_after -1 is below 0"),
        ({"connect_timeout": 0}, "connect_timeout 0 is not above 0"),
        ({"queue_size": 0}, "queue_size 0 is below 1"),
        ({"max_queued": 0}, "max_queued 0 is below 1"),
        ({"idle_timeout": 0}, "idle_timeout 0"),
    ],
)
def test_what_cannot_be_is_refused(gamenet, options, text):
    async def main():
        with pytest.raises(ValueError, match=text):
            gamenet.ReconnectingClient("127.0.0.1", 1, **options)

    run(gamenet, main)
