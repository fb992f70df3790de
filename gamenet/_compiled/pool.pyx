# cython: freethreading_compatible=True
"""Pooled memory: the compiled twin of `gamenet._pure.pool`.

What stays true: a block is out once or not at all; a block keeps its pool alive; memory that someone still looks
at is never handed out again. Nobody is passed by while he waits. Locking rule: counts, free lists and queues are
touched only inside the pool's critical section, a block's own fields inside the block's; no Python code runs
there, but to raise.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stddef cimport size_t
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy, memmove, memset

from collections import deque

from gamenet import errors
from gamenet.pool_debug import FILL, debug_of_environment, reuses_blocks, who_asks
from gamenet.waiting import MAX_WAITERS, Waiter

ALIGNMENT = 16
"""Blocks start at a multiple of this many bytes: enough for every C type and for SSE loads."""

MAX_SIZES = MOST_SIZES
"""Different sizes of one pool: a request looks at them one after the other."""

cdef enum:
    ALIGN = 16
    LINK = 16  # in front of each block: the address of the next free one, and in the last byte where malloc's begins

cdef uint8_t FILLED = FILL
cdef char* FORMAT = b"B"  # a string of the module's own, as the views need it
cdef Py_ssize_t WAITERS = MAX_WAITERS


cdef uint8_t* allocate(Py_ssize_t size) except NULL:
    """`size` aligned bytes. The byte in front of them says how far the system's own address is."""
    cdef uint8_t* base = <uint8_t*>PyMem_RawMalloc(<size_t>size + LINK + ALIGN - 1)
    if base is NULL:
        raise MemoryError(f"no memory for a block of {size} bytes")
    cdef uint8_t* memory = <uint8_t*>((<uintptr_t>base + LINK + ALIGN - 1) & ~<uintptr_t>(ALIGN - 1))
    (memory - 1)[0] = <uint8_t>(memory - base)
    return memory


cdef void deallocate(uint8_t* memory) noexcept:
    PyMem_RawFree(memory - (memory - 1)[0])


cdef inline void push_free(SizeClass* of, uint8_t* memory) noexcept:
    memcpy(memory - LINK, &of.free_head, sizeof(void*))
    of.free_head = memory
    of.free_count += 1


cdef inline uint8_t* pop_free(SizeClass* of) noexcept:
    """The free block that came back last; NULL if there is none."""
    cdef uint8_t* memory = of.free_head
    if memory is not NULL:
        memcpy(&of.free_head, memory - LINK, sizeof(void*))
        of.free_count -= 1
    return memory


cdef class PoolAllocator:
    """Hands out `Block`s of `block_size` bytes, or of a smaller one of `sizes`, and keeps them for the next who asks.

    Blocks are made on first need; up to `max_blocks` of each size are kept. With so many out, `when_empty` decides:
    `"heap"` makes another one that is not kept afterwards, `"raise"` raises `PoolExhaustedError`, and so does
    `"wait"`, under which `acquire_async()` waits: it needs `running_loop`, such as `asyncio.get_running_loop`, and
    lets `max_waiters` of each size wait at once. All is counted in `stats()`. `GAMENET_POOL_DEBUG` in the environment
    finds misuse: see docs/pools.md. Locking rule: any thread may acquire and release.
    """

    def __cinit__(self, *values, **named):  # until it is initialised it refuses everything
        self.largest = &self.classes[0]

    def __init__(
        self,
        Py_ssize_t block_size=8192,
        Py_ssize_t max_blocks=1024,
        when_empty="heap",
        sizes=(),
        running_loop=None,
        Py_ssize_t max_waiters=WAITERS,
    ):
        for name, value in (("block_size", block_size), ("max_blocks", max_blocks), ("max_waiters", max_waiters)):
            if value < 1:
                raise errors.number_does_not_fit(name, value, 1, float("inf"))
        if when_empty not in ("heap", "raise", "wait"):
            raise ValueError(f"when_empty is {when_empty!r}, not 'heap', 'raise' or 'wait'")
        if when_empty == "wait" and running_loop is None:
            raise ValueError("when_empty='wait' needs running_loop, such as asyncio.get_running_loop")
        if self.count:
            raise ValueError("a pool cannot be initialised twice")
        debug, keeps = debug_of_environment(), max_blocks if reuses_blocks() else 0
        self.sizes = checked_sizes(sizes, block_size)
        self.block_size = block_size
        self.max_blocks = max_blocks
        self.when_empty = when_empty
        self.max_waiters = max_waiters
        self.running_loop = running_loop
        self.keeps = keeps
        self.debug = debug
        self.fills = debug is not None and debug.fills
        self.owners_by_address = {} if debug is not None and debug.tags else None
        self.queues = [deque() for _ in self.sizes] if when_empty == "wait" else None
        self.is_plain = debug is None and self.queues is None
        for size in self.sizes:
            self.classes[self.count].size = size
            self.largest = &self.classes[self.count]
            self.count += 1

    def __dealloc__(self):
        cdef Py_ssize_t index
        cdef uint8_t* memory
        for index in range(self.count):
            memory = pop_free(&self.classes[index])
            while memory is not NULL:
                deallocate(memory)
                memory = pop_free(&self.classes[index])

    @property
    def outstanding(self):
        """Blocks that are out now."""
        cdef Py_ssize_t index, total = 0
        with cython.critical_section(self):
            for index in range(self.count):
                total += self.classes[index].outstanding
        return total

    @property
    def fallbacks(self):
        """Blocks so far that the heap gave because `max_blocks` were out."""
        cdef Py_ssize_t index, total = 0
        with cython.critical_section(self):
            for index in range(self.count):
                total += self.classes[index].fallbacks
        return total

    @property
    def refused(self):
        """Requests so far that were answered by `PoolExhaustedError`."""
        cdef Py_ssize_t index, total = 0
        with cython.critical_section(self):
            for index in range(self.count):
                total += self.classes[index].refused
        return total

    def acquire(self, size=None):
        """A block of at least `size` bytes (None: of `block_size`), its content undefined.

        `PoolExhaustedError` as `when_empty` says, `ValueError` for a size below 0 or above `block_size`.
        """
        if size is None:
            return self.lend_of(self.largest, None)
        return self.lend_of(self.class_for(size), None)

    async def acquire_async(self, size=None):
        """As `acquire()`, but where `when_empty` is `"wait"` it waits for a block until it is cancelled.

        First come, first served. `PoolExhaustedError` if `max_waiters` wait already. Blocks may be released in any
        thread.
        """
        cdef SizeClass* of = self.class_of(size)
        asked = self.ask(of)
        if isinstance(asked, Block):
            return asked
        try:
            return await asked.wait()
        finally:
            self.leave(of, asked)

    def stats(self):
        """Blocks `outstanding` now, of which `viewed` are seen by a view, and `free`; requests `waiting` now;
        `fallbacks` to the heap and `refused` requests so far. Of all sizes together.
        """
        by_size = self.stats_by_size()
        totals = {name: sum([stats[name] for stats in by_size.values()]) for name in by_size[self.block_size]}
        with cython.critical_section(self):
            totals["viewed"] = self.viewed
        return totals

    def stats_by_size(self):
        """The same for each size, without `viewed`."""
        cdef Py_ssize_t index
        cdef SizeClass of
        by_size = {}
        for index in range(self.count):
            with cython.critical_section(self):
                of = self.classes[index]
                waiting = 0 if self.queues is None else len(self.queues[index])
            by_size[of.size] = {
                "outstanding": of.outstanding,
                "free": of.free_count,
                "waiting": waiting,
                "fallbacks": of.fallbacks,
                "refused": of.refused,
            }
        return by_size

    def owners(self):
        """Who has the blocks that are out, a text for each, under `GAMENET_POOL_DEBUG=tag`; else nothing."""
        with cython.critical_section(self):
            return [] if self.owners_by_address is None else list(self.owners_by_address.values())

    def trim(self):
        """Give the memory of all free blocks back to the system; returns how many bytes that was."""
        cdef Py_ssize_t index, trimmed = 0
        cdef uint8_t* memory
        for index in range(self.count):
            while True:
                with cython.critical_section(self):
                    memory = pop_free(&self.classes[index])
                if memory is NULL:
                    break
                deallocate(memory)
                trimmed += self.classes[index].size
        return trimmed

    cdef Block lend(self):
        """A block of the largest size."""
        return self.lend_of(self.largest, None)

    cdef Block lend_for(self, Py_ssize_t size, str purpose):
        """A block of at least `size` bytes; `purpose` goes into the tag."""
        return self.lend_of(self.class_for(size), purpose)

    cdef SizeClass* class_of(self, object size) except NULL:
        return self.largest if size is None else self.class_for(size)

    cdef SizeClass* class_for(self, Py_ssize_t size) except NULL:
        cdef Py_ssize_t index
        if size < 0:
            raise errors.number_does_not_fit("size", size, 0, self.block_size)
        for index in range(self.count):
            if size <= self.classes[index].size:
                return &self.classes[index]
        raise errors.block_too_small(size, self.block_size)

    cdef Block lend_of(self, SizeClass* of, str purpose):
        cdef Block block
        if not self.is_plain:
            return self.lend_watched(of, purpose)
        block = Block.__new__(Block)
        with cython.critical_section(self):
            block.memory = self.take_memory(of)
            of.outstanding += 1
        block.owner = self
        block.of = of
        block.room = of.size
        return block

    cdef uint8_t* take_memory(self, SizeClass* of) except NULL:
        cdef uint8_t* memory = pop_free(of)
        if memory is not NULL:
            return memory
        if of.outstanding >= self.max_blocks:
            if self.when_empty == "raise":
                of.refused += 1
                raise errors.pool_is_empty(self.max_blocks, of.size)
            of.fallbacks += 1
        return allocate(of.size)

    cdef void count_viewed(self, Py_ssize_t change) noexcept:
        with cython.critical_section(self):
            self.viewed += change

    cdef void take_back(self, SizeClass* of, uint8_t* memory) noexcept:
        if not self.is_plain:
            self.take_back_watched(of, memory)
            return
        with cython.critical_section(self):
            of.outstanding -= 1
            if of.free_count + of.outstanding < self.keeps:
                push_free(of, memory)
            else:
                deallocate(memory)

    # -- pools for which somebody may wait, or that are debugged

    cdef Block lend_watched(self, SizeClass* of, str purpose):
        cdef object who = self.tag(purpose)
        self.count_request(of)
        if not self.reserve(of):
            raise errors.pool_is_empty(self.max_blocks, of.size)
        return self.lend_reserved(of, who)

    cdef str tag(self, str purpose):
        return "" if self.owners_by_address is None else who_asks(purpose)

    cdef int count_request(self, SizeClass* of) except -1:
        if self.debug is not None and self.debug.fails_now():
            with cython.critical_section(self):
                of.refused += 1
            raise errors.pool_fails_as_asked(self.debug.fails_every)
        return 0

    cdef bint reserve(self, SizeClass* of) except -1:
        """Count one more block as out, or one more request as refused."""
        cdef bint may_lend
        with cython.critical_section(self):
            may_lend = self.when_empty == "heap" or self.has_room(of)
            if not may_lend:
                of.refused += 1
            else:
                if of.outstanding >= self.max_blocks:
                    of.fallbacks += 1
                of.outstanding += 1
        return may_lend

    cdef bint has_room(self, SizeClass* of) except -1:
        """Whether a block may be lent without passing anybody by."""
        return of.outstanding < self.max_blocks and (self.queues is None or not self.queue_of(of))

    cdef object queue_of(self, SizeClass* of):
        return self.queues[of - self.classes]

    cdef Block lend_reserved(self, SizeClass* of, str who):
        """The block that was counted as out already; if there is none, it is no longer."""
        cdef Block block = Block.__new__(Block)
        try:
            block.memory = self.take_reserved(of)
        except BaseException:
            with cython.critical_section(self):
                of.outstanding -= 1
            self.serve(of)
            raise
        block.owner = self
        block.of = of
        block.room = of.size
        if who:
            with cython.critical_section(self):
                self.owners_by_address[<uintptr_t>block.memory] = who
        return block

    cdef uint8_t* take_reserved(self, SizeClass* of) except NULL:
        cdef uint8_t* memory
        with cython.critical_section(self):
            memory = pop_free(of)
        if memory is NULL:
            return allocate(of.size)
        if self.fills:
            require_filled(memory, of.size)  # if it is not, it stays out of use
        return memory

    cdef void take_back_watched(self, SizeClass* of, uint8_t* memory) noexcept:
        with cython.critical_section(self):
            of.outstanding -= 1
            if self.owners_by_address is not None:
                self.owners_by_address.pop(<uintptr_t>memory, None)
            if of.free_count + of.outstanding < self.keeps:
                if self.fills:
                    memset(memory, FILLED, of.size)
                push_free(of, memory)
            else:
                deallocate(memory)
        self.serve(of)

    cdef object ask(self, SizeClass* of):
        """A block, or a place among those who wait for one."""
        cdef object waiter, queue
        cdef bint has_room, is_full
        if self.queues is None:
            return self.lend_of(of, None)
        queue = self.queue_of(of)
        waiter = None
        self.count_request(of)
        who = self.tag(None)
        while True:
            with cython.critical_section(self):
                has_room, is_full = self.has_room(of), len(queue) >= self.max_waiters
                if has_room:
                    of.outstanding += 1
                elif is_full:
                    of.refused += 1
                elif waiter is not None:
                    queue.append(waiter)
            if has_room:
                return self.lend_reserved(of, who)
            if is_full:
                raise errors.too_many_wait(self.max_waiters)
            if waiter is not None:
                return waiter
            waiter = Waiter(self.running_loop(), Block.release, who)

    cdef int leave(self, SizeClass* of, object waiter) except -1:
        """It waits no longer, whatever it got."""
        cdef object queue = self.queue_of(of), remove = queue.remove
        with cython.critical_section(self):
            if waiter in queue:
                remove(waiter)
        return 0

    cdef int serve(self, SizeClass* of) except -1:
        """Grant what may be lent to those who wait, the oldest first."""
        cdef Block block
        cdef object waiter
        if self.queues is None:
            return 0
        while True:
            waiter = self.next_waiter(of, True)
            if waiter is None:
                return 0
            try:
                block = self.lend_reserved(of, waiter.who)
            except (MemoryError, errors.PoolCorruptedError) as error:
                waiter.refuse(error)
                continue
            while waiter is not None and not waiter.grant(block):
                waiter = self.next_waiter(of, False)
            block = None  # if nobody took it, it comes back now

    cdef object next_waiter(self, SizeClass* of, bint reserves):
        """Who has waited longest, and with `reserves` one more block counted as out; None if there is none."""
        cdef object waiter = None
        cdef object queue = self.queue_of(of), popleft = queue.popleft
        with cython.critical_section(self):
            if queue and (not reserves or of.outstanding < self.max_blocks):
                waiter = popleft()
                of.outstanding += reserves
        return waiter


cdef tuple checked_sizes(sizes, Py_ssize_t block_size):
    """All sizes of a pool, the smallest first. `ValueError` for one out of range, or too many."""
    checked = sorted({*sizes, block_size})
    for size in checked:
        if not 1 <= size <= block_size:
            raise errors.number_does_not_fit("size", size, 1, block_size)
    if len(checked) > MAX_SIZES:
        raise errors.number_does_not_fit("the number of sizes", len(checked), 1, MAX_SIZES)
    return tuple(checked)


cdef int require_filled(const uint8_t* memory, Py_ssize_t size) except -1:
    cdef Py_ssize_t offset
    for offset in range(size):
        if memory[offset] != FILLED:
            raise errors.block_was_written_to(<uintptr_t>memory, size, offset, memory[offset], FILLED)
    return 0


@cython.no_gc
@cython.freelist(16)
cdef class Block:
    """Memory of a pool, from `acquire()` until `release()` or until nobody refers to the block any more.

    Supports the buffer protocol (writable). While a view of it exists the block cannot be released: `BufferError`.
    Locking rule: any thread may release it; its content is yours to guard.
    """

    def __init__(self):
        raise TypeError("blocks come from PoolAllocator.acquire()")

    def __dealloc__(self):
        if self.memory is not NULL:
            self.owner.take_back(self.of, self.memory)

    def __repr__(self):
        cdef uint8_t* memory = self.held()
        if memory is NULL:
            return "<Block, released>"
        cdef dict owners = self.owner.owners_by_address
        who = None if owners is None else owners.get(<uintptr_t>memory)
        return f"<Block, {self.room} bytes>" if who is None else f"<Block, {self.room} bytes, of {who}>"

    def __getbuffer__(self, Py_buffer* view, int flags):
        cdef bint is_first
        with cython.critical_section(self):
            if self.memory is NULL:
                raise ValueError("this block was released")
            self.exports += 1
            is_first = self.exports == 1
        if is_first:
            self.owner.count_viewed(1)
        view.buf = self.memory
        view.obj = self
        view.len = self.room
        view.itemsize = 1
        view.readonly = 0
        view.ndim = 1
        view.format = FORMAT if flags & PyBUF_FORMAT else NULL
        view.shape = &view.len if flags & PyBUF_ND else NULL
        view.strides = &view.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL

    def __releasebuffer__(self, Py_buffer* view):
        cdef bint was_last
        with cython.critical_section(self):
            self.exports -= 1
            was_last = self.exports == 0
        if was_last:
            self.owner.count_viewed(-1)

    @property
    def pool(self):
        """The pool it came from."""
        return self.owner

    @property
    def size(self):
        """Bytes it holds; 0 once it was released."""
        return 0 if self.held() is NULL else self.room

    def view(self):
        """A writable view of the whole block. `ValueError` once it was released."""
        return memoryview(self)

    def write(self, Py_ssize_t offset, data):
        """Copy `data` to `offset`; returns the offset behind it. `ValueError` if it does not fit."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with cython.critical_section(self):  # nobody releases it meanwhile
                self.copy_in(offset, <const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        return offset + view.len

    def release(self):
        """Give the memory back. `ValueError` the second time, `BufferError` while a view of it exists."""
        cdef uint8_t* memory
        with cython.critical_section(self):
            memory = self.memory
            if memory is NULL:
                raise ValueError("this block was released")
            if self.exports:
                raise BufferError("Existing exports of data: object cannot be re-sized")
            self.memory = NULL
        self.owner.take_back(self.of, memory)

    cdef uint8_t* held(self) noexcept:
        """Its memory; NULL once it was released. Only to be compared: the next moment may release it."""
        with cython.critical_section(self):
            return self.memory

    cdef int copy_in(self, Py_ssize_t offset, const uint8_t* data, Py_ssize_t size) except -1:
        if self.memory is NULL:
            raise ValueError("this block was released")
        if offset < 0 or size > self.room - offset:
            raise ValueError(f"bytes {offset} to {<object>offset + size} are outside a block of {self.room}")
        memmove(self.memory + offset, data, size)  # `data` may be a view of this block
        return 0

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if self.held() is not NULL:
            self.release()
