# cython: freethreading_compatible=True
"""The mailbox: the compiled twin of `gamenet._pure.mailbox`.

What stays true: accepted = taken + discarded + waiting, and waiting is at most `max_items`. Each accepted item is taken
once, those of one thread in the order in which it put them. While anything waits, a wake-up was called or the taker has
to come again. Locking rule: any thread may use it, also a finalizer or signal handler in the middle of another call;
putting is lock-free (`ring.h`), taking and closing have the mailbox's critical section.
"""

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF

from gamenet import errors

MAX_ITEMS = 1 << 28
"""The largest `max_items`: what the ring can count where a pointer has 32 bits."""

cdef enum:
    HIGHEST = 1 << 28
    REFUSED = 0
    MUST_WAKE = 2


cdef class Mailbox:
    """A bounded queue of any objects: many threads put, one takes; closing tells what was not taken.

    `wake()` is called, in the thread of `put()`, when there is something for a taker that sleeps: once per batch, not
    per item. The taker sleeps when it was given nothing; before that it comes again without a wake-up.
    Locking rule: any thread may put, shut, close and ask; takers take turns, and one is meant.
    """

    def __cinit__(self, wake, Py_ssize_t max_items=65536):
        if not 1 <= max_items <= HIGHEST:
            raise errors.number_does_not_fit("max_items", max_items, 1, MAX_ITEMS)
        if gamenet_ring_open(&self.ring, <size_t>max_items):
            raise MemoryError(f"no memory for a mailbox of {max_items} items")
        self.wake = wake
        self.max_items = max_items

    def __dealloc__(self):
        cdef void* item
        if not self.max_items:
            return  # the ring was never opened
        item = gamenet_ring_take(&self.ring)
        while item is not NULL:
            Py_DECREF(<object>item)
            item = gamenet_ring_take(&self.ring)
        gamenet_ring_free(&self.ring)

    @property
    def is_open(self):
        """Whether it still accepts items."""
        return not gamenet_ring_is_shut(&self.ring)

    @property
    def waiting(self):
        """How many items wait to be taken."""
        with cython.critical_section(self):
            return gamenet_ring_waiting(&self.ring)

    def put(self, item):
        """Leave `item` for the taker; any thread, never waits. False, and counted, if `max_items` wait or it is shut.

        What `wake()` raises reaches the caller; the item was accepted then, and the next `put()` calls it again.
        """
        Py_INCREF(item)  # the ring's, until it is taken
        cdef int outcome = gamenet_ring_put(&self.ring, <void*>item)
        if outcome == REFUSED:
            Py_DECREF(item)
            return False
        if outcome == MUST_WAKE:
            self.call_wake()
        return True

    def take(self, Py_ssize_t limit=1024):
        """The next items, at most `limit` (1 or more). Take again until it returns [], for no wake-up comes before
        that; from then on the next `put()` calls `wake()`.
        """
        if limit < 1:
            raise errors.number_does_not_fit("limit", limit, 1, float("inf"))
        cdef list items
        cdef Py_ssize_t held
        with cython.critical_section(self):
            while gamenet_ring_has_next(&self.ring) or not self.sleep():
                items = [None] * min(limit, <Py_ssize_t>gamenet_ring_waiting(&self.ring))  # fails before it takes
                held = self.collect(items, 0)
                self.taken += <unsigned long long>held
                if held:  # none: somebody else took them while the list was made
                    return shortened(items, held)
        return []

    def shut(self):
        """Accept nothing more; what waits can still be taken."""
        gamenet_ring_shut(&self.ring)

    def close(self):
        """Accept nothing more, and give up what waits: returns it, counted as discarded. Closing again returns []."""
        cdef list items
        cdef Py_ssize_t held = 0, before
        gamenet_ring_shut(&self.ring)
        with cython.critical_section(self):
            items = [None] * <Py_ssize_t>gamenet_ring_waiting(&self.ring)
            while gamenet_ring_waiting(&self.ring):
                before, held = held, self.collect(items, held)
                self.discarded += <unsigned long long>(held - before)
                if held == before:
                    with nogil:
                        pass  # a producer is between its place and its slot: let it run
        return shortened(items, held)

    def stats(self):
        """Counts since it was made: accepted = taken + discarded + waiting; `refused` were not accepted."""
        with cython.critical_section(self):
            waiting = gamenet_ring_waiting(&self.ring)
            return {
                "accepted": self.taken + self.discarded + waiting,
                "taken": self.taken,
                "discarded": self.discarded,
                "refused": gamenet_ring_refused(&self.ring),
                "waiting": waiting,
            }

    cdef int call_wake(self) except -1:
        try:
            self.wake()
        except BaseException:
            gamenet_ring_sleep(&self.ring)
            raise
        return 0

    cdef bint sleep(self) noexcept:
        """Whether it sleeps now; not if something came meanwhile."""
        gamenet_ring_sleep(&self.ring)
        if not gamenet_ring_has_next(&self.ring):
            return True
        gamenet_ring_stay_awake(&self.ring)
        return False

    cdef Py_ssize_t collect(self, list items, Py_ssize_t held) except -1:
        """Fill `items` behind the `held` that are there; how many there are then. Runs no code of anybody's."""
        cdef void* item
        while held < len(items):
            item = gamenet_ring_take(&self.ring)
            if item is NULL:
                break
            items[held] = <object>item
            Py_DECREF(<object>item)
            held += 1
        return held


cdef list shortened(list items, Py_ssize_t size):
    """The first `size` of them. Asks for memory only if there are more: what it did not get would cost them all."""
    if size < len(items):
        del items[size:]
    return items
