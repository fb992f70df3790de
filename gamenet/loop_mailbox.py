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
from collections import deque
from collections.abc import Callable, Iterable
from types import CoroutineType
from typing import Any

from gamenet._core import HeaderCodec, Ledger, Mailbox, Stream, broadcast
from gamenet.logs import LimitedLogger
from gamenet.timer import fine_clock_of

Work = Callable[..., bool]
"""What is put: says whether it was delivered."""

_BATCH = 256  # items taken at once: quick ones take less than a tenth of a turn's time


# -- what may be put


def send_frame_to(stream: Stream, codec: HeaderCodec, frame: bytes) -> bool:
    """Send a packet as `codec` made it, unless the session was closed meanwhile."""
    return stream.is_open and broadcast((stream,), codec, frame) == 1


def broadcast_to(streams: Iterable[Stream], codec: HeaderCodec, frame: bytes, exclude: Stream | None) -> bool:
    """Send it to everybody who is in `streams` now."""
    broadcast(streams, codec, frame, exclude)
    return True


def call(function: Callable[..., object], arguments: tuple[Any, ...]) -> bool:
    """Call a function of the user's."""
    result = function(*arguments)
    if isinstance(result, CoroutineType):
        result.close()
        raise TypeError(f"{_name_of(function)} is `async def`: call_soon() calls plain functions")
    return True


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
        self._put: Callable[[tuple[Work, tuple[Any, ...]]], bool] = self._put_first
        self._refused = 0
        self._accepted = 0  # by mailboxes that are closed
        self._delivered = 0
        self._discarded = 0

    def put(self, work: Work, *arguments: Any) -> bool:
        """Have the loop call `work(*arguments)`. Any thread; never waits. False, and counted, if it is full or closed.

        `RuntimeError` from the loop if that was closed before the mailbox.
        """
        if self._put((work, arguments)):
            return True
        taker = self._taker
        if taker is not None:
            taker.has_refused = True
        return self.refuse()

    def refuse(self) -> bool:
        """Count one more as refused; returns False."""
        with self._lock:
            self._refused += 1
        return False

    def _put_first(self, item: tuple[Work, tuple[Any, ...]]) -> bool:
        with self._lock:
            if self._taker is None:
                if self._new_taker is None:
                    return False
                self._taker = self._new_taker()
                self._put = self._taker.mailbox.put
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
            self._put = self._put_first
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
        self.has_refused = False
        self.delivered = 0
        self.discarded = 0
        self._loop = loop
        self._clock = fine_clock_of(loop)
        self._budget = budget
        self._log = log
        self._ledger = ledger
        self._batch: deque[tuple[Work, tuple[Any, ...]]] = deque()  # taken, and not carried out
        self._settled: tuple[int, asyncio.Future[None]] | None = None  # when so many are

    @property
    def accepted(self) -> int:
        return self.mailbox.stats()["accepted"]

    @property
    def waiting(self) -> int:
        return len(self._batch) + self.mailbox.waiting

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        """Called by the loop for a wake-up, and again in each turn while something waits."""
        is_asleep = False
        try:
            is_asleep = self._work(self._clock() + self._budget)
        finally:  # also if a call ends the program: the others are not lost
            if not is_asleep:
                self._loop.call_soon(self._run)
            self._tell()

    def _work(self, end: float) -> bool:
        """Carry out what waits, until `end`; whether nothing is left, so that the next one wakes us."""
        batch = self._batch
        while True:
            while batch:
                work, arguments = batch.popleft()
                try:
                    is_delivered = work(*arguments)
                except (KeyboardInterrupt, SystemExit):
                    self.delivered += 1
                    raise
                except BaseException as error:  # a cancellation, too: of what it looked at
                    is_delivered = True
                    self._failed(work, arguments, error)
                if is_delivered:
                    self.delivered += 1
                else:
                    self.discarded += 1
                if work is not send_frame_to and self._clock() >= end:
                    return False
            batch.extend(self.mailbox.take(_BATCH))
            if not batch:
                return True
            if self._clock() >= end:
                return False

    def _failed(self, work: Work, arguments: tuple[Any, ...], error: BaseException) -> None:
        self._ledger.handler_errors += 1
        name = _name_of(arguments[0]) if work is call else work.__name__
        self._log.log(logging.ERROR, "%s raised, called for another thread", name, error=error)

    def _tell(self) -> None:
        """What happened meanwhile, to whom it concerns."""
        if self.has_refused:
            self.has_refused = False
            max_items = self.mailbox.max_items
            self._log.log(logging.WARNING, "max_mailbox %d reached: what other threads sent was refused", max_items)
        if self._settled is not None and self.delivered + self.discarded >= self._settled[0]:
            future = self._settled[1]
            self._settled = None
            if not future.done():
                future.set_result(None)

    async def settle(self, seconds: float) -> None:
        accepted = self.accepted
        if self.delivered + self.discarded >= accepted or seconds <= 0:
            return
        future = self._loop.create_future()
        self._settled = accepted, future
        await asyncio.wait([future], timeout=seconds)

    def close(self) -> int:
        left = [*self._batch, *self.mailbox.close()]
        self._batch.clear()
        self.discarded += len(left)
        if left:
            self._log.log(logging.WARNING, "%d calls and sends of other threads were not carried out", len(left))
        return len(left)


def _name_of(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
