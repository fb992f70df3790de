# cython: freethreading_compatible=True
"""Pooled memory: the compiled twin of `gamenet._pure.pool`.

What stays true: a block is out once or not at all; a block keeps its pool alive; memory that someone still looks
at is never handed out again. Locking rule: the free list is touched only inside the pool's critical section.
"""

import os

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stddef cimport size_t
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy

from gamenet import errors

ALIGNMENT = 16
"""Blocks start at a multiple of this many bytes: enough for every C type and for SSE loads."""

cdef enum:
    ALIGN = 16

cdef char* FORMAT = b"B"  # a string of the module's own, as the views need it


cdef uint8_t* allocate(Py_ssize_t size) except NULL:
    """`size` aligned bytes. The byte in front of them says how far the system's own address is."""
    # room for the free list's link, however small the block
    cdef uint8_t* base = <uint8_t*>PyMem_RawMalloc(<size_t>max(size, <Py_ssize_t>sizeof(void*)) + ALIGN)
    if base is NULL:
        raise MemoryError(f"no memory for a block of {size} bytes")
    cdef uint8_t shift = <uint8_t>(ALIGN - (<uintptr_t>base & (ALIGN - 1)))
    base[shift - 1] = shift
    return base + shift


cdef void deallocate(uint8_t* memory) noexcept:
    PyMem_RawFree(memory - (memory - 1)[0])


cdef class PoolAllocator:
    """Hands out `Block`s of `block_size` bytes and keeps up to `max_blocks` of them for the next who asks.

    Blocks are made on first need. `GAMENET_POOL_REUSE=0` in the environment keeps none: an address sanitizer then
    sees every use after release. With every one of `max_blocks` out, `when_empty` decides: `"heap"` makes another
    one that is not kept afterwards, `"raise"` raises `PoolExhaustedError`; both are counted in `stats()`.
    Locking rule: any thread may acquire and release.
    """

    def __init__(
        self, Py_ssize_t block_size=8192, Py_ssize_t max_blocks=1024, when_empty="heap"
    ):
        if block_size < 1:
            raise errors.number_does_not_fit("block_size", block_size, 1, float("inf"))
        if max_blocks < 1:
            raise errors.number_does_not_fit("max_blocks", max_blocks, 1, float("inf"))
        if when_empty not in ("heap", "raise"):
            raise ValueError(f"when_empty is {when_empty!r}, not 'heap' or 'raise'")
        if self.block_size and self.block_size != block_size:
            raise ValueError("a pool cannot be initialised twice")
        self.block_size = block_size
        self.max_blocks = max_blocks
        self.when_empty = when_empty
        self.keeps = max_blocks if os.environ.get("GAMENET_POOL_REUSE") != "0" else 0

    def __dealloc__(self):
        cdef uint8_t* memory
        while self.free_head is not NULL:
            memory = self.free_head
            memcpy(&self.free_head, memory, sizeof(void*))
            deallocate(memory)

    def acquire(self):
        """A block, its content undefined. `PoolExhaustedError` as `when_empty` says."""
        return self.lend()

    def stats(self):
        """Blocks `outstanding` now, of which `viewed` are seen by a view, and `free`; `fallbacks` to the heap and
        `refused` requests so far.
        """
        return {
            "outstanding": self.outstanding,
            "viewed": self.viewed,
            "free": self.free_count,
            "fallbacks": self.fallbacks,
            "refused": self.refused,
        }

    cdef Block lend(self):
        cdef Block block = Block.__new__(Block)
        with cython.critical_section(self):
            block.memory = self.take_memory()
            self.outstanding += 1
        block.owner = self
        return block

    cdef uint8_t* take_memory(self) except NULL:
        cdef uint8_t* memory = self.free_head
        if memory is not NULL:
            memcpy(&self.free_head, memory, sizeof(void*))
            self.free_count -= 1
            return memory
        if self.outstanding >= self.max_blocks:
            if self.when_empty == "raise":
                self.refused += 1
                raise errors.PoolExhaustedError(
                    f"all {self.max_blocks} blocks of {self.block_size} bytes are out"
                )
            self.fallbacks += 1
        return allocate(self.block_size)

    cdef void count_viewed(self, Py_ssize_t change) noexcept:
        with cython.critical_section(self):
            self.viewed += change

    cdef void take_back(self, uint8_t* memory) noexcept:
        with cython.critical_section(self):
            self.outstanding -= 1
            if self.free_count + self.outstanding < self.keeps:
                memcpy(memory, &self.free_head, sizeof(void*))
                self.free_head = memory
                self.free_count += 1
            else:
                deallocate(memory)


@cython.no_gc
@cython.freelist(16)
cdef class Block:
    """`pool.block_size` bytes, from `acquire()` until `release()` or until nobody refers to the block any more.

    Supports the buffer protocol (writable). While a view of it exists the block cannot be released: `BufferError`.
    Locking rule: one thread at a time; the pool itself may be shared.
    """

    def __init__(self):
        raise TypeError("blocks come from PoolAllocator.acquire()")

    def __dealloc__(self):
        if self.memory is not NULL:
            self.owner.take_back(self.memory)

    def __getbuffer__(self, Py_buffer* view, int flags):
        if self.memory is NULL:
            raise ValueError("this block was released")
        view.buf = self.memory
        view.obj = self
        view.len = self.owner.block_size
        view.itemsize = 1
        view.readonly = 0
        view.ndim = 1
        view.format = FORMAT if flags & PyBUF_FORMAT else NULL
        view.shape = &view.len if flags & PyBUF_ND else NULL
        view.strides = &view.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL
        self.exports += 1
        if self.exports == 1:
            self.owner.count_viewed(1)

    def __releasebuffer__(self, Py_buffer* view):
        self.exports -= 1
        if self.exports == 0:
            self.owner.count_viewed(-1)

    @property
    def pool(self):
        """The pool it came from."""
        return self.owner

    @property
    def size(self):
        """Bytes it holds; 0 once it was released."""
        return 0 if self.memory is NULL else self.owner.block_size

    def view(self):
        """A writable view of the whole block. `ValueError` once it was released."""
        return memoryview(self)

    def write(self, Py_ssize_t offset, data):
        """Copy `data` to `offset`; returns the offset behind it. `ValueError` if it does not fit."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.copy_in(offset, <const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        return offset + view.len

    def release(self):
        """Give the memory back. `ValueError` the second time, `BufferError` while a view of it exists."""
        cdef uint8_t* memory = self.memory
        if memory is NULL:
            raise ValueError("this block was released")
        if self.exports:
            raise BufferError("Existing exports of data: object cannot be re-sized")
        self.memory = NULL
        self.owner.take_back(memory)

    cdef int copy_in(self, Py_ssize_t offset, const uint8_t* data, Py_ssize_t size) except -1:
        if self.memory is NULL:
            raise ValueError("this block was released")
        if offset < 0 or size > self.owner.block_size - offset:
            raise ValueError(f"bytes {offset} to {offset + size} are outside a block of {self.owner.block_size}")
        memcpy(self.memory + offset, data, size)
        return 0

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if self.memory is not NULL:
            self.release()
