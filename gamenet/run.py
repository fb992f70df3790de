"""Running a server as a program: the event loop, the signals, and an end without a traceback.

What stays true: the first Ctrl+C or SIGTERM drains and stops, a second one does not wait; both end with the caller
going on normally, as if the server had been asked to stop.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal

from gamenet.errors import wrong_type
from gamenet.server import Server
from gamenet.transports import import_optional

logger = logging.getLogger("gamenet")

_CANCEL_TIMEOUT = 0.5  # seconds that tasks may take to end when the program does

LoopName = Literal["auto", "asyncio", "uvloop", "winloop"]

# Windows has no SIGTERM from outside; Ctrl+Break is what a service manager sends there
STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
]


def run(
    server: Server,
    host: str | None = "127.0.0.1",
    port: int = 9000,
    *,
    loop: LoopName = "auto",
    on_ready: Callable[[], Any] | None = None,
) -> None:
    """Serve until Ctrl+C or SIGTERM, then drain for `close_timeout` seconds and return.

    `host`: the address to listen on; None: every one of this machine. `port`: 0 to 65535; 0 takes a free one.
    `loop="auto"` takes winloop (Windows) or uvloop (elsewhere) when it is installed, else asyncio's own.
    `on_ready()` is called once the server listens. `OSError`, naming it, if the address cannot be had,
    `ModuleNotFoundError` if the named loop is not installed, `RuntimeError` in another thread than the main one, which
    signals do not reach, and inside a loop that runs: `await gamenet.serve(server, ...)` there.
    """
    _check_caller(server)
    runner = asyncio.Runner(loop_factory=loop_factory(loop))
    try:
        runner.run(serve(server, host, port, on_ready=on_ready))
    finally:
        _close(runner)


async def serve(
    server: Server, host: str | None = "127.0.0.1", port: int = 9000, *, on_ready: Callable[[], Any] | None = None
) -> None:
    """As `run`, inside a loop that runs already, in the main thread; it ends by Ctrl+C, SIGTERM or its cancellation."""
    _check_thread()
    stop = StopRequest(asyncio.get_running_loop())
    with stop.on_signals():
        await server.start(host, port)
        try:
            for address in server.addresses:
                logger.info("listening on %s port %s", address[0], address[1])
            if on_ready is not None:
                on_ready()
            await stop.wait()
        finally:
            await _stop(server, stop)


def _check_caller(server: Server) -> None:
    """What asyncio would tell less clearly, or only after coroutines were made in vain."""
    if not isinstance(server, Server):
        raise wrong_type("server", "a gamenet.Server", server)
    _check_thread()
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("run() makes its own event loop; inside one that runs: await gamenet.serve(server, ...)")


def _check_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals reach the main thread only: run there, or await server.start() and server.stop()")


def _close(runner: asyncio.Runner) -> None:
    """As `runner.close()`, which waits for ever if a task ignores its cancellation."""
    deaf = runner.run(_cancel_all_tasks())
    if not deaf:
        runner.close()
        return
    logger.warning("%d tasks ignore their cancellation and are left behind", len(deaf))
    for task in deaf:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it was just said
    runner.get_loop().close()
    asyncio.set_event_loop(None)


async def _cancel_all_tasks() -> set[asyncio.Task[Any]]:
    """Those that go on nevertheless."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    return (await asyncio.wait(tasks, timeout=_CANCEL_TIMEOUT))[1] if tasks else set()


async def _stop(server: Server, stop: StopRequest) -> None:
    """Drain; a second request cuts that short."""
    draining = asyncio.ensure_future(server.stop())
    again = asyncio.ensure_future(stop.wait(times=2))
    await asyncio.wait([draining, again], return_when=asyncio.FIRST_COMPLETED)
    for session in server.sessions:
        session.abort("server_stopped")
    again.cancel()
    await draining


class StopRequest:
    """Counts how often the process was asked to end, and wakes who waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked = 0
        self._changed = asyncio.Event()

    async def wait(self, times: int = 1) -> None:
        """Until it was asked `times` times."""
        while self._asked < times:
            self._changed.clear()
            await self._changed.wait()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take the stop signals while this lasts."""
        # signal.signal() and not loop.add_signal_handler(): Windows has only this one, and asyncio drops a signal's
        # byte when call_soon_threadsafe() filled its wake-up socket, while a Python handler is always run
        before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1
        self._loop.call_soon_threadsafe(self._changed.set)


def loop_factory(name: LoopName = "auto") -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop called `name`."""
    if name == "auto":
        fast: LoopName = "winloop" if sys.platform == "win32" else "uvloop"
        name = fast if importlib.util.find_spec(fast) else "asyncio"
    if name == "asyncio":
        return asyncio.new_event_loop
    if name not in ("uvloop", "winloop"):
        raise ValueError(f"loop is {name!r}, not 'auto', 'asyncio', 'uvloop' or 'winloop'")
    factory: Callable[[], asyncio.AbstractEventLoop] = import_optional(name, f"loop {name!r}").new_event_loop
    return factory
