"""Blocks: lent and given back, of one size and of several. What "without a pool" costs stands beside them."""

import os
from types import ModuleType
from typing import Any
from unittest.mock import patch

from bench.micro.twins import twin
from bench.micro.workload import Run, Workload, Yardstick

BLOCKS = 1000
BLOCK_SIZE = 8192
SMALL_SIZE = 200
SIZES = (256, 2048)


def lend(twin: ModuleType) -> Run:
    """A block is acquired and released, over and over: what every packet that arrives in pieces does."""
    return _lend(twin.PoolAllocator(BLOCK_SIZE))


def lent(twin: ModuleType) -> dict[str, int]:
    """What the pool says afterwards."""
    pool = twin.PoolAllocator(BLOCK_SIZE)
    _lend(pool)()
    stats: dict[str, int] = pool.stats()
    return stats


def lend_small(twin: ModuleType) -> Run:
    """The same with the size that is needed, of a pool of three sizes."""
    acquire = twin.PoolAllocator(BLOCK_SIZE, sizes=SIZES).acquire

    def run() -> None:
        for _ in range(BLOCKS):
            acquire(SMALL_SIZE).release()

    return run


def lent_small(twin: ModuleType) -> int:
    """The size of what one gets."""
    size: int = twin.PoolAllocator(BLOCK_SIZE, sizes=SIZES).acquire(SMALL_SIZE).size
    return size


def make_bytearrays(size: int = BLOCK_SIZE) -> Run:
    """Without a pool: memory from the allocator, which Python fills with zeros."""

    def run() -> None:
        for _ in range(BLOCKS):
            bytearray(size)

    return run


def lend_without_reuse(size: int) -> Run:
    """Without a pool, but with its blocks: each is taken from the system and given back to it."""
    with patch.dict(os.environ, {"GAMENET_POOL_REUSE": "0"}):
        acquire = twin("compiled").PoolAllocator(BLOCK_SIZE, sizes=SIZES).acquire

    def run() -> None:
        for _ in range(BLOCKS):
            acquire(size).release()

    return run


def _lend(pool: Any) -> Run:
    acquire = pool.acquire

    def run() -> None:
        for _ in range(BLOCKS):
            acquire().release()

    return run


WORKLOADS = [
    Workload(
        "lend_block", "acquire() and release() of an 8 KiB block", "block", BLOCKS, lend, lent,
        beside=(
            Yardstick("bytearray(8192)", make_bytearrays),
            Yardstick("blocks without a pool", lambda: lend_without_reuse(BLOCK_SIZE)),
        ),
    ),
    Workload(
        "lend_small_block", "acquire(200) and release() of one of three sizes", "block", BLOCKS, lend_small, lent_small,
        beside=(
            Yardstick("bytearray(200)", lambda: make_bytearrays(SMALL_SIZE)),
            Yardstick("blocks without a pool", lambda: lend_without_reuse(SMALL_SIZE)),
        ),
    ),
]
