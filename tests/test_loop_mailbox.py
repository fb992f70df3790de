"""Calls and sends from other threads: what is accepted, in which order, at the limit, after errors, and at the end."""

import asyncio
import gc
import logging
import threading

import pytest
from fakenet import FakeNet
from wire import read_packet, wire

from gamenet.layout import HeaderField, HeaderLayout


def mailbox_of(server):
    return server.stats()["mailbox"]


async def in_thread(function, *arguments):
    """What `function` returns, called in a thread of its own."""
    return await asyncio.to_thread(function, *arguments)


async def session_of(net, until, **options):
    """A server, its one session, and the peer's reader and writer."""
    server = await net.server(**options)
    reader, writer = await net.open(server)
    await until(lambda: len(server.sessions) == 1)
    (session,) = server.sessions
    return server, session, reader, writer


# -- what is handed over


async def test_a_call_runs_in_the_loop_with_its_arguments(net, until):
    server = await net.server()
    seen = []

    def note(*arguments):
        seen.append((threading.get_ident(), arguments))

    assert await in_thread(server.call_soon, note, 1, "two")
    assert server.call_soon(note)  # also from the loop itself
    await until(lambda: len(seen) == 2)
    assert seen == [(threading.get_ident(), (1, "two")), (threading.get_ident(), ())]
    assert mailbox_of(server) == {"accepted": 2, "delivered": 2, "discarded": 0, "refused": 0, "waiting": 0}


async def test_a_send_arrives_as_send_would(net, until):
    _, session, reader, _ = await session_of(net, until)

    def elsewhere():
        packet = net.gamenet.RawPacket(3, b"packet", 7)
        return [
            session.send_threadsafe(1, b"body", 5),
            session.send_threadsafe(2),
            session.send_threadsafe(packet),
            session.send_threadsafe(packet, sequence=8),
            session.send_threadsafe(4, bytearray(b"x" * 8000)),
        ]

    assert await in_thread(elsewhere) == [True] * 5
    expected = [(1, 5, b"body"), (2, 0, b""), (3, 7, b"packet"), (3, 8, b"packet"), (4, 0, b"x" * 8000)]
    assert [await read_packet(reader) for _ in range(5)] == expected


async def test_the_bytes_are_taken_at_the_call(net, until):
    _, session, reader, _ = await session_of(net, until)
    body = bytearray(b"before")
    assert session.send_threadsafe(1, body)
    body[:] = b"after!"
    assert await read_packet(reader) == (1, 0, b"before")


WRONG = [
    (-1, b""),
    (65536, b""),
    ("text", b""),
    (1, b"", -1),
    (1, b"", 1 << 32),
    (1, b"x" * 8185),
    (1, "text"),
    (1, b"", 0, {"no such": 1}),
]


@pytest.mark.parametrize("arguments", WRONG, ids=lambda arguments: repr(arguments)[:30])
async def test_what_send_refuses_is_refused_at_the_call(net, until, arguments):
    server, session, _, _ = await session_of(net, until)
    with pytest.raises((ValueError, TypeError, OverflowError)) as expected:
        session.send(*arguments)
    with pytest.raises(expected.type) as raised:
        await in_thread(session.send_threadsafe, *arguments)
    assert str(raised.value) == str(expected.value)
    if len(arguments) == 2:
        with pytest.raises((ValueError, TypeError)):
            await in_thread(server.sessions.broadcast_threadsafe, *arguments)
    assert mailbox_of(server)["accepted"] == 0


async def test_a_packet_brings_its_own_body(net, until):
    server, session, _, _ = await session_of(net, until)
    for send in (session.send_threadsafe, server.sessions.broadcast_threadsafe):
        with pytest.raises(TypeError, match="a packet brings its own body"):
            send(net.gamenet.RawPacket(1, b"x"), b"y")


async def test_call_soon_takes_functions_only(net, caplog, until):
    server = await net.server()
    with pytest.raises(TypeError, match="function must be callable, got NoneType"):
        server.call_soon(None)

    async def coroutine():
        raise AssertionError

    assert server.call_soon(coroutine)
    await until(lambda: server.stats()["handler_errors"] == 1)
    assert "it is `async def`: call_soon() calls plain functions" in caplog.text


async def test_an_async_function_of_an_extension_is_none_either(net, until, caplog):
    server = await net.server()
    pool = net.gamenet._core.PoolAllocator(64)
    assert server.call_soon(pool.acquire_async)
    await until(lambda: server.stats()["handler_errors"] == 1)
    assert "acquire_async raised" in caplog.text
    assert pool.outstanding == 0


async def test_a_packet_handed_over_before_the_layout_changed_arrives_in_the_new_one(net, until):
    """At its turn, as broadcasts do: what the session speaks then is what its peer reads."""
    _, session, reader, _ = await session_of(net, until)
    assert session.send_threadsafe(0, b"handed over")
    session.layout = HeaderLayout((HeaderField("packet_size", 4, "big"),))
    assert session.send_threadsafe(0, b"after")
    assert await reader.readexactly(15) == (15).to_bytes(4, "big") + b"handed over"
    assert await reader.readexactly(9) == (9).to_bytes(4, "big") + b"after"


async def test_extra_fields_of_the_header(net, until):
    layout = HeaderLayout((HeaderField("packet_size", 2), HeaderField("packet_id", 1), HeaderField("unit", 1)))
    _, session, reader, _ = await session_of(net, until, layout=layout)
    assert session.send_threadsafe(1, b"x", None, {"unit": 7})
    assert await reader.readexactly(5) == b"\5\0\1\7x"


async def test_a_broadcast_reaches_who_is_in_the_room_then(net, until):
    server = await net.server()
    ends = [await net.open(server) for _ in range(3)]
    await until(lambda: len(server.sessions) == 3)
    sessions = list(server.sessions)
    room = server.sessions.room("arena")
    room.add(sessions[0])
    room.add(sessions[1])
    assert await in_thread(room.broadcast_threadsafe, 1, b"all", 4)
    await until(lambda: mailbox_of(server)["delivered"] == 1)
    room.add(sessions[2])
    room.discard(sessions[1])
    assert room.broadcast_threadsafe(net.gamenet.RawPacket(2, b"but one", 9), exclude=sessions[0])
    assert server.sessions.broadcast_threadsafe(3)
    received = {
        writer.get_extra_info("sockname"): [await read_packet(reader) for _ in range(2)] for reader, writer in ends
    }
    assert received == {
        sessions[0].peername: [(1, 4, b"all"), (3, 0, b"")],
        sessions[1].peername: [(1, 4, b"all"), (3, 0, b"")],
        sessions[2].peername: [(2, 0, b"but one"), (3, 0, b"")],
    }


async def test_a_room_that_nobody_else_holds_is_still_told(net, until):
    server, session, reader, _ = await session_of(net, until)
    room = server.sessions.room("short")
    room.add(session)
    assert room.broadcast_threadsafe(1)
    del room
    gc.collect()
    assert await read_packet(reader) == (1, 0, b"")


async def test_a_client_has_them_too(net, until):
    server = await net.server()
    seen = []
    server.dispatch.routes.default = net.route(lambda session, packet: seen.append((packet.packet_id, packet.body)))
    client = await net.connect(server)
    called = []
    assert await in_thread(client.send_threadsafe, 1, b"hello")
    assert await in_thread(client.call_soon, called.append, 1)
    assert client.send_threadsafe(2)
    await client.close()  # what was handed over before still leaves
    await until(lambda: len(seen) == 2)
    assert (seen, called) == ([(1, b"hello"), (2, b"")], [1])
    assert not client.send_threadsafe(3)
    assert not client.call_soon(called.append, 2)
    with pytest.raises(TypeError, match="function must be callable, got int"):
        client.call_soon(1)


# -- order, wake-ups and turns


async def test_one_wake_up_for_a_batch(net, until):
    server = await net.server()
    wakes, seen = [], []
    loop = asyncio.get_running_loop()

    class Loop:
        time = loop.time
        call_soon = loop.call_soon
        create_future = loop.create_future

        def call_soon_threadsafe(self, callback):
            wakes.append(callback)
            loop.call_soon_threadsafe(callback)

    server._mailbox.open(Loop(), server._context.log, server._ledger)
    for number in range(1000):
        assert server.call_soon(seen.append, number)
    assert len(wakes) == 1
    await until(lambda: len(seen) == 1000 and not mailbox_of(server)["waiting"])
    await asyncio.sleep(0)
    assert seen == list(range(1000))
    assert server.call_soon(seen.append, 1000)
    assert len(wakes) == 2
    await until(lambda: len(seen) == 1001)


def test_a_flood_of_calls_leaves_the_loop_its_turns(gamenet):
    """On a clock that stands until a call moves it: 5 ms of calls, then the loop's other work, then the next 5 ms."""
    fake = FakeNet(gamenet)
    fake.start()
    seen, loop = [], fake.loop

    def take_a_millisecond(number):
        seen.append(number)
        loop.now += 0.001

    try:
        for number in range(20):
            assert fake.server.call_soon(take_a_millisecond, number)
        fake.server.call_soon(lambda: None)
        for _ in range(20):
            before = len(seen)
            loop.turn(1)
            assert len(seen) - before <= 6
        assert seen == list(range(20))
    finally:
        fake.end()


async def test_calls_may_hand_over_more(net, until):
    server = await net.server()
    seen = []

    def again(number):
        seen.append(number)
        if number < 3000:
            assert server.call_soon(again, number + 1)

    server.call_soon(again, 0)
    await until(lambda: len(seen) == 3001)
    assert seen == list(range(3001))


# -- errors


async def test_a_call_that_raises_is_logged_and_counted_and_the_next_one_runs(net, until, caplog):
    server = await net.server()
    seen = []

    def fails():
        raise LookupError("nothing here")

    def is_cancelled():
        raise asyncio.CancelledError

    for function in (fails, is_cancelled, seen.append):
        server.call_soon(function, *([1] if function == seen.append else []))
    await until(lambda: seen == [1])
    assert server.stats()["handler_errors"] == 2
    assert "fails raised, called for another thread" in caplog.text
    assert "nothing here" in caplog.text
    assert mailbox_of(server)["delivered"] == 3


def test_a_call_that_ends_the_program_loses_no_other(gamenet):
    fake = FakeNet(gamenet)
    fake.start()
    seen = []

    def ends():
        raise KeyboardInterrupt

    try:
        fake.server.call_soon(seen.append, 1)
        fake.server.call_soon(ends)
        fake.server.call_soon(seen.append, 2)
        with pytest.raises(KeyboardInterrupt):
            fake.loop.turn()
        fake.loop.turn()
        assert seen == [1, 2]
        assert mailbox_of(fake.server)["delivered"] == 3
    finally:
        fake.end()


async def test_the_message_of_a_wrong_thread_names_what_is_right(net, until):
    server, session, _, _ = await session_of(net, until)
    for call in (lambda: session.send(1), lambda: server.sessions.broadcast(1), session.close):
        with pytest.raises(net.gamenet.WrongThreadError) as raised:
            await in_thread(call)
        for name in ("session.send_threadsafe()", "room.broadcast_threadsafe()", "server.call_soon(function, *args)"):
            assert name in str(raised.value)
    with pytest.raises(net.gamenet.WrongThreadError, match=r"server\.call_soon\(server\.reload, module\)"):
        await in_thread(server.reload, "json")


# -- the limit


@pytest.mark.parametrize("max_mailbox", [1, 2, 100])
async def test_at_the_limit_below_and_above(net, until, caplog, max_mailbox):
    server, session, reader, _ = await session_of(net, until, max_mailbox=max_mailbox)
    for number in range(max_mailbox):
        assert session.send_threadsafe(1, b"", number)
    assert not session.send_threadsafe(1, b"", 999)
    assert not server.call_soon(print)
    assert not server.sessions.broadcast_threadsafe(1)
    assert mailbox_of(server) == {
        "accepted": max_mailbox, "delivered": 0, "discarded": 0, "refused": 3, "waiting": max_mailbox,
    }
    assert [await read_packet(reader) for _ in range(max_mailbox)] == [(1, n, b"") for n in range(max_mailbox)]
    assert f"max_mailbox {max_mailbox} reached" in caplog.text
    assert session.send_threadsafe(2)
    assert await read_packet(reader) == (2, 0, b"")


@pytest.mark.parametrize(("max_mailbox", "text"), [(0, "0 is below 1"), ((1 << 28) + 1, "268435457 is above 268435456")])
def test_a_limit_that_cannot_be(gamenet, max_mailbox, text):
    with pytest.raises(ValueError, match=f"^max_mailbox {text}$"):
        gamenet.Server(max_mailbox=max_mailbox)


def test_the_largest_limit(gamenet):
    assert gamenet.Limits(max_mailbox=1 << 28).max_mailbox == 1 << 28


# -- the end


async def test_a_server_that_does_not_run_refuses(net):
    server = await net.server(start=False)
    assert not server.call_soon(print)
    await net.start(server)
    seen = []
    assert server.call_soon(seen.append, 1)
    await server.stop()
    assert seen == [1]
    assert not server.call_soon(print)
    assert not server.sessions.broadcast_threadsafe(1)
    assert mailbox_of(server) == {"accepted": 1, "delivered": 1, "discarded": 0, "refused": 3, "waiting": 0}


async def test_what_was_handed_over_before_the_stop_is_carried_out(net, until):
    """Though it takes several turns of the loop."""
    server, session, reader, _ = await session_of(net, until, dispatch_budget=1e-9)
    for number in range(3000):
        assert session.send_threadsafe(1, b"", number)
    stopping = asyncio.ensure_future(server.stop())
    assert [(await read_packet(reader))[1] for _ in range(3000)] == list(range(3000))
    assert await reader.read() == b""
    await stopping
    assert mailbox_of(server) == {"accepted": 3000, "delivered": 3000, "discarded": 0, "refused": 0, "waiting": 0}


async def test_a_stop_without_time_discards_and_counts(net, until):
    server, session, _, _ = await session_of(net, until, dispatch_budget=1e-9)
    for number in range(500):
        assert session.send_threadsafe(1, b"", number)
    await server.stop(timeout=0)
    stats = mailbox_of(server)
    assert stats["accepted"] == stats["delivered"] + stats["discarded"] == 500
    assert stats["discarded"] > 0
    assert stats["waiting"] == 0
    assert not session.send_threadsafe(1)
    assert mailbox_of(server)["refused"] == 1


async def test_a_stop_waits_only_for_what_was_before_it(net):
    """A call that hands over the next one would hold it up for ever."""
    server = await net.server(dispatch_budget=None)
    calls = []

    def again():
        calls.append(None)
        if len(calls) < 100_000:
            asyncio.get_running_loop().call_soon(server.call_soon, again)

    server.call_soon(again)
    async with asyncio.timeout(20):
        await server.stop()
    assert len(calls) < 100_000
    stats = mailbox_of(server)
    assert stats["accepted"] == stats["delivered"] + stats["discarded"]


async def test_a_slow_call_does_not_hold_up_a_stop_beyond_its_time(net):
    server = await net.server(dispatch_budget=0.000001)
    blocked = threading.Event()
    for _ in range(40):
        server.call_soon(blocked.wait, 0.02)
    server.call_soon(blocked.set)
    await server.stop(timeout=0.05)
    stats = mailbox_of(server)
    assert stats["discarded"] > 0
    assert stats["accepted"] == 41 == stats["delivered"] + stats["discarded"]


async def test_what_waits_for_a_session_that_closes_is_discarded(net, until):
    server, session, _, _ = await session_of(net, until)
    for number in range(10):
        assert session.send_threadsafe(1, b"", number)
    session.close()
    assert not session.send_threadsafe(1)
    await until(lambda: not mailbox_of(server)["waiting"])
    assert mailbox_of(server) == {"accepted": 10, "delivered": 0, "discarded": 10, "refused": 1, "waiting": 0}
    assert server.stats()["sends_refused"] == 0


async def test_a_server_that_starts_again_counts_on(net, until):
    server, session, _, _ = await session_of(net, until)
    assert session.send_threadsafe(1)
    await server.stop()
    await server.start("127.0.0.1", 0)
    assert not session.send_threadsafe(1)  # of the run before
    seen = []
    assert server.call_soon(seen.append, 1)
    await until(lambda: seen == [1])
    assert mailbox_of(server) == {"accepted": 2, "delivered": 2, "discarded": 0, "refused": 1, "waiting": 0}


async def test_a_finalizer_that_is_the_first_to_use_it(gamenet):
    """It runs while the ring is made for somebody else."""
    loop, seen = asyncio.get_running_loop(), []
    mailbox = gamenet.loop_mailbox.LoopMailbox()
    mailbox.open(loop, gamenet.logs.LimitedLogger(logging.getLogger("gamenet"), loop.time), gamenet._core.Ledger())
    make = mailbox._new_taker

    def interrupted():
        mailbox._new_taker = make
        assert mailbox.put((seen.append, (1,)))
        return make()

    mailbox._new_taker = interrupted
    assert mailbox.put((seen.append, (2,)))
    await mailbox.settle(10)
    assert seen == [1, 2]
    assert mailbox.stats()["accepted"] == mailbox.stats()["delivered"] == 2


def test_a_loop_that_was_closed_before_the_mailbox_is_told_of(gamenet):
    loop = asyncio.new_event_loop()
    mailbox = gamenet.loop_mailbox.LoopMailbox()
    mailbox.open(loop, gamenet.logs.LimitedLogger(logging.getLogger("gamenet"), loop.time), gamenet._core.Ledger())
    loop.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            mailbox.put((bool, (1,)))
    assert mailbox.stats()["waiting"] == 2
    assert mailbox.close() == 2
    assert mailbox.close() == 0
    assert mailbox.stats() == {"accepted": 2, "delivered": 0, "discarded": 2, "refused": 0, "waiting": 0}


async def test_several_may_wait_until_it_is_settled(gamenet):
    loop = asyncio.get_running_loop()
    mailbox = gamenet.loop_mailbox.LoopMailbox(budget=1e-9)
    mailbox.open(loop, gamenet.logs.LimitedLogger(logging.getLogger("gamenet"), loop.time), gamenet._core.Ledger())
    for _ in range(200):
        assert mailbox.put((bool, ()))
    async with asyncio.timeout(20):
        await asyncio.gather(*(mailbox.settle(60) for _ in range(3)))
    assert mailbox.stats()["delivered"] == 200
    assert mailbox.close() == 0


@pytest.mark.parametrize("goes", [False, True])
async def test_who_waits_until_it_is_settled_is_told_when_it_is_closed(gamenet, goes):
    loop = asyncio.get_running_loop()
    mailbox = gamenet.loop_mailbox.LoopMailbox(budget=1e-9)
    mailbox.open(loop, gamenet.logs.LimitedLogger(logging.getLogger("gamenet"), loop.time), gamenet._core.Ledger())
    for _ in range(200):
        assert mailbox.put((bool, ()))
    tasks = [asyncio.create_task(mailbox.settle(60)) for _ in range(2)]
    await asyncio.sleep(0)
    if goes:
        tasks[0].cancel()
        await asyncio.sleep(0)
    assert mailbox.close() > 0
    async with asyncio.timeout(20):
        await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [goes, False]


async def test_packets_of_the_peer_are_handled_meanwhile(net, until):
    server, session, reader, writer = await session_of(net, until)
    server.dispatch.routes.default = net.route(lambda session, packet: session.reply(packet))
    assert session.send_threadsafe(1, b"from a thread")
    assert await read_packet(reader) == (1, 0, b"from a thread")
    writer.write(wire(2, b"echo", 3))
    assert await read_packet(reader) == (2, 3, b"echo")
