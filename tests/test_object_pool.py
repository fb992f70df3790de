"""Pooled objects: bounded, as new, and never with two holders."""

import asyncio
import contextlib
import copy
import dataclasses
import gc
import threading
import weakref

import pytest
from interrupted import acquire_and_release, acquire_if_there_is_one, at_each_place
from together import in_threads

from gamenet import Lease, ObjectPool
from gamenet.errors import PoolExhaustedError
from gamenet.waiting import Waiter


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
    with pytest.raises(TypeError, match="a lease cannot be copied"):
        copy.copy(ObjectPool(Thing).acquire())


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


def test_a_lease_that_is_released_after_its_end_in_the_same_garbage_collection_is_so_once():
    """Of what goes together a finalizer may come first, and then a coroutine that still has to release it."""
    pool = ObjectPool(Thing, max_objects=2)

    class Holder:
        def __init__(self, lease):
            self.lease, self.itself = lease, self

        def __del__(self):
            with contextlib.suppress(ValueError):
                self.lease.release()

    for _ in range(2):  # the collector takes them as they were made: both orders
        lease, holder = pool.acquire(), Holder(pool.acquire())
        other = Holder(lease)
        lease._object.holder = other
        del lease, holder, other
        gc.collect()
        assert pool.outstanding == 0


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


# -- what comes in between


@pytest.mark.parametrize("interruption", [acquire_if_there_is_one, acquire_and_release])
@pytest.mark.parametrize("when_empty", ["raise", "heap"])
@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("was_used", [False, True])
def test_the_limits_hold_if_code_that_comes_between_acquires_too(interruption, when_empty, limit, was_used):
    def make():
        pool = ObjectPool(Thing, max_objects=limit, when_empty=when_empty)
        if was_used:
            pool.acquire().release()
        return pool, []

    for (pool, leases), _ in at_each_place(make, acquire_if_there_is_one, interruption):
        assert pool.outstanding == len(leases) <= (limit if when_empty == "raise" else 2)
        assert len({id(lease.object) for lease in leases}) == len(leases)
        while leases:
            leases.pop().release()
        assert (pool.outstanding, pool.stats()["idle"] <= limit) == (0, True)


@pytest.mark.parametrize("limit", [1, 2])
def test_what_is_kept_is_bounded_if_code_that_comes_between_a_release_has_one_too(limit):
    def make():
        pool = ObjectPool(Thing, max_objects=limit, when_empty="heap")
        return pool, [], pool.acquire()

    for (pool, leases, _), _ in at_each_place(make, lambda s: s[2].release(), lambda s: acquire_and_release(s[:2])):
        assert (leases, pool.outstanding) == ([], 0)
        assert pool.stats()["idle"] <= limit


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


@pytest.mark.parametrize("comes_from_a_thread", [False, True])
async def test_what_nobody_saw_is_not_reset_again_and_a_cancellation_stays_one(comes_from_a_thread):
    """A reset that raises would take its place."""
    resets = []

    def reset(thing):
        resets.append(thing)
        if len(resets) > 1:
            raise OSError("once is enough")

    pool = waiting_pool(reset=reset)
    lease = pool.acquire()
    task = asyncio.create_task(lend(pool))
    await turns()
    if comes_from_a_thread:
        thread = threading.Thread(target=lease.release)
        thread.start()
        thread.join(60)
    else:
        lease.release()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turns()
    assert (len(resets), pool.stats()) == (1, counts(idle=1, made=1))


async def test_a_loop_that_has_no_memory_for_the_news_costs_its_waiter_only(monkeypatch):
    pool = waiting_pool()
    lease = pool.acquire()
    first, second = (asyncio.create_task(lend(pool)) for _ in range(2))
    await turns()
    take, tries = Waiter._take, []

    def take_later(waiter, thing):
        tries.append(waiter)
        if len(tries) == 1:
            raise MemoryError
        return take(waiter, thing)

    monkeypatch.setattr(Waiter, "_take", take_later)
    lease.release()
    with pytest.raises(MemoryError, match="no memory to tell"):
        await first
    await asyncio.wait_for(second, 20)
    assert (pool.outstanding, pool.stats()["waiting"]) == (0, 0)


async def test_a_lease_that_cannot_be_made_costs_its_waiter_only(monkeypatch):
    pool = waiting_pool()
    lease = pool.acquire()
    first, second = (asyncio.create_task(lend(pool)) for _ in range(2))
    await turns()
    make, tries = Lease.__new__, []

    def make_later(kind):
        tries.append(kind)
        if len(tries) == 1:
            raise MemoryError
        return make(kind)

    monkeypatch.setattr(Lease, "__new__", make_later)
    lease.release()
    with pytest.raises(MemoryError):
        await first
    await asyncio.wait_for(second, 20)
    assert pool.stats() == counts(idle=1, made=1)
