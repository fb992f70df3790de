"""What a reconnecting client is doing, as data, and those who want to hear of it.

What stays true: everybody hears of every state in order; whoever does not listen costs at most `MAX_UNHEARD` of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from weakref import WeakSet

MAX_UNHEARD = 1000
"""States that wait for one who iterates; beyond that the oldest are forgotten. They come at the pace of connections."""


@dataclass(frozen=True, slots=True)
class Connecting:
    """It tries to connect, for the `attempt`-th time since a connection was stable."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Connected:
    """Packets can be sent. `resumed`: nothing of what went before is lost; otherwise the session is a new one."""

    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection has ended; `reason` is a `CloseReason` or a text."""

    reason: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """The `attempt`-th attempt comes in `seconds`; `error` is what the last one failed with, or how the link ended."""

    seconds: float
    attempt: int
    error: Exception


@dataclass(frozen=True, slots=True)
class GivenUp:
    """It will not try again; `error` is the last one."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Closed:
    """`close()` was called."""


State = Connecting | Connected | Lost | Waiting | GivenUp | Closed


class States:
    """An iteration over states: `async for state in client.states()`. It ends behind `GivenUp` or `Closed`."""

    def __init__(self) -> None:
        self._states: deque[State] = deque(maxlen=MAX_UNHEARD)
        self._waiter: asyncio.Future[None] | None = None
        self._is_over = False

    def __aiter__(self) -> States:
        return self

    async def __anext__(self) -> State:
        while not self._states:
            if self._is_over:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("somebody else waits for the next state already")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._states.popleft()

    def add(self, state: State) -> None:
        """Called by the client."""
        self._states.append(state)
        self._is_over = isinstance(state, (GivenUp, Closed))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class StateFeed:
    """The latest state, and the iterations over what comes. One that nobody refers to is gone."""

    def __init__(self) -> None:
        self.latest: State | None = None
        self._listeners: WeakSet[States] = WeakSet()

    def listen(self) -> States:
        """A new iteration; it begins with the latest state."""
        states = States()
        if self.latest is not None:
            states.add(self.latest)
        self._listeners.add(states)
        return states

    def tell(self, state: State) -> None:
        """Tell everybody."""
        self.latest = state
        for states in list(self._listeners):
            states.add(state)
