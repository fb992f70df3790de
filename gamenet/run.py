"""Running a server as a program: the event loop, the signals, and an end without a traceback.

What stays true: the first Ctrl+C or SIGTERM drains and stops, a second one does not wait, further ones do nothing; it
ends with the caller going on normally, as if the server had been asked to stop.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import logging
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, Literal

from gamenet.errors import CloseReason, wrong_type
from gamenet.server import Server
from gamenet.transports import import_optional

logger = logging.getLogger("gamenet")

# Seconds beyond `close_timeout`, with the server's own for its handlers less than one in all
_CANCEL_TIMEOUT = 0.3  # that tasks may take to end when the program does
_THREADS_TIMEOUT = 0.1  # and threads of `asyncio.to_thread()`, which cannot be ended

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
    """Serve until Ctrl+C or SIGTERM, then drain for `close_timeout` seconds and return, at most a second later. Return
    also when somebody has stopped the server by `server.stop()`.

    `host`: the address to listen on; None: every one of this machine. `port`: 0 to 65535; 0 takes a free one.
    `loop="auto"` takes winloop (Windows) or uvloop (elsewhere) when it is installed, else asyncio's own.
    `on_ready()` is called once the server listens. `OSError`, naming it, if the address cannot be had,
    `ModuleNotFoundError` if the named loop is not installed, `RuntimeError` in another thread than the main one, which
    signals do not reach, and inside a loop that runs: `await gamenet.serve(server, ...)` there.
    """
    _check_caller(server)
    runner, stop = asyncio.Runner(loop_factory=loop_factory(loop)), StopRequest()
    threads = ThreadPoolExecutor(thread_name_prefix="asyncio")
    with stop.on_signals():  # to the very end: a third Ctrl+C is as quiet as the second
        try:
            runner.get_loop().set_default_executor(threads)
            runner.run(_serve(server, host, port, on_ready, stop))
        finally:
            _close(runner, threads)


async def serve(
    server: Server, host: str | None = "127.0.0.1", port: int = 9000, *, on_ready: Callable[[], Any] | None = None
) -> None:
    """As `run`, inside a loop that runs already, in the main thread; it ends by Ctrl+C, SIGTERM or its cancellation."""
    _check_thread()
    stop = StopRequest()
    with stop.on_signals():
        await _serve(server, host, port, on_ready, stop)


async def _serve(
    server: Server, host: str | None, port: int, on_ready: Callable[[], Any] | None, stop: StopRequest
) -> None:
    await server.start(host, port)
    try:
        for address in server.addresses:
            logger.info("listening on %s port %s", address[0], address[1])
        if on_ready is not None:
            on_ready()
        await _first_of(stop.wait(), server.wait_stopped())
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


def _close(runner: asyncio.Runner, threads: ThreadPoolExecutor) -> None:
    """As `runner.close()`, which waits for ever if a task ignores its cancellation, or a thread has much to do."""
    deaf = runner.run(_cancel_all_tasks())
    if deaf:
        logger.warning("%d tasks ignore their cancellation and are left behind", len(deaf))
    are_at_work = not _end_threads(threads)
    if are_at_work:
        logger.warning("what was handed to a thread goes on, and the program ends when that has ended")
    if not deaf and not are_at_work:
        runner.close()
        return
    for task in deaf:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it was just said
    runner.get_loop().close()
    asyncio.set_event_loop(None)


def _end_threads(threads: ThreadPoolExecutor) -> bool:
    """Whether they had ended in time; what had not begun is cancelled."""
    ending = threading.Thread(target=partial(threads.shutdown, cancel_futures=True), daemon=True)
    ending.start()
    ending.join(_THREADS_TIMEOUT)
    return not ending.is_alive()


async def _cancel_all_tasks() -> set[asyncio.Task[Any]]:
    """Those that go on nevertheless."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    return (await asyncio.wait(tasks, timeout=_CANCEL_TIMEOUT))[1] if tasks else set()


async def _stop(server: Server, stop: StopRequest) -> None:
    """Drain; a second request cuts that short."""
    draining = asyncio.ensure_future(server.stop())
    await _first_of(asyncio.shield(draining), stop.wait(times=2))
    for session in server.sessions:
        session.abort(CloseReason.SERVER_STOPPED)
    await draining


async def _first_of(*waits: Awaitable[None]) -> None:
    """Return when one of them is over, and wait for the others no longer."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()


class StopRequest:
    """Counts how often the process was asked to end, and wakes who waits for it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = 0
        self._changed = asyncio.Event()

    async def wait(self, times: int = 1) -> None:
        """Until it was asked `times` times."""
        self._loop = asyncio.get_running_loop()
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
            if self._asked:
                atexit.unregister(_ignore_signals)
                atexit.register(_ignore_signals)
            for number, handler in reversed(before.items()):  # SIGINT last, which may raise at once
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: one of C's

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed: the end is near
                self._loop.call_soon_threadsafe(self._changed.set)


def _ignore_signals() -> None:
    """For the very end of a program that was asked to end: asked again, it would end by the signal, and not with 0."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


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
