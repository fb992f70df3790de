# cython: freethreading_compatible=True
"""The receive buffer of a loop: the compiled twin of `gamenet._pure.receiver`.

What stays true: a block that anybody still looks at is not read into again: it goes its own way, and the next read
gets another one. Locking rule: the thread of the loop only.
"""

from cpython.ref cimport Py_REFCNT

cdef enum:
    OWN_REFERENCES = 2  # to a block that is given back: the caller's variable, and our view

RECEIVE_SIZE = 262144
"""Bytes of a receive buffer: what asyncio reads at once, too."""


cdef class Receiver:
    """One block for every session of a loop, since each read is parsed before the next begins.

    Locking rule: the thread of the loop only.
    """

    def __init__(self, Py_ssize_t size=262144):
        self.pool = PoolAllocator(size, max_blocks=2)

    @property
    def size(self):
        """Bytes that one read may bring."""
        return self.pool.block_size

    @property
    def held(self):
        """Blocks that were read into and that somebody still looks at; the next read went elsewhere."""
        return self.pool.outstanding - (self.block is not None)

    cdef object lend(self):
        """A view of the block, to be read into at once."""
        if self.block is None:
            self.block = self.pool.lend()
            self.view = memoryview(self.block)
        return self.view

    cdef uint8_t* memory(self) except NULL:
        """Where the block lies: `size` bytes, to be read into at once."""
        self.lend()
        return self.block.memory

    cdef Block take(self):
        """The block that was read into, to be parsed; a read in the meantime gets another one."""
        cdef Block block = self.block
        if block is None:
            raise RuntimeError("buffer_updated() without get_buffer()")
        self.block = self.view = None
        return block

    cdef int give_back(self, Block block, object view) except -1:
        """Keep block and view for the next read, unless anybody else refers to the block: a view, or a packet."""
        if Py_REFCNT(block) == OWN_REFERENCES and block.exports == 1 and self.block is None:
            self.block = block
            self.view = view
        return 0
