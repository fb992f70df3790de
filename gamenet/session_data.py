"""What a server lends each of its sessions from a pool of the user's: `session.data`.

What stays true: a session has its object from before its `on_opened` hooks until after its `on_closed` hooks, and
until its last handler has ended, so nobody else has an object that a handler still works with. Each object that was
lent is given back once. Only the thread of the server's loop comes here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gamenet.errors import CloseReason, PoolExhaustedError
from gamenet.object_pool import Lease, ObjectPool
from gamenet.session import Session

Failed = Callable[[Session, str, Exception], object]


class SessionData:
    """Lends what `pool` has. `on_failed(session, what, error)` is told what its factory or its reset raised."""

    __slots__ = ("_leases", "_on_failed", "pool")

    def __init__(self, pool: ObjectPool[Any], on_failed: Failed) -> None:
        if not isinstance(pool, ObjectPool):
            raise TypeError(f"session_data is {pool!r}, not an ObjectPool")
        self.pool = pool
        self._on_failed = on_failed
        self._leases: dict[Session, Lease[Any]] = {}

    def lend_to(self, session: Session) -> CloseReason | None:
        """Give `session` its `data`; the reason to refuse it if there is nothing to give."""
        try:
            lease = self.pool.acquire()
        except PoolExhaustedError:
            return CloseReason.SERVER_FULL
        except Exception as error:
            self._on_failed(session, "the factory", error)
            return CloseReason.HANDLER_ERROR
        self._leases[session] = lease
        session.data = lease.object
        return None

    def take_back_from(self, session: Session) -> None:
        """The session is closed: its object comes back, at once or when its handler has ended."""
        handler = session.running_handler
        if handler is None or handler.done():
            self._take_back(session)
        else:
            handler.add_done_callback(lambda _: self._take_back(session))

    def _take_back(self, session: Session) -> None:
        lease = self._leases.pop(session)
        if session.data is lease.object:
            session.data = None
        try:
            lease.release()
        except Exception as error:
            self._on_failed(session, "the reset", error)
