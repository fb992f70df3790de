"""An event loop on which waiting takes no time.

What stays true: time moves only while nothing is ready, and then straight to the next timer; it never goes back,
never passes a callback that could run now, and no timer fires before its time.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar

from gamenet.testing.clock import FakeClock

T = TypeVar("T")

IO_GRACE = 0.01
"""Real seconds that watched sockets are given before time jumps: loopback takes microseconds."""

THREAD_GRACE = 1.0
"""Real seconds that threads which the loop does not know are given to wake it before that is called a deadlock."""


class DeadlockError(RuntimeError):
    """Nothing is ready, no timer is set, and nothing is watched: no task can ever go on. Names those that wait."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """asyncio's selector loop by a `FakeClock`: `asyncio.sleep(3600)` returns at once, and `time()` is 3600 later.

    With in-memory transports a run repeats exactly. Real things are waited for in real time: watched sockets get
    `io_grace` seconds before each jump, and while `run_in_executor()` or `getaddrinfo()` work in a thread, time
    passes as outside. If nothing can happen any more, `DeadlockError` is raised out of `run_until_complete()`.

    On Windows it is the selector loop, too: no more than 512 sockets, and no subprocesses.
    """

    is_virtual = True
    """Asked by servers: their watchdogs, which go by real time, leave such a loop alone."""

    def __init__(
        self, clock: FakeClock | None = None, *, io_grace: float = IO_GRACE, thread_grace: float = THREAD_GRACE
    ) -> None:
        self._closed = True  # asyncio's destructor asks, also if there will be no loop
        for name, seconds in (("io_grace", io_grace), ("thread_grace", thread_grace)):
            if not 0 <= seconds < math.inf:
                raise ValueError(f"{name} {seconds} is no time of 0 s or more")
        self.clock = FakeClock() if clock is None else clock
        self._io_grace = io_grace
        self._thread_grace = thread_grace
        self._working = 0  # threads whose end a task of this loop waits for
        super().__init__(_Selector(self._wait))

    def time(self) -> float:
        """The time of `clock`, in seconds."""
        return self.clock()

    def run_in_executor(  # type: ignore[override]  # typeshed has variadic generics here
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As everywhere. Time is real while it works."""
        result: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self._working += 1
        result.add_done_callback(self._work_is_done)
        return result

    async def shutdown_default_executor(self, *values: Any, **options: Any) -> None:
        """As everywhere; threads are joined in real time."""
        self._working += 1
        try:
            await super().shutdown_default_executor(*values, **options)
        finally:
            self._working -= 1

    def _work_is_done(self, _: asyncio.Future[Any]) -> None:
        self._working -= 1

    def _wait(self, selector: selectors.BaseSelector, timeout: float | None) -> _Events:
        ready = self._wait_for_events(selector, timeout)
        # asyncio fires what is due before `time() + resolution`. The real clock's nanosecond is no later time at all
        # once floats are coarser, after four months; and a timer that fired before its time, and set itself anew for
        # the rest, would do so for ever, for time stands still meanwhile. So that sum is the very next time.
        self._clock_resolution = math.ulp(self.clock())
        return ready

    def _wait_for_events(self, selector: selectors.BaseSelector, timeout: float | None) -> _Events:
        """What is ready, at once or after `timeout` seconds of our time; None: there is no timer."""
        if timeout is not None and timeout <= 0:
            return selector.select(0)
        if self._working:
            return self._wait_in_real_time(selector, timeout)
        if self._watches_something(selector):
            ready = selector.select(None if timeout is None else self._io_grace)
        else:
            ready = selector.select(0)
            if not ready and timeout is None:
                ready = self._wait_for_threads(selector)
        if not ready and timeout is not None:
            self.clock.advance(timeout)
        return ready

    def _wait_in_real_time(self, selector: selectors.BaseSelector, timeout: float | None) -> _Events:
        started = time.monotonic()
        ready = selector.select(timeout)
        passed = time.monotonic() - started
        self.clock.advance(passed if timeout is None else min(passed, timeout) if ready else timeout)
        return ready

    def _watches_something(self, selector: selectors.BaseSelector) -> bool:
        """Whether anything but the loop's own wake-up socket can make it ready: a socket, a pipe, a signal."""
        return len(selector.get_map()) > 1 or bool(getattr(self, "_signal_handlers", None))

    def _wait_for_threads(self, selector: selectors.BaseSelector) -> _Events:
        ready = selector.select(self._thread_grace) if threading.active_count() > 1 else []
        if not ready:
            raise DeadlockError(_describe_deadlock(self))
        return ready


_Events = list[tuple[selectors.SelectorKey, int]]
_Wait = Callable[[selectors.BaseSelector, float | None], _Events]


class _Selector(selectors.BaseSelector):
    """The system's selector, but how long to wait is for the loop to say."""

    def __init__(self, wait: _Wait) -> None:
        self._real = selectors.DefaultSelector()
        self._wait = wait

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> _Events:
        return self._wait(self._real, timeout)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()


def _describe_deadlock(loop: asyncio.AbstractEventLoop) -> str:
    lines = ["nothing can happen any more: no callback is ready, no timer is set, no socket is watched"]
    for task in sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name()):
        frames = task.get_stack(limit=1)
        place = f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else "its end"
        lines.append(f"  {task.get_name()} waits at {place}, for {_coroutine_name(task)}")
    return "\n".join(lines)


def _coroutine_name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", repr(task.get_coro()))
