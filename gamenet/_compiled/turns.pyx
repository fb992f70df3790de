# cython: freethreading_compatible=True
"""The turns of the loop: the compiled twin of `gamenet._pure.turns`.

What stays true: whoever waits has a slice of every turn, in the order of coming; the slices of a turn take `budget`
seconds together, and so do the chunks that come in it. Locking rule: the loop's thread only.
"""

from collections import deque


cdef class TurnQueue:
    """What the streams of one loop share so that none of them keeps the others waiting.

    `call_soon(callback)` brings the next turn, `clock()` gives seconds, and should tell microseconds apart. A budget of
    `inf` is never used up. Locking rule: the thread of the loop only.
    """

    def __init__(self, call_soon, clock, double budget=0.005):
        self.budget = budget
        self.call_soon = call_soon
        self.clock = clock
        self.waiting = deque()

    def __len__(self):
        return len(self.waiting)

    @property
    def is_over(self):
        """Whether who is dispatching should leave the rest to another turn: as of the latest `look()`."""
        return self.looked >= self.end

    def look(self, double elapsed):
        """Look at the clock; returns the seconds since the latest look, or `elapsed` if that is less.

        `elapsed` is how long ago the chunk came that is being dispatched, by any clock, may it be a coarse one.
        """
        return self.look_now(elapsed)

    def mark(self):
        """Packets that waited are dispatched from now on."""
        self.looked = self.clock()

    def add(self, callback):
        """Have `callback()` called in the next turn."""
        self.waiting.append(callback)
        if not self.is_running:
            self.end = <double>self.clock() + self.budget
            self.run_soon()

    def run(self):
        """Called by the loop: a new turn has begun."""
        cdef Py_ssize_t _place, waiting = len(self.waiting)
        self.is_running = False
        if not waiting:
            return
        self.run_soon()
        for _place in range(waiting):
            self.looked = self.clock()
            self.end = self.looked + self.budget / waiting
            self.waiting.popleft()()

    cdef double look_now(self, double elapsed) except? -1.0:
        cdef double now = self.clock()
        cdef double passed = min(elapsed, now - self.looked)
        self.looked = now
        if not self.is_running:
            self.end = now - passed + self.budget
            self.run_soon()
        return passed

    cdef int run_soon(self) except -1:
        self.is_running = True
        self.call_soon(self.run)
        return 0
