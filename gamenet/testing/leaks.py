"""What a test has left behind, and where to look for it.

What stays true: a check changes nothing but the loop's exception handler, which it puts back; it fails only for what
began while it ran, or for a server that it was told of.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gamenet.context import SessionContext, context_watchers
from gamenet.session import Session
from gamenet.timer import LoopTimer

if TYPE_CHECKING:
    from gamenet._core import Ledger, PoolAllocator
    from gamenet.server import Server

SETTLE_SECONDS = 1.0
"""How long what is ending may take to end: a leak costs a test that much, an orderly end next to nothing."""

_MAX_SHOWN = 5  # of each kind; the rest is counted

_Handler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]


class LeakError(AssertionError):
    """Something is left. The message says what, how many, and where to look; `leaks` has it line by line."""

    def __init__(self, leaks: list[str]) -> None:
        self.leaks = leaks
        super().__init__("\n  ".join(["left behind at the end:", *leaks]))


class leak_check:  # it reads as a statement: `async with leak_check(server)`
    """`async with leak_check() as check`: `LeakError` at its end if anything is left of what began inside.

    Looks at every server and client of gamenet that started on this loop while it ran, and at `servers`, which may
    have started before: open sessions, armed deadlines, blocks of the pools, blocks that a view still shows, and a
    ledger that does not balance; at servers that started meanwhile and still listen; at tasks and timers of the loop;
    and at what its exception handler was called with.
    What is about to end gets `settle` seconds for that (of the loop's time).

    If the block itself raises, what is left is a note on that exception. `allow_views=True` is for tests that keep
    views on purpose; tasks and timers whose description has a text of `ignore` in it are somebody else's. Both may be
    set later, as attributes.
    """

    def __init__(
        self,
        *servers: Server,
        settle: float = SETTLE_SECONDS,
        allow_views: bool = False,
        ignore: Iterable[str] = (),
    ) -> None:
        if not settle >= 0:
            raise ValueError(f"settle {settle} s is below 0")
        self.complaints: list[dict[str, Any]] = []
        """What the loop's exception handler was called with, in order; take out what the test expects."""
        self._servers = list(servers)
        self._settle = settle
        self.allow_views = allow_views
        self.ignore = list(ignore)
        self._contexts: list[SessionContext] = []

    def watch(self, server: Server) -> None:
        """Look at `server` too, though it started before the check did."""
        self._servers.append(server)

    async def __aenter__(self) -> leak_check:
        self._loop = asyncio.get_running_loop()
        self._tasks = asyncio.all_tasks()
        self._timers = set(_timers_of(self._loop))
        self._handler_before: _Handler | None = self._loop.get_exception_handler()
        self._loop.set_exception_handler(self._complained)
        context_watchers.append(self._context_made)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            leaks = await self._settled()
        finally:
            context_watchers.remove(self._context_made)
            self._loop.set_exception_handler(self._handler_before)
        if leaks and error is not None:
            error.add_note(str(LeakError(leaks)))
        elif leaks:
            raise LeakError(leaks)

    def leaks(self) -> list[str]:
        """What would be left if this were the end, a line for each kind."""
        return [line for found in self._found() for line in found]

    async def _settled(self) -> list[str]:
        """What is left when everything that was ending has had its time."""
        end = self._loop.time() + self._settle
        pause = 0.0
        for _ in range(3):  # connections end in later turns, and their errors are told then
            await asyncio.sleep(0)
        while any(self._found()) and not self.complaints and self._loop.time() < end:
            await asyncio.sleep(pause)
            pause = min(0.02, pause + 0.001)
        if any(self._found()):
            gc.collect()  # what only a cycle holds is garbage, and no leak
            await asyncio.sleep(0)
        return self.leaks()

    def _found(self) -> Iterable[list[str]]:
        yield self._complaints_found()
        yield self._tasks_found()
        yield self._timers_found()
        for context in self._contexts:
            yield _left_of_context(context, self.allow_views)
        for server in self._all_servers():
            yield _left_of_server(server, self.allow_views)

    def _all_servers(self) -> list[Server]:
        owners = [context.owner for context in self._contexts]
        started = [owner for owner in owners if hasattr(owner, "sessions")]
        return list(dict.fromkeys([*self._servers, *started]))  # type: ignore[list-item]  # owners with sessions

    def _complaints_found(self) -> list[str]:
        told = [_describe_complaint(context) for context in self.complaints]
        return _line(told, "call", "of the loop's exception handler", "an exception that nobody took")

    def _tasks_found(self) -> list[str]:
        own = asyncio.current_task()
        left = [_describe_task(task) for task in asyncio.all_tasks(self._loop) - self._tasks if task is not own]
        return _line(self._not_ignored(left), "task", "not done", "await or cancel what was started")

    def _timers_found(self) -> list[str]:
        left = [timer for timer in _timers_of(self._loop) if timer not in self._timers]
        advice = "cancel what loop.call_later() and call_at() returned"
        return _line(self._not_ignored(map(repr, left)), "timer", "of the loop", advice)

    def _not_ignored(self, things: Iterable[str]) -> list[str]:
        return [thing for thing in things if not any(text in thing for text in self.ignore)]

    def _context_made(self, context: SessionContext) -> None:
        if context.loop is self._loop:
            self._contexts.append(context)

    def _complained(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.append(context)
        if self._handler_before is not None:
            self._handler_before(loop, context)


def _left_of_context(context: SessionContext, allow_views: bool) -> list[str]:
    """Of what the sessions of one start of a server, or of one client, share."""
    who = _name_of(context.owner)
    left = []
    client_session: Session | None = getattr(context.owner, "session", None)
    if client_session is not None:
        if client_session.transport is not None:
            left += _line([repr(client_session)], "session", f"of {who} open", "close the client")
        left += _left_of_pool(context.pool, who, allow_views)
        left += _left_of_ledger(context.ledger, client_session.inbox_size, who)
    if getattr(context.owner, "is_listening", False) and context.owner._context is context:  # type: ignore[attr-defined]
        left.append(f"{who} still listens (await server.stop())")
    armed = len(context.timer)
    if armed:
        left.append(f"{armed} deadline(s) of {who} armed: sessions that are not closed have them")
    held = context.receiver.held
    if held and not allow_views:
        left.append(f"{held} receive block(s) of {who} still seen: somebody keeps a packet.view() or a batch's column")
    return left


def _left_of_server(server: Server, allow_views: bool) -> list[str]:
    who, stats = _name_of(server), server.stats()
    sessions = map(repr, server.sessions)
    left = _line(sessions, "session", f"of {who} open", "close the clients, or await server.stop()")
    left += _left_of_pool(server._pool, who, allow_views)
    left += _left_of_ledger(server._ledger, stats["bytes_buffered"], who)
    return left


def _left_of_ledger(ledger: Ledger, buffered: int, who: str) -> list[str]:
    counted = ledger.bytes_dispatched + ledger.bytes_rejected + ledger.bytes_discarded + buffered
    if ledger.bytes_in == counted:
        return []
    return [f"the ledger of {who} does not balance: {ledger.bytes_in} bytes in, {counted} accounted for"]


def _left_of_pool(pool: PoolAllocator, who: str, allow_views: bool) -> list[str]:
    stats = pool.stats()
    outstanding, viewed = stats["outstanding"], stats["viewed"]
    if allow_views:
        outstanding, viewed = outstanding - viewed, 0
    if not outstanding:
        return []
    why = f"; {viewed} of them seen by a view that somebody keeps" if viewed else ": half a packet waits in each"
    shown = "".join(f"\n    {owner}" for owner in pool.owners()[:_MAX_SHOWN])  # under GAMENET_POOL_DEBUG=tag
    return [f"{outstanding} pool block(s) of {who} out{why}{shown}"]


def _line(things: Iterable[str], noun: str, what: str, advice: str) -> list[str]:
    """One line for all things of a kind; no line for none."""
    all_things = list(things)
    if not all_things:
        return []
    shown = ", ".join(all_things[:_MAX_SHOWN])
    more = f" and {len(all_things) - _MAX_SHOWN} more" if len(all_things) > _MAX_SHOWN else ""
    return [f"{len(all_things)} {noun}(s) {what}: {shown}{more} ({advice})"]


def _name_of(owner: object) -> str:
    kind = type(owner).__name__.lower()
    session: Session | None = getattr(owner, "session", None)
    return f"{kind} 0x{id(owner):x}" if session is None else f"{kind} with session {session.id}"


def _describe_task(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    place = f" at {frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else ""
    return f"{task.get_name()} in {getattr(task.get_coro(), '__qualname__', '?')}{place}"


def _describe_complaint(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return str(context["message"]) + ("" if error is None else f" ({type(error).__name__}: {error})")


def _timers_of(loop: asyncio.AbstractEventLoop) -> list[asyncio.TimerHandle]:
    """The timers that are set, but for ours, which are told of as deadlines. asyncio's loops keep them in a list,
    others do not show theirs.
    """
    scheduled: list[asyncio.TimerHandle] = getattr(loop, "_scheduled", [])
    return [timer for timer in scheduled if not timer.cancelled() and not _is_ours(timer)]


def _is_ours(timer: asyncio.TimerHandle) -> bool:
    return isinstance(getattr(getattr(timer, "_callback", None), "__self__", None), LoopTimer)
