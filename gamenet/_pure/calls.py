"""Calls from other threads, carried out in this one.

What stays true: each call that is taken from the mailbox is begun once, in the order in which it was taken; what one of
them raises keeps none of the others. Locking rule: everything belongs to the thread that takes.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from operator import length_hint
from typing import Any

from gamenet._pure.header import HeaderCodec
from gamenet._pure.mailbox import Mailbox
from gamenet._pure.stream import Stream, broadcast

BATCH = 256
"""Calls taken at once: so few sends take less than a tenth of a turn's time."""

MAX_STRIDE = 16
"""Quick calls between two looks at the clock, which takes as long as one of them."""


def send_frame_to(stream: Stream, codec: HeaderCodec, frame: bytes) -> bool:
    """A call that a `CallRunner` knows: send `frame`, one packet as `codec` made it. False, upon which it is counted as
    discarded, if the stream was closed meanwhile, or leaves it out.
    """
    return stream.is_open and broadcast((stream,), codec, frame) == 1


class CallRunner:
    """Takes calls from `mailbox`, whose items are pairs of a function and a tuple of its arguments, and makes them.

    `clock()` gives seconds, of which a turn has `budget` (`inf`: as many as it takes). What a call raises goes to
    `failed(function, error)`; a KeyboardInterrupt or SystemExit to who called `run()`, and the rest waits.
    Locking rule: the thread that takes.
    """

    __slots__ = ("_batch", "_budget", "_clock", "_failed", "_mailbox", "_stride", "delivered", "discarded")

    def __init__(
        self,
        mailbox: Mailbox,
        clock: Callable[[], float],
        budget: float,
        failed: Callable[[Callable[..., object], BaseException], object],
    ) -> None:
        self._mailbox = mailbox
        self._clock = clock
        self._budget = budget
        self._failed = failed
        self._batch: Iterator[Any] = iter(())  # taken, and not carried out
        self._stride = 1  # calls until the next look at the clock
        self.delivered = 0
        self.discarded = 0

    @property
    def waiting(self) -> int:
        """How many calls were put and not begun."""
        return length_hint(self._batch) + self._mailbox.waiting

    def run(self) -> bool:
        """A turn: carry out what waits, for `budget` seconds. True if nothing is left, so that the next call that is
        put wakes the taker; else come again.
        """
        end = self._clock() + self._budget
        self._stride = 1
        while self._carry_out(end):
            calls = self._mailbox.take(BATCH)
            if not calls:
                return True
            self._batch = iter(calls)
            if self._clock() >= end:
                break
        return False

    def give_up(self) -> int:
        """Close the mailbox, and make none of the calls that wait: they count as discarded; returns how many."""
        left = [*self._batch, *self._mailbox.close()]
        self._batch = iter(())
        self.discarded += len(left)
        return len(left)

    def _carry_out(self, end: float) -> bool:
        """The batch; whether it is done, and there is time for another."""
        until_look = self._stride
        for function, arguments in self._batch:
            self.delivered += 1  # whatever becomes of it
            try:
                result = function(*arguments)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # a cancellation, too: of what it looked at
                self._failed(function, error)
            else:
                if result is not None and result is not True:
                    self._look_at(result, function)
            until_look -= 1
            if not until_look:
                if not self._has_time(end):
                    return False
                until_look = self._stride
        return True

    def _has_time(self, end: float) -> bool:
        """Look at the clock, and soon again if the calls took long."""
        left = end - self._clock()
        self._stride = min(2 * self._stride, MAX_STRIDE) if left >= self._budget / 2 else 1
        return left > 0

    def _look_at(self, result: object, function: Callable[..., object]) -> None:
        if result is False and function is send_frame_to:
            self.delivered -= 1
            self.discarded += 1
        elif isinstance(result, Coroutine):  # of Python's or of an extension's
            result.close()
            self._failed(function, TypeError("it is `async def`: call_soon() calls plain functions"))
