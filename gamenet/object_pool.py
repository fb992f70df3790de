"""Pooled objects: made once, lent to one holder at a time, made as new before they are lent again.

What stays true: an object is lent once or not at all; it was reset since its last holder had it, or it is not used
again; `factory` and `reset` never run under the lock; a lease keeps its pool alive, so no order of destruction can
hurt, and no call takes an object, so a foreign one cannot come in. Locking rule: any thread may acquire and release.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar, cast

from gamenet import errors
from gamenet.waiting import MAX_WAITERS, Loop, Waiter

T = TypeVar("T")

_UNMADE: Any = object()  # what a lease holds before its object is made
_RELEASED: Any = object()  # and when it was released


class ObjectPool(Generic[T]):
    """Lends objects that `factory()` made, at most `max_objects` of them at a time, and keeps as many.

    `reset(object)` makes a used one as new; None asks for a class with a method `reset()` as the factory. It runs
    when an object is released, so that nothing of its last holder is kept while it is idle. With every object lent,
    `when_empty` decides: `"raise"` raises `PoolExhaustedError`; `"heap"` makes another one that is not kept
    afterwards; `"wait"` raises too, but under it `acquire_async()` waits: it needs `running_loop`, such as
    `asyncio.get_running_loop`, and lets `max_waiters` wait at once. `TypeError` without a way to reset, `ValueError`
    for a number below 1.

    Python cannot take a reference away: who keeps the object beyond its release shares it with the next holder.
    Keep the lease instead, and ask it each time. Pool what is dear to make: a plain object of a few fields is made
    faster than lent (docs/pools.md).
    Locking rule: any thread may acquire and release; an object is its holder's.
    """

    __slots__ = (
        "__weakref__", "_discarded", "_factory", "_fallbacks", "_idle", "_lock", "_made", "_outstanding", "_refused",
        "_reset", "_running_loop", "_waiters", "max_objects", "max_waiters", "when_empty",
    )

    def __init__(
        self,
        factory: Callable[[], T],
        *,
        max_objects: int = 1024,
        reset: Callable[[T], object] | None = None,
        when_empty: Literal["raise", "heap", "wait"] = "raise",
        running_loop: Callable[[], Loop] | None = None,
        max_waiters: int = MAX_WAITERS,
    ) -> None:
        for name, value in (("max_objects", max_objects), ("max_waiters", max_waiters)):
            if value < 1:
                raise errors.number_does_not_fit(name, value, 1, float("inf"))
        if when_empty not in ("raise", "heap", "wait"):
            raise ValueError(f"when_empty is {when_empty!r}, not 'raise', 'heap' or 'wait'")
        if when_empty == "wait" and running_loop is None:
            raise ValueError("when_empty='wait' needs running_loop, such as asyncio.get_running_loop")
        self.max_objects = max_objects
        self.max_waiters = max_waiters
        self.when_empty = when_empty
        self._factory = factory
        self._reset = _reset_of(factory) if reset is None else reset
        self._running_loop = running_loop
        self._idle: list[T] = []
        self._waiters: deque[Waiter[Lease[T]]] = deque()
        self._outstanding = self._made = self._fallbacks = self._refused = self._discarded = 0
        self._lock = threading.RLock()  # a garbage collection under it may drop leases

    @property
    def outstanding(self) -> int:
        """Objects that are lent now."""
        return self._outstanding

    def acquire(self) -> Lease[T]:
        """An object as new, on lease: `with pool.acquire() as thing:`, or `release()` it when its time is over.

        `PoolExhaustedError` as `when_empty` says; what `factory()` raises.
        """
        with self._lock:
            if not self._takes_place():
                if self.when_empty != "heap":
                    self._refused += 1
                    raise errors.PoolExhaustedError(f"all {self.max_objects} objects are lent")
                self._fallbacks += 1
                self._outstanding += 1
            lease = self._lend()
        return lease if lease._object is not _UNMADE else self._filled(lease)

    def acquire_async(self) -> Acquiring[T]:
        """As `acquire()`, but where `when_empty` is `"wait"` it waits for an object until it is cancelled:
        `async with pool.acquire_async() as thing:`, or `lease = await pool.acquire_async()`.

        First come, first served. `PoolExhaustedError` if `max_waiters` wait already.
        """
        return Acquiring(self)

    def stats(self) -> dict[str, int]:
        """Objects `outstanding` now and `idle`; requests `waiting` now; so far `made`, `discarded` since their lease
        was dropped or their reset raised, made beyond the limit (`fallbacks`), and requests `refused`.
        """
        with self._lock:
            return {
                "outstanding": self._outstanding,
                "idle": len(self._idle),
                "waiting": len(self._waiters),
                "made": self._made,
                "discarded": self._discarded,
                "fallbacks": self._fallbacks,
                "refused": self._refused,
            }

    def trim(self) -> int:
        """Let go of the idle objects; returns how many."""
        with self._lock:
            idle, self._idle = self._idle, []
        return len(idle)  # they end here, and not under the lock

    def _takes_place(self) -> bool:
        """Count one more object as lent, unless that passes somebody by. Nothing comes between the look and the count,
        not even a finalizer, which may acquire, too.
        """
        if self._outstanding >= self.max_objects or self._waiters:
            return False
        self._outstanding += 1
        return True

    def _lend(self) -> Lease[T]:
        """The lease for a place that is counted; if there is none, it is no longer."""
        try:
            lease: Lease[T] = Lease.__new__(Lease)
        except MemoryError:
            self._outstanding -= 1
            raise
        lease._pool = self
        lease._object = self._idle.pop() if self._idle else _UNMADE
        return lease

    def _filled(self, lease: Lease[T]) -> Lease[T]:
        """The lease with a new object; without one it comes back."""
        try:
            made = self._factory()
        except BaseException:
            lease.release()
            raise
        with self._lock:
            self._made += 1
        lease._object = made
        return lease

    async def _lend_later(self) -> Lease[T]:
        asked = self._ask()
        lease = await self._wait(asked) if isinstance(asked, Waiter) else asked
        return lease if lease._object is not _UNMADE else self._filled(lease)

    async def _wait(self, waiter: Waiter[Lease[T]]) -> Lease[T]:
        try:
            return await waiter.wait()
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def _ask(self) -> Lease[T] | Waiter[Lease[T]]:
        """A lease, or a place among those who wait for one."""
        if self.when_empty != "wait":
            return self.acquire()
        assert self._running_loop is not None
        with self._lock:
            if self._takes_place():
                return self._lend()
        waiter: Waiter[Lease[T]] = Waiter(self._running_loop(), Lease._give_back)
        with self._lock:
            if self._takes_place():
                return self._lend()
            if len(self._waiters) >= self.max_waiters:
                self._refused += 1
                raise errors.too_many_wait(self.max_waiters)
            self._waiters.append(waiter)
        return waiter

    def _take_back_used(self, used: T) -> None:
        try:
            self._reset(used)
        except BaseException:
            self._discard()
            raise
        self._take_back(used)

    def _discard(self) -> None:
        """One that was lent will not be lent again."""
        with self._lock:
            self._discarded += 1
        self._take_back(_UNMADE)

    def _take_back(self, thing: T) -> None:
        """What was lent is as new, or is `_UNMADE`: its place is free."""
        with self._lock:
            if thing is not _UNMADE and self._outstanding + len(self._idle) <= self.max_objects:
                self._idle.append(thing)
            self._outstanding -= 1
        if self._waiters:
            self._serve()

    def _serve(self) -> None:
        """Lend what may be lent to those who wait, the oldest first."""
        while True:
            with self._lock:
                if self._outstanding >= self.max_objects or not self._waiters:
                    return
                self._outstanding += 1
                waiter = self._waiters.popleft()
                try:
                    lease = self._lend()
                except MemoryError as error:
                    waiter.refuse(error)
                    continue
            while not waiter.grant(lease):
                with self._lock:
                    if not self._waiters:
                        break
                    waiter = self._waiters.popleft()
            else:
                continue
            lease._give_back()


class Lease(Generic[T]):
    """One object of a pool, from `acquire()` to `release()`.

    A lease that is dropped without a release gives its place back, but not its object: somebody may have that still.
    Locking rule: any thread may release it; what is lent is yours to guard.
    """

    __slots__ = ("__weakref__", "_object", "_pool")

    _object: Any
    _pool: ObjectPool[T]

    def __init__(self) -> None:
        raise TypeError("leases come from ObjectPool.acquire()")

    def __repr__(self) -> str:
        return "<Lease, released>" if self._object is _RELEASED else f"<Lease of {self._object!r}>"

    @property
    def object(self) -> T:
        """What is lent. `ValueError` once it was released."""
        if self._object is _RELEASED:
            raise _was_released()
        return cast(T, self._object)

    def release(self) -> None:
        """Reset the object and give it back. `ValueError` the second time.

        What `reset` raises is raised here; the object is then not used again, and its place is free.
        """
        with self._pool._lock:
            taken, self._object = self._object, _RELEASED
        if taken is _RELEASED:
            raise _was_released()
        if taken is _UNMADE:
            self._pool._take_back(_UNMADE)
        else:
            self._pool._take_back_used(taken)

    def _give_back(self) -> None:
        """It was granted to one who is gone: nobody has seen the object, which needs no reset."""
        with self._pool._lock:
            unseen, self._object = self._object, _RELEASED
        if unseen is not _RELEASED:
            self._pool._take_back(unseen)

    def __enter__(self) -> T:
        return self.object

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._object is not _RELEASED:
            self.release()

    def __reduce__(self) -> str:
        raise TypeError("a lease cannot be copied: its object would have two holders")

    def __del__(self) -> None:
        forgotten = getattr(self, "_object", _RELEASED)  # a lease that was made by hand has none
        self._object = _RELEASED  # a coroutine that goes in the same garbage collection may still release it
        if forgotten is _UNMADE:
            self._pool._take_back(_UNMADE)
        elif forgotten is not _RELEASED:
            self._pool._discard()


class Acquiring(Generic[T]):
    """What `acquire_async()` gives: await it for the lease, or enter it for the object."""

    __slots__ = ("_lease", "_pool")

    def __init__(self, pool: ObjectPool[T]) -> None:
        self._pool = pool
        self._lease: Lease[T] | None = None

    def __await__(self) -> Generator[Any, Any, Lease[T]]:
        return self._pool._lend_later().__await__()

    async def __aenter__(self) -> T:
        self._lease = await self._pool._lend_later()
        return self._lease.object

    async def __aexit__(self, *raised: object) -> None:
        lease, self._lease = self._lease, None
        if lease is not None and lease._object is not _RELEASED:
            lease.release()


def _reset_of(factory: Callable[[], T]) -> Callable[[T], object]:
    reset = getattr(factory, "reset", None) if isinstance(factory, type) else None
    if not callable(reset):
        raise TypeError("an ObjectPool needs reset=, or a class that has a method reset(), so that objects come as new")
    return cast(Callable[[T], object], reset)


def _was_released() -> ValueError:
    return ValueError("this lease was released")
