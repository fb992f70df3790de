"""Waiting for something that others give back, on whatever loop the one who waits runs.

What stays true: what is granted is taken or given back, once, whatever becomes of the one who waited. Knows no
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


T = TypeVar("T")


class Waiter(Generic[T]):
    """One who waits. Made and waited for in the thread of `loop`; granted from any thread. `give_back(thing)` takes
    back what was granted to one who is gone.
    """

    __slots__ = ("_future", "_give_back", "_loop", "_thread", "who")

    def __init__(self, loop: Loop, give_back: Callable[[T], object], who: str = "") -> None:
        self._loop = loop
        self._give_back = give_back
        self._future = loop.create_future()
        self._thread = threading.get_ident()
        self.who = who
        """Who asked, where that is recorded."""

    async def wait(self) -> T:
        """What is granted. When it is cancelled, what was granted in the same moment is given back."""
        future = self._future
        try:
            granted: T = await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(future.result())
            raise
        return granted

    def grant(self, thing: T) -> bool:
        """Give it `thing`, which is its own from now on. False if it waits no longer: the caller keeps `thing`."""
        try:
            if self._thread == threading.get_ident():
                return self._take(thing)
            return self._call(self._take_or_give_back, thing)
        except MemoryError:  # it may have got `thing` all the same, so nobody else may
            self.refuse(MemoryError("no memory to tell the loop that the turn has come"))
            return True

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

    def _take_or_give_back(self, thing: T) -> None:
        if not self._take(thing):
            self._give_back(thing)

    def _raise(self, error: BaseException) -> None:
        if not self._future.done() and not self._loop.is_closed():
            self._future.set_exception(error)
