"""Pooled objects: bounded, as new, and never with two holders."""

import asyncio
import dataclasses
import gc
import threading
import weakref

import pytest
from together import in_threads

from gamenet import Lease, ObjectPool
from gamenet.errors import PoolExhaustedError


@dataclasses.dataclass
class Player:
    """What a game keeps of a player: the book's re-used object kept the last one's socket and login."""

    name: str = ""
    session: object = None
    is_logged_in: bool = False
    hit_points: int = 100
    items: list[int] = dataclasses.field(default_factory=list)
    seen: dict[str, float] = dataclasses.field(default_factory=dict)

    def reset(self):
        self.name, self.session, self.is_logged_in, self.hit_points = "", None, False, 100
        self.items.clear()
        self.seen.clear()


class Thing:
    """Whatever; `resets` counts."""

    def __init__(self):
        self.resets = 0

    def reset(self):
        self.resets += 1


def counts(**figures):
    """What `stats()` gives: nothing but these."""
    names = ("outstanding", "idle", "waiting", "made", "discarded", "fallbacks", "refused")
    return dict.fromkeys(names, 0) | figures


def test_an_object_is_used_again_and_was_reset():
    pool = ObjectPool(Thing)
    with pool.acquire() as first:
        assert (first.resets, pool.stats()) == (0, counts(outstanding=1, made=1))
    assert pool.stats() == counts(idle=1, made=1)
    with pool.acquire() as second:
        assert second is first
        assert second.resets == 1
    assert pool.stats() == counts(idle=1, made=1)


def test_fault_41_a_reused_object_is_like_a_new_one_field_by_field():
    pool = ObjectPool(Player)
    with pool.acquire() as used:
        used.name, used.session, used.is_logged_in, used.hit_points = "alice", object(), True, 3
        used.items += [1, 2]
        used.seen["bob"] = 1.5
        session = used.session
        dirty = [field.name for field in dataclasses.fields(Player) if getattr(used, field.name) != getattr(Player(), field.name)]
    assert dirty == [field.name for field in dataclasses.fields(Player)]  # the test touched every one
    with pool.acquire() as again:
        assert again is used
        assert vars(again).keys() == vars(Player()).keys()
        for field in dataclasses.fields(Player):
            assert getattr(again, field.name) == getattr(Player(), field.name), field.name
    assert not any(held is again.__dict__ for held in gc.get_referrers(session))


def test_what_the_last_holder_left_is_dropped_at_once():
    pool = ObjectPool(Player)
    with pool.acquire() as player:
        player.session = Thing()
        watched = weakref.ref(player.session)
    gc.collect()
    assert (watched(), pool.stats()["idle"]) == (None, 1)


@pytest.mark.parametrize("factory", [object, list, lambda: Thing()])
def test_without_a_reset_there_is_no_pool(factory):
    with pytest.raises(TypeError, match="needs reset="):
        ObjectPool(factory)


def test_reset_may_be_given():
    pool = ObjectPool(lambda: [1], reset=lambda thing: thing.__setitem__(slice(None), [1]))
    with pool.acquire() as thing:
        thing.append(2)
    with pool.acquire() as again:
        assert again is thing
        assert again == [1]


@pytest.mark.parametrize("limit", [1, 2])
def test_fault_42_it_is_bounded(limit):
    pool = ObjectPool(Thing, max_objects=limit)
    leases = [pool.acquire() for _ in range(limit)]
    with pytest.raises(PoolExhaustedError, match=f"all {limit} objects are lent"):
        pool.acquire()
    assert pool.stats() == counts(outstanding=limit, made=limit, refused=1)
    leases.pop().release()
    leases.append(pool.acquire())
    for lease in leases:
        lease.release()
    assert pool.stats() == counts(idle=limit, made=limit, refused=1)
    assert (pool.trim(), pool.stats()["idle"]) == (limit, 0)


def test_above_the_limit_the_heap_helps_and_is_counted():
    pool = ObjectPool(Thing, max_objects=1, when_empty="heap")
    leases = [pool.acquire() for _ in range(3)]
    for lease in leases:
        lease.release()
    assert pool.stats() == counts(idle=1, made=3, fallbacks=2)


def test_a_second_release_is_refused():
    pool = ObjectPool(Thing)
    lease = pool.acquire()
    lease.release()
    with pytest.raises(ValueError, match="this lease was released"):
        lease.release()
    with pytest.raises(ValueError, match="this lease was released"):
        lease.object  # noqa: B018
    assert repr(lease) == "<Lease, released>"
    with pool.acquire() as thing:
        assert (thing.resets, pool.stats()) == (1, counts(outstanding=1, made=1))


def test_an_old_lease_does_not_reach_the_next_holder():
    pool = ObjectPool(Thing)
    old = pool.acquire()
    thing = old.object
    old.release()
    new = pool.acquire()
    assert new.object is thing
    with pytest.raises(ValueError, match="this lease was released"):
        old.release()
    assert (new.object.resets, pool.outstanding) == (1, 1)


def test_leases_come_from_pools_only():
    with pytest.raises(TypeError, match="ObjectPool.acquire"):
        Lease()


def test_with_releases_unless_that_was_done():
    pool = ObjectPool(Thing)
    lease = pool.acquire()
    with lease:
        lease.release()
    with pytest.raises(KeyError), pool.acquire():
        raise KeyError
    assert pool.stats() == counts(idle=1, made=1)


def test_a_dropped_lease_gives_its_place_back_but_not_its_object():
    pool = ObjectPool(Thing, max_objects=1)
    kept = pool.acquire().object
    gc.collect()
    assert pool.stats() == counts(made=1, discarded=1)
    with pool.acquire() as other:
        assert other is not kept
    assert kept.resets == 0


def test_fault_39_objects_live_on_without_their_pool():
    pool = ObjectPool(Thing)
    lease, watched = pool.acquire(), weakref.ref(pool)
    thing = lease.object
    del pool
    gc.collect()
    lease.release()
    del lease
    gc.collect()
    assert (watched(), thing.resets) == (None, 1)


def test_a_reset_that_raises_costs_the_object_and_nothing_else():
    def fail(thing):
        raise OSError("not today")

    pool = ObjectPool(Thing, max_objects=1, reset=fail)
    lease = pool.acquire()
    with pytest.raises(OSError, match="not today"):
        lease.release()
    assert pool.stats() == counts(made=1, discarded=1)
    with pytest.raises(OSError, match="not today"), pool.acquire():
        pass
    assert pool.stats() == counts(made=2, discarded=2)


def test_a_factory_that_raises_takes_no_place():
    made = []

    def factory():
        if not made:
            made.append(None)
            raise OSError("not yet")
        return Thing()

    pool = ObjectPool(factory, max_objects=1, reset=Thing.reset)
    with pytest.raises(OSError, match="not yet"):
        pool.acquire()
    assert pool.stats() == counts()
    pool.acquire().release()


def test_fault_43_factory_and_reset_run_outside_the_lock():
    inside = []

    def look_from_another_thread(*_):
        thread = threading.Thread(target=lambda: inside.append(pool.stats()))
        thread.start()
        thread.join(20)

    pool = ObjectPool(lambda: look_from_another_thread() or Thing(), reset=look_from_another_thread)
    pool.acquire().release()
    assert [stats["outstanding"] for stats in inside] == [1, 1]


def test_objects_may_be_none_or_equal_to_each_other():
    pool = ObjectPool(lambda: None, reset=lambda thing: None)
    lease = pool.acquire()
    assert lease.object is None
    lease.release()
    assert pool.stats() == counts(idle=1, made=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_objects": 0}, "max_objects 0 is outside 1 to"),
        ({"max_waiters": 0}, "max_waiters 0 is outside 1 to"),
        ({"when_empty": "panic"}, "when_empty is 'panic'"),
        ({"when_empty": "wait"}, "needs running_loop"),
    ],
)
def test_a_pool_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        ObjectPool(Thing, **options)


def test_threads_never_share_an_object():
    pool = ObjectPool(Player, max_objects=8, when_empty="heap")

    def work(name):
        for _ in range(2000):
            with pool.acquire() as player, pool.acquire() as other:
                assert (player.name, other.name, player is other) == ("", "", False)
                player.name = other.name = name
                assert (player.name, other.name) == (name, name)

    assert in_threads(work) == []
    stats = pool.stats()
    assert (stats["outstanding"], stats["waiting"], stats["discarded"]) == (0, 0, 0)
    assert stats["idle"] <= 8


def test_of_four_threads_that_release_a_lease_one_resets():
    pool = ObjectPool(Thing)
    for number in range(1, 201):
        lease = pool.acquire()
        errors = in_threads(lambda index, lease=lease: lease.release())
        assert [str(error) for error in errors] == ["this lease was released"] * 3
        with pool.acquire() as thing:
            assert thing.resets == 2 * number - 1
    assert pool.stats() == counts(idle=1, made=1)


def test_loops_of_several_threads_wait_for_the_same_objects():
    pool, out, seen = waiting_pool(max_objects=2), set(), []

    async def use():
        async with pool.acquire_async() as thing:
            assert id(thing) not in out
            out.add(id(thing))
            seen.append(len(out))
            await asyncio.sleep(0)
            out.discard(id(thing))

    async def many():
        async with asyncio.timeout(60):
            await asyncio.gather(*(use() for _ in range(200)))

    assert in_threads(lambda index: asyncio.run(many())) == []
    assert len(seen) == 800
    assert max(seen) <= 2
    stats = pool.stats()
    assert (stats["outstanding"], stats["waiting"], stats["refused"], stats["discarded"]) == (0, 0, 0, 0)
    assert stats["idle"] == stats["made"] <= 2


# -- waiting


def waiting_pool(**options):
    return ObjectPool(Thing, when_empty="wait", running_loop=asyncio.get_running_loop, **{"max_objects": 1, **options})


async def turns(number=3):
    for _ in range(number):
        await asyncio.sleep(0)


async def test_who_waits_is_served_in_order():
    pool, order = waiting_pool(), []

    async def use(name):
        async with pool.acquire_async() as thing:
            order.append((name, thing.resets))
            await asyncio.sleep(0)

    await asyncio.gather(*(use(name) for name in range(5)))
    assert order == [(name, name) for name in range(5)]
    assert pool.stats() == counts(idle=1, made=1)


async def test_a_lease_can_be_awaited():
    pool = waiting_pool()
    lease = await pool.acquire_async()
    with pytest.raises(PoolExhaustedError):
        pool.acquire()
    lease.release()
    strict = ObjectPool(Thing, max_objects=1)
    lease = await strict.acquire_async()
    with pytest.raises(PoolExhaustedError):
        await strict.acquire_async()
    lease.release()


@pytest.mark.parametrize("is_granted", [False, True])
async def test_a_cancelled_waiter_gives_its_turn_on(is_granted):
    pool = waiting_pool()
    lease = await pool.acquire_async()

    async def use():
        async with pool.acquire_async() as thing:
            return thing

    first, second = (asyncio.create_task(use()) for _ in range(2))
    await turns()
    if is_granted:
        lease.release()  # the first has it, and does not know yet
        first.cancel()
    else:
        first.cancel()
        await turns()
        assert pool.stats()["waiting"] == 1
        lease.release()
    await second
    assert (first.cancelled(), pool.stats()) == (True, counts(idle=1, made=1))


async def test_who_waited_gets_a_new_object_where_the_old_one_was_lost():
    pool = waiting_pool()
    lease = await pool.acquire_async()
    old = lease.object
    task = asyncio.ensure_future(anext_lease(pool))
    await turns()
    del lease
    gc.collect()
    lease = await task
    assert lease.object is not old
    lease.release()
    assert pool.stats() == counts(idle=1, made=2, discarded=1)


async def anext_lease(pool):
    return await pool.acquire_async()


@pytest.mark.parametrize("limit", [1, 2])
async def test_those_who_wait_are_bounded(limit):
    pool = waiting_pool(max_waiters=limit)
    lease = await pool.acquire_async()
    tasks = [asyncio.create_task(anext_lease(pool)) for _ in range(limit)]
    await turns()
    with pytest.raises(PoolExhaustedError, match=f"{limit} wait already"):
        await pool.acquire_async()
    lease.release()
    for task in tasks:
        (await task).release()
    assert pool.stats() == counts(idle=1, made=1, refused=1)


async def test_objects_may_be_released_in_other_threads():
    pool = waiting_pool(max_objects=2)

    async def use():
        for _ in range(20):
            lease = await asyncio.wait_for(anext_lease(pool), 20)
            await asyncio.to_thread(lease.release)

    await asyncio.gather(*(use() for _ in range(8)))
    assert (pool.stats()["outstanding"], pool.stats()["waiting"]) == (0, 0)


async def test_cancelled_while_an_object_is_on_its_way_from_another_thread_it_gives_it_on():
    pool = waiting_pool()
    lease = pool.acquire()
    first = asyncio.create_task(lend(pool))
    second = asyncio.create_task(lend(pool))
    await turns()
    thread = threading.Thread(target=lease.release)
    thread.start()
    thread.join(60)  # the loop has not run since: what was granted has not arrived
    first.cancel()
    thing = await asyncio.wait_for(second, 20)
    assert thing is not None
    assert pool.stats() == counts(idle=1, made=1)


async def lend(pool):
    async with pool.acquire_async() as thing:
        return thing
