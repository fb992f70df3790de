"""Waiting for something that others give back, on whatever loop the one who waits runs.

What stays true: what is granted is taken or released again, once, whatever becomes of the one who waited. Knows no
asyncio: the loop is an argument. Queues of waiters, and the locks around them, are their owners'.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

MAX_WAITERS = 1024
"""Those who may wait at once: each costs a task that somebody started, and more of them means that they come faster
than things are given back, which waiting does not mend."""


class Loop(Protocol):
    """What is needed of an event loop; asyncio's and uvloop's have it."""

    def is_closed(self) -> bool: ...
    def create_future(self) -> Any: ...
    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> object: ...


class Releasable(Protocol):
    """What is waited for."""

    def release(self) -> None: ...


T = TypeVar("T", bound=Releasable)


class Waiter(Generic[T]):
    """One who waits. Made and waited for in the thread of `loop`; granted from any thread."""

    __slots__ = ("_future", "_loop", "_thread", "who")

    def __init__(self, loop: Loop, who: str = "") -> None:
        self._loop = loop
        self._future = loop.create_future()
        self._thread = threading.get_ident()
        self.who = who
        """Who asked, where that is recorded."""

    async def wait(self) -> T:
        """What is granted. When it is cancelled, what was granted in the same moment is released again."""
        future = self._future
        try:
            granted: T = await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()
            raise
        return granted

    def grant(self, thing: T) -> bool:
        """Give it `thing`, which is its own from now on. False if it waits no longer: the caller keeps `thing`."""
        if self._thread == threading.get_ident():
            return self._take(thing)
        return self._call(self._take_or_release, thing)

    def refuse(self, error: BaseException) -> None:
        """Let it raise `error`."""
        if self._thread == threading.get_ident():
            self._raise(error)
        else:
            self._call(self._raise, error)

    def _call(self, method: Callable[[Any], object], value: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(method, value)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def _take(self, thing: T) -> bool:
        if self._future.done() or self._loop.is_closed():
            return False
        self._future.set_result(thing)
        return True

    def _take_or_release(self, thing: T) -> None:
        if not self._take(thing):
            thing.release()

    def _raise(self, error: BaseException) -> None:
        if not self._future.done() and not self._loop.is_closed():
            self._future.set_exception(error)
