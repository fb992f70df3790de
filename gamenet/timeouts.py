"""Deadlines without timers: one heap for all sessions, looked at when the earliest may have passed.

What stays true: no deadline fires early, each fires at most once, and activity never touches the heap. Time comes
in as an argument; nothing here reads a clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

_MIN_DEAD = 64  # entries of disarmed deadlines that are not worth a clean-up


class Deadline:
    """One thing that must happen again and again within `timeout` seconds.

    `last_active()` says when it happened last, or None if there is nothing to wait for any more: the deadline is then
    disarmed when it comes up. `on_expired()` is called once, when `timeout` seconds have passed since then.
    Locking rule: one thread at a time, that of its manager.
    """

    __slots__ = ("_entry", "last_active", "on_expired", "timeout")

    def __init__(
        self, timeout: float, last_active: Callable[[], float | None], on_expired: Callable[[], None]
    ) -> None:
        if not timeout > 0:
            raise ValueError(f"a timeout of {timeout} s is not above 0")
        self.timeout = timeout
        self.last_active = last_active
        self.on_expired = on_expired
        self._entry: _Entry | None = None

    @property
    def is_armed(self) -> bool:
        """Whether it may still fire."""
        return self._entry is not None


class _Entry:
    """A place in the heap. `deadline` is None once it was disarmed, so that nothing is kept alive by it."""

    __slots__ = ("deadline", "due", "order")

    def __init__(self, due: float, order: int, deadline: Deadline) -> None:
        self.due = due
        self.order = order
        self.deadline: Deadline | None = deadline

    def __lt__(self, other: _Entry) -> bool:
        return (self.due, self.order) < (other.due, other.order)


class TimeoutManager:
    """Every deadline of a server. Call `advance(now)` when `next_due` has come; it re-arms what was active since.

    A packet costs one store (of the time); a session costs one heap entry per `timeout`.
    Locking rule: one thread at a time.
    """

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._order = count()  # deadlines of the same time fire in the order they were armed
        self._dead = 0

    def __len__(self) -> int:
        """How many deadlines are armed."""
        return len(self._heap) - self._dead

    @property
    def next_due(self) -> float | None:
        """When `advance()` may have something to do, or None."""
        while self._heap and self._heap[0].deadline is None:
            heapq.heappop(self._heap)
            self._dead -= 1
        return self._heap[0].due if self._heap else None

    def arm(self, deadline: Deadline) -> None:
        """Start watching, if there is something to wait for. `ValueError` if it is armed already."""
        if deadline.is_armed:
            raise ValueError("this deadline is armed already")
        last_active = deadline.last_active()
        if last_active is not None:
            self._push(deadline, last_active + deadline.timeout)

    def disarm(self, deadline: Deadline) -> None:
        """Stop watching; does nothing if it fired or was never armed."""
        if deadline._entry is None:
            return
        deadline._entry.deadline = None
        deadline._entry = None
        self._dead += 1
        if self._dead > _MIN_DEAD and self._dead > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry.deadline is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    def advance(self, now: float, max_looks: int | None = None) -> int:
        """Fire every deadline that has passed at `now`; returns how many did. With `max_looks` it looks at no more
        deadlines than that, and `next_due` is not above `now` afterwards if some are left.
        """
        fired = looks = 0
        while looks != max_looks and (due := self.next_due) is not None and due <= now:
            looks += 1
            deadline = heapq.heappop(self._heap).deadline
            assert deadline is not None  # next_due has dropped the dead ones
            deadline._entry = None
            last_active = deadline.last_active()
            if last_active is None:
                continue
            if last_active + deadline.timeout > now:
                self._push(deadline, last_active + deadline.timeout)
            else:
                fired += 1
                deadline.on_expired()
        return fired

    def _push(self, deadline: Deadline, due: float) -> None:
        deadline._entry = _Entry(due, next(self._order), deadline)
        heapq.heappush(self._heap, deadline._entry)
