"""The watchdog: says which handler holds up the event loop, while it does.

What stays true: at most one beat waits in the loop, however long it is blocked; nothing is added to the way of a
packet but the store of its id; the thread ends with the server or its loop, and keeps no process alive.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable

from gamenet._core import Ledger
from gamenet.logs import LimitedLogger
from gamenet.session import Session, handler_task_name

MAX_FRAMES = 50
"""The innermost frames of the loop's thread that are shown."""

_JOIN_TIMEOUT = 5.0  # seconds; only a logging handler that waits for the loop could take so long
_has_gil = getattr(sys, "_is_gil_enabled", lambda: True)
_TASK_NAME = re.compile(handler_task_name(r"(\d+)", r"(\d+)"))


class Watchdog:
    """Watches the loop of one server while it runs: a line when a callback holds it up for `timeout` seconds, and one
    when that is over. `timeout` None watches nothing. `sessions()` gives every session that might be to blame.
    """

    def __init__(
        self,
        timeout: float | None,
        ledger: Ledger,
        sessions: Callable[[], Iterable[Session]],
        logger: logging.Logger,
    ) -> None:
        self.blocked = 0
        """How often the loop was held up."""
        self._timeout = timeout
        self._ledger = ledger
        self._sessions = sessions
        self._logger = logger
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch `loop`, which runs in this thread. Not one whose time is not ours: it waits for nothing, and our
        beats, which come in real time, would keep it from noticing that nothing can happen any more.
        """
        if self._timeout is not None and not getattr(loop, "is_virtual", False):
            self._end = threading.Event()
            watch = _Watch(self, loop, self._timeout, self._end)
            self._thread = threading.Thread(target=watch.run, name="gamenet watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Watch no longer, and wait until the thread has ended. Does nothing if it does not watch."""
        thread, self._thread = self._thread, None
        self._end.set()
        if thread is not None:
            thread.join(_JOIN_TIMEOUT)

    def culprit(self, loop: asyncio.AbstractEventLoop) -> tuple[Session, int] | None:
        """Whose packet of which id is being handled, as far as one can tell: a handler of a packet that just came,
        or the task of an `async def` handler.
        """
        address, packet_id = self._ledger.pumping, self._ledger.packet_id
        if address:
            return next(((session, packet_id) for session in self._sessions() if id(session) == address), None)
        task = asyncio.current_task(loop)
        named = _TASK_NAME.fullmatch(task.get_name()) if task is not None else None
        if named is None:
            return None
        session_id, packet_id = int(named[1]), int(named[2])
        return next(((session, packet_id) for session in self._sessions() if session.id == session_id), None)

    def limited_logger(self) -> LimitedLogger:
        """One for the thread alone."""
        return LimitedLogger(self._logger, time.monotonic)


class _Watch:
    """The thread's part. A beat is `_take`, called by the loop; `_taken` is when, None while it waits there."""

    def __init__(
        self, watchdog: Watchdog, loop: asyncio.AbstractEventLoop, timeout: float, end: threading.Event
    ) -> None:
        self._watchdog = watchdog
        self._loop = loop
        self._timeout = timeout
        self._end = end
        self._loop_thread = threading.get_ident()
        self._log = watchdog.limited_logger()
        self._sent = 0.0
        self._taken: float | None = None
        self._is_reported = False
        self._culprit: tuple[Session, int] | None = None

    def run(self) -> None:
        """Beat until the end, or until the loop is closed."""
        try:
            self._beat()
            while not self._end.wait(self._timeout / 2) and not self._loop.is_closed():
                self._look()
        except RuntimeError:
            if not self._loop.is_closed():  # that may have come between
                raise
        if self._is_reported:
            self._over(time.monotonic() if self._taken is None else self._taken)
        self._log.close()

    def _beat(self) -> None:
        self._sent, self._taken = time.monotonic(), None
        self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._taken = time.monotonic()

    def _look(self) -> None:
        taken, now = self._taken, time.monotonic()
        if taken is not None:
            if self._is_reported or taken - self._sent >= self._timeout:
                self._over(taken)
            self._beat()
        elif not self._loop.is_running():
            self._sent = now  # nobody waits for a loop that was stopped
        elif now - self._sent >= self._timeout and not self._is_reported:
            self._report(now - self._sent)

    def _report(self, seconds: float) -> None:
        self._is_reported = True
        self._watchdog.blocked += 1
        self._culprit, stack = self._watchdog.culprit(self._loop), self._stack()
        if self._taken is not None:  # it ended while we looked: what was found may be something else
            self._culprit = None
        elif self._culprit is None:
            self._log.log(logging.WARNING, "the event loop is held up: %.2f s so far", seconds, stack=stack)
        else:
            self._blame("session %d %s holds up the event loop with packet id %d: %.2f s so far", seconds, stack)

    def _over(self, taken: float) -> None:
        if not self._is_reported:  # a call that held the interpreter's lock held up this thread too
            self._watchdog.blocked += 1
        if self._culprit is None:
            self._log.log(logging.WARNING, "the event loop was held up for %.2f s", taken - self._sent)
        else:
            self._blame("session %d %s held up the event loop with packet id %d for %.2f s", taken - self._sent)
        self._is_reported, self._culprit = False, None

    def _blame(self, message: str, seconds: float, stack: str | None = None) -> None:
        assert self._culprit is not None
        session, packet_id = self._culprit
        extra = {"session_id": session.id, "peer": session.peername, "packet_id": packet_id}
        values = (session.id, str(session.peername), packet_id, seconds)
        self._log.log(logging.WARNING, message, *values, extra=extra, stack=stack)

    def _stack(self) -> str | None:
        """Where the loop's thread is; None without a GIL, for there CPython's frames are safe in their own thread only
        (its "Python support for free threading", known limitations).
        """
        if not _has_gil():
            return None
        frame = sys._current_frames().get(self._loop_thread)
        if frame is None:
            return None
        lines = traceback.format_stack(frame, MAX_FRAMES)
        return "The loop's thread (most recent call last):\n" + "".join(lines).rstrip("\n")
