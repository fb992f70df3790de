"""The leak check fails for every kind of thing that can be left, and for nothing else."""

import asyncio
import gc

import pytest
from wire import wire


async def turns():
    """Long enough for bytes in memory to arrive and be answered."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def testing(gamenet):
    return gamenet.testing


@pytest.fixture
def server(gamenet):
    server = gamenet.Server()
    server.on(1)(lambda session, packet: session.reply(packet))
    return server


@pytest.fixture
def leaking(testing):
    """`async with leaking("pattern")`: a leak check that must fail with this text."""

    class Leaking:
        def __init__(self, text, *servers, **options):
            self.text = text
            self.check = testing.leak_check(*servers, settle=0.05, **options)

        async def __aenter__(self):
            return await self.check.__aenter__()

        async def __aexit__(self, *error):
            assert error == (None, None, None)
            with pytest.raises(testing.LeakError, match=self.text) as raised:
                await self.check.__aexit__(*error)
            self.check.found = raised.value.leaks

    return Leaking


async def test_nothing_is_left(testing, server):
    async with testing.leak_check() as check, testing.serve(server) as net:
        await (await net.connect()).request(1)
        assert any("1 session(s) of server" in line for line in check.leaks())
    assert check.leaks() == []


async def test_an_open_session(leaking, testing, server):
    net = testing.MemoryNetwork()
    async with leaking(r"1 session\(s\) of server 0x\w+ open: <Session \d+ .* open> \(close the clients, or") as check:
        await net.serve(server)
        _kept = await net.open()  # from 3.13 on, a stream that nobody keeps closes its connection
    assert any("1 deadline(s) of server" in line for line in check.found)
    assert any("still listens" in line for line in check.found)
    assert len(check.found) == 3
    await net.close()


async def test_a_server_that_listens(leaking, testing, server):
    async with leaking(r"server 0x\w+ still listens \(await server.stop\(\)\)") as check:
        for _ in range(2):
            await server.stop()
            await server.start()
    # on Windows' Proactor it listens by tasks, which are found too
    assert len([found for found in check.found if "accept" not in found]) == 1
    async with testing.leak_check(server):  # it did before
        pass
    await server.stop()


async def test_an_open_session_of_a_server_that_began_before(leaking, testing, server):
    async with testing.serve(server) as net:
        _kept = await net.open()
        async with testing.leak_check():
            pass
        async with leaking(r"1 session\(s\) of server", server):
            pass
        async with leaking(r"1 session\(s\) of server") as check:
            check.watch(server)


async def test_an_open_client(leaking, testing, server):
    async with testing.serve(server) as net:
        async with leaking(r"1 session\(s\) of client with session \d+ open: .*\(close the client\)") as check:
            await net.connect()
        assert len(check.found) == 1


async def test_a_task(leaking):
    async def forgotten():
        await asyncio.sleep(60)

    async with leaking(r"1 task\(s\) not done: the left one in .*forgotten at .*test_testing_leaks.py:\d+ \(await or") as check:
        task = asyncio.create_task(forgotten(), name="the left one")
    assert len(check.found) == (2 if hasattr(asyncio.get_running_loop(), "_scheduled") else 1)  # its timer is another
    task.cancel()


async def test_what_is_somebody_elses(testing):
    async with testing.leak_check(ignore=["of another library"]) as check:
        task = asyncio.create_task(asyncio.sleep(60), name="task of another library")
        timer = asyncio.get_running_loop().call_later(60, print)
        check.ignore += ["print", "sleep", "set_result"]  # asyncio's sleep has a timer
    task.cancel()
    timer.cancel()


async def test_many_of_a_kind_are_counted_and_not_all_shown(leaking):
    async def forgotten():
        await asyncio.get_running_loop().create_future()

    async with leaking(r"8 task\(s\) not done: (.*, ){4}.* and 3 more \(await") as check:
        tasks = [asyncio.create_task(forgotten()) for _ in range(8)]
    assert len(check.found) == 1
    for task in tasks:
        task.cancel()


async def test_what_was_there_before_is_not_of_this_test(testing):
    task = asyncio.create_task(asyncio.sleep(60))
    timer = asyncio.get_running_loop().call_later(60, print)
    await asyncio.sleep(0)
    async with testing.leak_check():
        pass
    task.cancel()
    timer.cancel()


async def test_a_timer(leaking):
    loop = asyncio.get_running_loop()
    if not hasattr(loop, "_scheduled"):
        pytest.skip("this loop does not show its timers")
    async with leaking(r"1 timer\(s\) of the loop: <TimerHandle .*cancel what loop.call_later") as check:
        loop.call_later(60, print).cancel()
        timer = loop.call_later(60, print)
    assert len(check.found) == 1
    timer.cancel()


async def test_half_a_packet_in_a_block(leaking, testing, server):
    half = leaking(r"1 pool block\(s\) of server 0x\w+ out: half a packet waits in each", server)
    async with testing.serve(server) as net, half:
        _reader, writer = await net.open()
        writer.write(wire(1, b"hello")[:10])
        await turns()


async def test_a_block_that_was_forgotten(leaking, testing, server):
    async with leaking(r"1 pool block\(s\) of server 0x\w+ out: ", server) as check:
        block = server._pool.acquire()
    assert len(check.found) == 1
    block.release()


async def test_a_view_of_a_block(leaking, testing, server):
    async with leaking(r"1 pool block\(s\) of server 0x\w+ out; 1 of them seen by a view that somebody keeps", server):
        view = server._pool.acquire().view()
    async with testing.leak_check(server, allow_views=True):
        pass
    view.release()
    gc.collect()
    async with testing.leak_check(server):
        pass


async def test_a_view_of_the_receive_buffer(gamenet, leaking, testing):
    if gamenet.backend == "pure":
        pytest.skip("the pure twin copies what it reads: its views hold nothing of gamenet's")
    views, server = [], gamenet.Server()
    server.on(1)(lambda session, packet: views.append(packet.view()))
    for _ in range(3):
        kept = leaking(r"1 receive block\(s\) of server 0x\w+ still seen: somebody keeps a packet.view\(\)")
        async with kept, testing.serve(server) as net:
            (await net.connect()).send(1, b"hello")
            await turns()
        assert bytes(views.pop()) == b"hello"
    async with testing.leak_check(allow_views=True), testing.serve(server) as net:
        (await net.connect()).send(1, b"hello")
        await turns()
    assert len(views) == 1


async def test_a_kept_packet_is_no_leak(gamenet, testing):
    kept, server = [], gamenet.Server()
    server.on(1)(lambda session, packet: kept.append(packet))
    async with testing.leak_check(), testing.serve(server) as net:
        client = await net.connect()
        for _ in range(5):
            client.send(1, b"hello")
        await turns()
    assert len(kept) == 5


async def test_garbage_in_a_cycle_is_no_leak(testing, server):
    async with testing.leak_check(server, settle=0.01):
        block = server._pool.acquire()
        cycle = [block]
        cycle.append(cycle)
        del block, cycle


async def test_an_exception_that_nobody_took(leaking):
    loop = asyncio.get_running_loop()
    async with leaking(r"1 call\(s\) of the loop's exception handler: .* \(ZeroDivisionError: division by zero\)"):
        loop.call_soon(lambda: 1 / 0)


async def test_the_exception_handler_that_was_there_is_told_and_put_back(leaking, testing):
    loop, told = asyncio.get_running_loop(), []

    def handler(loop, context):
        told.append(context["message"])

    loop.set_exception_handler(handler)
    async with leaking(r"2 call\(s\) of the loop's exception handler: one, two"):
        loop.call_exception_handler({"message": "one"})
        loop.call_exception_handler({"message": "two"})
    assert told == ["one", "two"]
    assert loop.get_exception_handler() is handler
    async with testing.leak_check() as check:
        loop.call_exception_handler({"message": "expected"})
        check.complaints.clear()
    loop.set_exception_handler(None)


async def test_a_ledger_that_does_not_balance(leaking, testing, server):
    async with leaking(r"the ledger of server 0x\w+ does not balance: 5 bytes in, 0 accounted for", server):
        server._ledger.bytes_in += 5


async def test_a_clients_ledger_that_does_not_balance(leaking, testing, server):
    text = r"the ledger of client with session \d+ does not balance: 13 bytes in, 8 accounted for"
    async with leaking(text), testing.serve(server) as net:
        client = await net.connect()
        await client.request(1)
        client._ledger.bytes_in += 5


async def test_a_failing_test_stays_that_failure(testing):
    async def forgotten():
        await asyncio.sleep(60)

    async def failing():
        async with testing.leak_check(settle=0):
            tasks.append(asyncio.create_task(forgotten()))
            raise ValueError("the test's own")

    tasks = []
    with pytest.raises(ValueError, match="the test's own") as raised:
        await failing()
    assert "1 task(s) not done" in raised.value.__notes__[0]
    tasks[0].cancel()


async def test_what_is_about_to_end_may_end(testing):
    async with testing.leak_check(settle=60):
        task = asyncio.create_task(asyncio.sleep(0.05))
    assert task.done()


async def test_contexts_of_another_loop_are_not_looked_at(gamenet, testing, server):
    async def elsewhere():
        await server.start()
        return server

    other = asyncio.new_event_loop()
    try:
        async with testing.leak_check():
            await asyncio.to_thread(other.run_until_complete, elsewhere())
    finally:
        await asyncio.to_thread(other.run_until_complete, server.stop())
        other.close()


def test_a_settle_time_that_cannot_be(testing):
    with pytest.raises(ValueError, match="settle -1 s is below 0"):
        testing.leak_check(settle=-1)
