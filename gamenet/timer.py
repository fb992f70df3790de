"""One timer of an event loop for all deadlines of a server.

What stays true: the loop holds at most one of our timers, set to the earliest deadline or before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gamenet.timeouts import Deadline, TimeoutManager

_MIN_DELAY = 0.001  # seconds; loops round to milliseconds, and rounding to 0 would spin


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
        self._handle = self._loop.call_later(max(_MIN_DELAY, due - self._loop.time()), self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._timeouts.advance(self._loop.time())
        self._set()
