# cython: freethreading_compatible=True
"""The turns of the loop: the compiled twin of `gamenet._pure.turns`.

What stays true: whoever waits has a slice of every turn, in the order of coming; the slices of a turn take `budget`
seconds together, and so do the chunks that come in it. Locking rule: the loop's thread only.
"""

from collections import deque


cdef class TurnQueue:
    """What the streams of one loop share so that none of them keeps the others waiting.

    `call_soon(callback)` brings the next turn, `clock()` gives seconds. A budget of `inf` is never used up.
    """

    def __init__(self, call_soon, clock, double budget=0.005):
        self.budget = budget
        self.call_soon = call_soon
        self.clock = clock
        self.waiting = deque()

    def __len__(self):
        return len(self.waiting)

    def is_over(self, double began, double now):
        """Whether who is dispatching since `began` should leave the rest to another turn."""
        return self.ends(began, now)

    def passed(self, double began, double now):
        """Seconds since somebody asked this last, or since `began` if that is later."""
        return self.pass_by(began, now)

    def add(self, callback):
        """Have `callback()` called in the next turn."""
        self.waiting.append(callback)
        if not self.is_running:
            self.end = <double>self.clock() + self.budget
            self.run_soon()

    def run(self):
        """Called by the loop: a new turn has begun."""
        cdef Py_ssize_t place, waiting = len(self.waiting)
        self.is_running = False
        if not waiting:
            return
        self.run_soon()
        for place in range(waiting):
            self.end = <double>self.clock() + self.budget / waiting
            self.waiting.popleft()()

    cdef bint ends(self, double began, double now) except -1:
        if not self.is_running:
            self.run_soon()
            self.end = began + self.budget
        return now >= self.end

    cdef double pass_by(self, double began, double now) noexcept:
        cdef double passed = now - max(began, self.looked)
        self.looked = now
        return passed

    cdef int run_soon(self) except -1:
        self.is_running = True
        self.call_soon(self.run)
        return 0
