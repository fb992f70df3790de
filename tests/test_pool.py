"""Pooled memory, on both twins."""

import asyncio
import copy
import ctypes
import gc
import os
import sys
import weakref

import pytest
from interrupted import acquire_and_release, acquire_if_there_is_one, at_each_place
from together import in_threads

from gamenet.errors import PoolCorruptedError, PoolExhaustedError
from gamenet.waiting import Waiter

keeps_blocks = pytest.mark.skipif(os.environ.get("GAMENET_POOL_REUSE") == "0", reason="pools keep nothing here")


def counts(**figures):
    """What `stats()` gives: nothing but these."""
    return dict.fromkeys(("outstanding", "viewed", "free", "waiting", "fallbacks", "refused"), 0) | figures


def test_a_block_is_memory_of_the_pool(core):
    pool = core.PoolAllocator(block_size=64)
    block = pool.acquire()
    assert (block.size, block.pool) == (64, pool)
    assert block.write(60, b"abcd") == 64
    with block.view() as view:
        assert (len(view), view.readonly, bytes(view[60:])) == (64, False, b"abcd")
    assert pool.stats() == counts(outstanding=1)
    block.release()
    assert pool.outstanding == 0


@pytest.mark.parametrize("size", [1, 7, 16, 17, 4096, 65536])
def test_fault_37_blocks_are_aligned(core, size):
    if core.__name__.endswith("_pure"):
        pytest.skip("a bytearray is aligned as the interpreter likes")
    pool = core.PoolAllocator(block_size=size)
    blocks = [pool.acquire() for _ in range(5)]
    for block in blocks:
        memory = (ctypes.c_char * size).from_buffer(block)
        assert ctypes.addressof(memory) % 16 == 0
        del memory
    del blocks


@keeps_blocks
def test_released_memory_is_used_again(core):
    pool = core.PoolAllocator(block_size=16, max_blocks=4)
    pool.acquire().release()
    assert pool.stats()["free"] == 1
    again = pool.acquire()
    assert pool.stats()["free"] == 0
    again.release()


def test_a_forgotten_block_comes_back(core):
    pool = core.PoolAllocator(block_size=16)
    pool.acquire()
    gc.collect()
    assert pool.outstanding == 0


@keeps_blocks
def test_above_max_blocks_the_heap_helps_and_is_counted(core):
    pool = core.PoolAllocator(block_size=16, max_blocks=2)
    blocks = [pool.acquire() for _ in range(3)]
    assert pool.stats() == counts(outstanding=3, fallbacks=1)
    for block in blocks:
        block.release()
    assert pool.stats() == counts(free=2, fallbacks=1)


def test_above_max_blocks_raise_refuses_and_counts(core):
    pool = core.PoolAllocator(block_size=16, max_blocks=2, when_empty="raise")
    first, second = pool.acquire(), pool.acquire()
    with pytest.raises(PoolExhaustedError, match="all 2 blocks of 16 bytes are out"):
        pool.acquire()
    assert pool.stats()["refused"] == 1
    first.release()
    pool.acquire().release()
    second.release()


def test_a_second_release_is_refused(core):
    block = core.PoolAllocator(block_size=16).acquire()
    block.release()
    for call in (block.release, block.view, lambda: block.write(0, b"")):
        with pytest.raises(ValueError, match="this block was released"):
            call()
    assert block.size == 0


def test_a_block_with_a_view_cannot_be_released(core):
    pool = core.PoolAllocator(block_size=16)
    block = pool.acquire()
    view = block.view()
    with pytest.raises(BufferError):
        block.release()
    view.release()
    block.release()
    assert pool.outstanding == 0


def test_a_view_keeps_block_and_pool(core):
    view = core.PoolAllocator(block_size=16).acquire().view()
    gc.collect()
    view[:] = b"0123456789abcdef"
    assert bytes(view) == b"0123456789abcdef"


def test_memory_that_a_view_shows_is_not_handed_out_though_its_block_is_forgotten(core):
    pool = core.PoolAllocator(block_size=16, max_blocks=4)
    view = pool.acquire().view()
    view[:] = b"0123456789abcdef"
    gc.collect()
    with pool.acquire() as other:
        other.write(0, bytes(16))
    assert bytes(view) == b"0123456789abcdef"
    assert (pool.stats()["outstanding"], pool.stats()["viewed"]) == (1, 1)
    view.release()
    gc.collect()
    assert (pool.stats()["outstanding"], pool.stats()["viewed"]) == (0, 0)


def test_stats_count_the_blocks_that_are_viewed(core):
    pool = core.PoolAllocator(block_size=16)
    first, second = pool.acquire(), pool.acquire()
    views = [first.view(), first.view(), second.view()]
    assert pool.stats()["viewed"] == 2
    views[0].release()
    assert pool.stats()["viewed"] == 2
    views[1].release()
    assert pool.stats()["viewed"] == 1
    views[2].release()
    assert pool.stats() == counts(outstanding=2)
    first.release()
    second.release()


def test_with_releases_unless_that_was_done(core):
    pool = core.PoolAllocator(block_size=16)
    with pool.acquire() as block:
        assert pool.outstanding == 1
    assert pool.outstanding == 0
    with pool.acquire() as block:
        block.release()
    assert pool.outstanding == 0


@pytest.mark.parametrize(
    ("offset", "data"),
    [(-1, b"a"), (16, b"a"), (0, b"a" * 17), (1 << 60, b"a"), (sys.maxsize, b"a"), (-sys.maxsize - 1, b"a")],
)
def test_writing_outside_a_block_is_refused(core, offset, data):
    block = core.PoolAllocator(block_size=16).acquire()
    with pytest.raises(ValueError, match=f"^bytes {offset} to {offset + len(data)} are outside a block of 16$"):
        block.write(offset, data)


def test_a_block_may_be_written_from_itself(core):
    block = core.PoolAllocator(4096).acquire()
    block.write(0, bytes(range(256)) * 16)
    with block.view() as view:
        block.write(1, view[:4095])
    with block.view() as view:
        assert bytes(view) == b"\0" + (bytes(range(256)) * 16)[:4095]


def test_blocks_come_from_pools_only(core):
    with pytest.raises(TypeError, match="PoolAllocator.acquire"):
        core.Block()
    with pytest.raises(TypeError):
        copy.copy(core.PoolAllocator(64).acquire())  # two of them would release the same memory


def test_what_was_not_initialised_lends_nothing(core):
    class Forgets(core.PoolAllocator):
        def __init__(self):
            pass

    for call in (Forgets().acquire, lambda: asyncio.run(Forgets().acquire_async())):
        with pytest.raises((PoolExhaustedError, AttributeError)):
            call()
    block = core.Block.__new__(core.Block)
    for call in (block.release, block.view, lambda: block.write(0, b"")):
        with pytest.raises((ValueError, AttributeError)):
            call()
    if not core.__name__.endswith("_pure"):
        assert (repr(block), block.size, block.pool) == ("<Block, released>", 0, None)


def test_a_pool_can_be_referred_to_weakly(core):
    pool = core.PoolAllocator(64)
    watched = weakref.ref(pool)
    block = pool.acquire()
    del pool
    gc.collect()
    assert watched() is block.pool
    block.release()
    del block
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 0}, "block_size 0 is outside 1 to"),
        ({"max_blocks": 0}, "max_blocks 0 is outside 1 to"),
        ({"max_waiters": 0}, "max_waiters 0 is outside 1 to"),
        ({"when_empty": "panic"}, "when_empty is 'panic', not 'heap', 'raise' or 'wait'"),
        ({"when_empty": "wait"}, "needs running_loop"),
        ({"sizes": (0,)}, "size 0 is outside 1 to 8192"),
        ({"sizes": (8193,)}, "size 8193 is outside 1 to 8192"),
        ({"sizes": range(1, 9)}, "the number of sizes 9 is outside 1 to 8"),
    ],
)
def test_a_pool_that_cannot_be(core, options, message):
    with pytest.raises(ValueError, match=message):
        core.PoolAllocator(**options)


@pytest.mark.parametrize("limit", [1, 2])
def test_the_smallest_limits(core, limit):
    pool = core.PoolAllocator(block_size=limit, max_blocks=limit)
    assert pool.acquire().size == limit


# -- what comes in between


@pytest.mark.parametrize("interruption", [acquire_if_there_is_one, acquire_and_release])
@pytest.mark.parametrize("when_empty", ["raise", "heap"])
@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("was_used", [False, True])
def test_the_limits_hold_if_code_that_comes_between_acquires_too(core, interruption, when_empty, limit, was_used):
    def make():
        pool = core.PoolAllocator(64, max_blocks=limit, when_empty=when_empty)
        if was_used:
            pool.acquire().release()
        return pool, []

    for (pool, blocks), _ in at_each_place(make, acquire_if_there_is_one, interruption):
        assert pool.outstanding == len(blocks) <= (limit if when_empty == "raise" else 2)
        for number, block in enumerate(blocks):
            block.write(0, bytes([number]) * 64)
        assert [bytes(block.view()) for block in blocks] == [bytes([number]) * 64 for number in range(len(blocks))]
        gc.collect()
        while blocks:
            blocks.pop().release()
        assert (pool.outstanding, pool.stats()["free"] <= limit) == (0, True)


@pytest.mark.parametrize("is_forgotten", [False, True])
@pytest.mark.parametrize("limit", [1, 2])
def test_what_is_kept_is_bounded_if_code_that_comes_between_a_release_has_a_block_too(core, limit, is_forgotten):
    def make():
        pool = core.PoolAllocator(64, max_blocks=limit)
        return pool, [], [pool.acquire()]

    def give_back(state):
        if not is_forgotten:
            state[2][0].release()
        state[2].clear()

    for (pool, blocks, _), _ in at_each_place(make, give_back, lambda state: acquire_and_release(state[:2])):
        assert (blocks, pool.outstanding) == ([], 0)
        assert pool.stats()["free"] <= limit


def test_a_release_in_the_middle_of_a_release_is_one_too_many(core):
    def release(block):
        try:
            block.release()
        except ValueError as error:
            return str(error)

    for block, _ in at_each_place(core.PoolAllocator(64).acquire, release, release):
        assert (block.size, block.pool.outstanding) == (0, 0)
        assert block.pool.stats()["free"] <= 1


# -- sizes


def test_the_smallest_block_that_holds_it_is_chosen(core):
    pool = core.PoolAllocator(8192, sizes=(2048, 256, 2048))
    assert (pool.sizes, pool.block_size) == ((256, 2048, 8192), 8192)
    for size, expected in [(0, 256), (255, 256), (256, 256), (257, 2048), (2048, 2048), (2049, 8192), (8192, 8192)]:
        with pool.acquire(size) as block:
            assert block.size == expected
    assert pool.acquire().size == 8192


@pytest.mark.parametrize(("size", "message"), [(-1, "size -1 is outside 0 to 64"), (65, "no block holds 65 bytes, the largest has 64")])
def test_a_size_that_no_block_has(core, size, message):
    pool = core.PoolAllocator(64, sizes=(16,))
    with pytest.raises(ValueError, match=message):
        pool.acquire(size)
    assert pool.stats() == counts()


@keeps_blocks
def test_each_size_has_its_own_limit_and_counts(core):
    pool = core.PoolAllocator(64, max_blocks=1, sizes=(16,))
    blocks = [pool.acquire(10), pool.acquire(10), pool.acquire(40)]
    assert pool.stats_by_size()[16] == {"outstanding": 2, "free": 0, "waiting": 0, "fallbacks": 1, "refused": 0}
    assert pool.stats_by_size()[64] == {"outstanding": 1, "free": 0, "waiting": 0, "fallbacks": 0, "refused": 0}
    assert (pool.stats(), pool.outstanding, pool.fallbacks) == (counts(outstanding=3, fallbacks=1), 3, 1)
    for block in blocks:
        block.release()
    assert pool.stats() == counts(free=2, fallbacks=1)
    assert pool.trim() == 64 + 16
    assert pool.stats() == counts(fallbacks=1)


def test_what_is_kept_is_bounded(core):
    pool = core.PoolAllocator(16, max_blocks=3)
    blocks = [pool.acquire() for _ in range(10)]
    for block in blocks:
        block.release()
    assert pool.stats()["free"] <= 3


# -- waiting


def waiting_pool(core, **options):
    return core.PoolAllocator(16, when_empty="wait", running_loop=asyncio.get_running_loop, **{"max_blocks": 1, **options})


async def turns(number=3):
    for _ in range(number):
        await asyncio.sleep(0)


async def test_who_waits_is_served_in_order_one_for_each_block_that_comes_back(core):
    pool, order = waiting_pool(core, max_blocks=2), []

    async def use(name):
        block = await pool.acquire_async()
        order.append(name)
        return block

    out = [await pool.acquire_async(), pool.acquire()]
    tasks = [asyncio.create_task(use(name)) for name in range(5)]
    await turns()
    assert (order, pool.stats()["waiting"]) == ([], 5)
    out.pop().release()
    await turns()
    assert order == [0]
    with pytest.raises(PoolExhaustedError, match="all 2 blocks of 16 bytes are out"):
        pool.acquire()  # it would pass them by
    out.pop().release()
    await turns()
    assert order == [0, 1]
    for task in tasks:
        (await task).release()
    assert order == [0, 1, 2, 3, 4]
    assert {**pool.stats(), "free": 0} == counts(refused=1)


async def test_a_cancelled_waiter_loses_nothing(core):
    pool = waiting_pool(core)
    block = pool.acquire()
    first, second = (asyncio.create_task(pool.acquire_async()) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    assert pool.stats()["waiting"] == 1
    block.release()
    (await second).release()
    assert (first.cancelled(), pool.stats()["outstanding"], pool.stats()["waiting"]) == (True, 0, 0)


async def test_cancelled_when_its_turn_had_come_it_gives_it_on(core):
    pool = waiting_pool(core)
    block = pool.acquire()
    first, second = (asyncio.create_task(pool.acquire_async()) for _ in range(2))
    await turns()
    block.release()  # the first has it, and does not know yet
    first.cancel()
    (await second).release()
    assert (first.cancelled(), pool.stats()["outstanding"], pool.stats()["waiting"]) == (True, 0, 0)


async def test_a_forgotten_block_serves_who_waits(core):
    pool = waiting_pool(core)
    block = pool.acquire()
    task = asyncio.create_task(pool.acquire_async())
    await turns()
    del block
    gc.collect()
    (await task).release()
    assert pool.outstanding == 0


async def test_the_last_view_of_a_forgotten_block_serves_who_waits(core):
    pool = waiting_pool(core)
    view = pool.acquire().view()
    part = view[4:8]
    gc.collect()
    task = asyncio.create_task(pool.acquire_async())
    await turns()
    view.release()
    del view
    gc.collect()
    await turns()
    assert (task.done(), pool.stats()) == (False, counts(outstanding=1, viewed=1, waiting=1))
    part.release()
    del part
    gc.collect()
    (await asyncio.wait_for(task, 20)).release()
    assert {**pool.stats(), "free": 0} == counts()


def test_a_forgotten_block_with_a_view_has_an_owner_until_that_goes(core, debug):
    debug("tag,fill")
    pool = core.PoolAllocator(64)
    view = pool.acquire().view()
    gc.collect()
    assert len(pool.owners()) == pool.outstanding == 1
    view.release()
    del view
    gc.collect()
    assert (pool.owners(), pool.outstanding) == ([], 0)
    pool.acquire().release()


@pytest.mark.parametrize("limit", [1, 2])
async def test_those_who_wait_are_bounded(core, limit):
    pool = waiting_pool(core, max_waiters=limit)
    block = pool.acquire()
    tasks = [asyncio.create_task(pool.acquire_async()) for _ in range(limit)]
    await turns()
    with pytest.raises(PoolExhaustedError, match=f"{limit} wait already, which is the limit"):
        await pool.acquire_async()
    assert pool.stats() == counts(outstanding=1, waiting=limit, refused=1)
    block.release()
    for task in tasks:
        (await task).release()


async def test_each_size_has_its_own_queue(core):
    pool = waiting_pool(core, sizes=(8,))
    small, large = pool.acquire(8), pool.acquire(16)
    task = asyncio.create_task(pool.acquire_async(8))
    await turns()
    large.release()
    await turns()
    assert not task.done()
    small.release()
    (await task).release()


async def test_acquire_async_does_not_wait_under_other_policies(core):
    strict = core.PoolAllocator(16, max_blocks=1, when_empty="raise")
    block = await strict.acquire_async()
    with pytest.raises(PoolExhaustedError):
        await strict.acquire_async()
    block.release()
    heap = core.PoolAllocator(16, max_blocks=1)
    blocks = [await heap.acquire_async() for _ in range(2)]
    assert (heap.fallbacks, len(blocks)) == (1, 2)


async def test_blocks_may_be_released_in_other_threads(core):
    pool = waiting_pool(core, max_blocks=2)

    async def use(number):
        for _ in range(20):
            block = await asyncio.wait_for(pool.acquire_async(), 20)
            await asyncio.to_thread(block.release)

    await asyncio.gather(*(use(number) for number in range(8)))
    assert (pool.stats()["outstanding"], pool.stats()["waiting"]) == (0, 0)


async def test_who_waits_in_a_loop_that_is_gone_is_passed_by(core):
    pool = waiting_pool(core)
    block = pool.acquire()

    def wait_and_give_up():
        loop = asyncio.new_event_loop()
        task = loop.create_task(pool.acquire_async())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return task

    gone = await asyncio.to_thread(wait_and_give_up)
    task = asyncio.create_task(pool.acquire_async())
    await turns()
    assert pool.stats()["waiting"] == 2
    block.release()
    (await task).release()
    assert (pool.stats()["outstanding"], pool.stats()["waiting"]) == (0, 0)
    gone._log_destroy_pending = False


async def test_a_loop_that_has_no_memory_for_the_news_costs_its_waiter_only(core, monkeypatch):
    pool = waiting_pool(core)
    block = pool.acquire()
    first, second = (asyncio.create_task(pool.acquire_async()) for _ in range(2))
    await turns()
    take, tries = Waiter._take, []

    def take_later(waiter, thing):
        tries.append(waiter)
        if len(tries) == 1:
            raise MemoryError
        return take(waiter, thing)

    monkeypatch.setattr(Waiter, "_take", take_later)
    block.release()
    with pytest.raises(MemoryError, match="no memory to tell"):
        await first
    (await asyncio.wait_for(second, 20)).release()
    assert {**pool.stats(), "free": 0} == counts()


@pytest.mark.filterwarnings("error")
def test_a_waiter_that_goes_together_with_its_block(core):
    """In one garbage collection, after it was granted: whichever goes first, the block comes back once."""
    loop = asyncio.new_event_loop()
    pool = core.PoolAllocator(64, max_blocks=1, when_empty="wait", running_loop=lambda: loop)
    block = pool.acquire()
    tasks = [loop.create_task(pool.acquire_async())]
    loop.run_until_complete(asyncio.sleep(0))
    block.release()
    loop.call_soon(loop.stop)
    loop.close()
    assert pool.outstanding == 1
    tasks.pop()._log_destroy_pending = False
    del block
    gc.collect()
    assert {**pool.stats(), "free": 0} == counts()


# -- threads


def test_no_block_is_out_twice_however_many_threads_ask(core):
    pool = core.PoolAllocator(64, max_blocks=6, sizes=(16,))

    def work(index):
        mark = bytes([index]) * 16
        for number in range(2000):
            with pool.acquire(16 if number % 3 else 64) as block, pool.acquire(16) as other:
                block.write(0, mark)
                other.write(0, mark)
                with block.view() as view, other.view() as second:
                    assert bytes(view[:16]) == mark == bytes(second)

    assert in_threads(work) == []
    assert {**pool.stats(), "free": 0, "fallbacks": 0} == counts()
    assert pool.stats()["free"] <= 12


def test_of_two_threads_that_release_a_block_one_is_refused(core):
    pool = core.PoolAllocator(64)
    for _ in range(200):
        block = pool.acquire()
        errors = in_threads(lambda index, block=block: block.release())
        assert [str(error) for error in errors] == ["this block was released"] * 3
    assert pool.outstanding == 0
    assert pool.stats()["free"] <= 1


@pytest.mark.parametrize("modes", ["", "fill,tag"])
def test_loops_of_several_threads_wait_for_the_same_blocks(core, monkeypatch, modes):
    monkeypatch.setenv("GAMENET_POOL_DEBUG", modes)
    pool, out, most = waiting_pool(core, max_blocks=2), set(), []

    async def use(index, number):
        block = await pool.acquire_async()
        try:
            assert id(block) not in out
            out.add(id(block))
            most.append(len(out))
            block.write(0, bytes([index, number]))
            await asyncio.sleep(0)
            with block.view() as view:
                assert bytes(view[:2]) == bytes([index, number])
            out.discard(id(block))
        finally:
            block.release()

    async def many(index):
        async with asyncio.timeout(60):
            await asyncio.gather(*(use(index, number) for number in range(200)))

    assert in_threads(lambda index: asyncio.run(many(index))) == []
    assert len(most) == 800
    assert max(most) <= 2
    stats = pool.stats()
    assert (stats["outstanding"], stats["waiting"], stats["viewed"], stats["refused"]) == (0, 0, 0, 0)
    assert pool.owners() == []


def test_blocks_made_in_one_thread_and_forgotten_in_others_come_back(core):
    pool, rounds = core.PoolAllocator(64, max_blocks=8), 500
    shared = [[pool.acquire() for _ in range(2)] for _ in range(4)]

    def work(index):
        for number in range(rounds):
            mine, shared[index][number % 2] = shared[index][number % 2], None
            other = shared[(index + 1) % 4]
            if mine is None:  # the one before took it
                mine = pool.acquire()
            mine.write(0, bytes([index]))
            other[number % 2], mine = mine, None  # what was there is forgotten here

    assert in_threads(work) == []
    shared.clear()
    gc.collect()
    assert pool.outstanding == 0
    assert pool.stats()["free"] <= 8


def test_writing_while_others_release(core):
    pool = core.PoolAllocator(64)
    for _ in range(200):
        block, errors = pool.acquire(), []

        def work(index, block=block):
            if index:
                block.write(0, b"x" * 64)
            else:
                block.release()

        errors = in_threads(work)
        assert {str(error) for error in errors} <= {"this block was released"}
    assert pool.outstanding == 0


# -- GAMENET_POOL_DEBUG


@pytest.fixture
def debug(monkeypatch):
    monkeypatch.delenv("GAMENET_POOL_REUSE", raising=False)
    return lambda modes: monkeypatch.setenv("GAMENET_POOL_DEBUG", modes)


def scribble(block, offset, value):
    """What a stale pointer does: write to the block's memory later on, though it was released."""
    if hasattr(block, "_memory"):
        memory = block._memory
        return lambda: memory.__setitem__(offset, value)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    return lambda: ctypes.memset(address + offset, value, 1)


@pytest.mark.parametrize("offset", [0, 7, 63])
def test_fill_finds_a_write_after_the_release(core, debug, offset):
    debug("fill")
    pool = core.PoolAllocator(64)
    block = pool.acquire()
    write_late = scribble(block, offset, 0x41)
    gc.collect()
    block.release()
    pool.acquire().release()
    write_late()
    with pytest.raises(PoolCorruptedError, match=rf"block of 64 bytes at 0x[0-9a-f]+ .*: byte {offset} is 0x41, expected 0xdd"):
        pool.acquire()
    assert pool.stats() == counts()
    pool.acquire().release()  # other memory
    assert pool.stats()["free"] == 1


async def test_fill_tells_who_waited(core, debug):
    debug("fill")
    pool = waiting_pool(core)
    block = pool.acquire()
    task = asyncio.create_task(pool.acquire_async())
    await turns()
    block.release()
    (await task).release()


def test_tag_says_who_has_a_block(core, debug):
    debug("tag,fill")
    pool = core.PoolAllocator(64)
    block = pool.acquire()
    line = sys._getframe().f_lineno - 1
    assert pool.owners() == [f"{__file__}:{line}"]
    assert repr(block) == f"<Block, 64 bytes, of {__file__}:{line}>"
    block.release()
    assert (pool.owners(), repr(block)) == ([], "<Block, released>")


def test_without_tags_nobody_is_named(core):
    pool = core.PoolAllocator(64)
    block = pool.acquire()
    assert (pool.owners(), repr(block)) == ([], "<Block, 64 bytes>")


@pytest.mark.parametrize("environment", [{"GAMENET_POOL_DEBUG": "noreuse"}, {"GAMENET_POOL_REUSE": "0"}])
def test_noreuse_keeps_nothing(core, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    pool = core.PoolAllocator(64)
    pool.acquire().release()
    assert pool.stats()["free"] == 0


def test_every_nth_request_fails(core, debug):
    debug("fail:3")
    pool, failed = core.PoolAllocator(64), []
    for number in range(1, 10):
        try:
            pool.acquire().release()
        except PoolExhaustedError as error:
            failed.append((number, str(error)))
    assert failed == [(number, "GAMENET_POOL_DEBUG lets every request of 3 fail") for number in (3, 6, 9)]
    assert (pool.refused, pool.outstanding) == (3, 0)


@pytest.mark.parametrize("modes", ["fil", "fail", "fail:0", "fail:-1", "fail:x", "tag:1"])
def test_an_unknown_mode_is_an_error(core, debug, modes):
    debug(f"fill,{modes}")
    with pytest.raises(ValueError, match=f"GAMENET_POOL_DEBUG has '{modes}'"):
        core.PoolAllocator(64)


# -- sizes in the buffers of a session


def layers(core, **options):
    return core.PoolAllocator(8192, sizes=(256, 2048), **options)


def test_an_incomplete_packet_takes_the_block_that_holds_it(core):
    pool, codec = layers(core), core.HeaderCodec()
    for size, expected in [(8 + 1, 256), (256, 256), (257, 2048), (2049, 8192), (8192, 8192)]:
        buffer = core.PacketBuffer(codec, pool)
        buffer.feed(codec.frame(1, b"x" * (size - 8))[:-1])
        assert list(buffer) == []
        assert [size for size, stats in pool.stats_by_size().items() if stats["outstanding"]] == [expected]
        buffer.feed(b"x")
        assert [packet.body for packet in buffer] == [b"x" * (size - 8)]
    del buffer
    assert pool.outstanding == 0


def test_one_whose_header_is_incomplete_moves_when_its_size_is_known(core):
    pool, codec = layers(core), core.HeaderCodec()
    buffer, frame = core.PacketBuffer(codec, pool), codec.frame(7, bytes(range(250)) * 20, 3)
    buffer.feed(frame[:5])
    assert list(buffer) == []
    assert pool.stats_by_size()[256]["outstanding"] == 1
    buffer.feed(frame[5:9])
    assert list(buffer) == []
    assert (pool.outstanding, pool.stats_by_size()[8192]["outstanding"], buffer.buffered) == (1, 1, 9)
    packets = []
    for index in range(9, len(frame)):
        buffer.feed(frame[index:index + 1])
        packets += [(packet.packet_id, packet.body, packet.sequence) for packet in buffer]
    assert packets == [(7, bytes(range(250)) * 20, 3)]
    buffer.clear()
    assert pool.outstanding == 0


def test_a_tail_that_cannot_grow_loses_nothing(core):
    pool, codec = layers(core, max_blocks=1, when_empty="raise"), core.HeaderCodec()
    taken = pool.acquire()
    buffer, frame = core.PacketBuffer(codec, pool), codec.frame(7, b"x" * 5000)
    buffer.feed(frame[:5])
    assert list(buffer) == []
    buffer.feed(frame[5:])
    with pytest.raises(PoolExhaustedError):
        list(buffer)
    taken.release()
    assert [packet.body for packet in buffer] == [b"x" * 5000]


def test_a_delimited_packet_grows_through_the_sizes(core):
    from gamenet import DelimiterLayout

    pool = layers(core)
    codec = core.codec_for(DelimiterLayout(b"\n"), 8192)
    buffer, line, seen = core.PacketBuffer(codec, pool), bytes(range(32, 127)) * 80, set()
    for index in range(len(line)):
        buffer.feed(line[index:index + 1])
        assert list(buffer) == []
        seen |= {size for size, stats in pool.stats_by_size().items() if stats["outstanding"]}
        assert pool.outstanding == 1
    buffer.feed(b"\n")
    assert [packet.body for packet in buffer] == [line]
    assert seen == {256, 2048, 8192}


@pytest.mark.parametrize("sizes", [[20], [247], [248], [249], [200, 100], [100] * 300, [8184, 1], [1, 8184], [3000] * 5, [5000, 10, 5000]])
def test_an_outbox_sends_the_same_whatever_blocks_it_gathers_in(core, sizes):
    pool, codec = layers(core), core.HeaderCodec()
    outbox = core.Outbox(codec, pool)
    expected = b"".join(codec.frame(number, b"y" * size) for number, size in enumerate(sizes))
    for _ in range(3):
        for number, size in enumerate(sizes):
            outbox.append(number, b"y" * size)
        assert outbox.size == len(expected)
        assert b"".join(outbox.take()) == expected
        assert (outbox.size, pool.outstanding) == (0, 0)


@pytest.mark.parametrize("cut", [255, 256, 257, 2047, 2048, 2049])
def test_an_outbox_at_the_edge_of_a_block(core, cut):
    pool, codec = layers(core), core.HeaderCodec()
    outbox = core.Outbox(codec, pool)
    outbox.append(1, b"a" * (cut - 8 - 100))
    outbox.append(2, b"b" * 92)
    outbox.append(3, b"c")
    expected = codec.frame(1, b"a" * (cut - 108)) + codec.frame(2, b"b" * 92) + codec.frame(3, b"c")
    assert b"".join(outbox.take()) == expected
