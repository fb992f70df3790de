"""The turns of the loop: how long packets may be dispatched in one, and whose packets wait for the next.

What stays true: whoever waits has a slice of every turn, in the order of coming; the slices of a turn take `budget`
seconds together, and so do the chunks that come in it. Time comes in by `clock`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class TurnQueue:
    """What the streams of one loop share so that none of them keeps the others waiting.

    `call_soon(callback)` brings the next turn, `clock()` gives seconds, and should tell microseconds apart. A budget of
    `inf` is never used up. Locking rule: the thread of the loop only.
    """

    __slots__ = ("_call_soon", "_clock", "_end", "_is_running", "_looked", "_waiting", "budget")

    def __init__(
        self, call_soon: Callable[[Callable[[], None]], object], clock: Callable[[], float], budget: float = 0.005
    ) -> None:
        self.budget = budget
        self._call_soon = call_soon
        self._clock = clock
        self._end = 0.0  # of the slice that runs, or of the turn
        self._looked = 0.0
        self._is_running = False
        self._waiting: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_over(self) -> bool:
        """Whether who is dispatching should leave the rest to another turn: as of the latest `look()`."""
        return self._looked >= self._end

    def look(self, elapsed: float) -> float:
        """Look at the clock; returns the seconds since the latest look, or `elapsed` if that is less.

        `elapsed` is how long ago the chunk came that is being dispatched, by any clock, may it be a coarse one.
        """
        now = self._clock()
        passed = min(elapsed, now - self._looked)
        self._looked = now
        if not self._is_running:
            self._end = now - passed + self.budget
            self._run_soon()
        return passed

    def mark(self) -> None:
        """Packets that waited are dispatched from now on."""
        self._looked = self._clock()

    def add(self, callback: Callable[[], None]) -> None:
        """Have `callback()` called in the next turn."""
        self._waiting.append(callback)
        if not self._is_running:
            self._end = self._clock() + self.budget
            self._run_soon()

    def run(self) -> None:
        """Called by the loop: a new turn has begun."""
        self._is_running = False
        waiting = len(self._waiting)
        if not waiting:
            return
        self._run_soon()
        for _ in range(waiting):
            self._looked = self._clock()
            self._end = self._looked + self.budget / waiting
            self._waiting.popleft()()

    def _run_soon(self) -> None:
        self._is_running = True
        self._call_soon(self.run)
