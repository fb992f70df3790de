"""What other threads hand over to an event loop: calls and frames to send, through one mailbox.

What stays true: accepted = delivered + discarded + waiting. Each is carried out once, in the loop's thread, those of
one thread in its order. The loop is woken once per batch, and a turn of it gives them `budget` seconds. Locking rule:
any thread may put and refuse, also a finalizer or signal handler; everything else belongs to the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from operator import length_hint
from typing import Any

from gamenet._core import HeaderCodec, Ledger, Mailbox, Stream, broadcast
from gamenet.logs import LimitedLogger
from gamenet.timer import fine_clock_of

Item = tuple[Callable[..., object], tuple[Any, ...]]
"""A function and its arguments."""

_BATCH = 256  # items taken at once: so few sends take less than a tenth of a turn's time
_MAX_STRIDE = 16  # quick calls between two looks at the clock, which takes as long as one of them


# -- what is put, beside functions of the user's


def send_frame_to(stream: Stream, codec: HeaderCodec, frame: bytes) -> bool:
    """Send a packet as `codec` made it, unless the session was closed meanwhile."""
    return stream.is_open and broadcast((stream,), codec, frame) == 1


def broadcast_to(streams: Iterable[Stream], codec: HeaderCodec, frame: bytes, exclude: Stream | None) -> None:
    """Send it to everybody who is in `streams` now."""
    broadcast(streams, codec, frame, exclude)


# -- the mailbox


class LoopMailbox:
    """A mailbox whose taker is an event loop; its counts outlive the loop. `max_items` may wait; a turn of the loop
    gives them `budget` seconds, or as many as they need (None).

    It is open between `open()` and `close()`, and makes its ring when it is first used: most clients never do.
    """

    def __init__(self, max_items: int = 65_536, budget: float | None = 0.005) -> None:
        self._max_items = max_items
        self._budget = math.inf if budget is None else budget
        self._lock = threading.RLock()  # of the four below; a finalizer may put while it is held
        self._taker: _Taker | None = None
        self._new_taker: Callable[[], _Taker] | None = None
        self.put: Callable[[Item], bool] = self._put_first
        """Have the loop call a function with arguments. Any thread; never waits. False if it is full or closed: the
        caller then returns `refuse()`. `RuntimeError` from the loop if that was closed before the mailbox.
        """
        self._refused = 0
        self._accepted = 0  # by mailboxes that are closed
        self._delivered = 0
        self._discarded = 0

    def refuse(self) -> bool:
        """Count one more as refused; returns False. Any thread."""
        with self._lock:
            self._refused += 1
        return False

    def _put_first(self, item: Item) -> bool:
        with self._lock:
            if self._taker is None:
                if self._new_taker is None:
                    return False
                taker = self._new_taker()
                if self._taker is None:  # else a finalizer or signal handler came first, in there
                    self._taker = taker
                    self.put = taker.mailbox.put
            put = self._taker.mailbox.put
        return put(item)

    # -- the loop's side

    def open(self, loop: asyncio.AbstractEventLoop, log: LimitedLogger, ledger: Ledger) -> None:
        """Accept from now on; `loop` is the one that runs. What is left of another one is given up."""
        self.close()
        with self._lock:
            self._new_taker = lambda: _Taker(loop, self._max_items, self._budget, log, ledger)

    async def settle(self, seconds: float) -> None:
        """Wait, for at most `seconds`, until everything that was put before is carried out."""
        if self._taker is not None:
            await self._taker.settle(seconds)

    def close(self) -> int:
        """Accept nothing more and give up what waits; returns how many that were. Closing again does nothing."""
        with self._lock:
            taker, self._taker = self._taker, None
            self._new_taker = None
            self.put = self._put_first
        if taker is None:
            return 0
        left = taker.close()
        self._accepted += taker.accepted
        self._delivered += taker.delivered
        self._discarded += taker.discarded
        return left

    def stats(self) -> dict[str, int]:
        """Counts since it was made; `waiting` is of now. Accepted = delivered + discarded + waiting, between two turns
        of the loop.
        """
        taker = self._taker
        return {
            "accepted": self._accepted + (0 if taker is None else taker.accepted),
            "delivered": self._delivered + (0 if taker is None else taker.delivered),
            "discarded": self._discarded + (0 if taker is None else taker.discarded),
            "refused": self._refused,
            "waiting": 0 if taker is None else taker.waiting,
        }


class _Taker:
    """One loop's end of a mailbox."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, max_items: int, budget: float, log: LimitedLogger, ledger: Ledger
    ) -> None:
        self.mailbox = Mailbox(self._wake, max_items)
        self.delivered = 0
        self.discarded = 0
        self._loop = loop
        self._clock = fine_clock_of(loop)
        self._budget = budget
        self._log = log
        self._ledger = ledger
        self._stride = 1  # calls until the next look at the clock
        self._refused = 0  # told of
        self._batch: Iterator[Item] = iter(())  # taken, and not carried out
        self._settling: list[tuple[int, asyncio.Future[None]]] = []  # who waits until so many are carried out

    @property
    def accepted(self) -> int:
        return self.mailbox.stats()["accepted"]

    @property
    def waiting(self) -> int:
        return length_hint(self._batch) + self.mailbox.waiting

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        """Called by the loop for a wake-up, and again in each turn while something waits."""
        is_asleep = False
        self._stride = 1
        try:
            is_asleep = self._work(self._clock() + self._budget)
        finally:  # also if a call ends the program: the others are not lost
            if not is_asleep:
                self._loop.call_soon(self._run)
            self._tell()

    def _work(self, end: float) -> bool:
        """Carry out what waits, until `end`; whether nothing is left, so that the next one wakes us."""
        while self._carry_out(end):
            items = self.mailbox.take(_BATCH)
            if not items:
                return True
            self._batch = iter(items)
            if self._clock() >= end:
                break
        return False

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
                if function is send_frame_to:
                    if not result:
                        self.delivered -= 1
                        self.discarded += 1
                    continue
                if result is not None and isinstance(result, Coroutine):  # also those of extensions
                    self._was_coroutine(function, result)
            until_look -= 1
            if not until_look:
                if not self._has_time(end):
                    return False
                until_look = self._stride
        return True

    def _has_time(self, end: float) -> bool:
        """Look at the clock, and soon again if the calls took long."""
        left = end - self._clock()
        self._stride = min(2 * self._stride, _MAX_STRIDE) if left >= self._budget / 2 else 1
        return left > 0

    def _was_coroutine(self, function: Callable[..., object], coroutine: Coroutine[Any, Any, Any]) -> None:
        coroutine.close()
        self._failed(function, TypeError("it is `async def`: call_soon() calls plain functions"))

    def _failed(self, function: Callable[..., object], error: BaseException) -> None:
        self._ledger.handler_errors += 1
        name = getattr(function, "__qualname__", None) or repr(function)
        self._log.log(logging.ERROR, "%s raised, called for another thread", name, error=error)

    def _tell(self) -> None:
        """What happened meanwhile, to whom it concerns."""
        refused = self.mailbox.stats()["refused"]
        if refused != self._refused:
            self._refused = refused
            text = "max_mailbox %d reached: calls and sends of other threads were refused, %d so far"
            self._log.log(logging.WARNING, text, self.mailbox.max_items, refused)
        if self._settling:
            self._tell_settled()

    def _tell_settled(self) -> None:
        done = self.delivered + self.discarded
        for accepted, future in self._settling:
            if done >= accepted and not future.done():
                future.set_result(None)
        self._settling = [waits for waits in self._settling if not waits[1].done()]

    async def settle(self, seconds: float) -> None:
        accepted = self.accepted
        if self.delivered + self.discarded >= accepted or seconds <= 0:
            return
        future = self._loop.create_future()
        self._settling.append((accepted, future))
        await asyncio.wait([future], timeout=seconds)

    def close(self) -> int:
        left = [*self._batch, *self.mailbox.close()]
        self._batch = iter(())
        self.discarded += len(left)
        if self._settling and not self._loop.is_closed():
            self._tell_settled()
        if left:
            self._log.log(logging.WARNING, "%d calls and sends of other threads were not carried out", len(left))
        return len(left)

