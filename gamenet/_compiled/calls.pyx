# cython: freethreading_compatible=True
"""Calls from other threads: the compiled twin of `gamenet._pure.calls`.

What stays true: each call that is taken from the mailbox is begun once, in the order in which it was taken; what one of
them raises keeps none of the others. Locking rule: everything belongs to the thread that takes.
"""

from collections.abc import Coroutine

from gamenet._compiled.header cimport HeaderCodec
from gamenet._compiled.mailbox cimport Mailbox
from gamenet._compiled.stream cimport Stream

from gamenet._compiled.stream import broadcast

cdef enum:
    TAKEN_AT_ONCE = 256
    LONGEST_STRIDE = 16

BATCH = TAKEN_AT_ONCE
"""Calls taken at once: so few sends take less than a tenth of a turn's time."""

MAX_STRIDE = LONGEST_STRIDE
"""Quick calls between two looks at the clock, which takes as long as one of them."""


def send_frame_to(Stream stream not None, HeaderCodec codec not None, bytes frame not None):
    """A call that a `CallRunner` knows: send `frame`, one packet as `codec` made it. False, upon which it is counted as
    discarded, if the stream was closed meanwhile, or leaves it out.
    """
    return stream.is_open and broadcast((stream,), codec, frame) == 1


cdef object SEND_FRAME_TO = send_frame_to
cdef object COROUTINE = Coroutine


cdef class CallRunner:
    """Takes calls from `mailbox`, whose items are pairs of a function and a tuple of its arguments, and makes them.

    `clock()` gives seconds, of which a turn has `budget` (`inf`: as many as it takes). What a call raises goes to
    `failed(function, error)`; a KeyboardInterrupt or SystemExit to who called `run()`, and the rest waits.
    Locking rule: the thread that takes.
    """

    def __init__(self, Mailbox mailbox not None, clock, double budget, failed):
        self.mailbox = mailbox
        self.clock = clock
        self.budget = budget
        self.failed = failed
        self.batch = []
        self.stride = 1

    @property
    def waiting(self):
        """How many calls were put and not begun."""
        return len(self.batch) - self.begun + self.mailbox.waiting

    def run(self):
        """A turn: carry out what waits, for `budget` seconds. True if nothing is left, so that the next call that is
        put wakes the taker; else come again.
        """
        cdef double end = <double>self.clock() + self.budget
        cdef list calls
        self.stride = 1
        while self.carry_out(end):
            calls = self.mailbox.take(TAKEN_AT_ONCE)
            if not calls:
                return True
            self.batch = calls
            if <double>self.clock() >= end:
                break
        return False

    def give_up(self):
        """Close the mailbox, and make none of the calls that wait: they count as discarded; returns how many."""
        cdef Py_ssize_t left = len(self.batch) - self.begun + len(self.mailbox.close())
        self.drop_batch()
        self.discarded += <unsigned long long>left
        return left

    cdef bint carry_out(self, double end) except -1:
        """The batch; whether it is done, and there is time for another."""
        cdef Py_ssize_t until_look = self.stride
        cdef tuple call
        while self.begun < len(self.batch):  # a call may bring a turn of its own
            call = self.batch[self.begun]
            self.begun += 1
            function, arguments = call
            self.make(function, arguments)
            until_look -= 1
            if not until_look:
                if not self.has_time(end):
                    return False
                until_look = self.stride
        self.drop_batch()
        return True

    cdef int make(self, function, tuple arguments) except -1:
        self.delivered += 1  # whatever becomes of it
        try:
            result = function(*arguments)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a cancellation, too: of what it looked at
            self.failed(function, error)
            return 0
        if result is not None and result is not True:
            self.look_at(result, function)
        return 0

    cdef int look_at(self, result, function) except -1:
        if result is False and function is SEND_FRAME_TO:
            self.delivered -= 1
            self.discarded += 1
        elif isinstance(result, COROUTINE):  # of Python's or of an extension's
            result.close()
            self.failed(function, TypeError("it is `async def`: call_soon() calls plain functions"))
        return 0

    cdef bint has_time(self, double end) except -1:
        """Look at the clock, and soon again if the calls took long."""
        cdef double left = end - <double>self.clock()
        self.stride = min(2 * self.stride, LONGEST_STRIDE) if left >= self.budget / 2 else 1
        return left > 0

    cdef int drop_batch(self) except -1:
        self.batch = []
        self.begun = 0
        return 0
