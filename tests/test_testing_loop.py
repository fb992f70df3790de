"""The fake clock, and the event loop on which waiting takes no time."""

import asyncio
import gc
import logging
import math
import socket
import threading
import time

import pytest

from gamenet.testing import DeadlockError, FakeClock, VirtualTimeLoop


@pytest.fixture
def run():
    """Runs a coroutine on a virtual-time loop of its own."""

    def run(coroutine, **options):
        with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(**options)) as runner:
            return runner.run(coroutine)

    return run


def test_the_clock_moves_when_it_is_told():
    clock = FakeClock()
    assert clock() == 0.0
    assert clock.advance(1.5) == clock() == 1.5
    assert clock.advance(0) == 1.5
    assert repr(clock) == "FakeClock(1.5)"
    assert FakeClock(100.0)() == 100.0


@pytest.mark.parametrize("seconds", [-0.1, math.inf, math.nan])
def test_the_clock_never_goes_back(seconds):
    clock = FakeClock()
    with pytest.raises(ValueError, match="a clock cannot advance by"):
        clock.advance(seconds)
    assert clock() == 0.0


def test_a_clock_starts_at_a_time():
    with pytest.raises(ValueError, match="a clock cannot start at nan s"):
        FakeClock(math.nan)


def test_an_hour_takes_no_time(run):
    async def main():
        loop = asyncio.get_running_loop()
        before = loop.time()
        await asyncio.sleep(3600)
        return loop.time() - before

    started = time.monotonic()
    assert run(main()) == 3600
    assert time.monotonic() - started < 600


def test_timers_fire_in_their_order_at_their_time(run):
    async def main():
        loop, seen = asyncio.get_running_loop(), []
        for delay in (30, 0.5, 86_400 * 30, 7, 0):
            loop.call_later(delay, lambda delay=delay: seen.append((delay, loop.time())))
        await asyncio.sleep(86_400 * 31)
        return seen

    assert run(main()) == [(0, 0), (0.5, 0.5), (7, 7), (30, 30), (86_400 * 30, 86_400 * 30)]


def test_time_stands_still_while_something_is_ready(run):
    async def main():
        loop = asyncio.get_running_loop()
        loop.call_later(1, lambda: None)
        for _ in range(1000):
            await asyncio.sleep(0)
        return loop.time()

    assert run(main()) == 0


def test_time_goes_on_where_floats_are_coarse(run):
    clock = FakeClock(2e9)  # as of the year 2033: 2**-22 s from one float to the next
    run(asyncio.sleep(1), clock=clock)
    assert clock() == 2e9 + 1


@pytest.mark.parametrize("start", [0.0, 0.27, -5.0, 2e9])
def test_no_timer_fires_before_its_time(run, start):
    """One that sets itself anew for the rest would do so for ever: time stands still while it runs."""
    clock = FakeClock(start)

    async def main():
        loop, seen = asyncio.get_running_loop(), []
        due = math.nextafter(math.nextafter(loop.time(), math.inf), math.inf)
        for when in (due, due + 1e-7, due + 1e-6):
            loop.call_at(when, lambda when=when: seen.append((when, loop.time())))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert seen == []
        await asyncio.sleep(1)
        return seen

    for when, fired in run(main(), clock=clock):
        assert 0 <= fired - when <= 2 * math.ulp(fired)


def test_timeouts_pass_without_waiting(run):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.get_running_loop().create_future()
        return asyncio.get_running_loop().time()

    assert run(main()) == 60


def test_a_test_may_move_the_clock_of_the_loop(run):
    clock = FakeClock(1000.0)

    async def main():
        loop, seen = asyncio.get_running_loop(), []
        assert loop.clock is clock
        loop.call_later(50, lambda: seen.append(loop.time()))
        clock.advance(70)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return seen

    assert run(main(), clock=clock) == [1070]


def test_a_deadlock_is_an_error_that_names_who_waits(run):
    async def forgotten():
        await asyncio.get_running_loop().create_future()

    async def main():
        waiting = asyncio.create_task(forgotten(), name="the forgotten one")
        await waiting

    with pytest.raises(DeadlockError, match="no callback is ready, no timer is set") as raised:
        run(main(), thread_grace=0)
    assert "the forgotten one waits at " in str(raised.value)
    assert "test_testing_loop.py:" in str(raised.value)
    assert "forgotten" in str(raised.value)


def test_a_deadlock_is_found_though_other_threads_live(run):
    end = threading.Event()
    idle = threading.Thread(target=end.wait)
    idle.start()

    async def main():
        await asyncio.get_running_loop().create_future()

    try:
        with pytest.raises(DeadlockError):
            run(main(), thread_grace=0.05)
    finally:
        end.set()
        idle.join()


def test_a_deadlock_is_found_though_a_server_runs(gamenet, run):
    """Its watchdog wakes other loops twice a second."""

    async def main():
        async with gamenet.testing.serve(gamenet.Server(watchdog_timeout=0.1)) as net:
            client = await net.connect()
            assert await client.wait_closed() == "peer_closed"  # silent for too long
            await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="waits at .*, for .*main"):
        run(main())


def test_a_thread_that_wakes_the_loop_is_waited_for(run):
    async def main():
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        thread = threading.Timer(0.05, lambda: loop.call_soon_threadsafe(woken.set_result, "woken"))
        thread.start()
        return await woken

    assert run(main(), thread_grace=60) == "woken"


def test_time_is_real_while_a_thread_of_the_loop_works(run):
    async def main():
        loop = asyncio.get_running_loop()
        late = asyncio.create_task(asyncio.sleep(3600))
        assert await asyncio.to_thread(lambda: (time.sleep(0.05), "done")[1]) == "done"
        assert not late.done()
        assert loop.time() < 3600
        await late
        assert loop.time() >= 3600

    run(main())


def test_a_timeout_around_a_thread_still_fires(run):
    end = threading.Event()

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.to_thread(end.wait)
        end.set()

    run(main())


def test_real_sockets_are_read_before_time_jumps(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for end in (ours, theirs):
                end.setblocking(False)
            async with asyncio.timeout(3600):
                for n in range(20):
                    await loop.sock_sendall(theirs, bytes([n]))
                    assert await loop.sock_recv(ours, 10) == bytes([n])
        return loop.time()

    assert run(main(), io_grace=5) == 0


def test_real_sockets_that_stay_silent_do_not_stop_time(run):
    async def main():
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        async with server:
            await asyncio.sleep(100)
        return asyncio.get_running_loop().time()

    assert run(main(), io_grace=0.001) == 100


def test_a_real_socket_is_waited_for_if_there_is_no_timer(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            thread = threading.Timer(0.05, theirs.send, [b"late"])
            thread.start()
            return await loop.sock_recv(ours, 10)

    assert run(main(), io_grace=0, thread_grace=0) == b"late"


@pytest.mark.parametrize("name", ["io_grace", "thread_grace"])
@pytest.mark.parametrize("seconds", [-1, math.inf, math.nan])
def test_a_grace_that_cannot_be(name, seconds):
    with pytest.raises(ValueError, match=f"{name} .* is no time of 0 s or more"):
        VirtualTimeLoop(**{name: seconds})


def test_gamenet_goes_by_virtual_time(gamenet, run, caplog):
    caplog.set_level(logging.CRITICAL, "gamenet")

    async def main():
        server = gamenet.Server(idle_timeout=1800)
        server.on(1)(lambda session, packet: session.reply(packet))
        testing = gamenet.testing
        async with testing.leak_check(), testing.serve(server) as net:
            client = await net.connect()
            for _ in range(48):  # a day of one request each half hour, and never idle for longer
                await asyncio.sleep(1799)
                await client.request(1)
            assert await client.wait_closed() == "peer_closed"
            assert server.stats()["closed"] == {"idle_timeout": 1}
        return asyncio.get_running_loop().time()

    assert 48 * 1799 + 1800 <= run(main()) < 48 * 1799 + 1802


def test_a_run_repeats_exactly(gamenet, run):
    async def main():
        server, seen = gamenet.Server(), []

        @server.on(1)
        async def handler(session, packet):
            seen.append((asyncio.get_running_loop().time(), packet.sequence, len(packet.body)))
            await asyncio.sleep(0.001 * len(packet.body))
            session.reply(packet)

        settings = gamenet.testing.chaos(split=7, drip=(50, 0.01), seed=3)
        async with gamenet.testing.serve(server, settings) as net:
            clients = [await net.connect() for _ in range(3)]
            await asyncio.gather(*(client.request(1, bytes(n * 9)) for n in range(20) for client in clients))
        return seen

    first = run(main())
    assert len(first) == 60
    gc.collect()
    assert run(main()) == first
