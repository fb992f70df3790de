"""Blocks: lent and given back."""

from types import ModuleType
from typing import Any

from bench.micro.workload import Run, Workload, Yardstick

BLOCKS = 1000
BLOCK_SIZE = 8192


def lend(twin: ModuleType) -> Run:
    """A block is acquired and released, over and over: what every packet that arrives in pieces does."""
    return _lend(twin.PoolAllocator(BLOCK_SIZE))


def lent(twin: ModuleType) -> dict[str, int]:
    """What the pool says afterwards."""
    pool = twin.PoolAllocator(BLOCK_SIZE)
    _lend(pool)()
    stats: dict[str, int] = pool.stats()
    return stats


def make_bytearrays() -> Run:
    """Without a pool: memory from the allocator, which Python fills with zeros."""

    def run() -> None:
        for _ in range(BLOCKS):
            bytearray(BLOCK_SIZE)

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
        beside=(Yardstick("bytearray(8192)", make_bytearrays),),
    ),
]
