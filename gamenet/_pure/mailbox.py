"""The mailbox: items from any thread to the one that takes them.

What stays true: accepted = taken + discarded + waiting, and waiting is at most `max_items`. Each accepted item is taken
once, those of one thread in the order in which it put them. While anything waits, a wake-up was called or the taker has
to come again. Locking rule: any thread may use it, also a finalizer or signal handler in the middle of another call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from gamenet import errors

MAX_ITEMS = 1 << 28
"""The largest `max_items`: what the compiled twin's ring can count where a pointer has 32 bits."""


class Mailbox:
    """A bounded queue of any objects: many threads put, one takes; closing tells what was not taken.

    `wake()` is called, in the thread of `put()`, when there is something for a taker that sleeps: once per batch, not
    per item. The taker sleeps when it was given nothing; before that it comes again without a wake-up.
    Locking rule: any thread may put, shut, close and ask; takers take turns, and one is meant.
    """

    __slots__ = (
        "__weakref__",
        "_accepted",
        "_discarded",
        "_is_awake",
        "_is_shut",
        "_items",
        "_lock",
        "_max_items",
        "_refused",
        "_taken",
        "_wake",
    )

    def __init__(self, wake: Callable[[], object], max_items: int = 65536) -> None:
        if not 1 <= max_items <= MAX_ITEMS:
            raise errors.number_does_not_fit("max_items", max_items, 1, MAX_ITEMS)
        self._wake = wake
        self._max_items = max_items
        self._items: deque[Any] = deque()
        # a finalizer that runs inside may put: counts are changed between two calls, where nothing can come between
        self._lock = threading.RLock()
        self._is_awake = False
        self._is_shut = False
        self._accepted = 0
        self._taken = 0
        self._discarded = 0
        self._refused = 0

    @property
    def max_items(self) -> int:
        """How many items may wait."""
        return self._max_items

    @property
    def is_open(self) -> bool:
        """Whether it still accepts items."""
        return not self._is_shut

    @property
    def waiting(self) -> int:
        """How many items wait to be taken."""
        with self._lock:
            return self._accepted - self._taken - self._discarded

    def put(self, item: Any) -> bool:
        """Leave `item` for the taker; any thread, never waits. False, and counted, if `max_items` wait or it is shut.

        What `wake()` raises reaches the caller; the item was accepted then, and the next `put()` calls it again.
        """
        with self._lock:
            if self._is_shut or self._accepted - self._taken - self._discarded >= self._max_items:
                self._refused += 1
                return False
            self._accepted += 1
            self._items.append(item)
            was_awake, self._is_awake = self._is_awake, True
        if not was_awake:
            try:
                self._wake()
            except BaseException:
                self._is_awake = False
                raise
        return True

    def take(self, limit: int = 1024) -> list[Any]:
        """The next items, at most `limit` (1 or more). Take again until it returns [], for no wake-up comes before
        that; from then on the next `put()` calls `wake()`.
        """
        if limit < 1:
            raise errors.number_does_not_fit("limit", limit, 1, float("inf"))
        items: list[Any] = []
        with self._lock:
            while len(items) < limit and self._items:  # this last: a handler that comes between may take the rest
                items.append(self._items.popleft())
                self._taken += 1
            self._is_awake = bool(items)
        return items

    def shut(self) -> None:
        """Accept nothing more; what waits can still be taken."""
        with self._lock:
            self._is_shut = True

    def close(self) -> list[Any]:
        """Accept nothing more, and give up what waits: returns it, counted as discarded. Closing again returns []."""
        with self._lock:
            self._is_shut = True
            items: list[Any] = []
            while self._items:
                items.append(self._items.popleft())
                self._discarded += 1
        return items

    def stats(self) -> dict[str, int]:
        """Counts since it was made: accepted = taken + discarded + waiting; `refused` were not accepted."""
        with self._lock:
            return {
                "accepted": self._accepted,
                "taken": self._taken,
                "discarded": self._discarded,
                "refused": self._refused,
                "waiting": self._accepted - self._taken - self._discarded,
            }
