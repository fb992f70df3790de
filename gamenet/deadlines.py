"""The deadlines of one session, by kind.

What stays true: a kind is armed at most once; when the session is closed none is. A deadline looks at its session
only when it comes up, so activity costs nothing, and it never counts time in which we did not listen.
"""

from __future__ import annotations

from collections.abc import Callable

from gamenet.timeouts import Deadline
from gamenet.timer import LoopTimer


class SessionDeadlines:
    """Which deadlines of a session exist: most have one or two, so a short list holds them."""

    __slots__ = ("_deadlines", "_timer")

    def __init__(self, timer: LoopTimer) -> None:
        self._timer = timer
        self._deadlines: list[tuple[str, Deadline]] = []

    def watch(
        self,
        kind: str,
        timeout: float | None,
        last_active: Callable[[], float | None],
        on_expired: Callable[[], None],
    ) -> None:
        """Have `on_expired()` called when `timeout` seconds have passed since `last_active()`; None: never.

        Does nothing if that kind is armed. `last_active()` gives None when there is nothing to wait for any more.
        """
        if timeout is None:
            return
        for place, (armed_kind, deadline) in enumerate(self._deadlines):
            if armed_kind == kind:
                if deadline.is_armed:
                    return
                del self._deadlines[place]
                break
        deadline = Deadline(timeout, last_active, on_expired)
        self._deadlines.append((kind, deadline))
        self._timer.arm(deadline)

    def lift(self, kind: str) -> None:
        """Take a deadline away, if there is one."""
        for place, (armed_kind, deadline) in enumerate(self._deadlines):
            if armed_kind == kind:
                self._timer.disarm(deadline)
                del self._deadlines[place]
                return

    def lift_all(self) -> None:
        """Take every deadline away: the session is closed."""
        for _, deadline in self._deadlines:
            self._timer.disarm(deadline)
        self._deadlines.clear()
