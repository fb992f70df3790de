"""Pooled memory, on both twins."""

import ctypes
import gc
import os

import pytest

from gamenet.errors import PoolExhaustedError

keeps_blocks = pytest.mark.skipif(os.environ.get("GAMENET_POOL_REUSE") == "0", reason="pools keep nothing here")


def test_a_block_is_memory_of_the_pool(core):
    pool = core.PoolAllocator(block_size=64)
    block = pool.acquire()
    assert (block.size, block.pool) == (64, pool)
    assert block.write(60, b"abcd") == 64
    with block.view() as view:
        assert (len(view), view.readonly, bytes(view[60:])) == (64, False, b"abcd")
    assert pool.stats() == {"outstanding": 1, "viewed": 0, "free": 0, "fallbacks": 0, "refused": 0}
    block.release()
    assert pool.outstanding == 0


@pytest.mark.parametrize("size", [1, 7, 16, 17, 4096, 65536])
def test_blocks_are_aligned(core, size):
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
    assert pool.stats() == {"outstanding": 3, "viewed": 0, "free": 0, "fallbacks": 1, "refused": 0}
    for block in blocks:
        block.release()
    assert pool.stats() == {"outstanding": 0, "viewed": 0, "free": 2, "fallbacks": 1, "refused": 0}


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
    assert pool.stats() == {"outstanding": 2, "viewed": 0, "free": 0, "fallbacks": 0, "refused": 0}
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


@pytest.mark.parametrize(("offset", "data"), [(-1, b"a"), (16, b"a"), (0, b"a" * 17), (1 << 60, b"a")])
def test_writing_outside_a_block_is_refused(core, offset, data):
    block = core.PoolAllocator(block_size=16).acquire()
    with pytest.raises(ValueError, match="outside a block of 16"):
        block.write(offset, data)


def test_blocks_come_from_pools_only(core):
    with pytest.raises(TypeError, match="PoolAllocator.acquire"):
        core.Block()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 0}, "block_size 0 is outside 1 to"),
        ({"max_blocks": 0}, "max_blocks 0 is outside 1 to"),
        ({"when_empty": "wait"}, "when_empty is 'wait'"),
    ],
)
def test_a_pool_that_cannot_be(core, options, message):
    with pytest.raises(ValueError, match=message):
        core.PoolAllocator(**options)


@pytest.mark.parametrize("limit", [1, 2])
def test_the_smallest_limits(core, limit):
    pool = core.PoolAllocator(block_size=limit, max_blocks=limit)
    assert pool.acquire().size == limit
