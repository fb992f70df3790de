"""Pooled memory: blocks of one size, handed out and taken back without asking the system each time.

What stays true: a block is out once or not at all; a block keeps its pool alive, so no order of destruction can
hurt; memory that someone still looks at is never handed out again.
"""

from __future__ import annotations

import os
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from gamenet import errors

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ALIGNMENT = 16
"""Blocks start at a multiple of this many bytes: enough for every C type and for SSE loads."""


class PoolAllocator:
    """Hands out `Block`s of `block_size` bytes and keeps up to `max_blocks` of them for the next who asks.

    Blocks are made on first need. `GAMENET_POOL_REUSE=0` in the environment keeps none: an address sanitizer then
    sees every use after release. With every one of `max_blocks` out, `when_empty` decides: `"heap"` makes another
    one that is not kept afterwards, `"raise"` raises `PoolExhaustedError`; both are counted in `stats()`.
    Locking rule: any thread may acquire and release.
    """

    __slots__ = (
        "_forgotten", "_free", "_keeps", "_shown", "block_size", "fallbacks", "max_blocks", "outstanding", "refused",
        "when_empty",
    )

    def __init__(
        self, block_size: int = 8192, max_blocks: int = 1024, when_empty: Literal["heap", "raise"] = "heap"
    ) -> None:
        if block_size < 1:
            raise errors.number_does_not_fit("block_size", block_size, 1, float("inf"))
        if max_blocks < 1:
            raise errors.number_does_not_fit("max_blocks", max_blocks, 1, float("inf"))
        if when_empty not in ("heap", "raise"):
            raise ValueError(f"when_empty is {when_empty!r}, not 'heap' or 'raise'")
        self.block_size = block_size
        self.max_blocks = max_blocks
        self.when_empty = when_empty
        self.outstanding = 0
        self.fallbacks = 0
        self.refused = 0
        self._free: list[bytearray] = []
        self._shown: weakref.WeakSet[Block] = weakref.WeakSet()  # blocks that a view was made of
        self._forgotten: list[bytearray] = []  # memory of blocks that are gone while views of them were not
        self._keeps = max_blocks if os.environ.get("GAMENET_POOL_REUSE") != "0" else 0

    def acquire(self) -> Block:
        """A block, its content undefined. `PoolExhaustedError` as `when_empty` says."""
        if self._forgotten:
            self._reclaim()
        if self._free:
            return self._lend(self._free.pop())
        if self.outstanding >= self.max_blocks:
            if self.when_empty == "raise":
                self.refused += 1
                raise errors.PoolExhaustedError(
                    f"all {self.max_blocks} blocks of {self.block_size} bytes are out"
                )
            self.fallbacks += 1
        return self._lend(bytearray(self.block_size))

    def stats(self) -> dict[str, int]:
        """Blocks `outstanding` now, of which `viewed` are seen by a view, and `free`; `fallbacks` to the heap and
        `refused` requests so far.
        """
        self._reclaim()
        viewed = len(self._forgotten) + sum(block._is_viewed() for block in self._shown)
        return {
            "outstanding": self.outstanding,
            "viewed": viewed,
            "free": len(self._free),
            "fallbacks": self.fallbacks,
            "refused": self.refused,
        }

    def _lend(self, memory: bytearray) -> Block:
        block = Block.__new__(Block)
        block._pool = self
        block._memory = memory
        self.outstanding += 1
        return block

    def _reclaim(self) -> None:
        """Take back the memory whose last view has gone."""
        forgotten, self._forgotten = self._forgotten, []
        for memory in forgotten:
            if is_viewed(memory):
                self._forgotten.append(memory)
            else:
                self._take_back(memory)

    def _take_back(self, memory: bytearray) -> None:
        self.outstanding -= 1
        if len(self._free) + self.outstanding < self._keeps:
            self._free.append(memory)


class Block:
    """`pool.block_size` bytes, from `acquire()` until `release()` or until nobody refers to the block any more.

    Supports the buffer protocol (writable). While a view of it exists the block cannot be released: `BufferError`.
    Locking rule: one thread at a time; the pool itself may be shared.
    """

    __slots__ = ("__weakref__", "_memory", "_pool")

    _memory: bytearray | None
    _pool: PoolAllocator

    def __init__(self) -> None:
        raise TypeError("blocks come from PoolAllocator.acquire()")

    @property
    def pool(self) -> PoolAllocator:
        """The pool it came from."""
        return self._pool

    @property
    def size(self) -> int:
        """Bytes it holds; 0 once it was released."""
        return 0 if self._memory is None else len(self._memory)

    def view(self) -> memoryview:
        """A writable view of the whole block. `ValueError` once it was released."""
        view = memoryview(self._held())
        self._pool._shown.add(self)
        return view

    def write(self, offset: int, data: ReadableBuffer) -> int:
        """Copy `data` to `offset`; returns the offset behind it. `ValueError` if it does not fit."""
        memory = self._held()
        source = memoryview(data).cast("B")
        end = offset + len(source)
        if offset < 0 or end > len(memory):
            raise ValueError(f"bytes {offset} to {end} are outside a block of {len(memory)}")
        memory[offset:end] = source
        return end

    def release(self) -> None:
        """Give the memory back. `ValueError` the second time, `BufferError` while a view of it exists."""
        memory = self._held()
        if is_viewed(memory):
            raise BufferError("Existing exports of data: object cannot be re-sized")
        self._memory = None
        self._pool._take_back(memory)

    def __enter__(self) -> Block:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._memory is not None:
            self.release()

    def __del__(self) -> None:
        memory = getattr(self, "_memory", None)
        if memory is not None:
            self._memory = None
            if is_viewed(memory):
                self._pool._forgotten.append(memory)
            else:
                self._pool._take_back(memory)

    def _is_viewed(self) -> bool:
        return self._memory is not None and is_viewed(self._memory)

    def _held(self) -> bytearray:
        if self._memory is None:
            raise ValueError("this block was released")
        return self._memory


def is_viewed(memory: bytearray) -> bool:
    """Whether a view of it exists: then it cannot be resized."""
    try:
        memory.append(0)
    except BufferError:
        return True
    memory.pop()
    return False
