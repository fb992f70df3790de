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
from collections.abc import Callable, Iterable
from typing import Any

from gamenet._core import CallRunner, HeaderCodec, Ledger, Mailbox, Stream, broadcast
from gamenet.logs import LimitedLogger
from gamenet.timer import fine_clock_of

Call = tuple[Callable[..., object], tuple[Any, ...]]
"""A function and its arguments."""


# -- what is put, beside functions of the user's, and `send_frame_to`


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
        self.put: Callable[[Call], bool] = self._put_first
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

    def _put_first(self, item: Call) -> bool:
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
        self._delivered += taker.calls.delivered
        self._discarded += taker.calls.discarded
        return left

    def stats(self) -> dict[str, int]:
        """Counts since it was made; `waiting` is of now. Accepted = delivered + discarded + waiting, between two turns
        of the loop.
        """
        taker = self._taker
        return {
            "accepted": self._accepted + (0 if taker is None else taker.accepted),
            "delivered": self._delivered + (0 if taker is None else taker.calls.delivered),
            "discarded": self._discarded + (0 if taker is None else taker.calls.discarded),
            "refused": self._refused,
            "waiting": 0 if taker is None else taker.calls.waiting,
        }


class _Taker:
    """One loop's end of a mailbox."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, max_items: int, budget: float, log: LimitedLogger, ledger: Ledger
    ) -> None:
        self.mailbox = Mailbox(self._wake, max_items)
        self.calls = CallRunner(self.mailbox, fine_clock_of(loop), budget, self._failed)
        self._loop = loop
        self._log = log
        self._ledger = ledger
        self._refused = 0  # told of
        self._settling: list[tuple[int, asyncio.Future[None]]] = []  # who waits until so many are carried out

    @property
    def accepted(self) -> int:
        return self.mailbox.stats()["accepted"]

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        """Called by the loop for a wake-up, and again in each turn while something waits."""
        is_asleep = False
        try:
            is_asleep = self.calls.run()
        finally:  # also if a call ends the program: the others are not lost
            if not is_asleep:
                self._loop.call_soon(self._run)
            self._tell()

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
        done = self._done
        for accepted, future in self._settling:
            if done >= accepted and not future.done():
                future.set_result(None)
        self._settling = [waits for waits in self._settling if not waits[1].done()]

    @property
    def _done(self) -> int:
        return self.calls.delivered + self.calls.discarded

    async def settle(self, seconds: float) -> None:
        accepted = self.accepted
        if self._done >= accepted or seconds <= 0:
            return
        future = self._loop.create_future()
        self._settling.append((accepted, future))
        await asyncio.wait([future], timeout=seconds)

    def close(self) -> int:
        left = self.calls.give_up()
        if self._settling and not self._loop.is_closed():
            self._tell_settled()
        if left:
            self._log.log(logging.WARNING, "%d calls and sends of other threads were not carried out", left)
        return left
