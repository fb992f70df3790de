"""One timer of an event loop for all deadlines of a server.

What stays true: the loop holds at most one of our timers, set to the earliest deadline or before it. After the loop
was held up, what has arrived meanwhile is read before any deadline is looked at.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gamenet.timeouts import Deadline, TimeoutManager

_MIN_DELAY = 0.001  # seconds; loops round to milliseconds, and rounding to 0 would spin
_MAX_DELAY = 86_400.0  # seconds; loops do not take any number, and one look a day costs nothing
_LATE = 0.05  # seconds; a loop that was held up for so long has not listened
_MAX_LOOKS = 64  # deadlines at a time: two milliseconds if all have passed, as when a wave of sessions fell silent


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """`loop.time`, or what asyncio's own calls: sessions read it once per chunk, and a Python frame is half of that."""
    return time.monotonic if type(loop).time is asyncio.BaseEventLoop.time else loop.time


def fine_clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """A clock that tells microseconds apart, which neither uvloop's nor Windows' does; a loop's own, if that is not
    the time of day.
    """
    is_real = type(loop).time is asyncio.BaseEventLoop.time or type(loop).__module__.startswith(("uvloop", "winloop"))
    return time.perf_counter if is_real else loop.time


class LoopTimer:
    """Drives a `TimeoutManager` by the clock of `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timeouts = TimeoutManager()
        self._handle: asyncio.TimerHandle | None = None
        self._set_to = 0.0
        self._has_let_read = False

    def __len__(self) -> int:
        """How many deadlines are armed."""
        return len(self._timeouts)

    def arm(self, deadline: Deadline) -> None:
        """Start watching `deadline`."""
        self._timeouts.arm(deadline)
        self._set()

    def disarm(self, deadline: Deadline) -> None:
        """Stop watching it; without any left the loop holds no timer of ours."""
        self._timeouts.disarm(deadline)
        if not self._timeouts and self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _set(self) -> None:
        due = self._timeouts.next_due
        if due is None or (self._handle is not None and self._set_to <= due):
            return
        if self._handle is not None:
            self._handle.cancel()
        self._set_to = due
        self._call_in(due - self._loop.time())

    def _call_in(self, seconds: float) -> None:
        self._handle = self._loop.call_later(min(max(_MIN_DELAY, seconds), _MAX_DELAY), self._fire)

    def _fire(self) -> None:
        now = self._loop.time()
        if now - self._set_to > _LATE and not self._has_let_read:
            self._has_let_read = True
            self._call_in(_MIN_DELAY)  # uvloop runs timers before it reads
            return
        self._handle = None
        self._has_let_read = False
        try:
            self._timeouts.advance(now, _MAX_LOOKS)
        finally:
            self._set()  # whatever one deadline does, the others are watched
