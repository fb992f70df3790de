"""The deadlines of one session, by kind.

What stays true: a kind is armed at most once; when the session is closed none is. A deadline looks at its session
only when it comes up, so activity costs nothing, and it never counts time in which we did not listen.
"""

from __future__ import annotations

from collections.abc import Callable

from gamenet.timeouts import Deadline
from gamenet.timer import LoopTimer

KINDS = ("idle", "assembly", "write", "login", "handler", "heartbeat", "close")


class SessionDeadlines:
    """The deadlines of a session that exist: one of each kind at most, and most sessions have one or two."""

    __slots__ = ("_timer", *KINDS)

    def __init__(self, timer: LoopTimer) -> None:
        self._timer = timer
        self.idle = self.assembly = self.write = self.login = self.handler = self.heartbeat = self.close = None

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
        deadline: Deadline | None = getattr(self, kind)
        if timeout is None or (deadline is not None and deadline.is_armed):
            return
        deadline = Deadline(timeout, last_active, on_expired)
        setattr(self, kind, deadline)
        self._timer.arm(deadline)

    def lift(self, kind: str) -> None:
        """Take a deadline away, if there is one."""
        deadline: Deadline | None = getattr(self, kind)
        if deadline is not None:
            self._timer.disarm(deadline)
            setattr(self, kind, None)

    def lift_all(self) -> None:
        """Take every deadline away: the session is closed."""
        for kind in KINDS:
            if getattr(self, kind) is not None:
                self.lift(kind)
