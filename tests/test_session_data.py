"""`Server(session_data=pool)`: every session has an object of the pool's, alone, and gives it back."""

import asyncio

import pytest


class Player:
    """What a game keeps of a player."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.name, self.hit_points, self.items = "", 100, []

    def fields(self):
        return self.name, self.hit_points, self.items


def idle(pool):
    """What its statistics say when everything came back."""
    stats = pool.stats()
    return stats["outstanding"] == stats["waiting"] == 0 and stats["idle"] <= pool.max_objects


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_each_session_has_an_object_from_before_its_opening_until_after_its_end(net, gamenet):
    pool, seen = gamenet.ObjectPool(Player, max_objects=10), []
    server = await net.server(start=False, session_data=pool)

    @server.on_opened
    def opened(session):
        seen.append(("opened", session.data.fields()))
        session.data.name = "somebody"

    @server.on_closed
    def closed(session, reason):
        seen.append(("closed", session.data.name))
        sessions.append(session)

    sessions = []
    await net.start(server)
    for number in range(1, 4):
        _, writer = await net.open(server)
        await until(lambda: len(server.sessions) == 1)
        assert pool.outstanding == 1
        writer.close()
        await until(lambda number=number: len(sessions) == number and not pool.outstanding)
    assert seen == [("opened", ("", 100, [])), ("closed", "somebody")] * 3
    assert [session.data for session in sessions] == [None] * 3
    assert (pool.stats()["made"], idle(pool)) == (1, True)


async def test_sessions_that_are_open_at_once_share_nothing(net, gamenet):
    pool = gamenet.ObjectPool(Player, max_objects=3)
    server = await net.server(session_data=pool)
    for _ in range(3):
        await net.open(server)
    await until(lambda: len(server.sessions) == 3)
    assert len({id(session.data) for session in server.sessions}) == 3 == pool.outstanding
    await server.stop()
    assert (pool.stats()["made"], pool.stats()["idle"], idle(pool)) == (3, 3, True)


@pytest.mark.parametrize("limit", [1, 2])
async def test_who_finds_the_pool_empty_is_refused(net, gamenet, limit):
    pool, opened = gamenet.ObjectPool(Player, max_objects=limit), []
    server = await net.server(start=False, session_data=pool)
    server.on_opened(opened.append)
    await net.start(server)
    writers = [(await net.open(server))[1] for _ in range(limit)]
    await until(lambda: len(server.sessions) == limit)
    reader, _ = await net.open(server)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    assert server.stats()["refused"] == {"server_full": 1}
    assert (len(opened), len(server.sessions), server.stats()["accepted"]) == (limit, limit, limit)
    writers[0].close()
    await until(lambda: pool.outstanding == limit - 1)
    await net.open(server)
    await until(lambda: len(server.sessions) == limit)
    await server.stop()
    assert idle(pool)


async def test_a_handler_that_was_cancelled_still_has_it_alone(net, gamenet):
    pool, events = gamenet.ObjectPool(Player, max_objects=1), []
    server = await net.server(start=False, session_data=pool, max_sessions=5)
    may_end = asyncio.Event()

    @server.on(1)
    async def work(session, packet):
        player = session.data
        player.name = "first"
        try:
            await asyncio.sleep(3600)
        finally:
            await may_end.wait()
            events.append((player.name, session.data is player, pool.outstanding))
            player.items.append("late")

    @server.on_closed
    def closed(session, reason):
        events.append("closed")

    await net.start(server)
    _, writer = await net.open(server)
    writer.write(b"\1\0\x08\0\0\0\0\0")
    await until(lambda: any(session.running_handler for session in server.sessions))
    next(iter(server.sessions)).abort()
    await until(lambda: events == ["closed"])
    reader, _ = await net.open(server)  # the object is still in use
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    may_end.set()
    await until(lambda: not pool.outstanding)
    assert events == ["closed", ("first", True, 1)]
    await net.open(server)
    await until(lambda: len(server.sessions) == 1)
    assert next(iter(server.sessions)).data.fields() == Player().fields()


async def test_data_of_the_users_own_stays(net, gamenet):
    pool, sessions = gamenet.ObjectPool(Player), []
    server = await net.server(start=False, session_data=pool)

    @server.on_opened
    def opened(session):
        session.data = "mine"
        sessions.append(session)

    await net.start(server)
    _, writer = await net.open(server)
    await until(lambda: sessions)
    writer.close()
    await until(lambda: not pool.outstanding)
    assert sessions[0].data == "mine"


async def test_a_factory_that_raises_refuses_the_session_and_takes_no_place(net, gamenet):
    def fail():
        raise RuntimeError("no map")

    pool = gamenet.ObjectPool(fail, reset=lambda thing: None, max_objects=1)
    server = await net.server(session_data=pool)
    for number in (1, 2):
        reader, _ = await net.open(server)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
        await until(lambda number=number: server.stats()["refused"] == {"handler_error": number})
        assert server.stats()["handler_errors"] == number
    assert pool.outstanding == 0


async def test_a_reset_that_raises_costs_the_object_and_is_counted(net, gamenet):
    def fail(player):
        raise RuntimeError("cannot")

    pool = gamenet.ObjectPool(Player, reset=fail, max_objects=1)
    server = await net.server(session_data=pool)
    for number in (1, 2):
        _, writer = await net.open(server)
        await until(lambda: len(server.sessions) == 1)
        writer.close()
        await until(lambda number=number: pool.stats()["discarded"] == number)
        assert (server.stats()["handler_errors"], pool.outstanding) == (number, 0)
    assert server.stats()["closed"] == {"peer_closed": 2}


async def test_it_comes_back_when_the_server_stops_and_is_lent_again_when_it_starts(net, gamenet):
    pool = gamenet.ObjectPool(Player)
    server = await net.server(start=False, session_data=pool)
    for _ in range(2):
        await net.start(server)
        await net.open(server)
        await until(lambda: len(server.sessions) == 1)
        await server.stop()
        assert idle(pool)
    assert pool.stats()["made"] == 1


def test_it_must_be_a_pool(gamenet):
    with pytest.raises(TypeError, match="session_data is <class .*Player'>, not an ObjectPool"):
        gamenet.Server(session_data=Player)
