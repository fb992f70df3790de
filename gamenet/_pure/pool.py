"""Pooled memory: blocks of a few sizes, handed out and taken back without asking the system each time.

What stays true: a block is out once or not at all; a block keeps its pool alive, so no order of destruction can
hurt; memory that someone still looks at is never handed out again. Nobody is passed by while he waits. Locking rule:
any thread may acquire and release; what was waited for is granted outside the lock.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from gamenet import errors
from gamenet.pool_debug import FILL, debug_of_environment, reuses_blocks, who_asks
from gamenet.waiting import MAX_WAITERS, Loop, Waiter

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ALIGNMENT = 16
"""Blocks start at a multiple of this many bytes: enough for every C type and for SSE loads."""

MAX_SIZES = 8
"""Different sizes of one pool: a request looks at them one after the other."""


class _Memory(bytearray):
    """The memory of a block; a weak reference tells when the last view of it has gone.
    Locking rule: whoever has the block.
    """

    __slots__ = ("__weakref__",)


class _SizeClass:
    """The blocks of one size. Locking rule: whoever holds the lock of its pool."""

    __slots__ = ("fallbacks", "free", "outstanding", "refused", "size", "waiters")

    def __init__(self, size: int) -> None:
        self.size = size
        self.outstanding = 0
        self.fallbacks = 0
        self.refused = 0
        self.free: list[_Memory] = []
        self.waiters: deque[Waiter[Block]] = deque()


class PoolAllocator:
    """Hands out `Block`s of `block_size` bytes, or of a smaller one of `sizes`, and keeps them for the next who asks.

    Blocks are made on first need; up to `max_blocks` of each size are kept. With so many out, `when_empty` decides:
    `"heap"` makes another one that is not kept afterwards, `"raise"` raises `PoolExhaustedError`, and so does
    `"wait"`, under which `acquire_async()` waits: it needs `running_loop`, such as `asyncio.get_running_loop`, and
    lets `max_waiters` of each size wait at once. All is counted in `stats()`. `GAMENET_POOL_DEBUG` in the environment
    finds misuse: see docs/pools.md. Locking rule: any thread may acquire and release.
    """

    __slots__ = (
        "__weakref__", "_classes", "_debug", "_forgotten", "_is_plain", "_keeps", "_lock", "_owners", "_running_loop",
        "_shown", "block_size", "max_blocks", "max_waiters", "sizes", "when_empty",
    )

    def __init__(
        self,
        block_size: int = 8192,
        max_blocks: int = 1024,
        when_empty: Literal["heap", "raise", "wait"] = "heap",
        sizes: Iterable[int] = (),
        running_loop: Callable[[], Loop] | None = None,
        max_waiters: int = MAX_WAITERS,
    ) -> None:
        for name, value in (("block_size", block_size), ("max_blocks", max_blocks), ("max_waiters", max_waiters)):
            if value < 1:
                raise errors.number_does_not_fit(name, value, 1, float("inf"))
        if when_empty not in ("heap", "raise", "wait"):
            raise ValueError(f"when_empty is {when_empty!r}, not 'heap', 'raise' or 'wait'")
        if when_empty == "wait" and running_loop is None:
            raise ValueError("when_empty='wait' needs running_loop, such as asyncio.get_running_loop")
        self.block_size = block_size
        self.sizes = checked_sizes(sizes, block_size)
        self.max_blocks = max_blocks
        self.when_empty = when_empty
        self.max_waiters = max_waiters
        self._running_loop = running_loop
        self._classes = [_SizeClass(size) for size in self.sizes]
        self._shown: weakref.WeakSet[Block] = weakref.WeakSet()  # blocks that a view was made of
        # memory of blocks that are gone while views of them were not, by its address
        self._forgotten: dict[int, weakref.ref[_Memory]] = {}
        self._debug = debug_of_environment()
        self._is_plain = self._debug is None and when_empty != "wait"
        self._owners: dict[int, str] = {}  # of blocks that are out, if tags are asked for
        self._keeps = max_blocks if reuses_blocks() else 0
        self._lock = threading.RLock()  # a garbage collection under it may release blocks

    @property
    def outstanding(self) -> int:
        """Blocks that are out now."""
        return sum(of.outstanding for of in self._classes)

    @property
    def fallbacks(self) -> int:
        """Blocks so far that the heap gave because `max_blocks` were out."""
        return sum(of.fallbacks for of in self._classes)

    @property
    def refused(self) -> int:
        """Requests so far that were answered by `PoolExhaustedError`."""
        return sum(of.refused for of in self._classes)

    def acquire(self, size: int | None = None) -> Block:
        """A block of at least `size` bytes (None: of `block_size`), its content undefined.

        `PoolExhaustedError` as `when_empty` says, `ValueError` for a size below 0 or above `block_size`.
        """
        return self._lend_for(size)

    async def acquire_async(self, size: int | None = None) -> Block:
        """As `acquire()`, but where `when_empty` is `"wait"` it waits for a block until it is cancelled.

        First come, first served. `PoolExhaustedError` if `max_waiters` wait already. Blocks may be released in any
        thread.
        """
        of = self._class_for(size)
        asked = self._ask(of)
        if isinstance(asked, Block):
            return asked
        try:
            return await asked.wait()
        finally:
            with self._lock:
                if asked in of.waiters:
                    of.waiters.remove(asked)

    def stats(self) -> dict[str, int]:
        """Blocks `outstanding` now, of which `viewed` are seen by a view, and `free`; requests `waiting` now;
        `fallbacks` to the heap and `refused` requests so far. Of all sizes together.
        """
        with self._lock:
            by_size = self._by_size()
            viewed = len(self._forgotten) + sum(block._is_viewed() for block in self._shown)
        totals = {name: sum(stats[name] for stats in by_size.values()) for name in by_size[self.block_size]}
        return {**totals, "viewed": viewed}

    def stats_by_size(self) -> dict[int, dict[str, int]]:
        """The same for each size, without `viewed`."""
        with self._lock:
            return self._by_size()

    def owners(self) -> list[str]:
        """Who has the blocks that are out, a text for each, under `GAMENET_POOL_DEBUG=tag`; else nothing."""
        with self._lock:
            return list(self._owners.values())

    def trim(self) -> int:
        """Give the memory of all free blocks back to the system; returns how many bytes that was."""
        trimmed = 0
        with self._lock:
            for of in self._classes:
                trimmed += len(of.free) * of.size
                of.free.clear()
        return trimmed

    def _by_size(self) -> dict[int, dict[str, int]]:
        return {
            of.size: {
                "outstanding": of.outstanding,
                "free": len(of.free),
                "waiting": len(of.waiters),
                "fallbacks": of.fallbacks,
                "refused": of.refused,
            }
            for of in self._classes
        }

    def _class_for(self, size: int | None) -> _SizeClass:
        if size is None:
            return self._classes[-1]
        if size < 0:
            raise errors.number_does_not_fit("size", size, 0, self.block_size)
        for of in self._classes:
            if size <= of.size:
                return of
        raise errors.block_too_small(size, self.block_size)

    def _lend_for(self, size: int | None, purpose: str | None = None) -> Block:
        """As `acquire()`; `purpose` goes into the tag."""
        of = self._classes[-1] if size is None else self._class_for(size)
        if self._is_plain:
            with self._lock:
                if of.outstanding >= self.max_blocks:
                    return self._lend(of, "")
                of.outstanding += 1
                return self._lend_reserved(of, "")
        who = who_asks(purpose) if self._debug is not None and self._debug.tags else ""
        with self._lock:
            self._fail_if_asked(of)
            return self._lend(of, who)

    def _fail_if_asked(self, of: _SizeClass) -> None:
        if self._debug is not None and self._debug.fails_now():
            of.refused += 1
            raise errors.pool_fails_as_asked(self._debug.fails_every)

    def _ask(self, of: _SizeClass) -> Block | Waiter[Block]:
        """A block, or a place among those who wait for one."""
        who = who_asks() if self._debug is not None and self._debug.tags else ""
        with self._lock:
            self._fail_if_asked(of)
            if self._has_room(of) or self.when_empty != "wait":
                return self._lend(of, who)
        assert self._running_loop is not None
        waiter: Waiter[Block] = Waiter(self._running_loop(), _give_back, who)
        with self._lock:
            if self._has_room(of):
                return self._lend(of, who)
            if len(of.waiters) >= self.max_waiters:
                of.refused += 1
                raise errors.too_many_wait(self.max_waiters)
            of.waiters.append(waiter)
            return waiter

    def _has_room(self, of: _SizeClass) -> bool:
        """Whether a block may be lent without passing anybody by."""
        return of.outstanding < self.max_blocks and not of.waiters

    def _lend(self, of: _SizeClass, who: str) -> Block:
        if of.outstanding >= self.max_blocks or of.waiters:
            if self.when_empty != "heap":
                of.refused += 1
                raise errors.pool_is_empty(self.max_blocks, of.size)
            of.fallbacks += 1
        of.outstanding += 1  # at once: a finalizer that comes between may ask, too
        return self._lend_reserved(of, who)

    def _lend_reserved(self, of: _SizeClass, who: str) -> Block:
        """The block that was counted as out already; if there is none, it is no longer."""
        try:
            block = Block.__new__(Block)
            memory = of.free.pop() if of.free else None
            if memory is None:
                memory = _Memory(of.size)
            elif self._debug is not None and self._debug.fills:
                _require_filled(memory)  # if it is not, it stays out of use
        except BaseException:
            of.outstanding -= 1
            raise
        block._pool = self
        block._class = of
        block._who = who
        if who:
            self._owners[id(memory)] = who
        block._memory = memory
        return block

    def _forget(self, of: _SizeClass, memory: _Memory) -> None:
        """Its block is gone, and a view of it is not: when that goes too, the place is free, and the memory gone."""
        address = id(memory)

        def is_gone(_: weakref.ref[_Memory]) -> None:
            with self._lock:
                del self._forgotten[address]
                self._owners.pop(address, None)
                of.outstanding -= 1
            if self.when_empty == "wait":
                self._serve(of)

        with self._lock:
            self._forgotten[address] = weakref.ref(memory, is_gone)

    def _take_back(self, of: _SizeClass, memory: _Memory) -> None:
        with self._lock:
            if not self._is_plain:
                self._owners.pop(id(memory), None)
            if len(of.free) + of.outstanding <= self._keeps:
                if self._debug is not None and self._debug.fills:
                    memory[:] = bytes([FILL]) * of.size
                of.free.append(memory)
            of.outstanding -= 1
        if self.when_empty == "wait":
            self._serve(of)

    def _serve(self, of: _SizeClass) -> None:
        """Grant what may be lent to those who wait, the oldest first."""
        while True:
            with self._lock:
                if of.outstanding >= self.max_blocks or not of.waiters:
                    return
                of.outstanding += 1
                waiter = of.waiters.popleft()
                try:
                    block = self._lend_reserved(of, waiter.who)
                except (MemoryError, errors.PoolCorruptedError) as error:
                    waiter.refuse(error)
                    continue
            while not waiter.grant(block):
                with self._lock:
                    if not of.waiters:
                        break
                    waiter = of.waiters.popleft()
            else:
                continue
            _give_back(block)


class Block:
    """Memory of a pool, from `acquire()` until `release()` or until nobody refers to the block any more.

    Supports the buffer protocol (writable). While a view of it exists the block cannot be released: `BufferError`.
    Locking rule: any thread may release it; its content is yours to guard.
    """

    __slots__ = ("__weakref__", "_class", "_memory", "_pool", "_who")

    _memory: _Memory | None
    _pool: PoolAllocator
    _class: _SizeClass
    _who: str

    def __init__(self) -> None:
        raise TypeError("blocks come from PoolAllocator.acquire()")

    def __repr__(self) -> str:
        if self._memory is None:
            return "<Block, released>"
        return f"<Block, {self.size} bytes, of {self._who}>" if self._who else f"<Block, {self.size} bytes>"

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
        with self._pool._lock:
            view = memoryview(self._held())
            self._pool._shown.add(self)
        return view

    def write(self, offset: int, data: ReadableBuffer) -> int:
        """Copy `data` to `offset`; returns the offset behind it. `ValueError` if it does not fit."""
        source = memoryview(data).cast("B")
        end = offset + len(source)
        with self._pool._lock:  # nobody releases it meanwhile
            memory = self._held()
            if offset < 0 or end > len(memory):
                raise ValueError(f"bytes {offset} to {end} are outside a block of {len(memory)}")
            memory[offset:end] = bytes(source) if source.obj is memory else source
        return end

    def release(self) -> None:
        """Give the memory back. `ValueError` the second time, `BufferError` while a view of it exists."""
        with self._pool._lock:
            memory, self._memory = self._held(), None
            if is_viewed(memory):
                self._memory = memory
                raise BufferError("Existing exports of data: object cannot be re-sized")
        self._pool._take_back(self._class, memory)

    def __enter__(self) -> Block:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._memory is not None:
            self.release()

    def __reduce__(self) -> str:
        raise TypeError("a block cannot be copied: its memory would be out twice")

    def __del__(self) -> None:
        memory = getattr(self, "_memory", None)
        if memory is not None:
            self._memory = None
            if is_viewed(memory):
                self._pool._forget(self._class, memory)
            else:
                self._pool._take_back(self._class, memory)

    def _is_viewed(self) -> bool:
        return self._memory is not None and is_viewed(self._memory)

    def _held(self) -> _Memory:
        if self._memory is None:
            raise ValueError("this block was released")
        return self._memory


def _give_back(block: Block) -> None:
    """It was granted to one who is gone, maybe together with it."""
    if block._memory is not None:
        block.release()


def checked_sizes(sizes: Iterable[int], block_size: int) -> tuple[int, ...]:
    """All sizes of a pool, the smallest first. `ValueError` for one out of range, or too many."""
    checked = sorted({*sizes, block_size})
    for size in checked:
        if not 1 <= size <= block_size:
            raise errors.number_does_not_fit("size", size, 1, block_size)
    if len(checked) > MAX_SIZES:
        raise errors.number_does_not_fit("the number of sizes", len(checked), 1, MAX_SIZES)
    return tuple(checked)


def is_viewed(memory: bytearray) -> bool:
    """Whether a view of it exists: then it cannot be resized."""
    try:
        memory.append(0)
    except BufferError:
        return True
    memory.pop()
    return False


def _require_filled(memory: bytearray) -> None:
    rest = memory.lstrip(bytes([FILL]))
    if rest:
        raise errors.block_was_written_to(id(memory), len(memory), len(memory) - len(rest), rest[0], FILL)
